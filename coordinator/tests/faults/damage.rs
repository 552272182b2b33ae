//! Damage of the files of a store: bytes that flip, files that are cut, emptied or gone, at places of chance. Whatever is
//! hit, a start either finds every row as it was flushed, or refuses with the directory and the next step. It never
//! panics, never hangs, and never gives out anything else.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::mpsc,
    time::Duration,
};

use segue_coordinator::store::{Batch, Code, Error, Key, Row, SledStore, Store};
use segue_proto::ids::Digest;

use crate::{support::Random, thorough};

/// Damages of a normal test, and of a thorough one.
const SAMPLE: u64 = 60;
const ALL: u64 = 3_000;

/// Nothing takes so long: it only turns a start that hangs into a failure with its seed.
const LONGEST: Duration = Duration::from_secs(120);

/// A store as it was at its last flush.
struct Image {
    files: BTreeMap<String, Vec<u8>>,
    rows: Vec<Row>,
}

fn key(n: u64) -> Vec<u8> {
    Key::Cache(format!("row {n:05}")).encode()
}

fn value(random: &mut Random) -> Vec<u8> {
    let length = match random.below(40) {
        // In pieces.
        0 => 4_096 + random.below(20_000),
        1..4 => random.below(4_000),
        _ => random.below(300),
    };
    (0..length).map(|_| random.next().to_le_bytes()[0]).collect()
}

/// Writes as a coordinator does: small batches, most of them about rows that are there already.
fn write(store: &SledStore, random: &mut Random, batches: u64) {
    for _ in 0..batches {
        let mut batch = Batch::new();
        for _ in 0..1 + random.below(6) {
            let key = key(random.below(1_500));
            if random.below(8) == 0 { batch.delete_raw(key) } else { batch.put_raw(key, value(random)) }
        }
        store.apply(&batch).unwrap();
        if random.below(4) == 0 {
            store.flush().unwrap();
        }
    }
    store.flush().unwrap();
}

/// Reads the files of a store, but for its lock.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let named = entries.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap()));
    named.filter(|(name, _)| name != "lock").collect()
}

/// Makes a store that was started several times, and takes its files as a crash leaves them, or as an orderly end does.
fn image(seed: u64, crashed: bool) -> Image {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random::new(seed);
    for _ in 0..3 {
        write(&SledStore::open(dir.path()).unwrap(), &mut random, 250);
    }
    let store = SledStore::open(dir.path()).unwrap();
    write(&store, &mut random, 700);
    let rows = store.scan(&[], None, usize::MAX).unwrap();
    assert!(rows.len() > 700, "{} rows are too few to test anything", rows.len());
    if crashed {
        return Image { files: files(dir.path()), rows };
    }
    drop(store);
    Image { files: files(dir.path()), rows }
}

/// What was done to which file.
#[derive(Debug)]
struct Done {
    file: String,
    kind: &'static str,
    place: String,
}

/// Damages one file by chance, the database most of all, and says what was done. The file is another one after it.
fn damage(files: &mut BTreeMap<String, Vec<u8>>, random: &mut Random) -> Done {
    let others: Vec<String> = files.keys().filter(|name| *name != "db").cloned().collect();
    let name = if random.below(5) < 4 {
        "db".to_owned()
    } else {
        others[usize::try_from(random.below(others.len() as u64)).unwrap()].clone()
    };
    let bytes = files.get_mut(&name).unwrap();
    let before = Digest::of(bytes);
    let at = usize::try_from(random.below(bytes.len() as u64)).unwrap();
    let (kind, place) = match random.below(20) {
        0..12 => {
            let by = if random.below(2) == 0 { 1 << random.below(8) } else { 1 + random.below(255) as u8 };
            bytes[at] ^= by;
            ("flipped", format!("byte {at} by {by:#04x}"))
        }
        12..16 => {
            bytes.truncate(at);
            ("cut", format!("to {at} bytes"))
        }
        16..18 => {
            let end = bytes.len().min(at + 4_096);
            bytes[at..end].fill(0);
            // That part of the log may have been empty.
            bytes[at] ^= u8::from(before == Digest::of(bytes));
            ("zeroed", format!("bytes {at} to {end}"))
        }
        18 => {
            bytes.clear();
            ("emptied", String::new())
        }
        _ => {
            files.remove(&name);
            return Done { file: name, kind: "gone", place: String::new() };
        }
    };
    assert_ne!(Digest::of(&files[&name]), before, "{name} {kind} {place}: nothing was damaged");
    Done { file: name, kind, place }
}

/// How a start on damaged files ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// Everything is there.
    Whole,
    /// It was refused: because sled noticed, or because only the seal and the mark did.
    Refused { sled_knew: bool },
}

/// How starts ended.
#[derive(Debug, Default)]
struct Counts {
    whole: u32,
    refused_by_sled: u32,
    /// sled would have gone on without a word.
    refused_by_seal: u32,
}

fn explained(error: &Error, dir: &Path) -> Result<(), String> {
    let text = error.to_string();
    let place = dir.display().to_string();
    let words = [place.as_str(), "segue store verify", "segue store restore", "segue store backup"];
    let missing: Vec<&str> = words.into_iter().filter(|word| !text.contains(word)).collect();
    if error.code() == Code::Damaged && missing.is_empty() {
        return Ok(());
    }
    Err(format!("the refusal lacks {missing:?}: {:?} {text}", error.code()))
}

/// Starts, and waits until all rows have been compared: a start on a busy machine does not.
fn start(dir: &Path) -> Result<SledStore, Error> {
    let store = SledStore::open(dir)?;
    store.check()?;
    Ok(store)
}

/// Starts on damaged files, and judges what is given out.
fn judge(dir: &Path, expected: &[Row]) -> Result<Ended, String> {
    let refused = match start(dir) {
        Ok(store) => {
            let rows = store.scan(&[], None, usize::MAX).map_err(|e| format!("it was opened, and {e}"))?;
            if rows != expected {
                let lost = expected.iter().filter(|row| !rows.contains(row)).count();
                return Err(format!("{lost} of {} rows are silently other ones or gone", expected.len()));
            }
            // And it can be used.
            let mut batch = Batch::new();
            batch.put_raw(key(0), b"later".to_vec());
            store.apply(&batch).and_then(|()| store.flush()).map_err(|e| format!("it was opened, and {e}"))?;
            drop(store);
            let again = start(dir).map_err(|e| format!("used once, and {e}"))?;
            let kept = again.get(&key(0)).map_err(|e| e.to_string())?;
            return if kept.as_deref() == Some(b"later") {
                Ok(Ended::Whole)
            } else {
                Err("a later row is lost".into())
            };
        }
        Err(refused) => refused,
    };
    explained(&refused, dir)?;
    // The first start may have changed the files: damage is not forgotten by it.
    match start(dir) {
        Ok(_) => return Err(format!("refused at first ({refused}), and taken the second time")),
        Err(again) => explained(&again, dir)?,
    }
    // And what can still be read can be looked at, with the reason.
    match SledStore::open_to_look(dir) {
        Ok(store) => {
            let reason = store.check().err().ok_or("looked at, it has no damage any more")?;
            explained(&reason, dir)?;
            let mut batch = Batch::new();
            batch.put_raw(key(0), b"later".to_vec());
            if store.apply(&batch).is_ok() {
                return Err("a damaged store takes writes".to_owned());
            }
            // Every row that is given out is one that there was once, or the reading says that it cannot go on.
            match store.scan(&[], None, usize::MAX) {
                Ok(_) => {}
                Err(e) if matches!(e.code(), Code::Damaged | Code::Corrupt) => {}
                Err(e) => return Err(format!("reading what is left: {e}")),
            }
        }
        Err(e) => explained(&e, dir)?,
    }
    let text = refused.to_string();
    let by_us = [
        "as they were written last",
        "rows, and there were",
        "batches that were on the disk",
        "its records are gone",
        "seal of its rows",
    ];
    Ok(Ended::Refused { sled_knew: !by_us.iter().any(|words| text.contains(words)) })
}

/// Does one damage, and judges it on a thread of its own, so that a hang is a failure.
fn play(image: &Image, seed: u64) -> Result<(Done, Ended), String> {
    let mut random = Random::new(seed);
    let mut files = image.files.clone();
    let done = damage(&mut files, &mut random);
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in &files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    let (sender, verdict) = mpsc::channel();
    let (place, rows) = (dir.path().to_owned(), image.rows.clone());
    std::thread::spawn(move || {
        let judged = std::panic::catch_unwind(|| judge(&place, &rows));
        let _ = sender.send(judged.unwrap_or_else(|_| Err("it panicked".to_owned())));
    });
    let judged = verdict.recv_timeout(LONGEST).unwrap_or_else(|_| Err("it hangs".to_owned()));
    match judged {
        Ok(ended) => Ok((done, ended)),
        Err(fault) => {
            let (Done { file, kind, place }, kept) = (done, keep(dir.path(), seed, &files));
            Err(format!("SEGUE_SEED={seed}: {file} {kind} {place}: {fault} (the files are in {})", kept.display()))
        }
    }
}

/// Keeps the files of a failure: sled lays them out a little differently each time, so that the seed alone may not do.
fn keep(dir: &Path, seed: u64, files: &BTreeMap<String, Vec<u8>>) -> PathBuf {
    let kept = dir.with_file_name(format!("segue-damage-{seed}"));
    let _ = fs::create_dir_all(&kept);
    for (name, bytes) in files {
        let _ = fs::write(kept.join(name), bytes);
    }
    kept
}

#[test]
fn damaged_files_of_a_store_are_noticed_or_harmless_and_never_taken_for_something_else() {
    let given = std::env::var("SEGUE_SEED").ok().and_then(|seed| seed.parse::<u64>().ok());
    let seeds = given.map_or(1..=if thorough() { ALL } else { SAMPLE }, |seed| seed..=seed);
    let images = [image(1, true), image(2, false)];
    let (mut found, mut counts): (Vec<String>, BTreeMap<String, Counts>) = (Vec::new(), BTreeMap::new());
    for seed in seeds {
        let image = &images[usize::try_from(seed % 2).unwrap()];
        match play(image, seed) {
            Ok((Done { file, kind, .. }, ended)) => {
                let file = if file.starts_with("snap") { "snap" } else { &file };
                let counts = counts.entry(format!("{file} {kind}")).or_default();
                match ended {
                    Ended::Whole => counts.whole += 1,
                    Ended::Refused { sled_knew: true } => counts.refused_by_sled += 1,
                    Ended::Refused { sled_knew: false } => counts.refused_by_seal += 1,
                }
            }
            Err(fault) => found.push(fault),
        }
    }
    counts.iter().for_each(|(what, counts)| eprintln!("{what}: {counts:?}"));
    assert!(found.is_empty(), "{} of them:\n{}", found.len(), found.join("\n"));
    if given.is_none() {
        let of = |which: fn(&Counts) -> u32| counts.values().map(which).sum::<u32>();
        for which in [|c: &Counts| c.whole, |c: &Counts| c.refused_by_sled, |c: &Counts| c.refused_by_seal] {
            assert!(of(which) > 0, "some damage is harmless, some is seen by sled, and some is not: {counts:?}");
        }
    }
}

#[test]
fn without_damage_the_same_files_are_taken() {
    for (seed, crashed) in [(1, true), (2, false)] {
        let image = image(seed, crashed);
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in &image.files {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        assert_eq!(judge(dir.path(), &image.rows), Ok(Ended::Whole));
    }
}
