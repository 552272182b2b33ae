//! The choice of k.

/// What is known of one clustering.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    pub k: usize,
    /// Mean silhouette.
    pub silhouette: f64,
    /// Share of all rows in the smallest cluster.
    pub smallest_share: f64,
}

/// The candidate that was chosen, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Position among the candidates.
    pub index: usize,
    /// A sentence for people.
    pub reason: String,
}

/// Chooses the candidate of best silhouette (the smaller k of equals) among those whose smallest cluster holds at least
/// `min_share` of all rows; if there is none, the best of all, and the reason says so. None if there is no candidate.
#[must_use]
pub fn choose(candidates: &[Candidate], min_share: f64) -> Option<Choice> {
    let best = |eligible: &dyn Fn(&Candidate) -> bool| {
        (0..candidates.len()).filter(|&i| eligible(&candidates[i])).reduce(|best, i| {
            let (held, next) = (&candidates[best], &candidates[i]);
            let better = next.silhouette.total_cmp(&held.silhouette).then(held.k.cmp(&next.k)).is_gt();
            if better { i } else { best }
        })
    };
    let of_all = best(&|_| true)?;
    let say = |index: usize| {
        format!("k = {} has the best silhouette ({:.4})", candidates[index].k, candidates[index].silhouette)
    };
    let least = min_share * 100.0;
    let Some(index) = best(&|candidate| candidate.smallest_share >= min_share) else {
        let reason = format!(
            "{}; no k leaves at least {least}% of the rows in its smallest cluster, so that rule was dropped",
            say(of_all)
        );
        return Some(Choice { index: of_all, reason });
    };
    let reason = if min_share <= 0.0 {
        say(index)
    } else if index == of_all {
        format!("{}, and its smallest cluster holds at least {least}% of the rows", say(index))
    } else {
        let passed = &candidates[of_all];
        format!(
            "{} among those whose smallest cluster holds at least {least}% of the rows; k = {} scores {:.4}, but its smallest cluster holds {:.2}%",
            say(index),
            passed.k,
            passed.silhouette,
            passed.smallest_share * 100.0
        )
    };
    Some(Choice { index, reason })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const CANDIDATES: [Candidate; 3] = [
        Candidate { k: 2, silhouette: 0.9159, smallest_share: 8.0 / 4338.0 },
        Candidate { k: 3, silhouette: 0.27, smallest_share: 0.22 },
        Candidate { k: 4, silhouette: 0.27, smallest_share: 0.1 },
    ];

    #[test]
    fn without_a_least_share_the_best_silhouette_wins() {
        let choice = choose(&CANDIDATES, 0.0).unwrap();
        assert_eq!(choice.index, 0);
        assert_eq!(choice.reason, "k = 2 has the best silhouette (0.9159)");
    }

    #[test]
    fn a_cluster_of_eight_customers_is_passed_over_and_the_smaller_k_wins_a_tie() {
        let choice = choose(&CANDIDATES, 0.05).unwrap();
        assert_eq!(choice.index, 1);
        assert!(
            choice.reason.contains("k = 2 scores 0.9159, but its smallest cluster holds 0.18%"),
            "{}",
            choice.reason
        );
    }

    #[test]
    fn when_none_is_eligible_the_best_of_all_is_taken_and_said() {
        let choice = choose(&CANDIDATES, 0.5).unwrap();
        assert_eq!(choice.index, 0);
        assert!(choice.reason.contains("no k leaves at least 50%"), "{}", choice.reason);
        assert_eq!(choose(&[], 0.5), None);
    }
}
