//! A worker is lost in each way there is, and a clock runs: until its tasks run elsewhere, and until nothing of them is
//! left on its own side. Both are read from what the commands themselves noted.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use nix::{sys::signal::Signal, unistd::Pid};
use segue_proto::v1::AttemptState;
use segue_tests::{
    Cli, TestCluster, WorkerPlan,
    cluster::{attempts, is_alive, task},
    hosts::Way,
    until,
};
use serde_json::{Value, json};

use crate::{Args, faults::children, kind::Kind, report};

/// Tasks that the lost worker has.
const TASKS: u32 = 4;

/// The longest that tasks may take to run elsewhere, beyond the lease, in seconds; and the longest default lease.
const BEYOND: f64 = 2.0;
const LONGEST_LEASE: f64 = 15.0;

/// What every command does: it notes when it begins and that it is still there, and so does a process of its own that has
/// left its group. What is noted last is when it was gone.
const SCRIPT: &str = r#"
note="notes/$SEGUE_TASK.$SEGUE_ATTEMPT"
say() { echo "$1 $2 $(date +%s.%N)" >> "$note"; }
say begin $$
setsid sh -c 'while :; do echo "alive $$ $(date +%s.%N)" >> "$0"; sleep 0.1; done' "$note" &
while [ ! -e go ]; do say alive $$; sleep 0.1; done
say end $$
kill $!
"#;

/// One loss, in seconds after it.
#[derive(Debug, Clone)]
struct Loss {
    kind: Kind,
    /// The coordinator has ended the last attempt.
    noticed: f64,
    /// The last task has begun elsewhere.
    elsewhere: f64,
    /// The last sign of life of the last process of the lost side.
    gone: f64,
}

/// Loses workers in every way.
pub fn run(args: &Args) -> report::Found {
    let lease = args.lease.unwrap_or_else(default_lease);
    let (mut losses, mut violations) = (Vec::new(), Vec::new());
    for round in 1..=args.rounds {
        for kind in kinds(args) {
            losses.push(lose(args, kind, &mut violations));
            eprintln!("round {round} of {}: {}", args.rounds, kind.name());
        }
    }
    found(&losses, lease, args.lease.is_none(), violations)
}

fn kinds(args: &Args) -> Vec<Kind> {
    let ways = [
        Kind::KillWorker,
        Kind::StopWorker,
        Kind::CutWorker,
        Kind::HostDown,
        Kind::HostSilent,
        Kind::HostDeaf,
        Kind::HostMute,
    ];
    let named = |kind: &Kind| args.kinds.is_empty() || args.kinds.contains(kind);
    ways.into_iter().filter(|kind| kind.fits(args.netns) && named(kind)).collect()
}

/// Loses one worker of a cluster of its own.
fn lose(args: &Args, kind: Kind, violations: &mut Vec<String>) -> Loss {
    let mut cluster = TestCluster::start_in(args.setting(args.lease), &[], &[]);
    let dir = cluster.dir().to_owned();
    fs::create_dir(dir.join("notes")).expect("the temporary directory can be written");
    fs::write(dir.join("note.sh"), SCRIPT).expect("the temporary directory can be written");
    let plan = |name| WorkerPlan::new(name).cpu(f64::from(TASKS));
    cluster.add_worker(&plan("lost"));
    let run = cluster.submit(&cluster.pipeline("lost", &pipeline()), &[]);
    let first = until("every command is at work", || {
        let notes = Notes::read(&dir, 1);
        // Two processes each: the command, and what left its group.
        notes
            .0
            .values()
            .all(|note| note.last.len() == 2)
            .then_some(notes)
            .filter(|notes| notes.0.len() == TASKS as usize)
    });
    cluster.add_worker(&plan("other"));
    let below: Vec<Pid> = descendants(cluster.worker("lost").id());
    let lost_at = now();
    match kind {
        Kind::KillWorker => cluster.kill_worker("lost"),
        Kind::StopWorker => cluster.worker("lost").signal(Signal::SIGSTOP),
        Kind::CutWorker => assert!(cluster.relay("lost").cut() > 0, "a connection was cut"),
        Kind::HostDown => cluster.network().link("lost", false),
        Kind::HostDeaf => cluster.network().set("lost", Way::Deaf, None),
        Kind::HostMute => cluster.network().set("lost", Way::Mute, None),
        _ => cluster.network().set("lost", Way::Silent, None),
    }
    let second = until("every task has begun elsewhere", || {
        Some(Notes::read(&dir, 2)).filter(|notes| notes.0.len() == TASKS as usize && notes.0.values().all(Note::began))
    });
    let pids: Vec<Pid> = first.0.values().flat_map(|note| note.last.keys().copied()).collect();
    until("no process of the lost side is left", || pids.iter().all(|pid| !is_alive(*pid)).then_some(()));
    if kind == Kind::KillWorker {
        until("no runner of the killed worker is left", || below.iter().all(|pid| !is_alive(*pid)).then_some(()));
    }
    // What the lost ones noted in the end: they note no more.
    let first = Notes::read(&dir, 1);
    for (name, note) in &first.0 {
        let (last, begun) = (note.last_sign(), second.0[name].begin);
        if last >= begun {
            violations.push(format!(
                "{}: {name} was alive {:.3} s after it had begun elsewhere",
                kind.name(),
                last - begun
            ));
        }
    }
    let view = cluster.run(&run);
    let noticed = first.0.keys().map(|name| {
        let attempt = &task(&view, name).attempts[0];
        attempt.ended_ms as f64 / 1_000.0
    });
    let noticed = noticed.fold(f64::MIN, f64::max) - lost_at;
    match kind {
        // It comes back, and must change nothing.
        Kind::StopWorker => cluster.worker("lost").signal(Signal::SIGCONT),
        Kind::CutWorker => cluster.relay("lost").mend(),
        Kind::HostDown => cluster.network().link("lost", true),
        Kind::KillWorker => {}
        _ => cluster.network().set("lost", Way::Whole, None),
    }
    fs::write(dir.join("go"), "").expect("the temporary directory can be written");
    let view = cluster.wait_succeeded(&run);
    for name in first.0.keys() {
        let tried = attempts(&view, name);
        if tried != [AttemptState::Lost, AttemptState::Succeeded] {
            violations.push(format!("{}: {name} was tried as {tried:?}", kind.name()));
        }
    }
    let elsewhere = second.0.values().map(|note| note.begin).fold(f64::MIN, f64::max) - lost_at;
    let gone = first.0.values().map(Note::last_sign).fold(f64::MIN, f64::max) - lost_at;
    Loss { kind, noticed, elsewhere, gone }
}

fn pipeline() -> String {
    let mut text = String::from("[pipeline]\nname = \"lost\"\n[defaults]\nretry = { attempts = 2, on = [\"lost\"] }\n");
    for number in 0..TASKS {
        text += &format!("[tasks.t{number}]\ncommand = [\"sh\", \"note.sh\"]\nresources = {{ cpu = 1 }}\n");
    }
    text
}

/// What one attempt noted.
#[derive(Debug, Clone, Default, PartialEq)]
struct Note {
    /// Seconds since 1970; 0: it has not begun.
    begin: f64,
    /// The last sign of life of each process.
    last: BTreeMap<Pid, f64>,
}

impl Note {
    fn began(&self) -> bool {
        self.begin > 0.0
    }

    fn last_sign(&self) -> f64 {
        self.last.values().copied().fold(f64::MIN, f64::max)
    }

    /// Reads lines of `WHAT PID SECONDS`. A line that was cut short by a kill is left out.
    fn parse(text: &str) -> Self {
        let mut note = Self::default();
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            let words: Vec<&str> = line.split(' ').collect();
            let [what, pid, at] = words[..] else { continue };
            let (Ok(pid), Ok(at)) = (pid.parse::<i32>(), at.parse::<f64>()) else { continue };
            if what == "begin" {
                note.begin = at;
            }
            let last = note.last.entry(Pid::from_raw(pid)).or_insert(at);
            *last = last.max(at);
        }
        note
    }
}

/// What the attempts of one number noted, by their tasks.
#[derive(Debug, Clone, Default)]
struct Notes(BTreeMap<String, Note>);

impl Notes {
    fn read(dir: &Path, attempt: u32) -> Self {
        let notes = (0..TASKS).map(|number| format!("t{number}")).filter_map(|name| {
            let text = fs::read_to_string(dir.join("notes").join(format!("{name}.{attempt}"))).ok()?;
            Some((name, Note::parse(&text)))
        });
        Self(notes.collect())
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn descendants(parent: Pid) -> Vec<Pid> {
    let mut all = children(parent);
    let mut next = 0;
    while let Some(pid) = all.get(next).copied() {
        all.extend(children(pid));
        next += 1;
    }
    all
}

/// Reads the lease that the program has unless it is told one: from its help, where users read it.
fn default_lease() -> f64 {
    let help = Cli::server("http://127.0.0.1:1", Path::new("/")).ok(["coordinator", "--help"]).stdout;
    lease_of(&help).unwrap_or_else(|| panic!("no default of --lease in the help:\n{help}"))
}

fn lease_of(help: &str) -> Option<f64> {
    let (_, about) = help.split_once("--lease ")?;
    let (_, default) = about.split_once("[default: ")?;
    default.split_once(']')?.0.parse().ok()
}

fn found(losses: &[Loss], lease: f64, is_default: bool, violations: Vec<String>) -> report::Found {
    let most = lease + BEYOND;
    let late = |loss: &Loss| loss.elsewhere.max(loss.gone) > most;
    let missed = losses.iter().filter(|loss| late(loss)).count();
    let mut table = format!(
        "a lease of {lease} s{}, {TASKS} tasks each; seconds after the loss\n{:<14} {:>10} {:>14} {:>8} {:>17}\n",
        if is_default { ", the default" } else { "" },
        "",
        "noticed",
        "run elsewhere",
        "at most",
        "gone on its side"
    );
    for loss in losses {
        let Loss { kind, noticed, elsewhere, gone } = loss;
        let mark = if late(loss) { "  MISSED" } else { "" };
        table += &format!("{:<14} {noticed:>10.2} {elsewhere:>14.2} {most:>8.1} {gone:>17.2}{mark}\n", kind.name());
    }
    table += &format!("{missed} of {} missed\n{}", losses.len(), report::listed(&violations));
    let shown: Vec<Value> = losses
        .iter()
        .map(|Loss { kind, noticed, elsewhere, gone }| {
            json!({
                "kind": kind.name(), "noticed_s": noticed, "elsewhere_s": elsewhere, "gone_s": gone, "most_s": most,
            })
        })
        .collect();
    let json = json!({ "lease_s": lease, "losses": shown, "missed": missed, "violations": violations });
    // The bound is promised for the default; a lease that somebody chose is for tests of the logic.
    let kept = !is_default || (missed == 0 && lease <= LONGEST_LEASE);
    report::Found { sound: violations.is_empty() && kept, table, json }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_sign_of_life_is_of_whichever_process_lived_longest() {
        let note = Note::parse("begin 7 10.5\nalive 8 10.6\nalive 7 10.7\nalive 8 12.25\nalive 7 1");
        assert_eq!((note.begin, note.last_sign()), (10.5, 12.25));
        assert_eq!(note.last.len(), 2);
        assert!(!Note::parse("begin 7").began());
    }

    #[test]
    fn the_default_lease_is_read_from_the_help() {
        let help = "      --http <HOST:PORT>\n          x [default: 127.0.0.1:7401]\n      --lease <SECONDS>\n          Seconds that\n          [default: 10]\n";
        assert_eq!(lease_of(help), Some(10.0));
        assert_eq!(lease_of("no such thing"), None);
    }

    #[test]
    fn a_late_loss_counts_only_under_the_default_lease_but_is_always_shown() {
        let loss = Loss { kind: Kind::KillWorker, noticed: 10.0, elsewhere: 12.5, gone: 9.0 };
        let judged = |default| found(std::slice::from_ref(&loss), 10.0, default, Vec::new());
        assert!(!judged(true).sound && judged(false).sound);
        assert!(judged(false).table.contains("MISSED"));
        let deaf = Loss { kind: Kind::HostDeaf, ..loss.clone() };
        assert!(!found(&[deaf], 10.0, true, Vec::new()).sound, "a host that is still heard is no exception");
    }
}
