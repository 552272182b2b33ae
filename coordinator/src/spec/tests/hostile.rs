use std::fmt::Write as _;

use super::{super::LONGEST, Code, check, codes, good};

fn tasks(count: usize, mut body: impl FnMut(usize, &mut String)) -> String {
    let mut text = String::from("[pipeline]\nname = \"many\"\n");
    for n in 0..count {
        let _ = writeln!(text, "[tasks.t{n}]");
        body(n, &mut text);
    }
    text
}

#[test]
fn a_chain_of_a_hundred_thousand_tasks_is_checked() {
    let text = tasks(100_000, |n, text| {
        text.push_str("op = \"core.noop\"\n");
        if n > 0 {
            let _ = writeln!(text, "after = [\"t{}\"]", n - 1);
        }
    });
    let pipeline = good(&text);
    assert_eq!(pipeline.tasks.len(), 100_000);
    assert_eq!(pipeline.tasks[99_999].after, [99_998]);
}

#[test]
fn a_cycle_of_a_hundred_thousand_tasks_is_named_briefly() {
    let text = tasks(100_000, |n, text| {
        let _ = writeln!(text, "op = \"core.noop\"\nafter = [\"t{}\"]", (n + 1) % 100_000);
    });
    let checked = check(&text);
    assert_eq!(checked.diagnostics.len(), 1);
    assert_eq!(checked.diagnostics[0].code, Code::Cycle);
    assert!(checked.diagnostics[0].message.len() < 300, "{}", checked.diagnostics[0].message);
}

#[test]
fn a_hundred_thousand_faults_are_counted_and_the_first_are_listed() {
    let text = tasks(100_000, |n, text| {
        let _ = writeln!(text, "op = \"core.nop\"\nafter = [\"x{n}\"]");
    });
    let checked = check(&text);
    assert_eq!(checked.diagnostics.len(), 1_001);
    assert_eq!(checked.diagnostics.last().unwrap().message, "199000 more faults are not listed");
    assert!(checked.render("many.toml", &text, false).len() < 1_000_000);
}

#[test]
fn tables_in_an_order_that_makes_parsers_quadratic_are_read() {
    let mut text = String::from("[pipeline]\nname = \"x\"\n");
    for n in 0..100_000 {
        let _ = writeln!(text, "[tasks.t{n}.resources]\ncpu = 1");
    }
    for n in 0..100_000 {
        let _ = writeln!(text, "[tasks.t{n}]\nop = \"core.noop\"");
    }
    assert_eq!(good(&text).tasks.len(), 100_000);
}

#[test]
fn a_single_line_of_many_faults_is_read_once() {
    let mut text = String::from("pipeline = { name = \"x\" }\ntasks = { ");
    for n in 0..50_000 {
        let _ = write!(text, "t{n} = {{ op = \"core.nop\" }}, ");
    }
    text.push('}');
    let checked = check(&text);
    assert_eq!(checked.diagnostics.len(), 1_001);
    assert!(checked.render("line.toml", &text, true).len() < 1_000_000);
}

#[test]
fn a_text_that_is_too_large_is_not_read() {
    assert_eq!(codes(&" ".repeat(LONGEST + 1)), [Code::TooLarge]);
    assert_eq!(codes(&"#".repeat(LONGEST)), [Code::MissingKey, Code::NoTasks]);
}

#[test]
fn large_defaults_are_not_copied_by_many_tasks() {
    let mut text = tasks(2_000, |_, text| text.push_str("op = \"core.noop\"\n"));
    let _ = write!(text, "[defaults]\nenv = {{ A = \"{}\" }}\n", "x".repeat(1_000_000));
    assert_eq!(codes(&text), [Code::TooLarge]);
}

#[test]
fn nesting_of_any_kind_is_refused_and_not_followed() {
    let deep = 1_000_000;
    for (open, close) in [("[", "]"), ("{a=", "}"), ("[[[{a=[", "")] {
        let text = format!("x = {}1{}", open.repeat(deep), close.repeat(deep));
        assert!(codes(&text).contains(&Code::Syntax), "{open}");
    }
    for text in [format!("{}a = 1", "a.".repeat(deep)), format!("[{}a]", "a.".repeat(deep)), "[".repeat(deep)] {
        assert!(codes(&text).contains(&Code::Syntax));
    }
}

#[test]
fn a_byte_order_mark_is_no_fault() {
    good("\u{feff}[pipeline]\nname = \"x\"\n[tasks.a]\nop = \"core.noop\"\n");
}
