//! Wire to domain and back. An unknown enum number or a bad id is an error that names the field.

use crate::{
    failure::{Failure, FailureClass},
    ids::{BadId, PortName, Token},
    operator::{OperatorSpec, ParamSpec, ParamType, Port},
    resources::{Gpu, GpuPreference, Resources},
    v1,
};

/// A message that breaks the contract of the wire.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    #[error("field `{0}` is missing")]
    Missing(&'static str),
    #[error("field `{field}` has the unknown number {number}")]
    UnknownNumber { field: &'static str, number: i32 },
    #[error("field `{field}`: {source}")]
    Id { field: &'static str, source: BadId },
    #[error("field `{field}` is not JSON: {reason}")]
    Json { field: &'static str, reason: String },
    #[error("field `{field}`: {reason}")]
    Value { field: &'static str, reason: String },
}

/// Parses an id and names the field it came from.
pub fn id<T: TryFrom<String, Error = BadId>>(field: &'static str, value: String) -> Result<T, BadMessage> {
    T::try_from(value).map_err(|source| BadMessage::Id { field, source })
}

impl TryFrom<v1::Token> for Token {
    type Error = BadMessage;

    fn try_from(wire: v1::Token) -> Result<Self, BadMessage> {
        if wire.attempt == 0 {
            return Err(BadMessage::Missing("token.attempt"));
        }
        Ok(Self {
            run: id("token.run_id", wire.run_id)?,
            index: wire.index,
            task: id("token.task", wire.task)?,
            attempt: wire.attempt,
            epoch: wire.epoch,
        })
    }
}

impl From<Token> for v1::Token {
    fn from(token: Token) -> Self {
        Self {
            run_id: token.run.into(),
            task: token.task.into(),
            attempt: token.attempt,
            epoch: token.epoch,
            index: token.index,
        }
    }
}

impl From<FailureClass> for v1::FailureClass {
    fn from(class: FailureClass) -> Self {
        match class {
            FailureClass::User => Self::User,
            FailureClass::Data => Self::Data,
            FailureClass::Infra => Self::Infra,
            FailureClass::Timeout => Self::Timeout,
            FailureClass::Oom => Self::Oom,
            FailureClass::Lost => Self::Lost,
        }
    }
}

fn failure_class(number: i32) -> Result<FailureClass, BadMessage> {
    let unknown = BadMessage::UnknownNumber { field: "failure.class", number };
    match v1::FailureClass::try_from(number).map_err(|_| unknown.clone())? {
        v1::FailureClass::Unspecified => Err(unknown),
        v1::FailureClass::User => Ok(FailureClass::User),
        v1::FailureClass::Data => Ok(FailureClass::Data),
        v1::FailureClass::Infra => Ok(FailureClass::Infra),
        v1::FailureClass::Timeout => Ok(FailureClass::Timeout),
        v1::FailureClass::Oom => Ok(FailureClass::Oom),
        v1::FailureClass::Lost => Ok(FailureClass::Lost),
    }
}

impl TryFrom<v1::Failure> for Failure {
    type Error = BadMessage;

    fn try_from(wire: v1::Failure) -> Result<Self, BadMessage> {
        Ok(Self {
            class: failure_class(wire.class)?,
            message: wire.message,
            hint: wire.hint,
            exit_code: wire.exit_code,
            signal: wire.signal,
        })
    }
}

impl From<Failure> for v1::Failure {
    fn from(failure: Failure) -> Self {
        Self {
            class: v1::FailureClass::from(failure.class).into(),
            message: failure.message,
            hint: failure.hint,
            exit_code: failure.exit_code,
            signal: failure.signal,
        }
    }
}

impl From<v1::Resources> for Resources {
    fn from(wire: v1::Resources) -> Self {
        Self {
            cpu_milli: wire.cpu_milli,
            memory_bytes: wire.memory_bytes,
            gpu_milli: wire.gpu_milli,
            gpu_memory_bytes: wire.gpu_memory_bytes,
            devices: wire.devices,
            custom: wire.custom,
        }
    }
}

impl From<Resources> for v1::Resources {
    fn from(amounts: Resources) -> Self {
        Self {
            cpu_milli: amounts.cpu_milli,
            memory_bytes: amounts.memory_bytes,
            gpu_milli: amounts.gpu_milli,
            gpu_memory_bytes: amounts.gpu_memory_bytes,
            devices: amounts.devices,
            custom: amounts.custom,
        }
    }
}

impl From<Gpu> for v1::Gpu {
    fn from(gpu: Gpu) -> Self {
        Self { index: gpu.index, memory_bytes: gpu.memory_bytes, name: gpu.name }
    }
}

impl From<GpuPreference> for v1::GpuPreference {
    fn from(preference: GpuPreference) -> Self {
        match preference {
            GpuPreference::None => Self::None,
            GpuPreference::Prefer => Self::Prefer,
            GpuPreference::Require => Self::Require,
        }
    }
}

impl From<Port> for v1::Port {
    fn from(port: Port) -> Self {
        Self { name: port.name, kind: port.kind, optional: port.optional, help: port.help, many: port.many }
    }
}

impl From<v1::Port> for Port {
    fn from(wire: v1::Port) -> Self {
        Self { name: wire.name, kind: wire.kind, optional: wire.optional, help: wire.help, many: wire.many }
    }
}

impl From<ParamType> for v1::ParamType {
    fn from(kind: ParamType) -> Self {
        match kind {
            ParamType::String => Self::String,
            ParamType::Int => Self::Int,
            ParamType::Float => Self::Float,
            ParamType::Bool => Self::Bool,
            ParamType::Path => Self::Path,
            ParamType::List => Self::List,
        }
    }
}

impl From<ParamSpec> for v1::Param {
    fn from(param: ParamSpec) -> Self {
        Self {
            name: param.name,
            r#type: v1::ParamType::from(param.kind).into(),
            required: param.required,
            default_json: param.default.map(|value| value.to_string()).unwrap_or_default(),
            one_of: param.one_of,
            help: param.help,
            min: param.min,
            max: param.max,
        }
    }
}

impl TryFrom<v1::Param> for ParamSpec {
    type Error = BadMessage;

    fn try_from(wire: v1::Param) -> Result<Self, BadMessage> {
        let unknown = BadMessage::UnknownNumber { field: "param.type", number: wire.r#type };
        let kind = match v1::ParamType::try_from(wire.r#type).map_err(|_| unknown.clone())? {
            v1::ParamType::Unspecified => return Err(unknown),
            v1::ParamType::String => ParamType::String,
            v1::ParamType::Int => ParamType::Int,
            v1::ParamType::Float => ParamType::Float,
            v1::ParamType::Bool => ParamType::Bool,
            v1::ParamType::Path => ParamType::Path,
            v1::ParamType::List => ParamType::List,
        };
        let default = match wire.default_json.as_str() {
            "" => None,
            text => Some(
                serde_json::from_str(text)
                    .map_err(|e| BadMessage::Json { field: "param.default_json", reason: e.to_string() })?,
            ),
        };
        Ok(Self {
            name: wire.name,
            kind,
            required: wire.required,
            default,
            one_of: wire.one_of,
            min: wire.min,
            max: wire.max,
            help: wire.help,
        })
    }
}

impl From<OperatorSpec> for v1::OperatorSpec {
    fn from(spec: OperatorSpec) -> Self {
        Self {
            name: spec.name,
            version: spec.version,
            summary: spec.summary,
            inputs: spec.inputs.into_iter().map(Into::into).collect(),
            outputs: spec.outputs.into_iter().map(Into::into).collect(),
            params: spec.params.into_iter().map(Into::into).collect(),
            pure: spec.pure,
            wants_run_facts: spec.wants_run_facts,
        }
    }
}

impl TryFrom<v1::OperatorSpec> for OperatorSpec {
    type Error = BadMessage;

    fn try_from(wire: v1::OperatorSpec) -> Result<Self, BadMessage> {
        if wire.name.is_empty() {
            return Err(BadMessage::Missing("operator.name"));
        }
        // What cannot be named in a pipeline could not be named in the store either.
        for port in wire.inputs.iter().chain(&wire.outputs) {
            id::<PortName>("operator.port.name", port.name.clone())?;
        }
        Ok(Self {
            name: wire.name,
            version: wire.version,
            summary: wire.summary,
            inputs: wire.inputs.into_iter().map(Into::into).collect(),
            outputs: wire.outputs.into_iter().map(Into::into).collect(),
            params: wire.params.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            pure: wire.pure,
            wants_run_facts: wire.wants_run_facts,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_survives_the_wire_and_back() {
        let spec = OperatorSpec::new("ml.kmeans", "1", "clusters")
            .input("features", "table", "")
            .output("labels", "table", "")
            .param(ParamSpec::default("k_max", ParamType::Int, 9, "").range(2.0, 50.0));
        let wire = v1::OperatorSpec::from(spec.clone());
        assert_eq!(OperatorSpec::try_from(wire), Ok(spec));
    }

    #[test]
    fn an_unknown_enum_number_is_refused_with_the_name_of_its_field() {
        let wire = v1::Failure { class: 99, ..Default::default() };
        assert_eq!(Failure::try_from(wire), Err(BadMessage::UnknownNumber { field: "failure.class", number: 99 }));
    }

    #[test]
    fn a_token_with_a_bad_task_name_is_refused() {
        let wire = v1::Token {
            run_id: "run_01j8zk5m8w0000000000000000".into(),
            task: "../x".into(),
            attempt: 1,
            epoch: 1,
            index: 0,
        };
        assert!(matches!(Token::try_from(wire), Err(BadMessage::Id { field: "token.task", .. })));
    }
}
