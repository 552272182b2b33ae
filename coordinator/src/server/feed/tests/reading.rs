//! What readers of the feed get, and what is dropped behind them.

use super::*;

/// A feed of some length.
fn long_feed() -> Scene {
    let mut scene = Scene::new();
    scene.hello("1", 1, Vec::new());
    for n in 0..20 {
        scene.submit(n, if n % 2 == 0 { CHAIN } else { LATE });
        scene.started(n, 0);
        scene.finished(n, 0, success(if n % 2 == 0 { vec![output("x")] } else { Vec::new() }));
        if n % 2 == 0 {
            scene.finished(n, 1, success(Vec::new()));
        }
        scene.now += 10;
    }
    scene
}

#[test]
fn reading_on_from_any_offset_gives_every_event_exactly_once() {
    let scene = long_feed();
    let all = scene.read(1);
    assert!(all.len() > 100 && all == scene.read(0), "0 is the oldest");
    for from in 1..=all.len() as u64 + 1 {
        assert_eq!(scene.read(from), all[from as usize - 1..], "from {from}");
    }
    // In parts that end within a commit too.
    let mut parts = Vec::new();
    let mut next = 1;
    for end in [2, 3, 7, 20, 21, all.len() as u64 + 1] {
        let page = page(&scene.store, next, end, &Filter::default()).unwrap();
        assert_eq!(page.next, end);
        next = page.next;
        parts.extend(page.events);
    }
    assert_eq!(parts, all);
}

#[test]
fn a_reader_may_ask_for_kinds_runs_and_pipelines() {
    let scene = long_feed();
    let end = *scene.ends.flushed.borrow();
    let all = scene.read(1);
    let read = |filter: Filter| {
        let page = page(&scene.store, 1, end, &filter).unwrap();
        assert_eq!(page.next, end, "the end is reached whatever is wanted");
        page.events
    };
    let ends = Filter { kinds: [Kind::RunSucceeded.into()].into(), ..Filter::default() };
    assert_eq!(read(ends).len(), 20);
    let run = Filter { run: run_id(3).to_string(), ..Filter::default() };
    assert_eq!(read(run.clone()), all.iter().filter(|e| e.run_id == run.run).cloned().collect::<Vec<_>>());
    let late = Filter { pipeline: "late".to_owned(), kinds: [Kind::RunSubmitted.into()].into(), ..Filter::default() };
    assert_eq!(read(late).len(), 10);
}

fn drop_parts(store: &MemoryStore, parts: &[Part]) {
    let mut batch = Batch::new();
    parts.iter().for_each(|part| batch.delete(&part.key));
    store.apply(&batch).unwrap();
}

#[test]
fn what_somebody_still_has_to_read_is_not_dropped() {
    let scene = long_feed();
    let kept_from = |readers: &[&str]| {
        let parts = expired(&scene.store, u64::MAX, readers, 10_000).unwrap();
        1 + parts.iter().map(|part| part.events).sum::<u64>()
    };
    let put = |key: Key, cursor: Option<u64>| {
        let mut batch = Batch::new();
        match cursor {
            Some(next_offset) => batch.put(&key, &CursorRecord { next_offset }),
            None => batch.put(&key, &DeliveryRecord::default()),
        }
        scene.store.apply(&batch).unwrap();
    };
    let everything = kept_from(&["openlineage"]);
    assert!(everything > 100, "a reader that never read anything needs nothing: {everything}");
    put(Key::Cursor("openlineage".to_owned()), Some(40));
    let held = kept_from(&["openlineage"]);
    assert!((35..=40).contains(&held), "the record that holds event 40 stays: {held}");
    assert_eq!(kept_from(&[]), everything, "nobody sends lineage any more");
    put(Key::Delivery(DeliveryKey { lane: 9, due_ms: 1, offset: 17, hook: 0 }), None);
    let held = kept_from(&["openlineage"]);
    assert!((12..=17).contains(&held), "the event of a delivery stays: {held}");
    assert_eq!(kept_from(&[]), held);
}

#[test]
fn a_clock_that_was_set_back_makes_no_hole_in_the_feed() {
    let mut scene = long_feed();
    let (before, moment) = (scene.read(1).len() as u64, scene.now);
    scene.now = 5_000;
    scene.submit(90, LATE);
    scene.submit(91, LATE);
    let parts = expired(&scene.store, moment - 50, &[], 10_000).unwrap();
    assert!(parts.iter().map(|part| part.events).sum::<u64>() < before, "younger events stand before them");
    drop_parts(&scene.store, &parts);
    let first = oldest(&scene.store).unwrap().unwrap();
    assert_eq!(scene.read(0).len() as u64, *scene.ends.flushed.borrow() - first, "no offset is missing");
}

#[test]
fn what_is_not_kept_any_more_is_an_error_that_names_the_oldest_event() {
    let scene = long_feed();
    let end = *scene.ends.flushed.borrow();
    let trim = expired(&scene.store, 10_050, &[], 1_000).unwrap();
    let events: u64 = trim.iter().map(|part| part.events).sum();
    assert!(trim.len() > 3 && events > 10, "{trim:?}");
    drop_parts(&scene.store, &trim);
    let first = oldest(&scene.store).unwrap().unwrap();
    assert_eq!(first, events + 1);
    assert_eq!(scene.read(0).first().unwrap().offset, first);
    assert_eq!(scene.read(first).len() as u64, end - first);
    for gone in [1, first - 1] {
        let error = page(&scene.store, gone, end, &Filter::default()).unwrap_err();
        assert!(matches!(error, Error::EventsGone { oldest, .. } if oldest == first), "{error}");
        assert!(error.to_string().contains(&first.to_string()), "{error}");
    }
    let error = page(&scene.store, end + 1, end, &Filter::default()).unwrap_err();
    assert!(error.to_string().contains("has not happened yet"), "{error}");
}

#[test]
fn the_offsets_go_on_even_when_everything_old_is_dropped() {
    let mut scene = long_feed();
    let end = *scene.ends.flushed.borrow();
    drop_parts(&scene.store, &expired(&scene.store, u64::MAX, &[], 10_000).unwrap());
    assert_eq!(scene.store.scan(&prefix::events(), None, 9).unwrap().len(), 1, "the newest record is never dropped");
    scene.restart();
    assert_eq!(*scene.ends.flushed.borrow(), end);
    assert_eq!(scene.submit(77, LATE)[0].offset, end);
}

#[test]
fn two_writers_cannot_give_out_the_same_offset() {
    let mut scene = Scene::new();
    let (mut other, _) = Feed::open(&scene.store, &scene.core).unwrap();
    scene.submit(1, CHAIN);
    other.note(FeedEvent { kind: Kind::HookGaveUp.into(), ..FeedEvent::default() });
    let mut batch = Batch::new();
    other.add(&scene.core.take(), &scene.core, &mut batch, scene.now);
    assert!(matches!(batch.writes(), [Write::Put(..)]));
    assert!(scene.store.apply(&batch).is_err());
}
