//! What an operator takes and gives: advertised by workers, used by the checker and the planner.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The contract of one operator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperatorSpec {
    /// For example `retail.rfm`.
    pub name: String,
    /// Part of the cache key: a change of results changes it.
    pub version: String,
    /// One line for people.
    pub summary: String,
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
    pub params: Vec<ParamSpec>,
    /// Same inputs and parameters, same outputs: cached by default.
    pub pure: bool,
    /// Gets the facts of the run (ids, timings) with its assignment.
    pub wants_run_facts: bool,
}

/// A named input or output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    pub name: String,
    /// `table` (Parquet), `json`, `matrix` (npy), `figure` (svg), `page` (html), `model` (json) or `file`.
    pub kind: String,
    /// An input that may be left out.
    pub optional: bool,
    pub help: String,
    /// An input that takes the outputs of all children of a fan-out, by key.
    #[serde(default)]
    pub many: bool,
}

/// A parameter of an operator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ParamSpec {
    pub name: String,
    pub kind: ParamType,
    pub required: bool,
    pub default: Option<Value>,
    /// Empty: any value.
    pub one_of: Vec<String>,
    pub min: Option<f64>,
    pub max: Option<f64>,
    pub help: String,
}

/// Type of a parameter, of an operator or of a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ParamType {
    String,
    Int,
    Float,
    Bool,
    /// An external input: enters the cache key by the digest of its content.
    Path,
    List,
}

impl ParamType {
    /// Every type.
    pub const ALL: [Self; 6] = [Self::String, Self::Int, Self::Float, Self::Bool, Self::Path, Self::List];

    /// Gives the name used in pipeline files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Int => "int",
            Self::Float => "float",
            Self::Bool => "bool",
            Self::Path => "path",
            Self::List => "list",
        }
    }
}

/// Kinds of artifacts. An input of kind `file` takes any of them.
pub const KINDS: [&str; 7] = ["table", "json", "matrix", "figure", "page", "model", "file"];

/// Operators by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Catalogue(BTreeMap<String, OperatorSpec>);

impl Catalogue {
    /// Gives the operator of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&OperatorSpec> {
        self.0.get(name)
    }

    /// Adds or replaces an operator.
    pub fn insert(&mut self, spec: OperatorSpec) {
        self.0.insert(spec.name.clone(), spec);
    }

    /// Iterates over the operators by name.
    pub fn iter(&self) -> impl Iterator<Item = &OperatorSpec> {
        self.0.values()
    }
}

impl FromIterator<OperatorSpec> for Catalogue {
    fn from_iter<I: IntoIterator<Item = OperatorSpec>>(specs: I) -> Self {
        Self(specs.into_iter().map(|spec| (spec.name.clone(), spec)).collect())
    }
}

impl OperatorSpec {
    /// Starts the contract of a pure operator without ports or parameters.
    #[must_use]
    pub fn new(name: &str, version: &str, summary: &str) -> Self {
        Self {
            name: name.to_owned(),
            version: version.to_owned(),
            summary: summary.to_owned(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            params: Vec::new(),
            pure: true,
            wants_run_facts: false,
        }
    }

    /// Adds a required input.
    #[must_use]
    pub fn input(mut self, name: &str, kind: &str, help: &str) -> Self {
        self.inputs.push(Port {
            name: name.into(),
            kind: kind.into(),
            optional: false,
            help: help.into(),
            many: false,
        });
        self
    }

    /// Adds an input that may be left out.
    #[must_use]
    pub fn optional_input(mut self, name: &str, kind: &str, help: &str) -> Self {
        self.inputs.push(Port { name: name.into(), kind: kind.into(), optional: true, help: help.into(), many: false });
        self
    }

    /// Adds an input that joins the children of a fan-out, and takes a single output as well.
    #[must_use]
    pub fn joined_input(mut self, name: &str, kind: &str, help: &str) -> Self {
        self.inputs.push(Port { name: name.into(), kind: kind.into(), optional: false, help: help.into(), many: true });
        self
    }

    /// Adds an output.
    #[must_use]
    pub fn output(mut self, name: &str, kind: &str, help: &str) -> Self {
        self.outputs.push(Port {
            name: name.into(),
            kind: kind.into(),
            optional: false,
            help: help.into(),
            many: false,
        });
        self
    }

    /// Adds a parameter.
    #[must_use]
    pub fn param(mut self, param: ParamSpec) -> Self {
        self.params.push(param);
        self
    }

    /// Marks an operator whose outputs are not a function of inputs and parameters alone.
    #[must_use]
    pub const fn impure(mut self) -> Self {
        self.pure = false;
        self
    }

    /// Asks for the facts of the run.
    #[must_use]
    pub const fn with_run_facts(mut self) -> Self {
        self.wants_run_facts = true;
        self
    }
}

impl ParamSpec {
    /// Makes a parameter that must be given.
    #[must_use]
    pub fn required(name: &str, kind: ParamType, help: &str) -> Self {
        Self {
            name: name.into(),
            kind,
            required: true,
            default: None,
            one_of: Vec::new(),
            min: None,
            max: None,
            help: help.into(),
        }
    }

    /// Makes a parameter with a default.
    #[must_use]
    pub fn default(name: &str, kind: ParamType, default: impl Into<Value>, help: &str) -> Self {
        Self { required: false, default: Some(default.into()), ..Self::required(name, kind, help) }
    }

    /// Makes a parameter that may be left out and has no default.
    #[must_use]
    pub fn optional(name: &str, kind: ParamType, help: &str) -> Self {
        Self { required: false, ..Self::required(name, kind, help) }
    }

    /// Allows only these values.
    #[must_use]
    pub fn one_of(mut self, values: &[&str]) -> Self {
        self.one_of = values.iter().map(|v| (*v).to_owned()).collect();
        self
    }

    /// Allows only numbers of this range, ends included.
    #[must_use]
    pub const fn range(mut self, min: f64, max: f64) -> Self {
        self.min = Some(min);
        self.max = Some(max);
        self
    }
}
