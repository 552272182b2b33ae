//! The tree against the document of `toml_edit`, the parser that stands on the same grammar.

use proptest::prelude::*;
use toml_edit::{Document, Item};

use super::{
    super::{
        faults::Faults,
        toml::{Node, Table, Tree, Value, parse},
    },
    RECOMMENDED,
};

fn ours(text: &str) -> Option<Tree> {
    let mut faults = Faults::new();
    let tree = parse(text, &mut faults)?;
    (faults.count() == 0).then_some(tree)
}

fn same_table(tree: &Tree, ours: &Table, theirs: &dyn toml_edit::TableLike) -> bool {
    ours.entries.len() == theirs.len()
        && ours.entries.iter().all(|entry| theirs.get(&entry.key).is_some_and(|item| same(tree, &entry.node, item)))
}

fn same(tree: &Tree, ours: &Node, theirs: &Item) -> bool {
    match (&ours.value, theirs) {
        (Value::Text(a), item) if item.is_str() => item.as_str() == Some(a),
        (Value::Int(a), item) => item.as_integer() == Some(*a),
        (Value::Float(a), item) => {
            item.as_float().is_some_and(|b| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan())
        }
        (Value::Bool(a), item) => item.as_bool() == Some(*a),
        (Value::Date, item) => item.is_datetime(),
        (Value::List(a), Item::Value(toml_edit::Value::Array(b))) => {
            a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| same(tree, a, &Item::Value(b.clone())))
        }
        (Value::Tables(a), Item::ArrayOfTables(b)) => {
            a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| same_table(tree, tree.table(*a), b))
        }
        (Value::Table(a), item) => item.as_table_like().is_some_and(|b| same_table(tree, tree.table(*a), b)),
        _ => false,
    }
}

fn compare(text: &str) {
    match (ours(text), Document::parse(text)) {
        (Some(tree), Ok(document)) => {
            assert!(same_table(&tree, tree.root(), document.as_table()), "another tree:\n{text}");
        }
        (None, Err(_)) => {}
        // The digits of a date are not looked at, because no key takes one.
        (Some(_), Err(error)) if dated(text) => drop(error),
        (Some(_), Err(error)) => panic!("taken here, refused there: {error}\n{text}"),
        (None, Ok(_)) => panic!("refused here, taken there:\n{text}"),
    }
}

fn dated(text: &str) -> bool {
    let mut faults = Faults::new();
    fn has(tree: &Tree, node: &Node) -> bool {
        match &node.value {
            Value::Date => true,
            Value::List(items) => items.iter().any(|item| has(tree, item)),
            Value::Table(id) => tree.table(*id).entries.iter().any(|entry| has(tree, &entry.node)),
            Value::Tables(ids) => {
                ids.iter().flat_map(|id| &tree.table(*id).entries).any(|entry| has(tree, &entry.node))
            }
            _ => false,
        }
    }
    parse(text, &mut faults).is_some_and(|tree| tree.root().entries.iter().any(|entry| has(&tree, &entry.node)))
}

#[test]
fn tables_may_be_extended_where_toml_allows_it() {
    for text in [
        "[a.b]\nx=1\n[a]\ny=2",
        "[a]\nb.c=1\n[a.b]\n",
        "[a]\nb.c=1\n[a.b.d]\nx=1",
        "a.b=1\na.c=2",
        "a.b=1\na={}",
        "[a]\n[a]",
        "[a.b]\n[a]\nb.c=1",
        "[a.b.c]\n[a]\nb.d=1",
        "[a.b.c]\n[a]\nb.c.d=1",
        "a={b=1}\n[a.c]",
        "a={b.c=1, b.d=2}",
        "a={b={c=1}, b.d=2}",
        "a={b.c=1, b={}}",
        "a={b=1,b=2}",
        "[[a]]\nx=1\n[[a]]\nx=2\n[a.b]\ny=1",
        "[[a]]\n[a]",
        "[a]\n[[a]]",
        "[[a]]\na.b=1\n[[a.b]]",
        "a=[]\n[[a]]",
        "a=[{b=1}]\n[a.c]",
        "[[a.b]]\n[a]\nb.c=1",
        "a=1\na.b=2",
        "[a]\nb=1\n[a.b]",
        "[a.b]\n[a.b.c]\n[a]\n[a.d]",
        "a.b.c=1\n[a]\n",
        "a.b.c=1\n[a.d]\n",
        "\"\"=1\n''.x=2",
        "a={\n b=1,\n}\n",
        "[]",
        "[a.]",
        "[[a]",
        "a=",
        "=1",
        "a=1 b=2",
        "{}",
        "a={b=}",
        "a=[1,,2]",
        "a=]",
        "\u{feff}a=1",
    ] {
        compare(text);
    }
}

/// Lines that mean something beside each other.
fn line() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec!["a", "b", "c", "a.b", "a.b.c", "b.a", "\"a\"", "'b'.c", "a . c"]);
    let value = prop::sample::select(vec![
        "1",
        "0x1F",
        "-1.5e3",
        "inf",
        "true",
        "\"x\\n\"",
        "'''y'''",
        "[]",
        "[1, [2]]",
        "{}",
        "{ a = 1 }",
        "{ a.b = 1, a.c = 2 }",
        "{ a = { b = 1 }, a.c = 1 }",
        "99999999999999999999",
        "1e999",
        "2024-01-01",
        "yes",
        "[1",
        "\"",
    ]);
    prop_oneof![
        4 => (key.clone(), value).prop_map(|(key, value)| format!("{key} = {value}")),
        3 => key.clone().prop_map(|key| format!("[{key}]")),
        1 => key.prop_map(|key| format!("[[{key}]]")),
        1 => Just("# comment".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_tree_is_that_of_toml_edit(lines in prop::collection::vec(line(), 0..8)) {
        compare(&lines.join("\n"));
    }

    #[test]
    fn a_cut_pipeline_is_taken_or_refused_as_by_toml_edit(cut in 0..RECOMMENDED.len(), length in 0usize..200) {
        let mut bytes = RECOMMENDED.as_bytes().to_vec();
        bytes.drain(cut..(cut + length).min(bytes.len()));
        compare(&String::from_utf8_lossy(&bytes));
    }
}
