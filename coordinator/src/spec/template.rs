//! `${params.NAME}` inside strings. A literal `${` is written `$${`.

/// A piece of a string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part<'s> {
    Text(&'s str),
    /// The name of a parameter.
    Param(&'s str),
}

/// A `${` that is not a reference; holds what stands there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Malformed<'s>(pub &'s str);

/// Splits a string into its pieces.
///
/// # Errors
/// The first `${` that is not `${params.NAME}`.
pub(super) fn parts(text: &str) -> Result<Vec<Part<'_>>, Malformed<'_>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if let Some(escaped) = rest[..at].strip_suffix('$') {
            parts.push(Part::Text(escaped));
            parts.push(Part::Text("${"));
            rest = &rest[at + 2..];
            continue;
        }
        parts.push(Part::Text(&rest[..at]));
        let Some(length) = rest[at..].find('}') else { return Err(Malformed(&rest[at..])) };
        let whole = &rest[at..=at + length];
        match whole[2..length].strip_prefix("params.") {
            Some(name) if is_param_name(name) => parts.push(Part::Param(name)),
            _ => return Err(Malformed(whole)),
        }
        rest = &rest[at + length + 1..];
    }
    parts.push(Part::Text(rest));
    parts.retain(|part| *part != Part::Text(""));
    Ok(parts)
}

/// Gives the parameter that a string consists of.
pub(super) fn exact(text: &str) -> Option<&str> {
    match parts(text).ok()?.as_slice() {
        [Part::Param(name)] => Some(name),
        _ => None,
    }
}

/// Fills in the parameters; nothing where one has no value or a reference is malformed.
pub(super) fn fill(text: &str, value: impl Fn(&str) -> Option<String>) -> Option<String> {
    if !text.contains("${") {
        return Some(text.to_owned());
    }
    let mut out = String::with_capacity(text.len());
    for part in parts(text).ok()? {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Param(name) => out.push_str(&value(name)?),
        }
    }
    Some(out)
}

/// Says whether parameters may be named like this.
pub(super) fn is_param_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_found_inside_text() {
        assert_eq!(parts("a${params.x}b"), Ok(vec![Part::Text("a"), Part::Param("x"), Part::Text("b")]));
        assert_eq!(exact("${params.x}"), Some("x"));
        assert_eq!(exact(" ${params.x}"), None);
        assert_eq!(parts("no $ at { all }"), Ok(vec![Part::Text("no $ at { all }")]));
    }

    #[test]
    fn an_escaped_reference_is_text() {
        assert_eq!(fill("$${HOME} ${params.x}", |_| Some("1".into())), Some("${HOME} 1".into()));
        assert_eq!(fill("$$${params.x}", |_| Some("1".into())), Some("$${params.x}".into()));
    }

    #[test]
    fn anything_else_in_braces_is_malformed() {
        for bad in ["${x}", "${params.}", "${params.X}", "${params.x", "${}", "${params.a.b}", "${ü}"] {
            assert!(parts(bad).is_err(), "{bad} was taken");
        }
    }
}
