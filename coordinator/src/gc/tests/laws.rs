use std::collections::BTreeSet;

use proptest::{prelude::*, sample::subsequence};
use segue_proto::ids::Digest;

use super::super::*;
use crate::{
    core::{RunState, UnixMillis},
    spec::Retention,
    store::{Key, testing::run},
};

const NOW: UnixMillis = 1_000_000_000;
const HOUR: u64 = 3_600_000;

/// Ages are few, so that limits are met exactly too.
fn moment() -> impl Strategy<Value = UnixMillis> {
    (0_u64..8).prop_map(|hours| NOW - hours * HOUR)
}

fn limit() -> impl Strategy<Value = Option<u64>> {
    prop::option::of((1_u64..7).prop_map(|hours| hours * HOUR))
}

fn rules() -> impl Strategy<Value = Retention> {
    (prop::option::of(1_u32..4), limit(), limit(), limit(), limit()).prop_map(
        |(keep_runs, keep_for_ms, keep_failed_for_ms, logs_for_ms, cache_for_ms)| Retention {
            keep_runs,
            keep_for_ms,
            keep_failed_for_ms,
            logs_for_ms,
            cache_for_ms,
        },
    )
}

prop_compose! {
    fn policies()(
        defaults in rules(),
        of_a in prop::option::of(rules()),
        hours in 0_u64..4,
        events_for_ms in limit(),
    ) -> Policies {
        let pipelines = of_a.into_iter().map(|rules| ("a".to_owned(), rules)).collect();
        Policies { defaults, pipelines, grace_ms: hours * HOUR, events_for_ms }
    }
}

fn pipeline() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b"]).prop_map(str::to_owned)
}

fn end() -> impl Strategy<Value = Option<End>> {
    let state = prop::sample::select(vec![RunState::Succeeded, RunState::Failed, RunState::Cancelled]);
    prop::option::weighted(0.8, (moment(), state).prop_map(|(at, state)| End { at, state }))
}

const BLOBS: u32 = 8;

fn needs() -> impl Strategy<Value = Vec<BlobIndex>> {
    subsequence((0..BLOBS).collect::<Vec<_>>(), 0..3)
}

fn blob(n: u32) -> impl Strategy<Value = BlobFact> {
    let stored = prop::option::weighted(0.8, moment().prop_map(|written_at| StoredBlob { size_bytes: 10, written_at }));
    (stored, any::<bool>()).prop_map(move |(stored, recorded)| BlobFact {
        digest: Digest::of(&n.to_be_bytes()),
        stored,
        recorded,
    })
}

prop_compose! {
    fn facts()(
        runs in prop::collection::vec((pipeline(), end(), prop::bool::weighted(0.1), needs()), 0..12),
        cache in prop::collection::vec((pipeline(), moment(), needs()), 0..5),
        models in prop::collection::vec(needs(), 0..3),
        always in subsequence((0..BLOBS).collect::<Vec<_>>(), 0..2),
        blobs in (0..BLOBS).map(blob).collect::<Vec<_>>(),
        // Runs 100 and 101 do not exist, and 200 is on its way out.
        logs in subsequence((0_u32..12).chain([100, 101, 200]).collect::<Vec<_>>(), 0..10),
        dated in prop::collection::vec(moment(), 0..3),
        texts in prop::collection::vec((pipeline(), moment(), prop::bool::weighted(0.2)), 0..6),
        of_runs in prop::collection::vec(prop::option::weighted(0.8, 0_u32..6), 12),
        intervals in prop::collection::vec((pipeline(), moment(), prop::option::weighted(0.7, 0_u32..15)), 0..6),
        leftover in any::<bool>(),
        uploading_since in prop::option::of(moment()),
    ) -> Facts {
        let known = runs.len() as u32;
        Facts {
            runs: runs
                .into_iter()
                .enumerate()
                .map(|(n, (pipeline, end, awaited, needs))| RunFact {
                    run: run(n as u32),
                    pipeline,
                    end,
                    awaited,
                    text: of_runs[n].filter(|text| (*text as usize) < texts.len()),
                    needs,
                })
                .collect(),
            cache: cache
                .into_iter()
                .enumerate()
                .map(|(n, (pipeline, created_at, needs))| CacheFact {
                    key: n.to_string(),
                    pipeline,
                    created_at,
                    needs,
                    ..CacheFact::default()
                })
                .collect(),
            models: models
                .into_iter()
                .map(|needs| ModelFact { name: "m".to_owned(), version: 1, needs })
                .collect(),
            always,
            blobs,
            logs: logs
                .into_iter()
                .filter(|n| *n < known || *n == 100 || *n == 101 || (*n == 200 && leftover))
                .map(|n| LogFact { run: run(n), bytes: 7 })
                .collect(),
            events: dated
                .into_iter()
                .enumerate()
                .map(|(n, at)| EventsFact { key: Key::Events(n as u64), at, events: 3 })
                .collect(),
            texts: texts
                .into_iter()
                .enumerate()
                .map(|(n, (pipeline, submitted_at, needed))| TextFact {
                    version: Digest::of(&n.to_be_bytes()),
                    pipeline,
                    submitted_at,
                    needed,
                })
                .collect(),
            intervals: intervals
                .into_iter()
                .enumerate()
                .map(|(n, (pipeline, decided_at, of))| IntervalFact {
                    pipeline: pipeline.parse().unwrap(),
                    start: n as u64,
                    end: n as u64 + 1,
                    decided_at,
                    run: of.map(run),
                })
                .collect(),
            leftovers: if leftover { vec![run(200)] } else { Vec::new() },
            uploading_since,
        }
    }
}

/// Says whether a run stays, in the words of the reference.
fn stays(facts: &Facts, policies: &Policies, at: usize) -> bool {
    let fact = &facts.runs[at];
    let Some(end) = fact.end else { return true };
    if fact.awaited {
        return true;
    }
    let rules = policies.of(&fact.pipeline);
    let by_failure = |end: End| end.state != RunState::Succeeded && rules.keep_failed_for_ms.is_some();
    if by_failure(end) {
        return NOW - end.at < rules.keep_failed_for_ms.unwrap();
    }
    let newer = facts.runs[at + 1..]
        .iter()
        .filter(|other| other.pipeline == fact.pipeline && other.end.is_some_and(|end| !by_failure(end)));
    let rank = newer.count() as u32;
    match (rules.keep_runs, rules.keep_for_ms) {
        (None, None) => true,
        (runs, age) => runs.is_some_and(|runs| rank < runs) || age.is_some_and(|age| NOW - end.at < age),
    }
}

fn cache_stays(facts: &Facts, policies: &Policies, at: usize) -> bool {
    let fact = &facts.cache[at];
    policies.of(&fact.pipeline).cache_for_ms.is_none_or(|limit| NOW - fact.created_at < limit)
}

/// Says whether anything that stays needs a blob.
fn is_needed(facts: &Facts, policies: &Policies, blob: BlobIndex) -> bool {
    facts.always.contains(&blob)
        || facts.models.iter().any(|model| model.needs.contains(&blob))
        || (0..facts.runs.len()).any(|at| facts.runs[at].needs.contains(&blob) && stays(facts, policies, at))
        || (0..facts.cache.len()).any(|at| facts.cache[at].needs.contains(&blob) && cache_stays(facts, policies, at))
}

/// Carries a plan out on the facts alone.
fn apply(plan: &GcPlan, facts: &Facts) -> Facts {
    let mut after = facts.clone();
    let gone: BTreeSet<_> = plan.runs.iter().map(|drop| &drop.run).chain(&plan.leftovers).collect();
    let silent: BTreeSet<_> = plan.logs.iter().map(|drop| &drop.run).chain(gone.iter().copied()).collect();
    let keys: BTreeSet<_> = plan.cache.iter().map(|drop| &drop.key).collect();
    let digests: BTreeSet<_> = plan.blobs.iter().map(|drop| &drop.digest).collect();
    after.runs.retain(|fact| !gone.contains(&fact.run));
    after.logs.retain(|fact| !silent.contains(&fact.run));
    after.cache.retain(|fact| !keys.contains(&fact.key));
    after.events.retain(|fact| !plan.events.contains(fact));
    after.intervals.retain(|fact| !plan.intervals.contains(fact));
    // Runs name texts by their place: one that is gone is as one that never goes.
    after.texts.iter_mut().filter(|fact| plan.texts.contains(fact)).for_each(|fact| fact.needed = true);
    after.leftovers.clear();
    for blob in after.blobs.iter_mut().filter(|fact| digests.contains(&fact.digest)) {
        (blob.stored, blob.recorded) = (None, false);
    }
    after
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn exactly_the_runs_and_results_go_that_no_rule_keeps(facts in facts(), policies in policies()) {
        let plan = plan(&facts, &policies, NOW);
        let going: Vec<_> = plan.runs.iter().map(|drop| drop.run).collect();
        let expected: Vec<_> =
            (0..facts.runs.len()).filter(|&at| !stays(&facts, &policies, at)).map(|at| facts.runs[at].run).collect();
        prop_assert_eq!(going, expected);
        let going: Vec<_> = plan.cache.iter().map(|drop| drop.key.clone()).collect();
        let expected: Vec<_> = (0..facts.cache.len())
            .filter(|&at| !cache_stays(&facts, &policies, at))
            .map(|at| facts.cache[at].key.clone())
            .collect();
        prop_assert_eq!(going, expected);
        prop_assert_eq!(plan.kept.runs as usize + plan.runs.len(), facts.runs.len());
        prop_assert_eq!(plan.kept.active as usize, facts.runs.iter().filter(|fact| fact.end.is_none()).count());
    }

    #[test]
    fn exactly_the_blobs_go_that_nothing_kept_needs_and_that_nobody_can_be_storing(
        facts in facts(),
        policies in policies(),
    ) {
        let plan = plan(&facts, &policies, NOW);
        for (at, fact) in facts.blobs.iter().enumerate() {
            let drop = plan.blobs.iter().find(|drop| drop.digest == fact.digest);
            let old = |written: UnixMillis| {
                written < NOW - policies.grace_ms && facts.uploading_since.is_none_or(|since| written < since)
            };
            let expected = !is_needed(&facts, &policies, at as BlobIndex)
                && match fact.stored {
                    Some(stored) => old(stored.written_at),
                    None => fact.recorded,
                };
            prop_assert_eq!(drop.is_some(), expected, "{:?}", fact);
            if let Some(drop) = drop {
                prop_assert_eq!(drop.size_bytes, fact.stored.map(|stored| stored.size_bytes));
            }
        }
    }

    #[test]
    fn logs_go_with_their_run_or_by_their_own_age_and_never_those_of_an_active_one(
        facts in facts(),
        policies in policies(),
    ) {
        let plan = plan(&facts, &policies, NOW);
        for log in &facts.logs {
            let with_run = plan.runs.iter().any(|drop| drop.run == log.run && drop.log_bytes == log.bytes);
            let alone = plan.logs.iter().any(|drop| drop.run == log.run);
            prop_assert!(!(with_run && alone));
            match facts.runs.iter().position(|fact| fact.run == log.run) {
                Some(at) => {
                    let fact = &facts.runs[at];
                    prop_assert_eq!(with_run, !stays(&facts, &policies, at));
                    let old = fact.end.is_some_and(|end| {
                        policies.of(&fact.pipeline).logs_for_ms.is_some_and(|limit| NOW - end.at >= limit)
                    });
                    prop_assert_eq!(alone, old && !with_run);
                }
                None => prop_assert_eq!(alone, !plan.leftovers.contains(&log.run)),
            }
        }
    }

    #[test]
    fn a_text_goes_with_the_last_run_of_its_version_and_never_before(facts in facts(), policies in policies()) {
        let plan = plan(&facts, &policies, NOW);
        for (at, text) in facts.texts.iter().enumerate() {
            let in_use = (0..facts.runs.len())
                .any(|run| facts.runs[run].text == Some(at as u32) && stays(&facts, &policies, run));
            let rules = policies.of(&text.pipeline);
            let old = NOW - text.submitted_at >= rules.keep_for_ms.unwrap_or(0).max(policies.grace_ms);
            let ruled = rules.keep_runs.is_some() || rules.keep_for_ms.is_some();
            prop_assert_eq!(plan.texts.contains(text), !text.needed && !in_use && old && ruled, "{:?}", text);
        }
    }

    #[test]
    fn an_interval_stays_as_long_as_a_run_that_is_as_old(facts in facts(), policies in policies()) {
        let plan = plan(&facts, &policies, NOW);
        for interval in &facts.intervals {
            let name = interval.pipeline.as_str();
            let as_old = (0..facts.runs.len()).filter(|&at| stays(&facts, &policies, at)).any(|at| {
                let fact = &facts.runs[at];
                Some(fact.run) == interval.run
                    || (fact.pipeline == name && fact.end.is_some_and(|end| end.at <= interval.decided_at))
            });
            let rules = policies.of(name);
            let old = NOW - interval.decided_at >= rules.keep_for_ms.unwrap_or(0).max(policies.grace_ms);
            let ruled = rules.keep_runs.is_some() || rules.keep_for_ms.is_some();
            prop_assert_eq!(plan.intervals.contains(interval), !as_old && old && ruled, "{:?}", interval);
        }
    }

    #[test]
    fn what_goes_of_the_feed_is_its_beginning_and_old_enough(facts in facts(), policies in policies()) {
        let plan = plan(&facts, &policies, NOW);
        prop_assert!(facts.events.starts_with(&plan.events));
        let limit = policies.events_for_ms.unwrap_or(u64::MAX);
        prop_assert!(plan.events.iter().all(|part| NOW - part.at >= limit));
        prop_assert!(facts.events.get(plan.events.len()).is_none_or(|next| NOW - next.at < limit));
    }

    #[test]
    fn after_a_plan_nothing_is_left_to_plan(facts in facts(), policies in policies()) {
        let first = plan(&facts, &policies, NOW);
        let after = apply(&first, &facts);
        let again = plan(&after, &policies, NOW);
        prop_assert!(again.is_empty(), "{:?}", again);
        prop_assert_eq!(again.kept.young_blobs, first.kept.young_blobs);
    }

    #[test]
    fn without_rules_only_what_belongs_to_nothing_goes(facts in facts()) {
        let plan = plan(&facts, &Policies::default(), NOW);
        prop_assert!(plan.runs.is_empty() && plan.cache.is_empty() && plan.events.is_empty());
        prop_assert!(plan.texts.is_empty() && plan.intervals.is_empty());
        prop_assert!(plan.logs.iter().all(|drop| drop.why == Why::NoRun));
    }
}

#[test]
fn blobs_that_only_models_keep_are_counted_with_the_versions_that_keep_them() {
    let old = |n: u32| BlobFact {
        digest: Digest::of(&n.to_be_bytes()),
        stored: Some(StoredBlob { size_bytes: 1, written_at: 0 }),
        recorded: true,
    };
    let model = |version, needs| ModelFact { name: "m".to_owned(), version, needs };
    let end = Some(End { at: 0, state: RunState::Succeeded });
    let facts = Facts {
        runs: vec![RunFact { run: run(1), pipeline: "a".to_owned(), end, awaited: false, text: None, needs: vec![0] }],
        models: vec![model(1, vec![0]), model(2, vec![1, 2]), model(3, vec![2])],
        blobs: (0..4).map(old).collect(),
        ..Facts::default()
    };
    let plan = plan(&facts, &Policies::default(), NOW);
    assert_eq!((plan.kept.model_blobs, plan.kept.model_versions), (2, 2));
    assert_eq!(plan.blobs.len(), 1);
    assert_eq!(plan.blob_bytes(), 1);
}

#[test]
fn reasons_are_told_as_people_write_limits() {
    let day = 24 * HOUR;
    let told = |why: Why| why.to_string();
    assert_eq!(
        told(Why::Run { keep_runs: Some(100), keep_for_ms: Some(90 * day) }),
        "not among the newest 100, and ended 90d ago or earlier"
    );
    assert_eq!(told(Why::Run { keep_runs: Some(5), keep_for_ms: None }), "not among the newest 5");
    assert_eq!(told(Why::Cache { cache_for_ms: day + day / 2 }), "made 1d12h ago or earlier");
    assert_eq!(told(Why::Logs { logs_for_ms: 90_500 }), "its run ended 1m30s500ms ago or earlier");
}
