#![allow(clippy::unwrap_used)]

use super::*;
use crate::store::{
    Code, Key, Row,
    keys::Meta,
    testing::{ORDERS, Sample, run},
};

fn rows(store: &dyn Store) -> Vec<Row> {
    store.scan(&[], None, usize::MAX).unwrap()
}

async fn backed_up() -> (Sample, PathBuf) {
    let sample = Sample::new().await;
    let dest = sample.beside("backup");
    let committer = Committer::start(sample.store.clone()).unwrap();
    let report = backup(Source::Running(committer), &sample.blobs, &sample.logs, &dest).await.unwrap();
    assert_eq!((report.blobs, report.logs, report.problems.len()), (3, 1, 0), "{report:?}");
    (sample, dest)
}

#[tokio::test]
async fn what_was_backed_up_is_restored_the_same() {
    let (sample, backup_dir) = backed_up().await;
    let dest = sample.beside("restored");
    let report = restore(&backup_dir, &dest).await.unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!((report.blobs, report.logs), (3, 1));

    let dirs = StateDir::new(&dest);
    assert_eq!(verify::verify_dir(&dirs).await.unwrap().problems, Vec::<String>::new());
    let store = SledStore::open_existing(dirs.store()).unwrap();
    assert!(meta::epoch(&store).unwrap() > 1_000_000_000_000, "no token of before can be given out again");
    let epoch = Key::Meta(Meta::Epoch).encode();
    let but_epoch = |store: &dyn Store| rows(store).into_iter().filter(|(key, _)| *key != epoch).collect::<Vec<_>>();
    assert_eq!(but_epoch(&store), but_epoch(sample.store.as_ref()));
    let blobs = BlobStore::open_local(&dirs.blobs()).await.unwrap();
    assert_eq!(blobs.get_bytes(&Digest::of(ORDERS)).await.unwrap(), ORDERS);
    let (logs, task) = (Logs::open(dirs.logs()).unwrap(), "clean".parse().unwrap());
    assert_eq!(logs.length(&run(7), &task, 1).unwrap(), 112);
    assert_eq!(logs.read(&run(7), &task, 1, 6, 99).unwrap(), sample.logs.read(&run(7), &task, 1, 6, 99).unwrap());
}

#[tokio::test]
async fn a_backup_or_restore_overwrites_nothing() {
    let (sample, backup_dir) = backed_up().await;
    let again = backup(Source::Quiet(sample.store.clone()), &sample.blobs, &sample.logs, &backup_dir).await;
    let over = restore(&backup_dir, sample.dirs.root()).await;
    for error in [again.unwrap_err(), over.unwrap_err()] {
        assert_eq!(error.code(), Code::Directory);
        assert!(error.to_string().contains("name a new directory"), "{error}");
    }
}

#[tokio::test]
async fn an_empty_directory_can_be_restored_into() {
    let (sample, backup_dir) = backed_up().await;
    let dest = sample.beside("empty");
    fs::create_dir(&dest).unwrap();
    restore(&backup_dir, &dest).await.unwrap();
    SledStore::open_existing(StateDir::new(&dest).store()).unwrap();
}

#[tokio::test]
async fn a_cut_changed_or_unfinished_backup_is_refused_and_leaves_nothing_behind() {
    let (sample, backup_dir) = backed_up().await;
    let records = backup_dir.join(RECORDS);
    let whole = fs::read(&records).unwrap();
    let dest = sample.beside("restored");
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    let mut longer = whole.clone();
    longer.push(0);
    let huge = [&whole[..12], &[0, 0, 0, 1, 255, 255, 255, 255, 255, 255, 255, 255]].concat();
    let cuts =
        [0, 5, 12, 20, whole.len() / 2, whole.len() - 33, whole.len() - 1].map(|length| whole[..length].to_vec());
    for bytes in cuts.into_iter().chain([flipped, longer, huge]) {
        fs::write(&records, &bytes).unwrap();
        let error = restore(&backup_dir, &dest).await.unwrap_err();
        assert_eq!(error.code(), Code::BadBackup, "{} bytes: {error}", bytes.len());
        let left: Vec<_> = fs::read_dir(dest.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "state and backup only: {left:?}");
    }
    fs::write(&records, &whole).unwrap();

    let blob = backup_dir.join(segue_proto::blob_key(&Digest::of(ORDERS)));
    fs::write(&blob, b"orders, as a tablE").unwrap();
    assert_eq!(restore(&backup_dir, &dest).await.unwrap_err().code(), Code::BadBackup);
    fs::remove_file(&blob).unwrap();
    assert_eq!(restore(&backup_dir, &dest).await.unwrap_err().code(), Code::BadBackup);
    fs::write(&blob, ORDERS).unwrap();
    assert!(!dest.exists());

    let log = files_under(&StateDir::new(&backup_dir).logs()).into_iter().next().unwrap();
    let line = fs::read(&log).unwrap();
    fs::write(&log, [&line[1..], b"!"].concat()).unwrap();
    let error = restore(&backup_dir, &dest).await.unwrap_err();
    assert!(error.code() == Code::BadBackup && error.to_string().contains("logs"), "{error}");
    fs::write(&log, line).unwrap();
    assert!(!dest.exists());

    fs::remove_file(backup_dir.join(MANIFEST)).unwrap();
    let error = restore(&backup_dir, &dest).await.unwrap_err();
    assert!(error.to_string().contains("not finished"), "{error}");
}

fn files_under(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_under(&path) } else { vec![path] }).collect()
}

#[tokio::test]
async fn damage_in_the_source_is_reported_and_does_not_stop_the_backup() {
    let sample = Sample::new().await;
    fs::remove_file(sample.blob_file(ORDERS)).unwrap();
    let mut batch = Batch::new();
    batch.put_raw(Key::Run(run(8)).encode(), vec![99]);
    sample.store.apply(&batch).unwrap();
    let dest = sample.beside("backup");
    let report = backup(Source::Quiet(sample.store.clone()), &sample.blobs, &sample.logs, &dest).await.unwrap();
    assert_eq!((report.blobs, report.problems.len()), (2, 2), "{report:?}");
    assert!(report.problems.iter().any(|p| p.contains(Digest::of(ORDERS).as_str())));
    assert!(report.problems.iter().any(|p| p.contains(&run(8).to_string())));
    let restored = restore(&dest, &sample.beside("restored")).await.unwrap();
    assert_eq!(restored.records, rows(sample.store.as_ref()).len() as u64, "the damaged record too");
    assert_eq!(restored.problems.len(), 2, "{restored:?}");
}
