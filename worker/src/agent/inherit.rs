//! What commands inherit from the worker: little, so that they run alike everywhere and see no secret that is not theirs.

use std::collections::BTreeMap;

/// Variables that a program needs to find its way on a machine.
const ALWAYS: [&str; 10] = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TZ", "TMPDIR"];

/// Gives those of `variables` that commands inherit: the few that programs need, and those that `passed` names. A `*` at
/// the end of a name stands for any rest.
pub fn inherited(variables: impl IntoIterator<Item = (String, String)>, passed: &[String]) -> BTreeMap<String, String> {
    let names = |pattern: &str, name: &str| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => pattern == name,
    };
    let wanted = |name: &str| {
        ALWAYS.iter().copied().chain(passed.iter().map(String::as_str)).any(|pattern| names(pattern, name))
    };
    // Those of the contract are the worker's to set.
    variables.into_iter().filter(|(name, _)| !name.starts_with("SEGUE_") && wanted(name)).collect()
}

/// Gives the variables of this process that are text.
pub fn own() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(passed: &[&str]) -> Vec<String> {
        let all = ["PATH", "LC_ALL", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "SEGUE_SERVER", "LCX", "HOMEPAGE"];
        let passed: Vec<String> = passed.iter().map(|name| (*name).to_owned()).collect();
        inherited(all.map(|name| (name.to_owned(), "x".to_owned())), &passed).into_keys().collect()
    }

    #[test]
    fn commands_inherit_the_few_variables_that_programs_need() {
        assert_eq!(names(&[]), ["LC_ALL", "PATH"]);
    }

    #[test]
    fn more_are_passed_by_name_or_by_the_start_of_a_name() {
        assert_eq!(names(&["AWS_REGION"]), ["AWS_REGION", "LC_ALL", "PATH"]);
        assert_eq!(names(&["AWS_*"]), ["AWS_REGION", "AWS_SECRET_ACCESS_KEY", "LC_ALL", "PATH"]);
        assert!(!names(&["*"]).contains(&"SEGUE_SERVER".to_owned()));
    }
}
