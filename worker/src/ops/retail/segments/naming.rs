//! Names for clusters: each name is a profile, and a cluster gets the name whose profile it is nearest to.

use super::profile::Clusters;

/// The rule in words, for the summary and the report.
pub(super) const RULE: &str = "Every name stands for a profile over Recency, Frequency, Monetary, AvgOrderValue and Tenure, in \
standard deviations of ln(1 + x) from the average customer. The cluster and the name that lie nearest to each other are \
matched first, then the next nearest, and every name is used once. Four names have a condition: Champions must lead the \
clusters in Monetary or Frequency, Big spenders must be first or second in AvgOrderValue and above average, At risk and \
Lapsed must have bought less recently than average, Promising must be newer than average and have bought more recently. A single cluster is called All \
customers; clusters beyond the list of names get the nearest name with a number.";

/// A name and its profile: Recency, Frequency, Monetary, AvgOrderValue, Tenure.
struct Archetype {
    name: &'static str,
    profile: [f64; 5],
}

const AXES: [&str; 5] = ["Recency", "Frequency", "Monetary", "AvgOrderValue", "Tenure"];

const ARCHETYPES: [Archetype; 8] = [
    Archetype { name: "Champions", profile: [-1.0, 1.3, 1.3, 0.5, 0.5] },
    Archetype { name: "Loyal", profile: [-0.4, 0.6, 0.5, 0.0, 0.5] },
    Archetype { name: "Big spenders", profile: [0.0, -0.1, 0.6, 1.2, 0.0] },
    Archetype { name: "Promising", profile: [-0.6, -0.5, -0.5, -0.2, -1.2] },
    Archetype { name: "Mainstream", profile: [0.0, 0.0, 0.0, 0.0, 0.0] },
    Archetype { name: "Occasional", profile: [0.0, -0.5, -0.6, -0.4, 0.2] },
    Archetype { name: "At risk", profile: [0.7, 0.2, 0.2, 0.0, 0.6] },
    Archetype { name: "Lapsed", profile: [0.9, -0.7, -0.7, -0.3, 0.2] },
];

/// Names every cluster; the names are distinct and the same for the same averages.
pub(super) fn names(clusters: &Clusters) -> Vec<String> {
    let groups = clusters.profiles.len();
    if groups == 1 {
        return vec!["All customers".to_owned()];
    }
    let mut pairs: Vec<(f64, usize, usize)> = Vec::new();
    for cluster in 0..groups {
        for (archetype, shape) in ARCHETYPES.iter().enumerate() {
            if allowed(clusters, cluster, shape.name) {
                pairs.push((distance(clusters, cluster, shape), cluster, archetype));
            }
        }
    }
    pairs.sort_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));

    let mut names: Vec<Option<String>> = vec![None; groups];
    let mut used = [0_usize; ARCHETYPES.len()];
    for &(_, cluster, archetype) in &pairs {
        if names[cluster].is_none() && used[archetype] == 0 {
            used[archetype] = 1;
            names[cluster] = Some(ARCHETYPES[archetype].name.to_owned());
        }
    }
    // More clusters than names that fit: the nearest name again, with a number.
    for &(_, cluster, archetype) in &pairs {
        if names[cluster].is_none() {
            used[archetype] += 1;
            names[cluster] = Some(format!("{} {}", ARCHETYPES[archetype].name, used[archetype]));
        }
    }
    // Mainstream and Occasional have no condition, so every cluster was in a pair.
    names.into_iter().enumerate().map(|(i, name)| name.unwrap_or_else(|| format!("Cluster {i}"))).collect()
}

fn allowed(clusters: &Clusters, cluster: usize, name: &str) -> bool {
    let at = |feature: &str| clusters.standardised(cluster, feature);
    match name {
        "Champions" => rank(clusters, cluster, "Monetary") == 0 || rank(clusters, cluster, "Frequency") == 0,
        "Big spenders" => at("AvgOrderValue") > 0.0 && rank(clusters, cluster, "AvgOrderValue") < 2,
        "At risk" | "Lapsed" => at("Recency") > 0.0,
        "Promising" => at("Tenure") < 0.0 && at("Recency") <= 0.0,
        _ => true,
    }
}

/// Gives how many clusters have a higher mean.
fn rank(clusters: &Clusters, cluster: usize, feature: &str) -> usize {
    let own = clusters.standardised(cluster, feature);
    (0..clusters.profiles.len()).filter(|&other| clusters.standardised(other, feature) > own).count()
}

fn distance(clusters: &Clusters, cluster: usize, shape: &Archetype) -> f64 {
    AXES.iter().zip(shape.profile).map(|(feature, want)| (clusters.standardised(cluster, feature) - want).powi(2)).sum()
}
