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
    let name = if store_faults().is_some() { "segue-faulty" } else { "segue" };
    let found = here.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "no program `{name}` beside {}: build it with `cargo build --workspace`, or set SEGUE_BIN",
            here.display()
        )
    })
}

/// Gives the faults of stores that the tests are played over, where they are: `SEGUE_STORE_FAULTS`, with a seed of this
/// test's own, which the same name gets again.
#[must_use]
pub fn store_faults() -> Option<String> {
    let faults = std::env::var("SEGUE_STORE_FAULTS").ok().filter(|faults| !faults.is_empty())?;
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    let (seeds, others): (Vec<&str>, Vec<&str>) = faults.split(',').partition(|part| part.starts_with("seed="));
    let seed = seeds.first().and_then(|seed| seed.trim_start_matches("seed=").parse::<u64>().ok()).unwrap_or(1);
    // FNV-1a.
    let seed = name
        .bytes()
        .fold(seed ^ 0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3));
    Some(format!("seed={seed},{}", others.join(",")))
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
