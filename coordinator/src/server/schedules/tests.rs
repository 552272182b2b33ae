//! A coordinator without workers: its runs go on until somebody cancels them.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, net::Ipv4Addr, path::Path};

use segue_proto::v1::{
    self, BackfillIntervalState as Progress, BackfillState, FireOutcome, RunState,
    run_service_client::RunServiceClient, schedule_service_client::ScheduleServiceClient,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{Code, transport::Channel};

use super::*;
use crate::{
    gc::GcConfig,
    server::{Config, Coordinator},
};

const EVERY_SECOND: &str = r#"
[pipeline]
name = "ticks"
[params]
since = { type = "string" }
until = { type = "string" }
[tasks.a]
command = ["true", "${params.since}", "${params.until}"]
[schedule]
every    = "1s"
timezone = "Europe/Berlin"
catch_up = "CATCH_UP"
overlap  = "OVERLAP"
params   = { since = "${interval.start}", until = "${interval.end}" }
"#;

const DAILY: &str = r#"
[pipeline]
name = "daily"
[params]
day = { type = "string" }
[tasks.a]
command = ["true", "${params.day}"]
[schedule]
cron     = "@daily"
timezone = "Europe/Berlin"
params   = { day = "${interval.start_date}" }
"#;

struct Fixture {
    coordinator: Coordinator,
    schedules: ScheduleServiceClient<Channel>,
    runs: RunServiceClient<Channel>,
    stop: CancellationToken,
}

impl Fixture {
    async fn start(dir: &Path, fires_schedules: bool) -> Self {
        let stop = CancellationToken::new();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let lease = Duration::from_secs(60);
        let config = Config {
            state_dir: dir.to_owned(),
            blob_url: None,
            lease,
            tls: None,
            fires_schedules,
            gc: GcConfig::default(),
            openlineage: None,
            hook_allow: crate::server::HookAllow::default(),
        };
        let coordinator = Coordinator::start(config, listener, None, stop.clone()).await.unwrap();
        let url = format!("http://{}", coordinator.address);
        let channel = tonic::transport::Endpoint::from_shared(url).unwrap().connect().await.unwrap();
        let (schedules, runs) = (ScheduleServiceClient::new(channel.clone()), RunServiceClient::new(channel));
        Self { coordinator, schedules, runs, stop }
    }

    async fn stop(self) {
        drop((self.schedules, self.runs));
        self.stop.cancel();
        self.coordinator.wait().await.unwrap();
    }

    async fn apply(&mut self, text: &str) -> v1::ApplyScheduleResponse {
        let request = v1::ApplyScheduleRequest { text: text.to_owned(), path: "/x/p.toml".into(), paused: false };
        self.schedules.apply(request).await.unwrap().into_inner()
    }

    async fn get(&mut self, name: &str) -> v1::ScheduleView {
        let request = v1::GetScheduleRequest { name: name.into(), next: 3, last: 1_000 };
        self.schedules.get(request).await.unwrap().into_inner()
    }

    /// Asks until something can be said of a schedule.
    async fn until<T>(&mut self, name: &str, look: impl Fn(&v1::ScheduleView) -> Option<T>) -> T {
        for _ in 0..2_000 {
            let view = self.get(name).await;
            if let Some(found) = look(&view) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("waited in vain; last seen: {:?}", self.get(name).await);
    }

    async fn backfill(&mut self, change: impl FnOnce(&mut v1::BackfillRequest)) -> v1::BackfillResponse {
        self.schedules.backfill(january(change)).await.unwrap().into_inner()
    }

    async fn until_backfill<T>(&mut self, id: &str, look: impl Fn(&v1::BackfillView) -> Option<T>) -> T {
        let request = v1::GetBackfillRequest { id: id.into(), with_intervals: true };
        for _ in 0..2_000 {
            let view = self.schedules.get_backfill(request.clone()).await.unwrap().into_inner();
            if let Some(found) = look(&view) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("waited in vain; last seen: {:?}", self.schedules.get_backfill(request).await);
    }

    async fn all_runs(&mut self) -> Vec<v1::RunView> {
        let request = v1::ListRunsRequest { limit: 1_000, ..v1::ListRunsRequest::default() };
        self.runs.list_runs(request).await.unwrap().into_inner().runs
    }

    async fn going(&mut self) -> Vec<String> {
        let runs = self.all_runs().await;
        runs.into_iter().filter(|run| run.state == i32::from(RunState::Running)).map(|run| run.run_id).collect()
    }

    async fn cancel(&mut self, run: &str) {
        self.runs
            .cancel_run(v1::CancelRunRequest { run_id: run.into(), ..v1::CancelRunRequest::default() })
            .await
            .unwrap();
    }
}

/// Ten days of January.
fn january(change: impl FnOnce(&mut v1::BackfillRequest)) -> v1::BackfillRequest {
    let mut request = v1::BackfillRequest {
        text: DAILY.to_owned(),
        path: "/x/daily.toml".into(),
        from: "2026-01-01".into(),
        to: "2026-01-11".into(),
        max_running: 2,
        ..v1::BackfillRequest::default()
    };
    change(&mut request);
    request
}

fn ticks(catch_up: &str, overlap: &str) -> String {
    EVERY_SECOND.replace("CATCH_UP", catch_up).replace("OVERLAP", overlap)
}

fn submitted(view: &v1::ScheduleView) -> Vec<v1::PastFire> {
    let mut fires: Vec<_> =
        view.last.iter().filter(|fire| fire.outcome == i32::from(FireOutcome::Submitted)).cloned().collect();
    fires.reverse();
    fires
}

fn bounds(interval: &Option<v1::Interval>) -> (u64, u64) {
    interval.as_ref().map(|interval| (interval.start_ms, interval.end_ms)).unwrap()
}

fn count(view: &v1::BackfillView, state: Progress) -> u32 {
    view.counts.iter().filter(|count| count.state == i32::from(state)).map(|count| count.count).sum()
}

#[tokio::test]
async fn a_schedule_fires_each_interval_once_with_its_facts_as_parameters_until_it_is_paused() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::start(dir.path(), true).await;
    let applied = fixture.apply(&ticks("none", "allow")).await;
    assert!(applied.created && applied.changed && applied.diagnostics.is_empty(), "{applied:?}");
    fixture.until("ticks", |view| (submitted(view).len() >= 2).then_some(())).await;
    fixture.schedules.pause(v1::PauseScheduleRequest { name: "ticks".into(), note: "holiday".into() }).await.unwrap();
    // What was asked for before the pause is still answered.
    let view = fixture.until("ticks", |view| view.waiting.is_empty().then(|| view.clone())).await;
    assert!(view.paused && view.note == "holiday", "{view:?}");
    let fires = submitted(&view);
    assert!(fires.windows(2).all(|pair| bounds(&pair[0].interval).1 == bounds(&pair[1].interval).0), "{fires:?}");
    let runs = fixture.all_runs().await;
    assert_eq!(runs.len(), fires.len());
    for fire in &fires {
        let run = runs.iter().find(|run| run.run_id == fire.run_id).unwrap();
        let interval = fire.interval.as_ref().unwrap();
        assert_eq!((&run.params["since"], &run.params["until"]), (&interval.start, &interval.end));
        assert!(interval.start.ends_with("+01:00") || interval.start.ends_with("+02:00"), "{interval:?}");
        assert_eq!(run.version, view.version);
    }
    let again = fixture.get("ticks").await;
    assert_eq!(submitted(&again).len(), fires.len(), "a paused schedule submits nothing");
    // The seconds of the pause are passed over.
    let resume = v1::ResumeScheduleRequest { name: "ticks".into(), skip_missed: true };
    fixture.schedules.resume(resume).await.unwrap();
    let more = fires.len() + 1;
    let view = fixture.until("ticks", |view| (submitted(view).len() >= more).then(|| view.clone())).await;
    assert!(!view.paused && view.note.is_empty());
    fixture.stop().await;
}

#[tokio::test]
async fn fires_during_a_run_are_skipped_or_wait_for_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::start(dir.path(), true).await;
    fixture.apply(&ticks("none", "skip")).await;
    let overlapped = |view: &v1::ScheduleView| {
        view.last.iter().filter(|fire| fire.outcome == i32::from(FireOutcome::Overlapped)).count()
    };
    let view = fixture.until("ticks", |view| (overlapped(view) >= 2).then(|| view.clone())).await;
    assert_eq!((submitted(&view).len(), view.active.len(), fixture.going().await.len()), (1, 1, 1));
    let skipped = view.last.iter().find(|fire| fire.outcome == i32::from(FireOutcome::Overlapped)).unwrap();
    assert_eq!(skipped.message, format!("{} was going on", view.active[0].run_id));

    // Another policy holds for the fires to come, and the run that goes on still counts.
    let applied = fixture.apply(&ticks("none", "queue")).await;
    assert!(!applied.created && applied.changed);
    let view = fixture.until("ticks", |view| (view.waiting.len() >= 2).then(|| view.clone())).await;
    let first = view.active[0].run_id.clone();
    let next = bounds(&view.waiting.first().cloned());
    assert_eq!(fixture.going().await, std::slice::from_ref(&first));
    fixture.cancel(&first).await;
    let view = fixture
        .until("ticks", |view| view.active.first().filter(|run| run.run_id != first).map(|_| view.clone()))
        .await;
    assert_eq!(bounds(&view.active[0].interval), next, "the one that waited longest");
    assert_eq!(fixture.going().await.len(), 1);
    fixture.stop().await;
}

#[tokio::test]
async fn a_later_fire_takes_the_place_of_the_run_that_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::start(dir.path(), true).await;
    fixture.apply(&ticks("none", "cancel_running")).await;
    fixture.until("ticks", |view| (submitted(view).len() >= 3).then_some(())).await;
    let states: Vec<i32> = fixture.all_runs().await.iter().map(|run| run.state).collect();
    let cancelled = states.iter().filter(|state| **state == i32::from(RunState::Cancelled)).count();
    assert!(cancelled >= 2 && fixture.going().await.len() <= 1, "{states:?}");
    fixture.stop().await;
}

#[tokio::test]
async fn a_restart_neither_doubles_nor_loses_an_interval() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::start(dir.path(), true).await;
    fixture.apply(&ticks("all", "queue")).await;
    let first =
        fixture.until("ticks", |view| (view.waiting.len() >= 2).then(|| bounds(&view.active[0].interval))).await;
    fixture.stop().await;
    for _ in 0..3 {
        let mut fixture = Fixture::start(dir.path(), true).await;
        let before = fixture.get("ticks").await;
        let known = submitted(&before).len();
        let run = before.active[0].run_id.clone();
        fixture.cancel(&run).await;
        fixture.until("ticks", |view| (submitted(view).len() > known).then_some(())).await;
        fixture.stop().await;
    }
    let mut fixture = Fixture::start(dir.path(), true).await;
    let view = fixture.until("ticks", |view| (view.waiting.len() >= 4).then(|| view.clone())).await;
    let mut intervals: Vec<(u64, u64)> = submitted(&view).iter().map(|fire| bounds(&fire.interval)).collect();
    intervals.extend(view.waiting.iter().map(|interval| (interval.start_ms, interval.end_ms)));
    assert_eq!(intervals[0], first);
    assert!(intervals.windows(2).all(|pair| pair[0].1 == pair[1].0), "no gap and no repetition: {intervals:?}");
    let runs = fixture.all_runs().await;
    let since: BTreeSet<&String> = runs.iter().map(|run| &run.params["since"]).collect();
    assert_eq!((runs.len(), since.len()), (submitted(&view).len(), submitted(&view).len()), "one run an interval");
    fixture.stop().await;
}

#[tokio::test]
async fn a_trigger_submits_the_last_complete_interval_and_counts_as_a_run_that_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::start(dir.path(), true).await;
    fixture.apply(DAILY).await;
    let request = v1::TriggerScheduleRequest {
        name: "daily".into(),
        idempotency_key: "once".into(),
        ..v1::TriggerScheduleRequest::default()
    };
    let answer = fixture.schedules.trigger(request.clone()).await.unwrap().into_inner();
    let again = fixture.schedules.trigger(request).await.unwrap().into_inner();
    assert_eq!(answer.run_id, again.run_id);
    let view = fixture.get("daily").await;
    assert_eq!(view.active.len(), 1, "{view:?}");
    let fire = &submitted(&view)[0];
    assert_eq!((fire.run_id.as_str(), fire.origin.as_str()), (answer.run_id.as_str(), "trigger"));
    let (_, end) = bounds(&fire.interval);
    assert!(end <= wall() && view.next.first().is_some_and(|next| bounds(&next.interval).0 == end));
    let other = v1::TriggerScheduleRequest {
        name: "daily".into(),
        params: [("day".to_owned(), "2020-02-02".to_owned())].into(),
        ..v1::TriggerScheduleRequest::default()
    };
    let other = fixture.schedules.trigger(other).await.unwrap().into_inner().run_id;
    let runs = fixture.all_runs().await;
    assert_eq!(runs.iter().find(|run| run.run_id == other).unwrap().params["day"], "2020-02-02");
    let view = fixture.get("daily").await;
    let of_interval: Vec<&str> = view.last.iter().map(|fire| fire.run_id.as_str()).collect();
    assert_eq!(of_interval, [other.as_str(), answer.run_id.as_str()], "neither hides the other, newest first");
    fixture.stop().await;
}

#[tokio::test]
async fn a_schedule_that_makes_no_sense_is_refused_and_one_that_is_deleted_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::start(dir.path(), true).await;
    let bad = fixture.apply(&DAILY.replace("@daily", "0 25 * * *")).await;
    assert!(bad.schedule.is_none() && bad.diagnostics.iter().any(|one| one.code == "P060"), "{bad:?}");
    let none = DAILY.split("[schedule]").next().unwrap();
    let request =
        |text: &str| v1::ApplyScheduleRequest { text: text.to_owned(), ..v1::ApplyScheduleRequest::default() };
    let refused = fixture.schedules.apply(request(none)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let over = DAILY.replace("cron ", "start = \"2020-01-01\"\nend = \"2020-01-01T01:00\"\ncron ");
    assert!(fixture.schedules.apply(request(&over)).await.unwrap_err().message().contains("fires neither"));

    let applied = fixture.apply(DAILY).await;
    assert_eq!(applied.schedule.as_ref().unwrap().next.len(), 5);
    assert!(!fixture.apply(DAILY).await.changed);
    assert_eq!(fixture.schedules.list(v1::ListSchedulesRequest {}).await.unwrap().into_inner().schedules.len(), 1);
    let near = fixture.schedules.get(v1::GetScheduleRequest { name: "dayly".into(), ..Default::default() }).await;
    assert!(near.unwrap_err().message().contains("did you mean `daily`"));
    fixture.schedules.delete(v1::DeleteScheduleRequest { name: "daily".into() }).await.unwrap();
    let gone = fixture.schedules.delete(v1::DeleteScheduleRequest { name: "daily".into() }).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    fixture.stop().await;
    let mut fixture = Fixture::start(dir.path(), true).await;
    assert!(fixture.schedules.list(v1::ListSchedulesRequest {}).await.unwrap().into_inner().schedules.is_empty());
    fixture.stop().await;
}

#[tokio::test]
async fn a_backfill_executes_each_interval_once_and_never_more_at_a_time_than_it_may() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::start(dir.path(), true).await;
    let dry = fixture.backfill(|request| request.dry_run = true).await.backfill.unwrap();
    assert_eq!((dry.id.as_str(), dry.intervals.len(), count(&dry, Progress::Waiting)), ("", 10, 10));
    assert!(fixture.all_runs().await.is_empty(), "a dry run creates nothing");

    let made = fixture.backfill(|_| {}).await;
    assert!(!made.existing);
    let id = made.backfill.unwrap().id;
    let again = fixture.backfill(|request| request.max_running = 7).await;
    assert!(again.existing && again.backfill.unwrap().id == id, "the same that goes on");
    let mut fixture = fixture;
    let mut seen = BTreeSet::new();
    while seen.len() < 10 {
        let running = fixture
            .until_backfill(&id, |view| {
                let known = view
                    .intervals
                    .iter()
                    .filter(|one| one.state == i32::from(Progress::Running) && !one.run_id.is_empty());
                let running: Vec<String> = known.map(|one| one.run_id.clone()).collect();
                (running.len() == 2 || count(view, Progress::Waiting) == 0 && !running.is_empty()).then_some(running)
            })
            .await;
        assert!(fixture.going().await.len() <= 2);
        for run in running {
            fixture.cancel(&run).await;
            seen.insert(run);
        }
        if seen.len() == 4 {
            fixture.stop().await;
            fixture = Fixture::start(dir.path(), true).await;
        }
    }
    let ended = fixture.until_backfill(&id, |view| (view.ended_ms > 0).then(|| view.clone())).await;
    // Its runs were cancelled, so that it failed.
    assert_eq!((ended.state, count(&ended, Progress::Cancelled)), (BackfillState::Failed.into(), 10));
    let runs = fixture.all_runs().await;
    let days: BTreeSet<&String> = runs.iter().map(|run| &run.params["day"]).collect();
    assert_eq!((runs.len(), days.len()), (10, 10), "one run a day");
    assert_eq!(days.first().unwrap().as_str(), "2026-01-01");

    let same = fixture.backfill(|_| {}).await;
    assert!(same.existing, "nothing is left to do");
    let ids = |view: &v1::BackfillView| view.intervals.iter().map(|one| one.run_id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&same.backfill.unwrap()), ids(&ended));
    // Those that failed, anew: other runs of the same intervals.
    let failed = fixture.backfill(|request| request.reprocess = v1::Reprocess::Failed.into()).await;
    assert!(!failed.existing);
    let id = failed.backfill.unwrap().id;
    let second = fixture.until_backfill(&id, |view| (fixture_runs(view).len() == 2).then(|| view.clone())).await;
    assert!(fixture_runs(&second).is_disjoint(&seen) && second.intervals.iter().all(|one| one.generation == 1));
    let cancel = fixture.schedules.cancel_backfill(v1::CancelBackfillRequest { id: id.clone() }).await.unwrap();
    assert_eq!(count(&cancel.into_inner(), Progress::Cancelled), 8, "what waited");
    let ended = fixture.until_backfill(&id, |view| (view.ended_ms > 0).then(|| view.clone())).await;
    assert_eq!((ended.state, count(&ended, Progress::Cancelled)), (BackfillState::Cancelled.into(), 10));
    assert!(fixture.going().await.is_empty(), "its runs are cancelled");
    let over = fixture.schedules.cancel_backfill(v1::CancelBackfillRequest { id }).await.unwrap_err();
    assert_eq!(over.code(), Code::FailedPrecondition);
    fixture.stop().await;
}

fn fixture_runs(view: &v1::BackfillView) -> BTreeSet<String> {
    view.intervals.iter().map(|one| one.run_id.clone()).filter(|run| !run.is_empty()).collect()
}

#[tokio::test]
async fn a_backfill_needs_a_range_and_intervals_that_make_sense() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::start(dir.path(), true).await;
    let without = DAILY.split("[schedule]").next().unwrap().to_owned();
    let cases: Vec<(v1::BackfillRequest, &str)> = vec![
        (january(|request| request.from = "soon".into()), "`from` is `soon`"),
        (january(|request| request.to = "2026-01-01".into()), "`from` is not before `to`"),
        (january(|request| request.timezone = "Europe/Berln".into()), "did you mean `Europe/Berlin`"),
        (january(|request| request.cron = "0 25 * * *".into()), "`25` is no hour"),
        (january(|request| request.text.clone_from(&without)), "has no schedule"),
        (january(|request| request.every_ms = 1_500), "whole seconds"),
        (january(|request| request.every_ms = 1_000), "more than 10000 intervals"),
        (january(|request| request.max_running = 9_999), "at most 1000 runs"),
        (january(|request| request.reprocess = 77), "reprocess"),
        (january(|request| drop(request.params.insert("day".into(), "${interval.dya}".into()))), "names nothing"),
        (january(|request| (request.from, request.to) = ("9000-01-01".into(), "9000-02-01".into())), "nothing to fill"),
    ];
    for (request, words) in cases {
        let refused = fixture.schedules.backfill(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(words), "{words}: {refused}");
    }
    let request = january(|request| (request.text, request.pipeline) = (String::new(), "nobody".into()));
    assert_eq!(fixture.schedules.backfill(request).await.unwrap_err().code(), Code::NotFound);
    let unknown = fixture.backfill(|request| drop(request.params.insert("dya".into(), "x".into()))).await;
    assert!(unknown.backfill.is_none() && unknown.diagnostics[0].code == "P016", "{unknown:?}");

    // By the length of its intervals, newest first, with parameters of its own.
    let made = fixture.backfill(|request| {
        (request.text, request.every_ms, request.reverse) = (without, 86_400_000, true);
        request.params.insert("day".into(), "at ${interval.start}".into());
    });
    let view = made.await.backfill.unwrap();
    assert_eq!(view.intervals[0].interval.as_ref().unwrap().start, "2026-01-10T00:00:00Z");
    let run = fixture
        .until_backfill(&view.id, |view| Some(view.intervals[0].run_id.clone()).filter(|run| !run.is_empty()))
        .await;
    let runs = fixture.all_runs().await;
    let run = runs.iter().find(|one| one.run_id == run).unwrap();
    assert_eq!(run.params["day"], "at 2026-01-10T00:00:00Z");
    // By name, where there is no schedule but a run.
    let named = fixture.backfill(|request| {
        (request.text, request.pipeline, request.every_ms) = (String::new(), "daily".into(), 86_400_000);
        request.params.insert("day".into(), "x".into());
        request.dry_run = true;
    });
    assert_eq!(count(&named.await.backfill.unwrap(), Progress::Waiting), 8, "two have runs");
    fixture.stop().await;
}

#[tokio::test]
async fn a_coordinator_that_ends_with_its_command_fires_nothing_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::start(dir.path(), false).await;
    fixture.apply(&ticks("all", "allow")).await;
    let made = fixture.backfill(|_| {}).await.backfill.unwrap();
    // A backfill that was asked for goes on; by then a second has passed, but for the schedule it has not.
    fixture.until_backfill(&made.id, |view| (fixture_runs(view).len() == 2).then_some(())).await;
    fixture.stop().await;
    let mut fixture = Fixture::start(dir.path(), false).await;
    for run in fixture.going().await {
        fixture.cancel(&run).await;
    }
    let again = fixture.backfill(|request| request.dry_run = true).await.backfill.unwrap();
    assert_eq!(count(&again, Progress::Waiting), 8, "nobody asked for the rest");
    assert_eq!(fixture.all_runs().await.len(), 2);
    assert!(submitted(&fixture.get("ticks").await).is_empty());
    let resumed = fixture.backfill(|_| {}).await;
    assert!(resumed.existing && resumed.backfill.unwrap().id == made.id);
    fixture.until_backfill(&made.id, |view| (fixture_runs(view).len() >= 4).then_some(())).await;
    fixture.stop().await;
}

#[tokio::test]
async fn what_the_history_of_a_schedule_has_too_much_goes_after_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut place = Fixture::start(dir.path(), true).await;
    place.apply(DAILY).await;
    let mut batch = Batch::new();
    for start in 0..notes::KEPT as u64 + 100 {
        let key = Key::Interval { pipeline: "daily".parse().unwrap(), start, end: start + 1 };
        batch.put(&key, &segue_proto::store::v1::IntervalRecord::default());
    }
    place.coordinator.shared.committer.commit(batch).await.unwrap();
    place.stop().await;

    let place = Fixture::start(dir.path(), true).await;
    let all = store::keys::prefix::intervals(&"daily".parse().unwrap());
    for _ in 0..2_000 {
        if place.coordinator.shared.store.scan(&all, None, usize::MAX).unwrap().len() <= notes::KEPT {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let kept = place.coordinator.shared.store.scan(&all, None, 1).unwrap();
    assert_eq!(
        Key::decode(&kept[0].0).unwrap(),
        Key::Interval { pipeline: "daily".parse().unwrap(), start: 100, end: 101 }
    );
    place.stop().await;
}
