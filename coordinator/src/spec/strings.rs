//! References inside strings: `${params.NAME}` everywhere, `${item}` and its like where a fan-out fills them in.

use super::{
    code::Code,
    diagnostic::quote,
    fanout::{LOOKED_AT, Shape},
    faults::{Span, list},
    fields::Check,
    params::Params,
    template::{self, Child, Part},
};

/// Whether a place may hold values of the children of a fan-out.
#[derive(Clone, Copy)]
pub(super) enum Children<'a> {
    /// It is read before there are any.
    Never,
    /// It may, but the task is no fan-out.
    None,
    Of(Shape<'a>),
}

/// Checks the references in a string and marks their parameters as used.
pub(super) fn references(
    text: &str,
    span: Span,
    children: Children<'_>,
    params: &mut Params,
    check: &mut Check<'_>,
) -> bool {
    let parts = match template::parts(text) {
        Ok(parts) => parts,
        Err(template::Malformed(what)) => {
            malformed(what, span, params, check);
            return false;
        }
    };
    let mut good = true;
    for part in parts {
        match part {
            Part::Text(_) => {}
            Part::Param(name) => {
                if params.refer(name).is_none() {
                    good = false;
                    let hint = check.faults.did_you_mean(name, params.names());
                    let hint =
                        hint.unwrap_or_else(|| format!("declare it under [params]: {name} = {{ type = \"string\" }}"));
                    let place = check.narrow(span, &format!("${{params.{name}}}"));
                    let message = format!("there is no parameter {}", quote(name));
                    check.faults.error(Code::UnknownParam, place, message, hint);
                }
            }
            Part::Child(child, whole) => good &= self::child(child, whole, span, children, check),
        }
    }
    good
}

fn malformed(what: &str, span: Span, params: &mut Params, check: &mut Check<'_>) {
    // `${input}` was most likely meant to be `${params.input}`, and then it is used.
    let word = what.trim_start_matches("${").trim_end_matches('}');
    let word = word.rsplit('.').next().unwrap_or(word);
    let hint = match check.faults.nearest(word, params.names()).map(str::to_owned) {
        _ if what.starts_with("${item") => "an item is written ${item}, a field of it ${item.NAME}".to_owned(),
        Some(near) => {
            params.refer(&near);
            format!("did you mean `${{params.{near}}}`? (a literal ${{ is written $${{)")
        }
        None => "write ${params.NAME}, or $${ for a literal ${".to_owned(),
    };
    let place = check.narrow(span, what);
    check.faults.error(Code::BadReference, place, format!("{} is not a reference to a parameter", quote(what)), hint);
}

fn child(child: Child<'_>, whole: &str, span: Span, children: Children<'_>, check: &mut Check<'_>) -> bool {
    let place = check.narrow(span, whole);
    let (message, hint) = match children {
        Children::Never => (
            format!("{} cannot stand here", quote(whole)),
            "it is filled in for each child, in `with`, `env`, `command`, `key` and `limit.key`".to_owned(),
        ),
        Children::None => (
            format!("{} is for the children of a fan-out, and this task is none", quote(whole)),
            "give the task `foreach` or `matrix`, or write $${ for a literal ${".to_owned(),
        ),
        Children::Of(shape) => match child {
            Child::Item(path) if !path.is_empty() && check.faults.may_look_at(LOOKED_AT as u64) => {
                match shape.lacks(path) {
                    None => return true,
                    Some((message, fields)) => {
                        let field = path.split('.').next().unwrap_or(path);
                        let hint = match check.faults.nearest(field, fields.iter().copied()) {
                            Some(near) => format!("did you mean `${{item.{near}}}`?"),
                            None if fields.is_empty() => "write `${item}`".to_owned(),
                            None => format!("it has {}", list(fields.iter().copied())),
                        };
                        (message, hint)
                    }
                }
            }
            _ => return true,
        },
    };
    check.faults.error(Code::BadReference, place, message, hint);
    false
}
