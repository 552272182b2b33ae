#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{EvalError, Expr, ExprError, LONGEST, Part, Scope};

fn map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("{other} is no map"),
    }
}

fn eval_in(text: &str, params: Value, tasks: Value) -> Result<Value, EvalError> {
    let (params, tasks) = (map(params), map(tasks));
    let run = map(json!({ "id": "run_1", "state": "failed" }));
    let item = json!({ "id": 7, "region": "eu" });
    let scope = Scope { params: &params, tasks: &tasks, item: Some(&item), key: Some("eu"), index: Some(3), run: &run };
    Expr::parse(text).unwrap_or_else(|fault| panic!("{text}: {fault}")).eval(&scope)
}

fn eval(text: &str) -> Result<Value, EvalError> {
    eval_in(
        text,
        json!({ "mode": "full", "rounds": 3, "share": 0.5, "regions": ["eu", "us"], "on": true, "nothing": null }),
        json!({
            "check": { "state": "succeeded", "outputs": { "report": { "rows": 12, "auc": 1, "tags": ["a", "b"] } } },
            "my-task": { "state": "failed", "outputs": {} },
            "score": { "state": "failed", "outputs": {}, "children": { "eu": "failed", "us": "succeeded" } },
        }),
    )
}

fn gives(text: &str, value: Value) {
    assert_eq!(eval(text).unwrap_or_else(|fault| panic!("{text}: {fault}")), value, "{text}");
}

fn fails(text: &str, message: &str) {
    let fault = eval(text).expect_err(text);
    assert!(fault.message.contains(message), "{text}: {}", fault.message);
    assert!(fault.offset <= text.len());
}

fn refused(text: &str) -> ExprError {
    Expr::parse(text).expect_err(text)
}

#[test]
fn literals_are_those_of_the_language() {
    gives("12", json!(12));
    gives("-12", json!(-12));
    gives("0x1F", json!(31));
    gives("-9223372036854775808", json!(i64::MIN));
    gives("1.5", json!(1.5));
    gives(".5", json!(0.5));
    gives("1e3", json!(1000.0));
    gives("true", json!(true));
    gives("null", Value::Null);
}

#[test]
fn strings_have_two_quotes_three_quotes_escapes_and_raw_forms() {
    gives(r#""a\"b""#, json!("a\"b"));
    gives(r"'\x41\u00e9\U0001F600\101\n'", json!("Aé😀A\n"));
    gives(r"r'\d+'", json!("\\d+"));
    gives("'''two\nlines 'here' '''", json!("two\nlines 'here' "));
    gives("'a' // said in passing\n + 'b'", json!("ab"));
}

#[test]
fn operators_bind_as_in_the_language() {
    gives("1 + 2 * 3 - 4 / 2 % 3", json!(5));
    gives("(1 + 2) * 3", json!(9));
    gives("10 - 3 - 2", json!(5));
    gives("-2 * -3", json!(6));
    gives("1 + 1 == 2 && 2 > 1 || false", json!(true));
    gives("!true || !false", json!(true));
    gives("true ? 1 : false ? 2 : 3", json!(1));
    gives("false ? 1 : false ? 2 : 3", json!(3));
    gives("'b' in ['a', 'b'] && !('c' in ['a', 'b'])", json!(true));
    gives("'x' in {'x': 1}", json!(true));
    gives("[1, 2] + [3]", json!([1, 2, 3]));
    gives("'a' + 'b'", json!("ab"));
    gives("{'a': 1, 'b': [2]}.b[0]", json!(2));
    gives("[1, 2,]", json!([1, 2]));
}

/// From the conformance tests of the language: `comparisons.textproto`, `logic.textproto`, `basic.textproto`.
#[test]
fn comparisons_and_logic_give_what_the_specification_says() {
    for (text, value) in [
        ("1 == 1", true),
        ("1 == 1.0", true),
        ("-1 == -1.0", true),
        ("'abc' == 'abd'", false),
        ("1 == 'abc'", false),
        ("null == null", true),
        ("null == false", false),
        ("[] == []", true),
        ("[1, 2] == [1, 2.0]", true),
        ("{'k': 'v'} == {'k': 'v'}", true),
        ("{'a': 1, 'b': 2} == {'b': 2, 'a': 1}", true),
        ("{'a': 1} == {'a': 2}", false),
        ("9007199254740993 == 9007199254740992.0", false),
        ("9223372036854775807 < 9223372036854775808.0", true),
        ("1 < 1.5 && 1.5 < 2", true),
        ("'a' < 'b' && 'A' < 'a'", true),
        ("false < true", true),
        ("1 != 2", true),
        ("[1, 2] != [1]", true),
        // Errors are absorbed where the other operand decides, on either side.
        ("true || 1 / 0 == 1", true),
        ("1 / 0 == 1 || true", true),
        ("false && 1 / 0 == 1", false),
        ("1 / 0 == 1 && false", false),
        ("true ? true : 1 / 0 == 1", true),
    ] {
        gives(text, json!(value));
    }
    fails("1 / 0 == 1 || false", "divides by zero");
    fails("1 / 0 == 1 && true", "divides by zero");
    fails("1 < 'a'", "`<` does not go between a whole number and text");
    fails("null < 1", "does not go between");
}

/// From `macros.textproto` of the same tests.
#[test]
fn macros_give_what_the_specification_says() {
    for (text, value) in [
        ("[1, 2, 3].exists(e, e > 1)", json!(true)),
        ("[1, 2, 3].exists(e, e > 3)", json!(false)),
        ("[1, 'foo', 3].exists(e, e != '1')", json!(true)),
        ("[].exists(e, e == 2)", json!(false)),
        ("{'key1': 1, 'key2': 2}.exists(k, k == 'key2')", json!(true)),
        ("[1, 2, 3].all(e, e > 0)", json!(true)),
        ("[1, 2, 3].all(e, e == 2)", json!(false)),
        ("[].all(e, e > 0)", json!(true)),
        ("[7].exists_one(a, a == 7)", json!(true)),
        ("[7, 8, 7].exists_one(a, a == 7)", json!(false)),
        ("[1, 2, 3].map(n, n * 2)", json!([2, 4, 6])),
        ("[1, 2, 3].map(n, n > 1, n * 2)", json!([4, 6])),
        ("[1, 2, 3].filter(x, x % 2 == 1)", json!([1, 3])),
        ("{'a': 1, 'b': 2}.map(k, k)", json!(["a", "b"])),
        ("[[1, 2], [3]].all(inner, inner.all(n, n > 0))", json!(true)),
        ("[1].map(x, [2].map(x, x + 1))", json!([[3]])),
        // One element decides although another is at fault.
        ("[1, 0].exists(e, 1 / e == 1)", json!(true)),
        ("[0, 1].exists(e, 1 / e == 1)", json!(true)),
        ("[0, 2].all(e, 1 / e > 5)", json!(false)),
    ] {
        gives(text, value);
    }
    fails("[0].all(e, 1 / e > 5)", "divides by zero");
    fails("[1].map(x, x / 0)", "divides by zero");
    fails("3.all(x, true)", "does not walk");
}

/// From `string.textproto` and `conversions.textproto`.
#[test]
fn functions_give_what_the_specification_says() {
    for (text, value) in [
        ("size('')", json!(0)),
        ("size('πέντε')", json!(5)),
        ("'four'.size()", json!(4)),
        ("size([1, 2, 3])", json!(3)),
        ("size({'1': true, '2': false})", json!(2)),
        ("'foobar'.startsWith('foo')", json!(true)),
        ("'foobar'.endsWith('bar')", json!(true)),
        ("'foobar'.contains('oba')", json!(true)),
        ("''.contains('')", json!(true)),
        ("'hubba'.matches('ubb')", json!(true)),
        ("matches('abc', '^b')", json!(false)),
        ("'mañana'.matches('a+ñ+a+')", json!(true)),
        ("int('-10')", json!(-10)),
        ("int(1.9)", json!(1)),
        ("int(-7.9)", json!(-7)),
        ("double('1.5')", json!(1.5)),
        ("double(2)", json!(2.0)),
        ("string(123)", json!("123")),
        ("string(-4.5)", json!("-4.5")),
        ("string(true)", json!("true")),
        ("bool('true')", json!(true)),
        ("bool('0')", json!(false)),
    ] {
        gives(text, value);
    }
    fails("int('x')", "`x` is no whole number");
    fails("int(1e99)", "no whole number of 64 bits");
    fails("int(9223372036854775807.0)", "no whole number of 64 bits");
    fails("size(3)", "`size` does not take a whole number");
    fails("'a'.matches('(' + 'x')", "not a regular expression");
}

#[test]
fn arithmetic_beyond_64_bits_is_a_fault_and_no_other_number() {
    for text in [
        "9223372036854775807 + 1",
        "-9223372036854775808 - 1",
        "-(-9223372036854775808)",
        "9223372036854775807 * 2",
        "-9223372036854775808 / -1",
        "-9223372036854775808 % -1",
    ] {
        fails(text, "64 bits");
    }
    fails("1 / 0", "divides by zero");
    fails("1 % 0", "divides by zero");
    gives("1.0 / 0.0 > 5.0", json!(true));
    fails("1.0 / 0.0", "not a number of JSON");
}

#[test]
fn numbers_of_json_mix_because_it_does_not_say_what_they_are() {
    gives("tasks.check.outputs.report.auc * 100.0 > 90", json!(true));
    gives("params.share * 2", json!(1.0));
}

#[test]
fn the_scope_is_seen_by_name() {
    gives("params.mode == 'full' && tasks.check.outputs.report.rows > 0", json!(true));
    gives("tasks['my-task'].state == 'failed'", json!(true));
    gives("item.region == key && index == 3 && item.id == 7", json!(true));
    gives("run.state", json!("failed"));
    gives("tasks.score.children.exists(k, tasks.score.children[k] == 'failed')", json!(true));
    gives("params.regions", json!(["eu", "us"]));
    gives("'mode' in params", json!(true));
    gives("has(params.mode) && !has(params.other) && !has(tasks.check.outputs.other)", json!(true));
    gives("has(tasks['my-task'].state)", json!(true));
    gives("has(params['mode'])", json!(true));
}

#[test]
fn what_is_missing_is_named() {
    fails("params.other", "`params` has no `other`");
    fails("tasks.check.outputs.report.row > 0", "`tasks.check.outputs.report` has no `row`");
    fails("params.nothing.x", "`params.nothing` is null, which has no `x`");
    fails("has(params.nothing.x)", "`params.nothing` is null");
    fails("params.regions[2]", "`params.regions` has 2 items and no [2]");
    fails("params.regions[-1]", "no [-1]");
    fails("params.regions['a']", "indexed by whole numbers");
    fails("params.mode && true", "`params.mode` is text, and `&&` takes booleans");
    fails("'x' in params.mode", "write text.contains");
    let fault = eval("params.on && params.other").unwrap_err();
    assert_eq!(fault.offset, 13);
    let none = Map::new();
    let scope = Scope { params: &none, tasks: &none, item: None, key: None, index: None, run: &none };
    let fault = Expr::parse("item.x").unwrap().eval(&scope).unwrap_err();
    assert_eq!(fault.message, "`item` is for the children of a fan-out");
    let fault = Expr::parse("size('ab')").unwrap().eval_bool(&scope).unwrap_err();
    assert_eq!(fault.message, "the condition gives a number, neither true nor false");
}

#[test]
fn a_fault_of_the_text_stands_at_its_place_and_says_what_to_write() {
    for (text, at, message, hint) in [
        ("", 0, "the expression is empty", None),
        ("  ", 0, "the expression is empty", None),
        ("a = 1", 2, "`=` means nothing here", Some("equality is written ==")),
        ("a and b", 2, "`and` where an operator or the end should be", Some("\"and\" is written &&")),
        ("not a", 0, "`not` where a value should be", Some("\"not\" is written !")),
        ("a & b", 2, "`&` means nothing here", Some("\"and\" is written &&")),
        ("${params.x}", 0, "`$` means nothing here", Some("an expression names parameters without ${ }: params.NAME")),
        ("1 +", 3, "the expression ends where a value should be", None),
        ("(1", 2, "the expression ends where `)` should be", None),
        ("'abc", 0, "this string does not end", None),
        ("'\\d'", 1, "an unknown escape", Some("a backslash is written \\\\; or put r before the string: r'\\d+'")),
        ("x.startWith('a')", 2, "there is no function `startWith`", Some("did you mean `startsWith`?")),
        ("length(x)", 0, "there is no function `length`", None),
        ("startsWith(x, 'a')", 0, "`startsWith` is written after its text", None),
        ("size(1, 2)", 0, "`size` takes 1 argument(s) here, found 2", None),
        ("1u", 0, "letters directly after a number", Some("there are no unsigned numbers here: leave out the u")),
        ("b'x'", 0, "there are no bytes here", Some("leave out the b")),
        ("9223372036854775808", 0, "not a whole number of 64 bits", None),
        ("x.matches('(')", 10, "not a regular expression: unclosed group", None),
        ("has(x)", 4, "`has` asks for a field", Some("write has(params.NAME)")),
        ("if (x)", 0, "`if` is a reserved word", None),
        ("x.all(params, true)", 6, "`params` has a meaning already", None),
        ("x.all(y)", 7, "`)` where `,` should be", None),
        ("a.in", 2, "`in` where a name should be", None),
        ("é", 0, "`é` means nothing here", None),
        ("[1, 2", 5, "the expression ends where `]` should be", None),
        ("{1 2}", 3, "a number where `:` should be", None),
    ] {
        let fault = refused(text);
        assert_eq!((fault.offset, fault.message.as_str()), (at, message), "{text}");
        if hint.is_some() {
            assert_eq!(fault.hint.as_deref(), hint, "{text}");
        }
        assert!(fault.offset + fault.length <= text.len(), "{text}");
    }
}

#[test]
fn references_are_found_wherever_they_stand() {
    let text = "params.mode == 'x' && has(tasks.check.outputs.report.rows) || tasks['my-task'].state in ['failed'] \
                || item.id == run.id || tasks.score.children.all(k, k != params['a'] && k.x) || foo || tasks.a.b";
    let found = Expr::parse(text).unwrap().references();
    let params: Vec<&str> = found.params.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(params, ["mode", "a"]);
    let tasks: Vec<(&str, &Part)> = found.tasks.iter().map(|one| (one.task.as_str(), &one.part)).collect();
    assert_eq!(
        tasks,
        [
            ("check", &Part::Output("report".into())),
            ("my-task", &Part::State),
            ("score", &Part::Children),
            ("a", &Part::Unknown("b".into())),
        ]
    );
    for one in &found.tasks {
        assert!(text[one.offset..one.offset + one.length].starts_with("tasks"));
    }
    assert_eq!(found.item.len(), 1);
    assert_eq!(found.run[0].name, "id");
    assert_eq!(found.unknown.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["foo"]);
    let test = &found.states[0];
    assert_eq!((test.task.as_str(), test.words[0].name.as_str()), ("my-task", "failed"));
    assert_eq!(&text[test.words[0].offset..][..test.words[0].length], "'failed'");
    assert!(found.any_param.is_none() && found.any_task.is_none());

    let found = Expr::parse("tasks.exists(t, tasks[t].state == 'failed') && size(params) > 0").unwrap().references();
    assert!(found.any_param.is_some() && found.any_task.is_some());
    assert!(found.tasks.is_empty() && found.unknown.is_empty());
}

#[test]
fn a_condition_that_can_be_neither_true_nor_false_is_known_before() {
    for (text, kind) in [("'a'", "text"), ("size(x)", "a number"), ("[1]", "a list"), ("1 - 2", "a number")] {
        assert_eq!(Expr::parse(text).unwrap().kind(), Some(kind));
    }
    assert_eq!(Expr::parse("a.b").unwrap().kind(), None);
    assert_eq!(Expr::parse("a ? 'b' : c ? 'd' : 'e'").unwrap().kind(), Some("text"));
    assert_eq!(Expr::parse("a ? 'b' : true").unwrap().kind(), None, "it may be a boolean");
    assert_eq!(Expr::parse("a ? 'b' : c.d").unwrap().kind(), None);
    assert_eq!(Expr::parse("a.b == 1").unwrap().kind(), Some("a boolean"));
}

#[test]
fn nesting_of_any_kind_is_refused_and_not_followed() {
    let deep = 100_000;
    for (open, close) in
        [("(", ")"), ("[", "]"), ("{'a':", "}"), ("!", ""), ("-", ""), ("f(", ")"), ("x.all(y,", ")"), ("a?", "")]
    {
        let text = format!("{}1{}", open.repeat(deep), close.repeat(deep));
        assert!(refused(&text).message.contains("at most 4096"));
        // As deep as the length allows.
        let count = LONGEST / (open.len() + close.len() + 1);
        let _ = Expr::parse(&format!("{}1{}", open.repeat(count), close.repeat(count))).map(|expr| expr.text().len());
        assert!(Expr::parse(&format!("{}1{}", open.repeat(60), close.repeat(60))).is_err(), "{open}");
    }
    for chain in [".b", "[0]", "+1", "-1", " == 1", " in x"] {
        let text = format!("a{}", chain.repeat(4_000 / chain.len()));
        assert!(refused(&text).message.contains("inside each other"), "{chain}");
    }
    // Long lists of alternatives are common, and are no nesting.
    gives(&vec!["params.mode == 'x'"; 180].join(" || "), json!(false));
    gives(&format!("{}1{}", "(".repeat(40), ")".repeat(40)), json!(1));
}

#[test]
fn evaluation_ends_whatever_the_expression_is() {
    let long: Vec<Value> = (0..100_000).map(Value::from).collect();
    let text = "x".repeat(1_000_000);
    for hostile in [
        "params.l.all(a, params.l.all(b, params.l.all(c, params.l.all(d, true))))",
        "params.l.map(a, params.l)",
        "params.l.map(a, params.t + params.t)",
        "params.l.exists(a, params.t.matches('(x+x+)+y'))",
        "params.l.exists(a, params.t.contains('xy'))",
        "params.l.exists(a, params.l == params.l + [1])",
        "params.l.exists(a, 'x'.matches(string(a)))",
        "params.l.filter(a, a in params.l.map(b, b + 1))",
        "params.l.exists(a, params.l.exists(b, 1 / 0 == 1))",
    ] {
        let fault = eval_in(hostile, json!({ "l": long, "t": text }), json!({})).expect_err(hostile);
        assert!(fault.message.contains("more than 1000000 steps"), "{hostile}: {}", fault.message);
    }
    let counted = eval_in("params.l.filter(a, a % 2 == 0).size()", json!({ "l": long }), json!({}));
    assert_eq!(counted, Ok(json!(50_000)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_parsed_or_refused_inside_its_bounds(
        words in prop::collection::vec(prop::sample::select(vec![
            "params", ".", "mode", "tasks", "[", "]", "(", ")", "{", "}", "'a'", "\"b", "1", "2.5", "-", "!", "&&", "||",
            "==", "in", "?", ":", ",", "has(", ".all(x,", ".map(x,", "size(", "item", "null", "é", "\\", "r'", " ", "//",
            "0x", "e9", "\n", "+", "*", "%", "<=", "matches('(',",
        ]), 0..24),
    ) {
        let text = words.concat();
        match Expr::parse(&text) {
            Ok(expr) => {
                let found = expr.references();
                for one in found.params.iter().chain(&found.unknown).chain(&found.item).chain(&found.run) {
                    prop_assert!(text.get(one.offset..one.offset + one.length).is_some());
                }
                let params = map(json!({ "mode": "full" }));
                let none = Map::new();
                let scope = Scope { params: &params, tasks: &none, item: None, key: None, index: None, run: &none };
                let first = expr.eval(&scope);
                prop_assert_eq!(&first, &expr.eval(&scope));
                if let Err(fault) = first {
                    prop_assert!(fault.offset <= text.len());
                }
            }
            Err(fault) => prop_assert!(text.get(fault.offset..fault.offset + fault.length).is_some(), "{fault:?}"),
        }
    }
}
