//! Damage at rest, by the real program: bytes that flip, files that are cut, emptied or gone. What is damaged is noticed
//! before it is used, it is named with the next step, and the next step helps.
//!
//! `SEGUE_FAULTS=all` plays many more seeds than a normal test does.
#![allow(clippy::unwrap_used)]

mod artifacts;
mod backup;
mod cache;
mod models;
mod state;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use segue_proto::ids::Digest;

/// Says whether the long sweeps are wanted.
fn thorough() -> bool {
    std::env::var("SEGUE_FAULTS").is_ok_and(|wanted| wanted == "all")
}

/// What happens to a file.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Damage {
    /// One bit of the byte at this share of its length.
    Flipped(f64),
    /// It ends at this share of its length.
    Cut(f64),
    Emptied,
    Gone,
}

const EACH: [Damage; 4] = [Damage::Flipped(0.5), Damage::Cut(0.7), Damage::Emptied, Damage::Gone];

/// Damages a file, and proves that it is another one then. Gives what it was.
#[track_caller]
fn damage(file: &Path, how: Damage) -> Vec<u8> {
    let before = fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let at = |share: f64| ((before.len() as f64 * share) as usize).min(before.len().saturating_sub(1));
    let mut bytes = before.clone();
    match how {
        Damage::Flipped(share) => bytes[at(share)] ^= 1,
        Damage::Cut(share) => bytes.truncate(at(share)),
        Damage::Emptied => bytes.clear(),
        Damage::Gone => {
            fs::remove_file(file).unwrap();
            assert!(!file.exists());
            return before;
        }
    }
    // Blobs are read-only, and a disk that rots does not ask.
    fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(file, &bytes).unwrap();
    assert_ne!(
        Digest::of(&fs::read(file).unwrap()),
        Digest::of(&before),
        "{how:?} changed nothing of {}",
        file.display()
    );
    before
}

/// Gives the file of a blob under a state directory.
fn blob(state_dir: &Path, digest: &str) -> PathBuf {
    state_dir.join(format!("blobs/{}/{digest}", &digest[..2]))
}

/// A small generator, so that a seed is all that a failure needs to be seen again.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// SplitMix64, after Steele, Lea and Flood.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Gives a share from 0 to below 1.
    fn share(&mut self) -> f64 {
        self.next() as f64 / 2.0_f64.powi(64)
    }

    fn damage(&mut self) -> Damage {
        match self.next() % 10 {
            0..6 => Damage::Flipped(self.share()),
            6..8 => Damage::Cut(self.share()),
            8 => Damage::Emptied,
            _ => Damage::Gone,
        }
    }
}

/// Gives the seeds of a sweep: `SEGUE_SEED`, or so many from 1 on.
fn seeds(sample: u64, all: u64) -> std::ops::RangeInclusive<u64> {
    match std::env::var("SEGUE_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..=seed,
        None => 1..=if thorough() { all } else { sample },
    }
}

/// Copies a directory with everything in it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Lists the files under a directory, in order.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .collect();
    found.sort();
    found
}
