//! Sentences about the segments. Every number in them is computed from the data at hand.

use super::{
    lists::Chosen,
    profile::{Clusters, Customers, count, finite, share},
};
use crate::ops::report::format::{amount, fixed, integer, percent};

/// A cluster below this share of customers is a handful of outliers, not a segment.
const DEGENERATE: f64 = 0.01;

/// What the summary says.
pub(super) struct Told {
    pub insights: Vec<String>,
    /// What a reader must know before trusting the segments; also among the insights.
    pub warnings: Vec<String>,
}

/// Tells what the numbers say, most telling first.
pub(super) fn tell(
    customers: &Customers,
    clusters: &Clusters,
    names: &[String],
    high_value: &Chosen,
    churn: &Chosen,
) -> Told {
    let money = customers.feature("Monetary").unwrap_or_default();
    let mut insights = vec![lead(clusters, names)];
    insights.extend(contrast(clusters, names));
    insights.push(concentration(customers, money));
    insights.extend(once(customers, money));
    insights.extend(forecast(customers, high_value));
    insights.push(churning(customers, money, churn));
    let mut warnings = Vec::new();
    warnings.extend(degenerate(clusters, names));
    let (structure, weak) = structure(customers, clusters);
    if weak {
        warnings.push(structure.clone());
    }
    insights.extend(warnings.iter().filter(|warning| **warning != structure).cloned());
    insights.push(structure);
    Told { insights, warnings }
}

/// The cluster that brings the most.
fn lead(clusters: &Clusters, names: &[String]) -> String {
    let top = best(clusters, |c| clusters.profiles[c].sales);
    let profile = &clusters.profiles[top];
    format!(
        "The segment {} is {} of customers ({} of {}) and brings {} of sales ({} of {}).",
        names[top],
        percent(profile.share),
        integer(count(profile.size)),
        integer(clusters.profiles.iter().map(|p| count(p.size)).sum()),
        percent(profile.share_of_sales),
        amount(profile.sales),
        amount(clusters.sales),
    )
}

/// The cluster silent for longest, beside the best one.
fn contrast(clusters: &Clusters, names: &[String]) -> Option<String> {
    let top = best(clusters, |c| clusters.profiles[c].sales);
    let quiet = best(clusters, |c| clusters.mean(c, "Recency"));
    if top == quiet {
        return None;
    }
    let (rich, poor) = (clusters.mean(top, "Monetary"), clusters.mean(quiet, "Monetary"));
    Some(format!(
        "{} ({} of customers) last bought {} days ago on average and spent {} each; {} bought {} days ago and spent {}, {} \
         times as much.",
        names[quiet],
        percent(clusters.profiles[quiet].share),
        integer(clusters.mean(quiet, "Recency").round()),
        amount(poor),
        names[top],
        integer(clusters.mean(top, "Recency").round()),
        amount(rich),
        fixed(rich / poor, 1),
    ))
}

/// How much the top tenth brings.
fn concentration(customers: &Customers, money: &[f64]) -> String {
    let mut sorted: Vec<f64> = finite(money.iter().copied()).collect();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let top = customers.len().div_ceil(10);
    let part = share(sorted.iter().take(top).sum(), sorted.iter().sum());
    format!(
        "Sales are {}: the top tenth of customers ({}) brings {} of them.",
        if part >= 0.5 { "concentrated" } else { "spread out" },
        integer(count(top)),
        percent(part),
    )
}

fn once(customers: &Customers, money: &[f64]) -> Option<String> {
    let frequency = customers.feature("Frequency")?;
    let rows: Vec<usize> = (0..customers.len()).filter(|&row| frequency[row] <= 1.0).collect();
    if rows.is_empty() {
        return None;
    }
    let part = share(finite(rows.iter().map(|&row| money[row])).sum(), finite(money.iter().copied()).sum());
    Some(format!(
        "{} customers ({}) have a Frequency of 1 and account for {} of sales.",
        integer(count(rows.len())),
        percent(share(count(rows.len()), count(customers.len()))),
        percent(part),
    ))
}

fn forecast(customers: &Customers, high_value: &Chosen) -> Option<String> {
    let predicted: Vec<f64> = customers.predicted.as_ref()?.iter().map(|p| p.unwrap_or(0.0)).collect();
    Some(format!(
        "The {} high-value customers are expected to bring {} of the predicted spend of {}.",
        integer(count(high_value.rows.len())),
        percent(high_value.share_of(&predicted)),
        amount(predicted.iter().sum()),
    ))
}

fn churning(customers: &Customers, money: &[f64], churn: &Chosen) -> String {
    if churn.rows.is_empty() {
        return "No customer of worth has been silent for much longer than usual: the churn-prone list is empty."
            .to_owned();
    }
    let at_stake: f64 = finite(churn.rows.iter().map(|&row| money[row])).sum();
    format!(
        "{} customers ({}) who spent {} so far, {} of sales, have been silent for much longer than usual: they are churn-prone.",
        integer(count(churn.rows.len())),
        percent(share(count(churn.rows.len()), count(customers.len()))),
        amount(at_stake),
        percent(churn.share_of(money)),
    )
}

fn degenerate(clusters: &Clusters, names: &[String]) -> Option<String> {
    if clusters.profiles.len() == 1 {
        return Some("All customers fell into one cluster: there are no segments to compare.".to_owned());
    }
    let small: Vec<String> = clusters
        .profiles
        .iter()
        .zip(names)
        .filter(|(profile, _)| profile.share < DEGENERATE)
        .map(|(profile, name)| {
            format!("{name} ({} customers, {} of all)", integer(count(profile.size)), percent(profile.share))
        })
        .collect();
    match small.as_slice() {
        [] => None,
        [one] => {
            Some(format!("The cluster {one} is degenerate: it isolates outliers rather than describing a segment."))
        }
        many => Some(format!(
            "The clusters {} are degenerate: they isolate outliers rather than describing segments.",
            many.join(", ")
        )),
    }
}

/// How far apart the clusters are, and whether that is a reason to be careful. Bounds: Kaufman and Rousseeuw (1990).
fn structure(customers: &Customers, clusters: &Clusters) -> (String, bool) {
    let Some(score) = customers.mean_silhouette() else {
        return ("The clustering gave no silhouette, so how well the segments separate is unknown.".to_owned(), true);
    };
    let score_text = format!("The mean silhouette is {}", fixed(score, 2));
    if clusters.profiles.iter().any(|profile| profile.share < DEGENERATE) && score > 0.5 {
        return (
            format!(
                "{score_text}, but with a cluster this small that measures how far outliers lie, not how good the segments are."
            ),
            true,
        );
    }
    let (verdict, weak) = match score {
        s if s > 0.7 => ("strong structure: the segments are clearly apart", false),
        s if s > 0.5 => ("reasonable structure: most customers clearly belong to their segment", false),
        s if s > 0.25 => (
            "low: the segments shade into each other, so read them as bands along a continuum, not as separate groups",
            true,
        ),
        _ => ("very low: the segments are hardly apart, and customers near a border could be in either", true),
    };
    (format!("{score_text}, {verdict}."), weak)
}

/// Gives the cluster with the highest value, the first of equals.
fn best(clusters: &Clusters, value: impl Fn(usize) -> f64) -> usize {
    (0..clusters.profiles.len()).rev().max_by(|&a, &b| value(a).total_cmp(&value(b))).unwrap_or(0)
}
