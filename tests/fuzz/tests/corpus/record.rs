//! Makes the corpora that real code can make, and checks that they lead where their names say.
//!
//! `SEGUE_RECORD_CORPUS=1 cargo test --workspace --test corpus record::` writes them anew; inputs that were found otherwise stay.

mod expressions;
mod files;
mod links;
mod rows;

use std::{fs, path::Path};

/// An input: its name in the corpus of its target, and its bytes.
type Seed = (String, Vec<u8>);

fn seed(name: &str, bytes: impl Into<Vec<u8>>) -> Seed {
    (name.to_owned(), bytes.into())
}

#[test]
fn the_inputs_that_can_be_made_are_in_the_corpus() {
    let recording = std::env::var_os("SEGUE_RECORD_CORPUS").is_some();
    let made = [
        ("pipeline", files::pipelines()),
        ("expression", expressions::seeds()),
        ("worker-message", links::up()),
        ("coordinator-message", links::down()),
        ("runner-frame", links::frames()),
        ("store", rows::seeds()),
        ("csv", files::csv()),
        ("model", files::models()),
    ];
    for (target, seeds) in made {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        if recording {
            fs::create_dir_all(&directory).unwrap();
        }
        for (name, bytes) in seeds {
            let path = directory.join(name);
            if recording {
                fs::write(&path, bytes).unwrap();
            }
            assert!(path.is_file(), "{} is missing: see the head of this file", path.display());
        }
    }
}
