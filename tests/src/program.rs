//! Finds the program under test.

use std::path::PathBuf;

/// Gives the path of `segue`: `SEGUE_BIN`, or what cargo built beside this test.
///
/// # Panics
/// If there is none, with the command that builds it.
#[must_use]
pub fn segue() -> PathBuf {
    if let Some(given) = std::env::var_os("SEGUE_BIN") {
        return PathBuf::from(given);
    }
    let here = std::env::current_exe().expect("the system knows where this program is");
    // Tests are in target/debug/deps, the bench and the program in target/debug.
    let found = here.ancestors().skip(1).take(2).map(|dir| dir.join("segue")).find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "no program `segue` beside {}: build it with `cargo build --workspace`, or set SEGUE_BIN",
            here.display()
        )
    })
}

/// Gives the root of the checkout.
#[must_use]
pub fn checkout() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().map(PathBuf::from).unwrap_or_default()
}

/// Gives the path of a shipped pipeline.
#[must_use]
pub fn shipped(name: &str) -> PathBuf {
    checkout().join("pipelines").join(name)
}
