//! Leases: lost workers, reconnects, restarts of the coordinator.

use super::support::{Bench, LEASE, success, task};
use crate::core::{AttemptState, Command, Event, Held, Refused, TaskState, Verdict};

#[test]
fn a_silent_worker_loses_its_attempt_within_the_lease_and_another_one_gets_it() {
    let mut bench = Bench::new();
    bench.worker("first", 1);
    let run = bench.submit(1, vec![task("a", &[])]);
    bench.start(&run, 0);
    bench.worker("second", 1);
    bench.pass(LEASE - 1);
    assert_eq!(bench.holder(&run, 0).name.as_str(), "first");
    bench.pass(1);
    assert!(matches!(bench.state(&run, 0), TaskState::Backoff { .. }), "a lost attempt burns a try");
    bench.pass(100);
    // Both are still registered here; what matters is that it is a new attempt under a new token.
    assert_eq!(bench.token(&run, 0).attempt, 2);
    assert_eq!(bench.core.run(&run).unwrap().tasks[0].attempts[0].state, AttemptState::Lost);
}

#[test]
fn a_worker_whose_link_is_open_but_silent_gets_no_work_until_it_is_heard_again() {
    let mut bench = Bench::new();
    let worker = bench.worker("w", 1);
    let run = bench.submit(1, vec![task("a", &[])]);
    bench.start(&run, 0);
    bench.pass(LEASE);
    bench.pass(LEASE);
    assert_eq!(*bench.state(&run, 0), TaskState::Ready, "its lease would only be lost again");
    bench.beat(&worker, vec![]);
    bench.pass(0);
    assert_eq!(bench.token(&run, 0).attempt, 2);
}

#[test]
fn a_lease_counts_from_the_word_that_the_attempt_has_begun() {
    let mut bench = Bench::new();
    let worker = bench.worker("w", 1);
    let run = bench.submit(1, vec![task("a", &[])]);
    bench.now += LEASE / 2;
    // Sent before the assignment arrived: the worker may go on for a lease, with what it does not name here.
    bench.beat(&worker, vec![]);
    bench.start(&run, 0);
    let token = bench.token(&run, 0);
    bench.pass(LEASE - 1);
    assert_eq!(bench.token(&run, 0), token, "nobody else has it while the worker may still run it");
    bench.pass(1);
    assert!(matches!(bench.state(&run, 0), TaskState::Backoff { .. }));
}

#[test]
fn the_pause_after_a_lost_worker_counts_from_its_last_sign() {
    let mut bench = Bench::new();
    bench.worker("w", 1);
    let mut slow = task("a", &[]);
    slow.retry.initial_ms = LEASE + 500;
    slow.retry.max_ms = LEASE + 500;
    slow.retry.jitter = 0.0;
    let run = bench.submit(1, vec![slow]);
    bench.start(&run, 0);
    bench.pass(LEASE);
    let lost_at = bench.now;
    assert_eq!(*bench.state(&run, 0), TaskState::Backoff { until: lost_at + 500 });
}

#[test]
fn heartbeats_keep_a_lease_for_as_long_as_they_come() {
    let mut bench = Bench::new();
    let worker = bench.worker("w", 1);
    let run = bench.submit(1, vec![task("a", &[])]);
    bench.start(&run, 0);
    let token = bench.token(&run, 0);
    for _ in 0..20 {
        bench.now += LEASE / 2;
        bench.beat(&worker, vec![token.clone()]);
        bench.pass(0);
    }
    assert_eq!(bench.token(&run, 0), token);
}

#[test]
fn an_assignment_that_the_worker_never_lists_goes_back_without_burning_a_try() {
    let mut bench = Bench::new();
    let worker = bench.worker("w", 1);
    let run = bench.submit(1, vec![task("a", &[])]);
    for _ in 0..10 {
        bench.now += LEASE / 3;
        bench.beat(&worker, vec![]);
        bench.pass(0);
    }
    assert_eq!(bench.token(&run, 0).attempt, 2);
    assert_eq!(bench.core.run(&run).unwrap().tasks[0].tries, 0);
}

#[test]
fn an_attempt_that_its_worker_may_have_read_after_a_heartbeat_has_the_lease_of_that_heartbeat() {
    let mut bench = Bench::new();
    let worker = bench.worker("w", 1);
    let run = bench.submit(1, vec![task("a", &[])]);
    let token = bench.token(&run, 0);
    bench.now += LEASE / 2;
    // The word that the attempt has begun is lost with the link, and the answer to this arrived before.
    bench.beat(&worker, vec![]);
    bench.pass(LEASE - 1);
    assert_eq!(bench.token(&run, 0), token, "nobody else has it while the worker may still run it");
    bench.pass(1);
    assert!(!matches!(bench.state(&run, 0), TaskState::Live(_)));
}

#[test]
fn a_heartbeat_with_a_token_that_is_not_current_is_told_to_stop_it() {
    let mut bench = Bench::new();
    let worker = bench.worker("w", 1);
    let run = bench.submit(1, vec![task("a", &[])]);
    bench.start(&run, 0);
    let old = bench.token(&run, 0);
    // It beats, and does not say that it has it.
    for _ in 0..3 {
        bench.now += LEASE / 2;
        bench.beat(&worker, vec![]);
        bench.pass(0);
    }
    bench.sent.clear();
    bench.beat(&worker, vec![old.clone()]);
    assert!(bench.sent.contains(&(worker, Command::HeartbeatAck { sequence: 1, lost: vec![old] })));
}

#[test]
fn a_reconnecting_worker_keeps_what_it_holds_and_returns_what_never_arrived() {
    let mut bench = Bench::new();
    let worker = bench.hello("w", "a", 2, 0, vec![]);
    let run = bench.submit(1, vec![task("held", &[]), task("lost", &[])]);
    bench.start(&run, 0);
    let (held, lost) = (bench.token(&run, 0), bench.token(&run, 1));
    bench.tell(Event::LinkClosed { worker, link: 1 }).unwrap();
    bench.hello("w", "a", 2, 0, vec![Held { token: held.clone(), started: true }]);
    assert_eq!(bench.token(&run, 0), held, "it goes on under the same token");
    assert_ne!(bench.token(&run, 1), lost, "it was given out again under a new one");
    let first = &bench.core.run(&run).unwrap().tasks[1].attempts[0];
    assert_eq!(first.state, AttemptState::HandedBack);
    assert_eq!(bench.core.run(&run).unwrap().tasks[1].tries, 0);
}

#[test]
fn a_new_incarnation_waits_for_the_leases_of_the_old_one() {
    let mut bench = Bench::new();
    bench.hello("w", "a", 1, 0, vec![]);
    let run = bench.submit(1, vec![task("a", &[])]);
    bench.start(&run, 0);
    bench.hello("w", "b", 1, 0, vec![]);
    assert_eq!(bench.holder(&run, 0).incarnation.as_str(), "a", "the old process may still be alive somewhere");
    assert!(
        bench
            .sent
            .iter()
            .any(|(key, command)| { key.incarnation.as_str() == "a" && matches!(command, Command::Goodbye { .. }) })
    );
    bench.pass(LEASE);
    bench.pass(100);
    assert_eq!(bench.holder(&run, 0).incarnation.as_str(), "b");
}

#[test]
fn a_superseded_incarnation_is_sent_away_when_it_comes_back() {
    let mut bench = Bench::new();
    let old = bench.hello("w", "a", 1, 0, vec![]);
    let run = bench.submit(1, vec![task("a", &[])]);
    bench.start(&run, 0);
    bench.hello("w", "b", 1, 0, vec![]);
    bench.sent.clear();
    bench.hello("w", "a", 1, 0, vec![]);
    assert!(matches!(&bench.sent[..], [(key, Command::Goodbye { .. })] if *key == old));
}

#[test]
fn a_drained_worker_hands_back_unstarted_work_without_burning_a_try() {
    let mut bench = Bench::new();
    let worker = bench.worker("w", 1);
    let run = bench.submit(1, vec![task("a", &[])]);
    bench.worker("other", 1);
    let token = bench.token(&run, 0);
    bench.tell(Event::Draining { worker: worker.clone() }).unwrap();
    bench.tell(Event::HandBack { worker, token, started: false }).unwrap();
    assert_eq!(bench.holder(&run, 0).name.as_str(), "other");
    assert_eq!(bench.core.run(&run).unwrap().tasks[0].tries, 0);
}

#[test]
fn a_draining_worker_gets_no_new_work() {
    let mut bench = Bench::new();
    bench.worker("w", 4);
    bench.tell(Event::Drain { worker: "w".parse().unwrap() }).unwrap();
    let run = bench.submit(1, vec![task("a", &[])]);
    assert_eq!(*bench.state(&run, 0), TaskState::Ready);
    assert_eq!(
        bench.tell(Event::Drain { worker: "nobody".parse().unwrap() }),
        Err(Refused::NoSuchWorker("nobody".parse().unwrap()))
    );
}

#[test]
fn after_a_restart_a_running_attempt_is_adopted_and_its_result_counts() {
    let mut bench = Bench::new();
    let worker = bench.worker("w", 1);
    let run = bench.submit(1, vec![task("a", &[]), task("b", &[0])]);
    bench.start(&run, 0);
    let token = bench.token(&run, 0);

    let mut after = Bench::with_epoch(2);
    after.now = bench.now + 5;
    after.store = std::sync::Arc::clone(&bench.store);
    after.core.restore(bench.core.run(&run).unwrap().clone(), after.now);
    after.pass(LEASE / 2);
    after.hello("w", "a", 1, 0, vec![Held { token: token.clone(), started: true }]);
    assert_eq!(after.token(&run, 0), token, "it goes on under the token of the first epoch");
    assert!(after.assigned().is_empty(), "nothing is executed a second time");
    assert_eq!(after.report(&worker, &token, success("a")), Ok(Verdict::Done));
    assert_eq!(after.assigned(), ["b"]);
    assert_eq!(after.token(&run, 1).epoch, 2);
}

#[test]
fn after_a_restart_an_attempt_whose_worker_stays_away_is_lost_after_one_lease() {
    let mut bench = Bench::new();
    bench.worker("w", 1);
    let run = bench.submit(1, vec![task("a", &[])]);
    bench.start(&run, 0);
    let mut after = Bench::with_epoch(2);
    after.now = bench.now + 60_000;
    after.store = std::sync::Arc::clone(&bench.store);
    after.core.restore(bench.core.run(&run).unwrap().clone(), after.now);
    after.worker("other", 1);
    after.pass(LEASE - 1);
    assert_eq!(after.holder(&run, 0).name.as_str(), "w");
    after.pass(1);
    after.pass(100);
    assert_eq!(after.holder(&run, 0).name.as_str(), "other");
}

#[test]
fn the_close_of_an_old_link_does_not_end_the_new_one() {
    let mut bench = Bench::new();
    let worker = bench.hello("w", "a", 1, 0, vec![]);
    bench.hello("w", "a", 1, 0, vec![]);
    assert_eq!(bench.tell(Event::LinkClosed { worker: worker.clone(), link: 1 }), Ok(Verdict::Stale));
    assert!(bench.core.workers().any(|known| known.key == worker && known.link == Some(2)));
}

#[test]
fn a_cancel_that_the_worker_never_confirms_ends_with_the_lease() {
    let mut bench = Bench::new();
    bench.worker("w", 1);
    let run = bench.submit(1, vec![task("a", &[])]);
    bench.start(&run, 0);
    bench.tell(Event::CancelRun { run, gently: false, why: String::new() }).unwrap();
    bench.pass(LEASE);
    assert_eq!(*bench.state(&run, 0), TaskState::Cancelled);
    assert_eq!(bench.core.workers().map(|worker| worker.leased.len()).sum::<usize>(), 0);
}

#[test]
fn a_cancelled_assignment_that_never_arrived_is_not_given_out_again() {
    let mut bench = Bench::new();
    let worker = bench.hello("w", "a", 1, 0, vec![]);
    let run = bench.submit(1, vec![task("a", &[])]);
    bench.tell(Event::LinkClosed { worker, link: 1 }).unwrap();
    bench.tell(Event::CancelRun { run, gently: false, why: String::new() }).unwrap();
    bench.sent.clear();
    bench.hello("w", "a", 1, 0, vec![]);
    assert_eq!(*bench.state(&run, 0), TaskState::Cancelled);
    assert_eq!(bench.core.run(&run).unwrap().state, crate::core::RunState::Cancelled);
    assert!(bench.assigned().is_empty());
}

#[test]
fn an_old_start_that_comes_back_does_not_supersede_the_new_one() {
    let mut bench = Bench::new();
    let old = bench.hello("w", "a", 1, 0, vec![]);
    let new = bench.hello("w", "b", 1, 0, vec![]);
    bench.tell(Event::LinkClosed { worker: old.clone(), link: 1 }).unwrap();
    bench.sent.clear();
    bench.hello("w", "a", 1, 0, vec![]);
    assert!(matches!(&bench.sent[..], [(key, Command::Goodbye { .. })] if *key == old));
    assert!(bench.core.workers().any(|worker| worker.key == new && worker.takes_work()));
}
