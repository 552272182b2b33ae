use std::time::Duration;

use segue_proto::{ids::Digest, store::v1 as stored, v1};

use super::{
    super::{Ask, GcConfig, Policies, collect, execute, gather, plan},
    support::Place,
};
use crate::{
    spec::Retention,
    store::{
        Batch, Key,
        keys::prefix,
        testing::{artifact, named, run},
    },
};

fn everything_of(n: u32) -> Vec<Key> {
    vec![
        Key::Run(run(n)),
        Key::Task { run: run(n), task: 0 },
        Key::Attempt { run: run(n), task: 0, attempt: 1 },
        Key::Expansion { run: run(n), task: 0 },
        Key::Produced { run: run(n), task: 0, output: "out0".parse().unwrap() },
        Key::Idempotency(format!("key-{n}")),
        Key::PipelineRun { name: "demo".parse().unwrap(), run: run(n) },
    ]
}

/// Plans as `keep` does, for what happens between a plan and its execution.
async fn planned(place: &Place, runs: u32) -> super::super::GcPlan {
    let rules = Retention { keep_runs: Some(runs), ..Retention::default() };
    let config = GcConfig { defaults: rules, ..GcConfig::default() };
    let now = place.shared.clock.now();
    let (facts, policies): (_, Policies) = gather(&place.shared, &config).await.unwrap();
    plan(&facts, &policies, now)
}

#[tokio::test]
async fn old_runs_go_with_all_that_is_theirs_and_what_is_shared_stays() {
    let place = Place::new().await;
    for n in 1..=4 {
        place.add_run(n, &[format!("own {n}").as_bytes(), b"shared"]).await;
    }
    place.add_old_blob(b"left by an attempt that failed").await;
    let (dry, _) = place.keep(2, true).await;
    assert_eq!(place.keep(2, true).await.0, dry, "a dry run changes nothing");
    let (planned, done) = place.keep(2, false).await;
    assert_eq!((&planned, &done), (&dry, &dry), "what was planned is what was done");
    assert_eq!(done.runs.iter().map(|drop| drop.run).collect::<Vec<_>>(), [run(1), run(2)]);
    assert_eq!((done.blobs.len(), done.log_bytes()), (3, 12));
    for n in 1..=2 {
        assert!(everything_of(n).iter().all(|key| !place.has(key)), "run {n}");
        assert!(!place.has(&Key::Artifact(Digest::of(format!("own {n}").as_bytes()))));
        assert!(!place.has_blob(format!("own {n}").as_bytes()).await);
    }
    for n in 3..=4 {
        assert!(everything_of(n).iter().all(|key| place.has(key)), "run {n}");
        assert!(place.has_blob(format!("own {n}").as_bytes()).await);
    }
    assert!(place.has_blob(b"shared").await);
    assert!(!place.has_blob(b"left by an attempt that failed").await);
    assert_eq!(place.shared.logs.runs().unwrap(), [run(3), run(4)]);
    assert!(place.shared.store.scan(&prefix::dropped_runs(), None, 1).unwrap().is_empty());
    assert_eq!(place.problems().await, Vec::<String>::new());
    let (again, _) = place.keep(2, false).await;
    assert!(again.is_empty(), "{again:?}");
}

#[tokio::test]
async fn models_and_cached_results_outlive_the_run_that_made_them() {
    let place = Place::new().await;
    place.add_run(1, &[b"a model", b"a result", b"neither"]).await;
    place.add_run(2, &[b"other"]).await;
    let model = v1::ModelVersion {
        version: 1,
        artifact: Some(artifact(b"a model")),
        run_id: run(1).to_string(),
        ..Default::default()
    };
    place.put(&Key::ModelVersion { name: "clv".parse().unwrap(), version: 1 }, &model).await;
    let cached = stored::CacheRecord {
        outputs: vec![named("out", b"a result")],
        run_id: run(1).to_string(),
        pipeline: "demo".to_owned(),
        created_ms: 5,
        ..Default::default()
    };
    place.put(&Key::Cache("k".to_owned()), &cached).await;
    let (_, done) = place.keep(1, false).await;
    assert_eq!((done.runs.len(), done.blobs.len()), (1, 1));
    assert_eq!((done.kept.model_blobs, done.kept.model_versions), (1, 1));
    assert!(place.has_blob(b"a model").await && place.has_blob(b"a result").await);
    assert!(place.has(&Key::Artifact(Digest::of(b"a model"))), "lineage still finds it");
    assert_eq!(place.problems().await, Vec::<String>::new());

    // The result goes by its own age, the model never.
    let rules = Retention { cache_for_ms: Some(1_000), ..Retention::default() };
    let (_, done) = collect(&place.shared, &Ask { rules, ..Ask::default() }).await.unwrap();
    assert_eq!((done.cache.len(), done.blobs.len(), done.runs.len()), (1, 1, 0));
    assert!(place.has_blob(b"a model").await && !place.has_blob(b"a result").await);
    assert_eq!(place.problems().await, Vec::<String>::new());
}

#[tokio::test]
async fn uploads_of_kept_runs_stay_and_those_of_dropped_ones_go() {
    let place = Place::new().await;
    for (n, upload) in [(1, &b"old upload"[..]), (2, b"new upload")] {
        place.add_run(n, &[]).await;
        let mut record: stored::RunRecord =
            crate::store::read(&*place.shared.store, &Key::Run(run(n))).unwrap().unwrap();
        record.params.insert("input".to_owned(), format!("blob:{}", Digest::of(upload)));
        place.put(&Key::Run(run(n)), &record).await;
        place.add_old_blob(upload).await;
    }
    place.keep(1, false).await;
    assert!(!place.has_blob(b"old upload").await && place.has_blob(b"new upload").await);
}

#[tokio::test]
async fn a_run_that_was_started_again_after_the_plan_stays_with_its_blobs() {
    let place = Place::new().await;
    place.add_run(1, &[b"one"]).await;
    place.add_run(2, &[b"two"]).await;
    let plan = planned(&place, 1).await;
    assert_eq!((plan.runs.len(), plan.blobs.len()), (1, 1));
    let mut record: stored::RunRecord = crate::store::read(&*place.shared.store, &Key::Run(run(1))).unwrap().unwrap();
    (record.state, record.ended_ms, record.generation) = (v1::RunState::Running.into(), 0, 1);
    place.put(&Key::Run(run(1)), &record).await;
    let done = execute(&place.shared, &plan).await.unwrap();
    assert!(done.is_empty(), "{done:?}");
    assert!(place.has_blob(b"one").await && everything_of(1).iter().all(|key| place.has(key)));
    assert_eq!(place.problems().await, Vec::<String>::new());
}

#[tokio::test]
async fn what_is_needed_again_after_the_plan_stays() {
    let place = Place::new().await;
    place.add_run(1, &[b"produced again", b"made a model", b"stored again", b"nobody's"]).await;
    place.add_run(2, &[b"two"]).await;
    place.add_old_blob(b"stored again, without a record").await;
    let plan = planned(&place, 1).await;
    assert_eq!(plan.blobs.len(), 5);
    let mut batch = Batch::new();
    place.add_output(&mut batch, &run(2), "again", b"produced again");
    place.shared.committer.commit(batch).await.unwrap();
    let model = v1::ModelVersion { version: 1, artifact: Some(artifact(b"made a model")), ..Default::default() };
    place.put(&Key::ModelVersion { name: "clv".parse().unwrap(), version: 1 }, &model).await;
    for bytes in [&b"stored again"[..], b"stored again, without a record"] {
        assert_eq!(place.shared.blobs.fresh(&Digest::of(bytes)).await.unwrap(), Some(bytes.len() as u64));
    }
    let done = execute(&place.shared, &plan).await.unwrap();
    let gone: Vec<_> = done.blobs.iter().map(|blob| blob.digest.clone()).collect();
    assert_eq!(gone, [Digest::of(b"nobody's")]);
    for bytes in [&b"produced again"[..], b"made a model", b"stored again", b"stored again, without a record", b"two"] {
        assert!(place.has_blob(bytes).await, "{}", String::from_utf8_lossy(bytes));
    }
    assert_eq!(place.problems().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_blob_stays_for_the_grace_period_whatever_the_records_say() {
    let place = Place::new().await;
    place.shared.blobs.put_bytes("on its way".into()).await.unwrap();
    let (plan, _) = place.keep(1, false).await;
    assert_eq!((plan.blobs.len(), plan.kept.young_blobs), (0, 1));
    assert!(place.has_blob(b"on its way").await);
    let ask = Ask { grace: Some(Duration::ZERO), ..Ask::default() };
    // Stored before this call, to the millisecond.
    while place.shared.clock.now() <= 1 + written(&place, b"on its way").await {
        tokio::task::yield_now().await;
    }
    let (_, done) = collect(&place.shared, &ask).await.unwrap();
    assert_eq!((done.blobs.len(), done.blob_bytes()), (1, 10));
    assert!(!place.has_blob(b"on its way").await);
}

async fn written(place: &Place, bytes: &[u8]) -> u64 {
    use futures::TryStreamExt as _;
    let all: Vec<_> = place.shared.blobs.list_dated().try_collect().await.unwrap();
    all.into_iter().find(|(blob, _)| blob.digest == Digest::of(bytes)).unwrap().1
}

#[tokio::test]
async fn logs_go_before_their_run_where_a_rule_says_so_and_those_of_no_run_always() {
    let place = Place::new().await;
    place.add_run(1, &[b"one"]).await;
    place.shared.logs.append(&crate::store::testing::token(&run(9), "clean", 1), 0, b"left\n", 0).unwrap();
    let rules = Retention { logs_for_ms: Some(1_000), ..Retention::default() };
    let (_, done) = collect(&place.shared, &Ask { rules, ..Ask::default() }).await.unwrap();
    assert_eq!((done.logs.len(), done.log_bytes(), done.runs.len()), (2, 11, 0));
    assert!(place.shared.logs.runs().unwrap().is_empty());
    assert!(place.has(&Key::Run(run(1))) && place.has_blob(b"one").await);
    let (again, _) = collect(&place.shared, &Ask { rules, ..Ask::default() }).await.unwrap();
    assert!(again.is_empty());
}

#[tokio::test]
async fn the_newest_text_of_a_pipeline_says_what_is_kept_of_all_its_runs() {
    let place = Place::new().await;
    for n in 1..=3 {
        place.add_run(n, &[format!("{n}").as_bytes()]).await;
    }
    for (created_ms, keep) in [(20, "keep_runs = 1"), (10, "keep_runs = 3")] {
        let text = format!("[pipeline]\nname = \"demo\"\n[retention]\n{keep}\n[tasks.a]\nop = \"of.another.site\"\n");
        let version = Digest::of(text.as_bytes());
        let record = stored::PipelineRecord {
            name: "demo".to_owned(),
            version: version.to_string(),
            text,
            created_ms,
            ..Default::default()
        };
        place.put(&Key::Pipeline(version), &record).await;
    }
    let (_, done) = collect(&place.shared, &Ask::default()).await.unwrap();
    assert_eq!(done.runs.iter().map(|drop| drop.run).collect::<Vec<_>>(), [run(1), run(2)]);
}

#[tokio::test]
async fn a_store_that_cannot_be_read_whole_loses_nothing() {
    let place = Place::new().await;
    place.add_run(1, &[b"one"]).await;
    place.add_run(2, &[b"two"]).await;
    let mut batch = Batch::new();
    batch.put_raw(Key::Cache("k".to_owned()).encode(), vec![1, 255, 255]);
    place.shared.committer.commit(batch).await.unwrap();
    let rules = Retention { keep_runs: Some(1), ..Retention::default() };
    let error = collect(&place.shared, &Ask { rules, ..Ask::default() }).await.unwrap_err();
    assert!(error.to_string().contains("cache/k"), "{error}");
    assert!(place.has(&Key::Run(run(1))) && place.has_blob(b"one").await);
}

#[tokio::test]
async fn a_run_of_many_records_goes_in_several_batches() {
    let place = Place::new().await;
    place.add_run(1, &[b"one"]).await;
    let mut batch = Batch::new();
    for task in 1..=700 {
        batch.put(&Key::Task { run: run(1), task }, &stored::TaskRecord::default());
    }
    place.shared.committer.commit(batch).await.unwrap();
    place.add_run(2, &[b"two"]).await;
    place.keep(1, false).await;
    assert!(place.shared.store.scan(&prefix::tasks(&run(1)), None, 1).unwrap().is_empty());
    assert!(place.shared.store.scan(&prefix::dropped_runs(), None, 1).unwrap().is_empty());
    assert_eq!(place.problems().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_run_stays_until_the_schedule_or_the_backfill_that_started_it_has_noted_its_end() {
    let place = Place::new().await;
    for n in 1..=4 {
        place.add_run(n, &[format!("own {n}").as_bytes()]).await;
    }
    let active = stored::ActiveInterval { run_id: run(1).to_string(), ..Default::default() };
    let schedule = stored::ScheduleRecord { name: "demo".to_owned(), active: vec![active], ..Default::default() };
    let of_schedule = Key::Schedule("demo".parse().unwrap());
    place.put(&of_schedule, &schedule).await;
    let interval = stored::BackfillIntervalRecord {
        run_id: run(2).to_string(),
        state: v1::BackfillIntervalState::Running.into(),
        ..Default::default()
    };
    let backfill: segue_proto::ids::BackfillId = "bf_01j8zk5m8w0000000000000000".parse().unwrap();
    let of_interval = Key::BackfillInterval { backfill, index: 0 };
    place.put(&of_interval, &interval).await;
    let going = |plan: &super::super::GcPlan| plan.runs.iter().map(|drop| drop.run).collect::<Vec<_>>();
    assert_eq!(going(&place.keep(1, false).await.1), [run(3)]);

    place.put(&of_schedule, &stored::ScheduleRecord { active: Vec::new(), ..schedule }).await;
    let noted = v1::BackfillIntervalState::Succeeded.into();
    place.put(&of_interval, &stored::BackfillIntervalRecord { state: noted, ..interval }).await;
    assert_eq!(going(&place.keep(1, false).await.1), [run(1), run(2)]);
}
