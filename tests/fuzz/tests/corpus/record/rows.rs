//! Records of stores, from what releases have written.

use std::{collections::BTreeSet, path::Path};

use segue_coordinator::store::{Key, Row};
use segue_fuzz::targets::store::{pack, unpack};

use super::{Seed, seed};

/// Longest input that is made of many records.
const MOST_BYTES: usize = 40_000;

pub fn seeds() -> Vec<Seed> {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../coordinator/tests/fixtures/0.1.0");
    let mut seeds = Vec::new();
    let mut kinds = BTreeSet::new();
    for name in ["under-way", "ended"] {
        let rows = unpack(&std::fs::read(place.join(format!("{name}.records"))).unwrap());
        assert!(!rows.is_empty());
        // One of each kind, by itself.
        for row in &rows {
            let key = Key::decode(&row.0).unwrap();
            let kind = key.to_string().split('/').next().unwrap_or_default().to_owned();
            if kinds.insert(kind.clone()) {
                seeds.push(seed(&format!("one-{kind}"), pack(std::slice::from_ref(row))));
            }
        }
        // Each run with what belongs to it, as far as that is small.
        let runs = rows.iter().filter_map(|(key, _)| match Key::decode(key) {
            Ok(Key::Run(run)) => Some(run),
            _ => None,
        });
        for (number, run) in runs.enumerate() {
            let of_run = |row: &&Row| {
                let key = Key::decode(&row.0).unwrap();
                key.to_string().contains(&run.to_string())
                    || matches!(key, Key::Meta(_) | Key::Pool(_) | Key::Worker(_))
            };
            let packed = pack(&rows.iter().filter(of_run).cloned().collect::<Vec<_>>());
            if packed.len() <= MOST_BYTES {
                seeds.push(seed(&format!("run-{name}-{number}"), packed));
            }
        }
    }
    assert!(kinds.len() >= 10, "{kinds:?}");
    seeds
}
