//! The figures of `retail.clv`: how good each model is, what matters to it, how predictions spread.

use serde_json::{Map, Value, json};

use crate::kernels::{KernelError, boost::Model, metrics};

/// Measures a model's predictions. A figure that is undefined, such as the rank correlation of a constant, is null.
pub(super) fn quality(name: &str, actual: &[f64], predicted: &[f64]) -> Value {
    let figure = |value: Result<f64, KernelError>| value.ok();
    // Equal predictions order nobody, though the measures would keep the order of the rows.
    let constant = predicted.windows(2).all(|pair| pair[0] == pair[1]);
    let order = |value: Result<f64, KernelError>| if constant { None } else { value.ok() };
    json!({
        "name": name,
        "mae": figure(metrics::mae(actual, predicted)),
        "rmse": figure(metrics::rmse(actual, predicted)),
        "r2": figure(metrics::r2(actual, predicted)),
        "spearman": order(metrics::spearman(actual, predicted)),
        "gini": order(metrics::normalised_gini(actual, predicted)),
        "top_decile_share": order(metrics::top_decile_share(actual, predicted)),
        "top_decile_lift": order(metrics::top_decile_lift(actual, predicted)),
        "predicted_sum": predicted.iter().sum::<f64>(),
    })
}

/// Takes the measures of a model as metrics of the task and the model version.
pub(super) fn headline(quality: &Value) -> Map<String, Value> {
    let names = ["mae", "rmse", "r2", "spearman", "gini", "top_decile_share", "top_decile_lift"];
    names.iter().filter(|&&n| !quality[n].is_null()).map(|&n| (n.to_owned(), quality[n].clone())).collect()
}

/// Lists the features that a model splits on, the most useful first.
pub(super) fn importance(model: &Model, features: &[String]) -> Value {
    let mut shares: Vec<(&String, f64)> = features.iter().zip(model.importance()).filter(|(_, s)| *s > 0.0).collect();
    shares.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    shares.iter().map(|(feature, share)| json!({"feature": feature, "share": share})).collect()
}

/// Counts values in 50 equal bins from the least (0 at most) to the 99th percentile; what lies above is counted apart.
pub(super) fn histogram(values: &[f64]) -> Value {
    const BINS: usize = 50;
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (Some(&least), Some(&most)) = (sorted.first(), sorted.last()) else {
        return json!({"edges": [], "counts": [], "clipped_above": 0});
    };
    let low = least.min(0.0);
    let quantile = sorted[(sorted.len() - 1) * 99 / 100];
    let high = if quantile > low { quantile } else { most.max(low + 1.0) };
    let edges: Vec<f64> = (0..=BINS).map(|i| low + (high - low) * i as f64 / BINS as f64).collect();
    let mut counts = [0_u64; BINS];
    let mut above = 0_u64;
    for value in sorted {
        if value > high {
            above += 1;
        } else {
            counts[(((value - low) / (high - low) * BINS as f64) as usize).min(BINS - 1)] += 1;
        }
    }
    json!({"edges": edges, "counts": counts.to_vec(), "clipped_above": above})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_prediction_has_errors_but_no_order() {
        let quality = quality("train mean", &[1.0, 3.0], &[2.0, 2.0]);
        assert_eq!(quality["mae"], json!(1.0));
        assert!(quality["gini"].is_null() && quality["spearman"].is_null() && quality["top_decile_share"].is_null());
    }

    #[test]
    fn a_histogram_counts_every_value_once() {
        let values: Vec<f64> = (0..1000).map(f64::from).collect();
        let histogram = histogram(&values);
        let inside: u64 = histogram["counts"].as_array().into_iter().flatten().filter_map(Value::as_u64).sum();
        assert_eq!(inside + histogram["clipped_above"].as_u64().unwrap_or(0), 1000);
        assert_eq!(histogram["edges"].as_array().map(Vec::len), Some(51));
        let equal = super::histogram(&[0.0, 0.0]);
        assert_eq!(equal["counts"][0], json!(2));
    }
}
