//! Logs of any length and content: memory and disk stay bounded, what is kept is shown, and what is not is counted.

use std::{fs, path::Path, time::Duration};

use segue_proto::v1::RunView;
use segue_tests::{TestCluster, WorkerPlan, cluster::task};
use serde_json::{Deserializer, Value};

use crate::{
    memory::{self, MIB, SLACK},
    thorough,
};

/// Short: heartbeats must get through while a log flows.
const LEASE: Duration = Duration::from_secs(3);

/// Bytes that a log shows, and those of which it says that they are lost.
pub fn accounted(shown: &str) -> u64 {
    const MARK: (&str, &str) = ("[… ", " bytes lost …]\n");
    let (mut bytes, mut rest) = (0, shown);
    while let Some((before, after)) = rest.split_once(MARK.0) {
        let (number, after) = after.split_once(MARK.1).expect("a marker has an end");
        bytes += before.len() as u64 + number.parse::<u64>().expect("a marker has a number");
        rest = after;
    }
    bytes + rest.len() as u64
}

/// Reads what `segue logs -o json` prints: the bytes of its texts, and those of which it says that they are lost.
fn accounted_json(shown: &[u8]) -> (String, u64) {
    let (mut text, mut lost, mut next) = (String::new(), 0, 0);
    for piece in Deserializer::from_slice(shown).into_iter::<Value>() {
        let piece = piece.expect("each piece is JSON");
        let number = |name: &str| piece[name].as_u64().expect("a number");
        assert_eq!(number("offset"), next + number("lost_before"), "no byte is passed over in silence");
        lost += number("lost_before");
        let said = piece["text"].as_str().expect("a text");
        // Only where every byte is a character of its own.
        next = number("offset") + said.len() as u64;
        text.push_str(said);
    }
    (text, lost)
}

fn bytes_under(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| {
            if entry.path().is_dir() {
                bytes_under(&entry.path())
            } else {
                entry.metadata().map_or(0, |meta| meta.len())
            }
        })
        .sum()
}

/// A cluster whose processes are warm: each has done what it does.
struct Talkers {
    cluster: TestCluster,
    idle: (u64, u64),
}

impl Talkers {
    fn start(args: &[&str]) -> Self {
        let mut cluster = TestCluster::start_with(LEASE, args, &[]);
        cluster.add_worker(&WorkerPlan::new("w").cpu(2.0));
        let mut talkers = Self { cluster, idle: (0, 0) };
        talkers.say("echo warm");
        let worker = talkers.cluster.worker("w").id();
        talkers.idle = (memory::forget_peak(talkers.cluster.coordinator().id()), memory::forget_peak(worker));
        talkers
    }

    /// Has a task execute a script, and gives its run.
    fn say(&mut self, script: &str) -> RunView {
        fs::write(self.cluster.dir().join("talk.sh"), script).unwrap();
        let text = "[pipeline]\nname = \"talk\"\n[tasks.talk]\ncommand = [\"sh\", \"talk.sh\"]\n";
        let file = self.cluster.pipeline("talk", text);
        let run = self.cluster.submit(&file, &[]);
        self.cluster.wait_succeeded(&run)
    }

    /// Gives what `segue logs` prints, byte for byte, and checks that it took little memory for it.
    fn shown(&self, run: &RunView, args: &[&str]) -> Vec<u8> {
        let mut command = self.cluster.cli().command(["logs", &run.run_id, "talk"].iter().chain(args));
        let (shown, peak) = memory::execute(&mut command);
        assert!(peak < SLACK, "`segue logs` took {} MiB", peak / MIB);
        shown
    }

    /// Checks that coordinator and worker took little memory and that the lease held.
    fn are_well(&mut self, run: &RunView) {
        let worker = self.cluster.worker("w").id();
        memory::stayed_within("the coordinator", self.cluster.coordinator().id(), self.idle.0);
        memory::stayed_within("the worker", worker, self.idle.1);
        assert_eq!(task(run, "talk").attempts.len(), 1, "one attempt, under one lease");
        let log = fs::read_to_string(self.cluster.dir().join("worker-w.log")).unwrap();
        assert!(!log.contains("lease has passed") && !log.contains("panicked"), "{log}");
        let log = self.cluster.coordinator_log();
        assert_eq!(log.matches("worker connected").count(), 1, "its link was never lost\n{log}");
    }
}

#[test]
fn a_log_without_end_keeps_its_beginning_and_its_end_within_its_limit_and_the_lease_holds_meanwhile() {
    const LIMIT: u64 = 8 * MIB;
    let size = if thorough() { 1024 * MIB } else { 64 * MIB };
    let mut talkers = Talkers::start(&["--log-limit", "8MiB"]);
    let line = "0123456789abcdefghijklmnopqrstuvwxyz ".repeat(3);
    let begun = std::time::Instant::now();
    let run = talkers.say(&format!("echo begin; sleep 0.3; yes '{line}' | head -c {size}; echo; echo the end"));
    eprintln!("{} MiB of log in {:.1} s", size / MIB, begun.elapsed().as_secs_f64());
    let log_bytes = task(&run, "talk").attempts[0].log_bytes;
    assert_eq!(log_bytes, "begin\n\nthe end\n".len() as u64 + size, "every byte was seen");
    talkers.are_well(&run);
    let kept = bytes_under(&talkers.cluster.state_dir().join("logs").join(&run.run_id));
    assert!((LIMIT / 2..=LIMIT + 64 * 1024).contains(&kept), "{kept} bytes are kept");

    let shown = String::from_utf8(talkers.shown(&run, &[])).unwrap();
    assert!(shown.starts_with("begin\n") && shown.ends_with("\nthe end\n"));
    assert!(shown.contains(" bytes lost …]\n"), "what was dropped is said");
    assert_eq!(accounted(&shown), log_bytes, "every byte is there or counted");
    let (text, lost) = accounted_json(&talkers.shown(&run, &["-o", "json"]));
    assert!(text.starts_with("begin\n") && text.ends_with("\nthe end\n"));
    assert_eq!(text.len() as u64 + lost, log_bytes);
}

#[test]
fn a_line_of_many_megabytes_is_a_log_like_any_other() {
    let size = if thorough() { 100 * MIB } else { 24 * MIB };
    let mut talkers = Talkers::start(&[]);
    let run = talkers.say(&format!("head -c {size} /dev/zero | tr '\\000' x; echo; echo the end"));
    let log_bytes = task(&run, "talk").attempts[0].log_bytes;
    assert_eq!(log_bytes, size + "\nthe end\n".len() as u64);
    talkers.are_well(&run);
    let shown = String::from_utf8(talkers.shown(&run, &[])).unwrap();
    assert!(shown.ends_with("x\nthe end\n"));
    assert_eq!(accounted(&shown), log_bytes);
    if !thorough() {
        assert_eq!(
            shown.len() as u64,
            log_bytes,
            "below the limit nothing is lost: who writes faster than the link waits"
        );
    }
    let (text, lost) = accounted_json(&talkers.shown(&run, &["-o", "json"]));
    assert_eq!(text.len() as u64 + lost, log_bytes);
}

#[test]
fn bytes_that_are_no_text_are_kept_as_they_were_and_harm_nobody() {
    let mut talkers = Talkers::start(&[]);
    // Noise, then what a terminal would obey, zeros, and what UTF-8 never holds.
    let escapes = r"\033[31mred\033]0;title\007\033[2J\000\000\377\376\300\200\r\b";
    let run = talkers.say(&format!("head -c 600000 /dev/urandom > bytes; printf '{escapes}' >> bytes; cat bytes"));
    let written = fs::read(talkers.cluster.dir().join("bytes")).unwrap();
    assert!(written.len() > 600_000 && std::str::from_utf8(&written).is_err());
    talkers.are_well(&run);
    assert_eq!(task(&run, "talk").attempts[0].log_bytes, written.len() as u64);
    assert!(talkers.shown(&run, &[]) == written, "a log is data: byte for byte as it was written");
    let json = talkers.shown(&run, &["-o", "json"]);
    let controls = json.iter().filter(|byte| **byte < 0x20 && **byte != b'\n').count();
    assert_eq!(controls, 0, "JSON speaks to no terminal");
    let pieces: Vec<Value> = Deserializer::from_slice(&json).into_iter().map(|piece| piece.unwrap()).collect();
    let text: String = pieces.iter().map(|piece| piece["text"].as_str().unwrap()).collect();
    // In pieces or whole, the same characters: none was cut in two.
    assert!(text == String::from_utf8_lossy(&written), "{} pieces", pieces.len());
    assert!(pieces.len() > 1, "the characters had a chance to be cut");
}
