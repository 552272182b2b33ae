#![allow(clippy::unwrap_used)]
use std::ops::ControlFlow;

use ndarray::Array2;

use super::*;

/// 400 rows: y rises with column 0, column 1 is noise, every 7th cell of column 2 is missing.
fn data() -> (Array2<f64>, Vec<f64>) {
    let features = Array2::from_shape_fn((400, 3), |(i, j)| match j {
        0 => (i % 40) as f64,
        1 => ((i * 7919) % 101) as f64,
        _ if i % 7 == 0 => f64::NAN,
        _ => ((i * 31) % 13) as f64,
    });
    let target = (0..400).map(|i| 10.0 + 3.0 * (i % 40) as f64 + ((i * 31) % 13) as f64).collect();
    (features, target)
}

fn settings(objective: Objective) -> Settings {
    Settings { row_share: 0.7, column_share: 0.7, ..Settings::new(objective, 30, 0.2, 4, 42) }
}

fn train(settings: &Settings, features: &Array2<f64>, target: &[f64]) -> Result<Model, KernelError> {
    Model::train(settings, features.view(), target, &mut |_| ControlFlow::Continue(()))
}

#[test]
fn every_round_asked_for_becomes_a_tree_and_is_reported() {
    let (features, target) = data();
    let mut ticks = Vec::new();
    let model = Model::train(&settings(Objective::SquaredError), features.view(), &target, &mut |round| {
        ticks.push(round);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(ticks, (1..=30).collect::<Vec<_>>());
    assert_eq!(model.layout.trees, 30);
}

#[test]
fn training_twice_gives_the_same_bytes_and_predictions() {
    let (features, target) = data();
    for (objective, threads) in [(Objective::SquaredError, 1), (Objective::Gamma, 1), (Objective::Gamma, 2)] {
        let settings = Settings { threads, ..settings(objective) };
        let [one, two] = [(), ()].map(|()| train(&settings, &features, &target).unwrap());
        assert_eq!(one.json().to_owned(), two.json().to_owned());
        assert_eq!(one.predict(features.view()).unwrap(), two.predict(features.view()).unwrap());
    }
}

#[test]
fn text_and_back_keeps_text_and_predictions() {
    let (features, target) = data();
    let model = train(&settings(Objective::Gamma), &features, &target).unwrap();
    let text = model.json().to_owned();
    let again = Model::from_json(&text).unwrap();
    assert_eq!(again.json().to_owned(), text);
    assert_eq!(again.predict(features.view()).unwrap(), model.predict(features.view()).unwrap());
}

#[test]
fn a_zero_is_a_value_and_not_missing() {
    // If 0 were taken for missing, it would go where the default branch sends it, together with the NaN rows (y = 9).
    let features = Array2::from_shape_fn((300, 1), |(i, _)| [0.0, 1.0, f64::NAN][i % 3]);
    let target: Vec<f64> = (0..300).map(|i| [1.0, 5.0, 9.0][i % 3]).collect();
    let model = train(&Settings::new(Objective::SquaredError, 60, 0.3, 3, 1), &features, &target).unwrap();
    let p = model.predict(features.view()).unwrap();
    assert!((p[0] - 1.0).abs() < 0.1 && (p[1] - 5.0).abs() < 0.1 && (p[2] - 9.0).abs() < 0.1, "{:?}", &p[..3]);
}

#[test]
fn the_first_guess_is_the_mean_of_the_target() {
    let (features, target) = data();
    let mean = target.iter().sum::<f64>() / target.len() as f64;
    for (objective, target, mean) in [
        (Objective::SquaredError, target.clone(), mean),
        (Objective::Gamma, target, mean),
        (Objective::Logistic, (0..400).map(|i| f64::from(u8::from(i % 4 == 0))).collect(), 0.25),
    ] {
        let slow = Settings::new(objective, 1, 1e-6, 1, 1);
        let p = train(&slow, &features, &target).unwrap().predict(features.view()).unwrap();
        assert!(p.iter().all(|p| (p / mean - 1.0).abs() < 1e-4), "{objective:?}: {} for {mean}", p[0]);
    }
}

#[test]
fn importance_goes_to_the_column_that_matters() {
    let (features, target) = data();
    let model = train(&Settings::new(Objective::SquaredError, 30, 0.2, 4, 42), &features, &target).unwrap();
    let importance = model.importance();
    assert!((importance.iter().sum::<f64>() - 1.0).abs() < 1e-9);
    assert!(importance[0] > 0.9 && importance[1] < 0.05, "{importance:?}");
}

#[test]
fn a_stop_between_rounds_ends_the_training() {
    let (features, target) = data();
    let stop = &mut |round| if round == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    let ended = Model::train(&settings(Objective::SquaredError), features.view(), &target, stop);
    assert_eq!(ended.unwrap_err(), KernelError::Cancelled);
}

#[test]
fn a_target_that_the_objective_cannot_have_is_refused() {
    let (features, target) = data();
    assert!(matches!(train(&settings(Objective::Logistic), &features, &target), Err(KernelError::Invalid(_))));
    let zero = vec![0.0; 400];
    assert!(matches!(train(&settings(Objective::Gamma), &features, &zero), Err(KernelError::Invalid(_))));
    let mut nan = target;
    nan[5] = f64::NAN;
    let error = train(&settings(Objective::SquaredError), &features, &nan).unwrap_err();
    assert_eq!(error, KernelError::NotFinite { row: 5, column: 3 });
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let (features, target) = data();
    let settings = settings(Objective::SquaredError);
    assert!(matches!(train(&settings, &features, &target[1..]), Err(KernelError::Shape(_))));
    assert!(matches!(train(&settings, &Array2::zeros((0, 3)), &[]), Err(KernelError::Shape(_))));
    let model = train(&settings, &features, &target).unwrap();
    assert!(matches!(model.predict(Array2::zeros((2, 4)).view()), Err(KernelError::Shape(_))));
    assert_eq!(model.predict(Array2::zeros((0, 3)).view()).unwrap(), Vec::<f64>::new());
    let error = model.predict(Array2::from_elem((1, 3), f64::INFINITY).view()).unwrap_err();
    assert_eq!(error, KernelError::NotFinite { row: 0, column: 0 });
}

#[test]
fn settings_out_of_range_are_refused() {
    let (features, target) = data();
    let fine = settings(Objective::SquaredError);
    for wrong in [
        Settings { rounds: 0, ..fine },
        Settings { learning_rate: 0.0, ..fine },
        Settings { learning_rate: f64::NAN, ..fine },
        Settings { max_depth: 40, ..fine },
        Settings { row_share: 1.5, ..fine },
        Settings { lambda: -1.0, ..fine },
        Settings { threads: 0, ..fine },
    ] {
        assert!(matches!(train(&wrong, &features, &target), Err(KernelError::Invalid(_))), "{wrong:?}");
    }
}

#[test]
fn text_that_would_lead_xgboost_astray_is_refused() {
    let (features, target) = data();
    let text =
        train(&Settings::new(Objective::SquaredError, 2, 0.2, 2, 1), &features, &target).unwrap().json().to_owned();
    assert!(Model::from_json(&text).is_ok());
    let edited = |edit: &dyn Fn(&mut serde_json::Value)| {
        let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
        edit(&mut value);
        Model::from_json(&value.to_string()).map(|_| ()).unwrap_err().to_string()
    };
    let tree = "/learner/gradient_booster/model/trees/0";
    let set = |path: String, to: serde_json::Value| {
        edited(&move |v| *v.pointer_mut(&path).unwrap_or_else(|| panic!("{path}")) = to.clone())
    };
    assert!(set(format!("{tree}/left_children/0"), 999.into()).contains("points outside"));
    assert!(set(format!("{tree}/left_children/0"), 0.into()).contains("reached twice"));
    assert!(set(format!("{tree}/split_indices/0"), 3.into()).contains("points outside"));
    assert!(set(format!("{tree}/parents/1"), (-1).into()).contains("parent"));
    assert!(set(format!("{tree}/id"), 1.into()).contains("position"));
    assert!(set(format!("{tree}/loss_changes"), serde_json::json!([1.0])).contains("length"));
    assert!(set("/learner/gradient_booster/model/tree_info/0".into(), 5.into()).contains("trees"));
    assert!(set("/learner/learner_model_param/num_feature".into(), "7".into()).contains("other features"));
    assert!(set("/learner/learner_model_param/num_class".into(), "3".into()).contains("single output"));
    assert!(set("/learner/objective/name".into(), "rank:ndcg".into()).contains("rank:ndcg"));
    assert!(set("/learner/gradient_booster/name".into(), "dart".into()).contains("dart"));
}

#[test]
fn bytes_that_are_no_model_are_an_error() {
    for text in ["", "{", "{}", "[]", "null", "binf", "\u{0}\u{1}", "{\"learner\": {}}"] {
        assert!(matches!(Model::from_json(text), Err(KernelError::Invalid(_))), "{text:?}");
    }
    let (features, target) = data();
    let text = train(&settings(Objective::SquaredError), &features, &target).unwrap().json().to_owned();
    assert!(Model::from_json(&text[..text.len() / 2]).is_err());
    // White space around the text is harmless.
    assert!(Model::from_json(&format!("\n {text}\n")).is_ok());
}

#[test]
fn only_the_two_formats_are_written() {
    let (features, target) = data();
    let model = train(&settings(Objective::SquaredError), &features, &target).unwrap();
    let dir = tempfile::tempdir().unwrap();
    assert!(model.save(&dir.path().join("m.bin")).is_err());
    assert!(model.save(&dir.path().join("absent").join("m.ubj")).is_err());
    model.save(&dir.path().join("m.ubj")).unwrap();
    model.save(&dir.path().join("m.json")).unwrap();
    let text = std::fs::read_to_string(dir.path().join("m.json")).unwrap();
    let again = Model::from_json(&text).unwrap();
    assert_eq!(again.predict(features.view()).unwrap(), model.predict(features.view()).unwrap());
}
