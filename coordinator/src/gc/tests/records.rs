//! What goes beside runs: events, texts of pipelines, intervals of schedules.

use std::time::Duration;

use segue_proto::{ids::Digest, store::v1 as stored, v1};

use super::{
    super::{Ask, collect, service::forget_older},
    support::Place,
};
use crate::{
    server::feed,
    spec::Retention,
    store::{Key, testing::run},
};

const LONG_AGO: u64 = 1_000;

async fn add_events(place: &Place, first: u64, time_ms: u64) {
    let events = vec![stored::EventRow::default(); 10];
    place.put(&Key::Events(first), &stored::EventsRecord { time_ms, events, ..Default::default() }).await;
}

#[tokio::test]
async fn old_events_go_and_a_dry_run_counts_them() {
    let place = Place::new().await;
    let now = place.shared.clock.now();
    for (first, time_ms) in [(1, LONG_AGO), (11, LONG_AGO), (21, now), (31, now)] {
        add_events(&place, first, time_ms).await;
    }
    let ask = Ask { events_for: Some(Duration::from_secs(3_600)), dry_run: true, ..Ask::default() };
    let (planned, _) = collect(&place.shared, &ask).await.unwrap();
    assert_eq!(planned.event_count(), 20);
    assert!(place.has(&Key::Events(1)), "a dry run changes nothing");
    let (_, done) = collect(&place.shared, &Ask { dry_run: false, ..ask }).await.unwrap();
    assert_eq!(done.events, planned.events);
    assert_eq!(feed::oldest(&*place.shared.store).unwrap(), Some(21));
    let (again, _) = collect(&place.shared, &Ask::default()).await.unwrap();
    assert!(again.is_empty(), "without a word, events are kept: {again:?}");
}

#[tokio::test]
async fn events_are_forgotten_even_if_nothing_is_ever_collected() {
    let place = Place::new().await;
    for n in 0..600 {
        add_events(&place, 1 + 10 * n, LONG_AGO).await;
    }
    let forgotten = forget_older(&place.shared, Duration::from_secs(60)).await.unwrap();
    assert_eq!(forgotten, 5_990, "all but the newest record");
    assert_eq!(feed::oldest(&*place.shared.store).unwrap(), Some(5_991));
    assert_eq!(forget_older(&place.shared, Duration::from_secs(60)).await.unwrap(), 0);
}

/// Adds a version of the pipeline `demo`.
async fn add_text(place: &Place, n: u64) -> Digest {
    let text = format!("[pipeline]\nname = \"demo\"\n# {n}");
    let version = Digest::of(text.as_bytes());
    let record = stored::PipelineRecord {
        name: "demo".to_owned(),
        version: version.to_string(),
        text,
        created_ms: n,
        ..Default::default()
    };
    place.put(&Key::Pipeline(version.clone()), &record).await;
    let dates = stored::PipelineVersionRecord { first_ms: n, last_ms: n };
    place.put(&Key::PipelineVersion { name: "demo".parse().unwrap(), version: version.clone() }, &dates).await;
    version
}

#[tokio::test]
async fn a_text_that_only_dropped_runs_have_goes_with_them() {
    let place = Place::new().await;
    let mut versions = Vec::new();
    for n in 1..=6 {
        place.add_run(n, &[]).await;
        let version = add_text(&place, u64::from(n)).await;
        let mut record: stored::RunRecord =
            crate::store::read(&*place.shared.store, &Key::Run(run(n))).unwrap().unwrap();
        record.version = version.to_string();
        place.put(&Key::Run(run(n)), &record).await;
        versions.push(version);
    }
    let schedule = stored::ScheduleRecord { version: versions[0].to_string(), ..Default::default() };
    place.put(&Key::Schedule("demo".parse().unwrap()), &schedule).await;
    let model = v1::ModelVersion {
        version: 1,
        artifact: Some(crate::store::testing::artifact(b"a model")),
        pipeline_version: versions[1].to_string(),
        ..Default::default()
    };
    place.add_old_blob(b"a model").await;
    place.put(&Key::ModelVersion { name: "clv".parse().unwrap(), version: 1 }, &model).await;
    let newest = add_text(&place, 9).await;

    assert!(collect(&place.shared, &Ask::default()).await.unwrap().0.texts.is_empty(), "no rule, nothing goes");
    let (planned, done) = place.keep(2, false).await;
    assert_eq!(planned.texts, done.texts);
    let left = |version: &Digest| {
        let name = "demo".parse().unwrap();
        let dated = place.has(&Key::PipelineVersion { name, version: version.clone() });
        assert_eq!(dated, place.has(&Key::Pipeline(version.clone())));
        dated
    };
    let kept: Vec<bool> = versions.iter().map(left).collect();
    assert_eq!(kept, [true, true, false, false, true, true], "a schedule, a model, and two kept runs");
    assert!(left(&newest), "the newest stays, whether or not it was ever run");
    assert!(place.keep(2, false).await.0.is_empty());
}

#[tokio::test]
async fn what_became_of_an_interval_goes_when_its_run_is_gone_and_it_is_as_old() {
    let place = Place::new().await;
    for n in 1..=4 {
        place.add_run(n, &[]).await;
    }
    let key = |n: u64| Key::Interval { pipeline: "demo".parse().unwrap(), start: n, end: n + 1 };
    for n in 1..=4_u32 {
        let run_id = run(n).to_string();
        let record = stored::IntervalRecord { run_id, decided_ms: u64::from(n), ..Default::default() };
        place.put(&key(n.into()), &record).await;
    }
    // Missed: one before every run that stays, one after.
    place.put(&key(20), &stored::IntervalRecord { decided_ms: 2, ..Default::default() }).await;
    place.put(&key(21), &stored::IntervalRecord { decided_ms: 4, ..Default::default() }).await;
    let rules = Retention { keep_runs: Some(2), ..Retention::default() };
    let (_, done) = collect(&place.shared, &Ask { rules, ..Ask::default() }).await.unwrap();
    assert_eq!(done.intervals.iter().map(|fact| fact.start).collect::<Vec<_>>(), [1, 2, 20]);
    let kept: Vec<u64> = [1, 2, 3, 4, 20, 21].into_iter().filter(|n| place.has(&key(*n))).collect();
    assert_eq!(kept, [3, 4, 21]);
}
