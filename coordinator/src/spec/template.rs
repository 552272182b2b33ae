//! `${params.NAME}` inside strings, and `${item}`, `${key}` and `${index}` in those of a fan-out. A literal `${` is
//! written `$${`.
//!
//! Binding fills in parameters and leaves the rest to each child. What is a `$` by then must stay one, whatever follows
//! it, so that texts of a fan-out write it as `${$}` where it could be mistaken.

use std::borrow::Cow;

/// A piece of a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part<'s> {
    Text(&'s str),
    /// The name of a parameter.
    Param(&'s str),
    /// What a child is given: the whole, for the second round.
    Child(Child<'s>, &'s str),
}

/// What stands for a value of the children of a fan-out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Child<'s> {
    /// A path inside the item, such as `id`; empty for the item itself.
    Item(&'s str),
    Key,
    Index,
}

/// A `${` that is not a reference; holds what stands there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Malformed<'s>(pub &'s str);

/// Splits a string into its pieces.
///
/// # Errors
/// The first `${` that is not a reference.
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
        parts.push(reference(whole).ok_or(Malformed(whole))?);
        rest = &rest[at + length + 1..];
    }
    parts.push(Part::Text(rest));
    parts.retain(|part| *part != Part::Text(""));
    Ok(parts)
}

fn reference(whole: &str) -> Option<Part<'_>> {
    let inner = &whole[2..whole.len() - 1];
    let child = |child| Some(Part::Child(child, whole));
    match inner {
        "$" => Some(Part::Text("$")),
        "item" => child(Child::Item("")),
        "key" => child(Child::Key),
        "index" => child(Child::Index),
        _ => match (inner.strip_prefix("params."), inner.strip_prefix("item.")) {
            (Some(name), _) if is_param_name(name) => Some(Part::Param(name)),
            (_, Some(path)) if path.split('.').all(is_field) => child(Child::Item(path)),
            _ => None,
        },
    }
}

fn is_field(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-'))
}

/// Gives the parameter that a string consists of.
pub(super) fn exact(text: &str) -> Option<&str> {
    match parts(text).ok()?.as_slice() {
        [Part::Param(name)] => Some(name),
        _ => None,
    }
}

/// Gives the value of a child that a string consists of.
pub(super) fn exact_child(text: &str) -> Option<Child<'_>> {
    match parts(text).ok()?.as_slice() {
        [Part::Child(child, _)] => Some(*child),
        _ => None,
    }
}

/// Says whether a string holds a value of the children.
pub(super) fn mentions_child(text: &str) -> bool {
    parts(text).is_ok_and(|parts| parts.iter().any(|part| matches!(part, Part::Child(..))))
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
            Part::Child(_, whole) => out.push_str(whole),
        }
    }
    Some(out)
}

/// Fills in the parameters of a text of a fan-out, for [`fill_child`] to do the rest.
pub(super) fn fill_for_children(text: &str, value: impl Fn(&str) -> Option<String>) -> Option<String> {
    if !text.contains('$') {
        return Some(text.to_owned());
    }
    let mut out = String::with_capacity(text.len());
    for part in parts(text).ok()? {
        match part {
            Part::Text(text) => out.push_str(&literal(text)),
            Part::Param(name) => out.push_str(&literal(&value(name)?)),
            Part::Child(_, whole) => out.push_str(whole),
        }
    }
    Some(out)
}

/// Writes a text so that [`fill_child`] gives it back, whatever stands before and after it.
pub(super) fn literal(text: &str) -> Cow<'_, str> {
    if !text.contains('$') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match (c, rest.peek()) {
            ('$', None | Some('$' | '{')) => out.push_str("${$}"),
            _ => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// Fills in the values of one child.
///
/// # Errors
/// What `value` says of the first one that is not there, or that the text is malformed.
pub(super) fn fill_child(text: &str, value: impl Fn(Child<'_>) -> Result<String, String>) -> Result<String, String> {
    if !text.contains("${") {
        return Ok(text.to_owned());
    }
    let mut out = String::with_capacity(text.len());
    for part in parts(text).map_err(|Malformed(what)| format!("{what} is not a reference"))? {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Param(name) => return Err(format!("the parameter {name} was never filled in")),
            Part::Child(child, _) => out.push_str(&value(child)?),
        }
    }
    Ok(out)
}

/// Says whether parameters may be named like this.
pub(super) fn is_param_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '_'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn references_are_found_inside_text() {
        assert_eq!(parts("a${params.x}b"), Ok(vec![Part::Text("a"), Part::Param("x"), Part::Text("b")]));
        assert_eq!(exact("${params.x}"), Some("x"));
        assert_eq!(exact(" ${params.x}"), None);
        assert_eq!(parts("no $ at { all }"), Ok(vec![Part::Text("no $ at { all }")]));
        assert_eq!(exact_child("${item.a.b}"), Some(Child::Item("a.b")));
        assert_eq!(exact_child("${key}"), Some(Child::Key));
        assert_eq!(exact_child("${key}!"), None);
        assert!(mentions_child("x ${index}") && !mentions_child("$${item}"));
    }

    #[test]
    fn an_escaped_reference_is_text() {
        assert_eq!(fill("$${HOME} ${params.x}", |_| Some("1".into())), Some("${HOME} 1".into()));
        assert_eq!(fill("$$${params.x}", |_| Some("1".into())), Some("$${params.x}".into()));
    }

    #[test]
    fn anything_else_in_braces_is_malformed() {
        for bad in [
            "${x}",
            "${params.}",
            "${params.X}",
            "${params.x",
            "${}",
            "${params.a.b}",
            "${ü}",
            "${item.}",
            "${items}",
            "${item..a}",
            "${item.a b}",
            "${key.a}",
        ] {
            assert!(parts(bad).is_err(), "{bad} was taken");
        }
    }

    fn child(text: &str) -> String {
        fill_child(text, |child| {
            Ok(match child {
                Child::Item(path) => format!("<{path}>"),
                Child::Key => "$".to_owned(),
                Child::Index => "{".to_owned(),
            })
        })
        .unwrap()
    }

    #[test]
    fn a_value_of_a_parameter_is_never_read_as_a_reference_by_the_children() {
        let value = |_: &str| Some("${item}$".to_owned());
        let bound = fill_for_children("${params.x}${item.id}{$${key}", value).unwrap();
        assert_eq!(child(&bound), "${item}$<id>{${key}");
        assert_eq!(child(&fill_for_children("${params.x}{item}", value).unwrap()), "${item}${item}");
    }

    proptest! {
        #[test]
        fn two_rounds_give_what_one_would(pieces in prop::collection::vec(prop::sample::select(vec![
            "$", "{", "}", "$${", "${params.x}", "${item}", "${key}", "${index}", "a", "item", "${$}",
        ]), 0..12), value in "[${}ix]{0,6}") {
            let text = pieces.concat();
            if parts(&text).is_ok() {
                let whole: String = parts(&text).unwrap().into_iter().map(|part| match part {
                    Part::Text(text) => text.to_owned(),
                    Part::Param(_) => value.clone(),
                    Part::Child(Child::Item(_), _) => "<>".to_owned(),
                    Part::Child(Child::Key, _) => "$".to_owned(),
                    Part::Child(Child::Index, _) => "{".to_owned(),
                }).collect();
                let bound = fill_for_children(&text, |_| Some(value.clone())).unwrap();
                prop_assert_eq!(child(&bound), whole);
            }
        }
    }
}
