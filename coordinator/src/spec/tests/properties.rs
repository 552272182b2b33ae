use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    super::{bind, check, child_key, items_of, resolve_child},
    EVERYTHING, NOTEBOOK, RECOMMENDED, catalogue,
};

/// One change of some bytes.
#[derive(Debug, Clone)]
enum Edit {
    Flip(prop::sample::Index, u8),
    Delete(prop::sample::Index, usize),
    Insert(prop::sample::Index, String),
    Copy(prop::sample::Index, prop::sample::Index, usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<prop::sample::Index>;
    let snippets = prop::sample::select(vec![
        "\"",
        "[",
        "]",
        "{",
        "}",
        "=",
        ".",
        "\n",
        "[tasks.x]\n",
        "after = [\"report\"]\n",
        "${",
        "${params.",
        "$$",
        "\u{1b}",
        "日本",
        "e\u{301}",
        "nan",
        "-1",
        "1e400",
        "\\u0000",
        "'''",
        "clean.",
        "\t",
        "\r\n",
        "#",
        "[[tasks]]\n",
        "when = \"tasks.clean.state == 'failed'\"\n",
        "foreach = [1, { a = 2 }]\n",
        "foreach = { range = 3 }\n",
        "foreach = { output = \"eda.stats\" }\n",
        "matrix = { a = [1, 2], b = \"${params.x}\" }\n",
        "run_if = \"all_done\"\n",
        "finally = true\n",
        "sensor = { file = \"x\" }\n",
        "pools = { db = 2 }\n",
        "${item.id}",
        "${key}",
        "any_of = [{ gpu = 1 }, { cpu = 8 }], ",
        "rules = [{ exit_codes = [75] }], ",
        "[schedule]\ncron = \"*/5 2-4 L * mon#2\"\nparams = { input = \"${interval.start}\" }\n",
        "[schedule]\nevery = \"15m\"\ntimezone = \"Europe/Berlin\"\nstart = \"2026-01-01\"\n",
    ]);
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Edit::Flip(at, byte)),
        (at(), 1usize..60).prop_map(|(at, length)| Edit::Delete(at, length)),
        (at(), snippets).prop_map(|(at, text)| Edit::Insert(at, text.to_owned())),
        (at(), at(), 1usize..400).prop_map(|(from, to, length)| Edit::Copy(from, to, length)),
    ]
}

fn apply(text: &str, edits: &[Edit]) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for edit in edits {
        if bytes.is_empty() {
            break;
        }
        match edit {
            Edit::Flip(at, byte) => {
                let at = at.index(bytes.len());
                bytes[at] ^= byte;
            }
            Edit::Delete(at, length) => {
                let at = at.index(bytes.len());
                bytes.drain(at..(at + length).min(bytes.len()));
            }
            Edit::Insert(at, text) => {
                let at = at.index(bytes.len());
                bytes.splice(at..at, text.bytes());
            }
            Edit::Copy(from, to, length) => {
                let from = from.index(bytes.len());
                let piece = bytes[from..(from + length).min(bytes.len())].to_vec();
                let to = to.index(bytes.len());
                bytes.splice(to..to, piece);
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_mutated_pipeline_is_explained_without_panic_and_inside_its_text(
        which in 0..3_usize,
        edits in prop::collection::vec(edit(), 1..6),
    ) {
        let catalogue = catalogue();
        let text = apply([RECOMMENDED, NOTEBOOK, EVERYTHING][which], &edits);
        let checked = check(&text, "mutated.toml", &catalogue);
        let lines: Vec<&str> = text.split('\n').collect();
        let mut last = 0;
        for diagnostic in &checked.diagnostics {
            let place = diagnostic.place.expect("every fault of a file has a place");
            prop_assert!(place.offset >= last, "file order");
            last = place.offset;
            prop_assert!(place.offset <= text.len() && text.is_char_boundary(place.offset));
            let line = lines.get(place.line as usize - 1).copied();
            let length = line.map(|line| line.chars().count());
            prop_assert!(length.is_some_and(|length| (1..=length + 1).contains(&(place.column as usize))), "{place:?}");
            let end = (place.column + place.length) as usize;
            prop_assert!(end <= length.unwrap_or(0).max(place.column as usize) + 1, "{place:?}");
            let rendered = diagnostic.render("mutated.toml", &text, false);
            prop_assert!(rendered.lines().count() >= 4 && rendered.contains('^'));
            prop_assert!(!rendered.contains(|c: char| c.is_control() && c != '\n'), "{rendered:?}");
        }
        let errors = checked.diagnostics.iter().any(super::super::Diagnostic::is_error);
        prop_assert_eq!(checked.pipeline.is_none(), errors);
        let again = check(&text, "mutated.toml", &catalogue);
        prop_assert_eq!(&again.diagnostics, &checked.diagnostics);
        if let Some(pipeline) = &checked.pipeline {
            prop_assert_eq!(again.pipeline.unwrap().version(), pipeline.version());
            let params = BTreeMap::from([("input".to_owned(), "x.csv".to_owned())]);
            let params = if which == 2 { BTreeMap::new() } else { params };
            let bound = bind(pipeline, &catalogue, &params, "/data", false);
            prop_assert_eq!(&bound, &bind(pipeline, &catalogue, &params, "/data", false));
            for task in bound.iter().flat_map(|spec| &spec.tasks) {
                let Some(fan_out) = &task.flow.fan_out else { continue };
                let item = items_of(&fan_out.over).and_then(|items| items.get(0)).unwrap_or_default();
                let key = child_key(fan_out, &item, 0).map_or("none".to_owned(), String::from);
                let _ = resolve_child(task, "/data", &item, &key, 0);
            }
        }
    }

    #[test]
    fn binding_any_text_to_a_parameter_does_not_panic(name in "input|seed|frequency|horizon_days|.*", value: String) {
        let catalogue = catalogue();
        let pipeline = check(RECOMMENDED, "", &catalogue).pipeline.unwrap();
        let _ = bind(&pipeline, &catalogue, &BTreeMap::from([(name, value)]), "/data", false);
    }
}
