//! The environment of an attempt. Secret references are resolved here, on the worker, and nowhere else.

use std::{collections::BTreeMap, io::Read as _};

use segue_proto::{
    failure::{Failure, FailureClass},
    v1::{self, env_value},
};

use super::redact::Redactor;

/// Largest secret file; a larger one is a mistake.
const LONGEST_SECRET: u64 = 64 * 1024;

/// Variables of an attempt, and which of their values must never be shown.
#[derive(Default)]
pub struct Environment {
    pub variables: BTreeMap<String, String>,
    pub secrets: Vec<String>,
}

impl Environment {
    /// Makes what takes the secrets out of everything that the attempt says.
    pub fn redactor(&self) -> Redactor {
        Redactor::new(self.secrets.iter().map(String::as_str))
    }
}

// By hand, so that no value is ever printed.
impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Environment").field("variables", &self.variables.keys()).finish_non_exhaustive()
    }
}

/// Resolves the variables of an assignment.
///
/// # Errors
/// A failure of class `user` that names the variable and the reference, and never a value.
pub fn resolve(env: &BTreeMap<String, v1::EnvValue>) -> Result<Environment, Failure> {
    let mut resolved = Environment::default();
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(Failure::new(
                FailureClass::User,
                format!("`{}` cannot name a variable", name.escape_default()),
            ));
        }
        let text = match &value.value {
            Some(env_value::Value::Text(text)) => text.clone(),
            Some(env_value::Value::Secret(reference)) => {
                let secret = look_up(name, reference)?;
                resolved.secrets.push(secret.clone());
                secret
            }
            None => String::new(),
        };
        if text.contains('\0') {
            return Err(Failure::new(FailureClass::User, format!("the value of variable `{name}` has a zero byte")));
        }
        resolved.variables.insert(name.clone(), text);
    }
    Ok(resolved)
}

fn look_up(name: &str, reference: &str) -> Result<String, Failure> {
    let missing = |why: String, hint: &str| {
        let message = format!("secret `{reference}` of variable `{name}` {why}");
        Failure::new(FailureClass::User, message).hint(hint)
    };
    if let Some(variable) = reference.strip_prefix("env:") {
        return std::env::var(variable)
            .map_err(|_| missing("is not set on this worker".into(), "set that variable where the worker is started"));
    }
    if let Some(path) = reference.strip_prefix("file:") {
        let read = || {
            // Looked at before it is opened, which would wait for ever at a pipe; read no further than it may be long,
            // because devices give bytes without end and say that they have none.
            if !std::fs::metadata(path)?.is_file() {
                return Err(std::io::Error::other("it is not a file"));
            }
            let mut text = String::new();
            std::fs::File::open(path)?.take(LONGEST_SECRET + 1).read_to_string(&mut text)?;
            if text.len() as u64 > LONGEST_SECRET {
                return Err(std::io::Error::other("the file is larger than 64 KiB"));
            }
            Ok(text)
        };
        let text = read().map_err(|e| missing(format!("cannot be read: {e}"), "put the file on the worker"))?;
        return Ok(text.trim_end_matches(['\r', '\n']).to_owned());
    }
    Err(missing("is of no known kind".into(), "use env:NAME or file:/PATH"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn secret(reference: &str) -> BTreeMap<String, v1::EnvValue> {
        let value = v1::EnvValue { value: Some(env_value::Value::Secret(reference.into())) };
        BTreeMap::from([("API_TOKEN".to_owned(), value)])
    }

    #[test]
    fn a_secret_file_is_read_without_its_last_newline() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        std::fs::write(&file, "s3cr3t\n").unwrap();
        let found = resolve(&secret(&format!("file:{}", file.display()))).unwrap();
        assert_eq!(found.variables["API_TOKEN"], "s3cr3t");
        assert_eq!(found.secrets, ["s3cr3t"]);
        assert!(!format!("{found:?}").contains("s3cr3t"));
    }

    #[test]
    fn a_missing_secret_is_named_by_its_reference() {
        for reference in ["env:SEGUE_TEST_NO_SUCH_SECRET", "file:/no/such/secret", "vault:crm"] {
            let failure = resolve(&secret(reference)).unwrap_err();
            assert_eq!(failure.class, FailureClass::User);
            assert!(failure.message.contains(reference) && failure.message.contains("API_TOKEN"), "{failure:?}");
        }
    }

    #[test]
    fn a_secret_that_never_ends_or_never_begins_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let (pipe, large) = (directory.path().join("pipe"), directory.path().join("large"));
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::fs::write(&large, vec![b'x'; 64 * 1024 + 1]).unwrap();
        for place in ["/dev/zero".as_ref(), pipe.as_path(), large.as_path(), directory.path()] {
            let failure = resolve(&secret(&format!("file:{}", place.display()))).unwrap_err();
            assert_eq!(failure.class, FailureClass::User, "{failure:?}");
        }
    }

    #[test]
    fn a_name_that_no_system_takes_is_refused() {
        let env = BTreeMap::from([("A=B".to_owned(), v1::EnvValue::default())]);
        assert_eq!(resolve(&env).unwrap_err().class, FailureClass::User);
    }
}
