//! Artifacts larger than the memory that anybody takes for them.

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use nix::{sys::statvfs::statvfs, unistd::Pid};
use segue_tests::{
    TestCluster, WorkerPlan,
    cluster::worker_of,
    values,
    wait::{PATIENCE, within},
};

use crate::{
    memory::{self, MIB, SLACK},
    thorough,
};

const LEASE: Duration = Duration::from_secs(10);

/// One task makes a large file and another reads all of it on another worker. Both note its checksum.
const LARGE: &str = r#"
[pipeline]
name = "large"
[params]
size = { type = "int" }
[tasks.make]
command = ["sh", "-c", "(echo head; head -c $SEGUE_PARAM_SIZE /dev/zero; echo tail) > $SEGUE_OUTPUT_DIR/big && cksum < $SEGUE_OUTPUT_DIR/big > made"]
with = { size = "${params.size}" }
outputs = ["big"]
resources = { labels = { side = "east" } }
[tasks.take]
command = ["sh", "-c", "cksum < $SEGUE_INPUT_BIG > taken"]
inputs = { big = "make.big" }
resources = { labels = { side = "west" } }
"#;

/// Plays it with so many bytes. Workers that do not see the blobs send and fetch them through the coordinator.
fn play(size: u64, workers_see_the_blobs: bool) {
    assert!(size > 2 * SLACK, "a smaller one would show nothing");
    let mut cluster = TestCluster::start(LEASE);
    if !workers_see_the_blobs {
        // The sign by which a worker knows that a directory is that of the coordinator.
        fs::remove_file(cluster.state_dir().join("store-id")).unwrap();
    }
    for side in ["east", "west"] {
        cluster.add_worker(&WorkerPlan::new(side).label(&format!("side={side}")));
    }
    let file = cluster.pipeline("large", LARGE);
    let run = cluster.submit(&file, &["-p", "size=1"]);
    cluster.wait_succeeded(&run);
    let east = cluster.worker("east").id();
    let west = cluster.worker("west").id();
    let processes = [("the coordinator", cluster.coordinator().id()), ("the maker", east), ("the taker", west)];
    let idle: Vec<(&str, Pid, u64)> =
        processes.into_iter().map(|(what, process)| (what, process, memory::forget_peak(process))).collect();

    let run = cluster.submit(&file, &["-p", &format!("size={size}")]);
    // Longer than anything small may take.
    within(8 * PATIENCE, || (cluster.run(&run).ended_ms > 0).then_some(()));
    let view = cluster.wait_succeeded(&run);
    assert_eq!((worker_of(&view, "make"), worker_of(&view, "take")), ("east", "west"));
    let read = |name: &str| fs::read_to_string(cluster.dir().join(name)).unwrap();
    assert_eq!(read("made"), read("taken"), "what was taken is what was made");
    let whole = size + "head\ntail\n".len() as u64;
    assert!(read("made").contains(&format!(" {whole}")), "{}", read("made"));

    let listed = cluster.cli().json(["artifacts", "list", &run]);
    let artifact = &values::list(&listed, "")[0]["artifact"];
    assert_eq!(artifact["size_bytes"].as_u64(), Some(whole), "{artifact}");
    let fetched = cluster.dir().join("fetched");
    let out = fetched.to_string_lossy().into_owned();
    let (_, peak) = memory::execute(&mut cluster.cli().command(["artifacts", "get", &run, "make.big", "--out", &out]));
    assert!(peak < SLACK, "`artifacts get` took {} MiB", peak / MIB);
    assert_eq!(checksum(&fetched), read("made"), "verified on its way, and whole");
    fs::remove_file(&fetched).unwrap();

    // To standard output as it comes.
    let printed = cluster.dir().join("printed");
    let mut command = cluster.cli().command(["artifacts", "get", &run, "make.big", "--out", "-"]);
    let peak = memory::execute_into(&mut command, File::create(&printed).unwrap());
    assert!(peak < SLACK, "`artifacts get --out -` took {} MiB", peak / MIB);
    assert_eq!(checksum(&printed), read("made"));
    fs::remove_file(&printed).unwrap();
    for (what, process, idle) in idle {
        memory::stayed_within(what, process, idle);
    }
}

fn checksum(file: &Path) -> String {
    let said = Command::new("cksum").stdin(File::open(file).unwrap()).stderr(Stdio::inherit()).output().unwrap();
    assert!(said.status.success());
    String::from_utf8(said.stdout).unwrap()
}

#[test]
fn a_large_artifact_is_made_stored_taken_and_fetched_in_little_memory() {
    let size = if thorough() { 5 * 1024 * MIB } else { 512 * MIB };
    let disk = statvfs(&std::env::temp_dir()).unwrap();
    if disk.blocks_available() * disk.fragment_size() < 3 * size {
        eprintln!("skipped: {} MiB of free disk are needed", 3 * size / MIB);
        return;
    }
    play(size, true);
}

#[test]
fn a_large_artifact_goes_through_the_coordinator_in_little_memory_too() {
    let size = if thorough() { 1024 * MIB } else { 416 * MIB };
    play(size, false);
}
