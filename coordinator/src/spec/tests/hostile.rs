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

#[test]
fn a_condition_of_a_hundred_thousand_brackets_is_refused() {
    for when in ["(".repeat(100_000), "!".repeat(100_000), "a.".repeat(100_000), "x.all(y, ".repeat(50_000)] {
        let text = format!("[pipeline]\nname = \"x\"\n[tasks.a]\nop = \"core.noop\"\nwhen = \"{when}\"\n");
        assert_eq!(codes(&text), [Code::BadCondition]);
    }
}

#[test]
fn a_hundred_thousand_fan_outs_of_a_million_children_are_checked_in_one_pass() {
    let text = tasks(100_000, |_, text| {
        text.push_str("op = \"core.noop\"\nforeach = { range = 1000000 }\nkey = \"n${item}\"\n");
    });
    let pipeline = good(&text);
    let faults = super::super::bind(&pipeline, &super::catalogue(), &Default::default(), "/", false).unwrap_err();
    assert_eq!(faults.len(), 1);
    assert!(faults[0].message.contains("have 100000000000 children together"), "{}", faults[0].message);
}

#[test]
fn conditions_that_read_what_is_not_there_cost_no_more_than_their_text() {
    let when: String = (0..300).map(|n| format!("tasks.u{n}.state == 'x'")).collect::<Vec<_>>().join(" || ");
    let when = &when[..when.rfind(" || ").unwrap().min(4_000)];
    let when = &when[..when.rfind(" || ").unwrap()];
    let text = tasks(3_000, |_, text| {
        let _ = writeln!(text, "op = \"core.noop\"\nwhen = \"{when}\"");
    });
    assert_eq!(check(&text).diagnostics.len(), 1_001);
}

#[test]
fn many_outputs_and_many_inputs_are_matched_without_trying_all_pairs() {
    let names: Vec<String> = (0..50_000).map(|n| format!("o{n}")).collect();
    let mut text = tasks(1, |_, text| {
        let _ = writeln!(text, "command = [\"x\"]\noutputs = {names:?}");
    });
    text.push_str("[tasks.last]\ncommand = [\"x\"]\n[tasks.last.inputs]\n");
    for name in &names {
        let _ = writeln!(text, "{name} = \"t0.{name}\"\nx{name} = \"t0.x{name}\"");
    }
    assert_eq!(check(&text).diagnostics.len(), 1_001);
}

#[test]
fn fields_of_many_items_are_looked_at_a_bounded_number_of_times() {
    let items = "{ a = 1 }, ".repeat(100_000);
    let arguments = "\"${item.a}\", ".repeat(100_000);
    let text = format!(
        "[pipeline]\nname = \"x\"\n[tasks.a]\ncommand = [\"x\", {arguments}]\nforeach = [{items}]\nkey = \"${{index}}\"\n"
    );
    good(&text);
}

#[test]
fn a_list_that_is_named_many_times_cannot_blow_up_a_run() {
    let mut text = String::from("[pipeline]\nname = \"x\"\n[params]\nl = { type = \"list\", default = [1] }\n");
    for n in 0..20_000 {
        let _ = writeln!(text, "[tasks.t{n}]\nop = \"core.noop\"\nforeach = \"${{params.l}}\"");
    }
    let list = (0..100_000).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let params = std::collections::BTreeMap::from([("l".to_owned(), list)]);
    let faults = super::super::bind(&good(&text), &super::catalogue(), &params, "/", false).unwrap_err();
    assert_eq!(faults[0].code, Code::TooLarge);
}
