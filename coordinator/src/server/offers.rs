//! Which operators a pipeline may use, and in which version: what the connected workers offer.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

use segue_proto::operator::{Catalogue, OperatorSpec};

/// Operators by the link of the worker that offers them.
#[derive(Debug, Default)]
pub struct Offers {
    links: BTreeMap<u64, Vec<OperatorSpec>>,
    /// Every operator that somebody has offered since this start, as it was offered last.
    seen: Catalogue,
}

impl Offers {
    /// Notes what the worker of a link offers.
    pub fn open(&mut self, link: u64, operators: Vec<OperatorSpec>) {
        operators.iter().cloned().for_each(|spec| self.seen.insert(spec));
        self.links.insert(link, operators);
    }

    /// Counts the operators that would be known if these were too.
    #[must_use]
    pub fn known_with(&self, operators: &[OperatorSpec]) -> usize {
        let names = operators.iter().chain(self.seen.iter()).map(|spec| spec.name.as_str());
        names.collect::<BTreeSet<_>>().len()
    }

    /// Forgets what the worker of a link offered.
    pub fn close(&mut self, link: u64) {
        self.links.remove(&link);
    }

    /// Gives one version of every operator: the newest that a connected worker offers, so that a rolling upgrade binds new
    /// runs to what is there to stay and an old worker that comes back changes nothing. What nobody offers at the moment is
    /// as it was offered last: its tasks wait.
    #[must_use]
    pub fn catalogue(&self) -> Catalogue {
        let mut newest: BTreeMap<&str, &OperatorSpec> = BTreeMap::new();
        // Later links last, so that of equal versions the one that was said last counts.
        for spec in self.links.values().flatten() {
            let known = newest.entry(&spec.name).or_insert(spec);
            if by_age(&known.version, &spec.version) != Ordering::Greater {
                *known = spec;
            }
        }
        let gone = self.seen.iter().filter(|spec| !newest.contains_key(spec.name.as_str()));
        newest.values().copied().chain(gone).cloned().collect()
    }
}

/// Orders versions as people count them: 9 before 10, 1.2 before 1.10.
fn by_age(a: &str, b: &str) -> Ordering {
    let number = |part: &str| part.parse::<u64>().ok();
    let (mut left, mut right) = (a.split('.'), b.split('.'));
    loop {
        let order = match (left.next(), right.next()) {
            (None, None) => return a.cmp(b),
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(one), Some(other)) => match (number(one), number(other)) {
                (Some(one), Some(other)) => one.cmp(&other),
                _ => one.cmp(other),
            },
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(versions: &[&str]) -> Vec<OperatorSpec> {
        versions.iter().map(|version| OperatorSpec::new("text.embed", version, "")).collect()
    }

    fn bound(offers: &Offers) -> String {
        offers.catalogue().get("text.embed").map(|spec| spec.version.clone()).unwrap_or_default()
    }

    #[test]
    fn an_old_worker_that_comes_back_in_a_rolling_upgrade_changes_nothing() {
        let mut offers = Offers::default();
        offers.open(1, offer(&["9"]));
        offers.open(2, offer(&["10"]));
        offers.open(3, offer(&["9"]));
        assert_eq!(bound(&offers), "10");
        offers.close(2);
        assert_eq!(bound(&offers), "9", "after the last new one has gone, the old ones are what there is");
    }

    #[test]
    fn what_nobody_offers_any_more_is_still_known() {
        let mut offers = Offers::default();
        offers.open(1, offer(&["2"]));
        offers.close(1);
        assert_eq!(bound(&offers), "2");
    }

    #[test]
    fn an_operator_that_is_known_counts_once_in_whatever_version() {
        let mut offers = Offers::default();
        offers.open(1, offer(&["1"]));
        offers.close(1);
        assert_eq!(offers.known_with(&offer(&["2", "3"])), 1);
        assert_eq!(offers.known_with(&[OperatorSpec::new("text.split", "1", "")]), 2);
    }

    #[test]
    fn versions_are_ordered_as_people_count_them() {
        let ordered = ["", "1", "1.2", "1.10", "2", "10", "beta"];
        for (at, one) in ordered.iter().enumerate() {
            for (place, other) in ordered.iter().enumerate() {
                assert_eq!(by_age(one, other), at.cmp(&place), "{one} {other}");
            }
        }
    }
}
