//! Any text: the checker, its rendering, its graphs and the binder must neither panic nor place a fault outside the
//! text.

#![no_main]

use std::{collections::BTreeMap, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use segue_coordinator::spec::{bind, check, graph};
use segue_proto::operator::Catalogue;

#[path = "../../tests/common/catalogue.rs"]
mod catalogue;

static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(catalogue::catalogue);

fuzz_target!(|text: &str| {
    let checked = check(text, "fuzz.toml", &CATALOGUE);
    for diagnostic in &checked.diagnostics {
        if let Some(place) = diagnostic.place {
            assert!(place.line >= 1 && place.column >= 1 && place.length >= 1);
            assert!(place.offset <= text.len() && text.is_char_boundary(place.offset));
        }
        let _ = diagnostic.render("fuzz.toml", text, true);
    }
    let errors = checked.diagnostics.iter().any(|diagnostic| diagnostic.is_error());
    assert_eq!(checked.pipeline.is_none(), errors);
    let Some(pipeline) = checked.pipeline else { return };
    let _ = (pipeline.version(), graph::dot(&pipeline), graph::mermaid(&pipeline), graph::json(&pipeline));
    let params = BTreeMap::from([("input".to_owned(), "orders.csv".to_owned())]);
    if let Ok(spec) = bind(&pipeline, &CATALOGUE, &params, "/data", false) {
        let again = bind(&pipeline, &CATALOGUE, &spec.params, "/data", false);
        assert_eq!(again.as_ref(), Ok(&spec), "binding a run's own parameters must give the same run");
    }
});
