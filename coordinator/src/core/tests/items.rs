//! The items of a fan-out, from whatever they come.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{
    core::{Group, Items, MOST_CHILDREN},
    spec::{FanOut, OutputRef, Over},
};

fn of(over: Over, output: Option<&Value>) -> Result<Items, String> {
    Items::of(&FanOut { over, key: None, max_parallel: None, tolerate: 0, fail_fast: false }, output)
}

fn output() -> Over {
    Over::Output(OutputRef { task: 0, output: "out".into() })
}

fn values(items: &Items) -> Vec<Value> {
    (0..).map_while(|at| items.get(at)).map(|(_, value)| value).collect()
}

fn keys(items: &Items) -> Vec<String> {
    (0..).map_while(|at| items.get(at)).map(|(key, _)| key.to_string()).collect()
}

fn range(from: i64, to: i64, step: i64) -> Vec<Value> {
    let items = of(Over::Range { from, to, step }, None).unwrap();
    assert_eq!(items.len(), values(&items).len());
    values(&items)
}

#[test]
fn a_range_goes_up_or_down_by_its_step_and_stops_before_its_end() {
    assert_eq!(range(0, 3, 1), [0, 1, 2]);
    assert_eq!(range(0, 5, 2), [0, 2, 4]);
    assert_eq!(range(0, 6, 4), [0, 4]);
    assert_eq!(range(3, 0, -1), [3, 2, 1]);
    assert_eq!(range(5, -2, -3), [5, 2, -1]);
    assert_eq!(range(7, 8, 100), [7]);
}

#[test]
fn a_range_that_leads_away_from_its_end_has_no_items() {
    for (from, to, step) in [(0, 0, 1), (0, 0, -1), (0, 3, -1), (3, 0, 1), (0, 3, 0), (i64::MAX, i64::MIN, 1)] {
        assert!(range(from, to, step).is_empty(), "{from} to {to} by {step}");
    }
}

#[test]
fn a_range_over_all_numbers_overflows_nothing() {
    assert_eq!(range(i64::MIN, i64::MAX, i64::MAX), [i64::MIN, -1, i64::MAX - 1]);
    assert_eq!(range(i64::MAX, i64::MIN, i64::MIN), [i64::MAX, -1]);
    assert!(of(Over::Range { from: i64::MIN, to: i64::MAX, step: 1 }, None).is_err());
    assert_eq!(range(i64::MAX - 1, i64::MAX, 1), [i64::MAX - 1]);
}

#[test]
fn a_list_keeps_its_order_and_takes_its_keys_from_its_texts() {
    let items = of(Over::Items(vec![json!("eu"), json!(7), json!(true), json!("a b")]), None).unwrap();
    assert_eq!(values(&items), [json!("eu"), json!(7), json!(true), json!("a b")]);
    assert_eq!(keys(&items)[..3], ["eu", "7", "true"]);
    assert!(keys(&items)[3].starts_with("a_b-"), "what a key cannot hold is replaced");
}

#[test]
fn a_matrix_has_every_combination_and_its_last_list_changes_fastest() {
    let lists = vec![("r".to_owned(), vec![json!("eu"), json!("us")]), ("n".to_owned(), vec![json!(1), json!(2)])];
    let items = of(Over::Matrix(lists), None).unwrap();
    let pair = |r: &str, n: u32| json!({ "r": r, "n": n });
    assert_eq!(values(&items), [pair("eu", 1), pair("eu", 2), pair("us", 1), pair("us", 2)]);
    assert_eq!(keys(&items).iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
    assert!(of(Over::Matrix(vec![("r".to_owned(), vec![])]), None).unwrap().is_empty());
}

#[test]
fn a_json_array_gives_its_values_and_an_object_its_names() {
    let items = of(output(), Some(&json!(["x", "y"]))).unwrap();
    assert_eq!(keys(&items), ["x", "y"]);
    let items = of(output(), Some(&json!({ "one": 1, "two": [2] }))).unwrap();
    assert_eq!((keys(&items), values(&items)), (vec!["one".to_owned(), "two".to_owned()], vec![json!(1), json!([2])]));
    assert!(of(output(), Some(&json!([]))).unwrap().is_empty());
}

#[test]
fn an_output_that_holds_no_list_or_was_not_delivered_says_which() {
    for wrong in [json!(3), json!("text"), json!(null), json!(true)] {
        assert!(of(output(), Some(&wrong)).unwrap_err().contains("`out`"));
    }
    assert!(of(output(), None).unwrap_err().contains("`out`"));
}

#[test]
fn two_items_of_one_key_are_refused_by_that_key() {
    assert!(of(Over::Items(vec![json!("x"), json!("x")]), None).unwrap_err().contains("`x`"));
    assert!(of(output(), Some(&json!([1, "1"]))).unwrap_err().contains("`1`"));
}

#[test]
fn more_items_than_one_task_can_have_are_refused() {
    let over = Over::Range { from: 0, to: MOST_CHILDREN as i64 + 1, step: 1 };
    assert!(of(over, None).unwrap_err().contains("1000001"));
    assert_eq!(of(Over::Range { from: 0, to: MOST_CHILDREN as i64, step: 1 }, None).unwrap().len(), MOST_CHILDREN);
}

proptest! {
    #[test]
    fn a_range_equals_the_naive_loop_and_each_child_is_found_by_its_key(from in -30_i64..30, to in -30_i64..30, step in -5_i64..6) {
        let mut naive = Vec::new();
        let mut at = from;
        while (step > 0 && at < to) || (step < 0 && at > to) {
            naive.push(Value::from(at));
            at += step;
        }
        let items = of(Over::Range { from, to, step }, None).unwrap();
        prop_assert_eq!(values(&items), naive);
        let members: Vec<u32> = (100..100 + items.len() as u32).collect();
        let group = Group::new(items, members);
        for ordinal in 0..group.items.len() as u32 {
            let (key, _) = group.items.get(ordinal).unwrap();
            prop_assert_eq!(group.find(key.as_str()), Some(100 + ordinal));
        }
        for key in ["", "x", "1.5", "99999999999999999999", &(from - 1).to_string()] {
            let there = (0..group.items.len() as u32).any(|at| group.items.get(at).unwrap().0.as_str() == key);
            prop_assert_eq!(group.find(key).is_some(), there, "{}", key);
        }
    }

    #[test]
    fn new_items_leave_each_known_key_its_place_and_come_after_the_rest(
        rounds in prop::collection::vec(prop::collection::btree_set(0_i64..12, 0..8), 1..5), turned: bool,
    ) {
        let mut known: Vec<i64> = Vec::new();
        let mut group: Option<Group> = None;
        for round in rounds {
            let mut wanted: Vec<i64> = round.into_iter().collect();
            if turned {
                wanted.reverse();
            }
            let items = of(Over::Items(wanted.iter().map(|n| json!(n)).collect()), None).unwrap();
            let present = match &mut group {
                None => {
                    let members: Vec<u32> = (0..wanted.len() as u32).collect();
                    group = Some(Group::new(items, members.clone()));
                    members
                }
                Some(group) => group.replace(items, known.len() as u32),
            };
            known.extend(wanted.iter().copied().filter(|n| !known.contains(n)).collect::<Vec<_>>());
            let expected: Vec<u32> =
                wanted.iter().map(|n| known.iter().position(|k| k == n).unwrap() as u32).collect();
            prop_assert_eq!(present, expected, "the children that the items have, in their order");
            let group = group.as_ref().unwrap();
            prop_assert_eq!(&group.members, &(0..known.len() as u32).collect::<Vec<_>>());
            for (at, n) in known.iter().enumerate() {
                prop_assert_eq!(group.find(&n.to_string()), Some(at as u32));
            }
        }
    }
}
