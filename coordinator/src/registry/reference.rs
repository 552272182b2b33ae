//! How people name a model version: `name`, `name:3`, `name@champion`.

use std::str::FromStr;

use segue_proto::ids::{AliasName, ModelName};

use crate::store::Error;

/// A model, and which version of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    pub name: ModelName,
    pub pick: Pick,
}

/// Which version of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pick {
    Latest,
    Version(u32),
    Alias(AliasName),
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |reason: String| Error::Model {
            reason,
            hint: Some("write a model as `name`, `name:3` or `name@alias`".to_owned()),
        };
        let (name, pick) = if let Some((name, alias)) = text.split_once('@') {
            (name, Pick::Alias(alias.parse().map_err(|e: segue_proto::ids::BadId| bad(e.to_string()))?))
        } else if let Some((name, number)) = text.split_once(':') {
            let version = number.parse().ok().filter(|&version: &u32| version > 0);
            let shown: String = number.chars().take(20).collect();
            (
                name,
                Pick::Version(
                    version.ok_or_else(|| bad(format!("`{shown}` is not a version: versions count from 1")))?,
                ),
            )
        } else {
            (text, Pick::Latest)
        };
        let name = name.parse().map_err(|e: segue_proto::ids::BadId| bad(e.to_string()))?;
        Ok(Self { name, pick })
    }
}

/// Finds the candidate that is nearest to a name, if one is near enough to be a slip of the fingers: at most a third
/// of its letters differ.
pub(super) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (name.chars().count() / 3).max(1);
    candidates
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|&(distance, _)| distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Counts insertions, deletions and replacements of characters between two texts (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_reference_names_the_latest_a_number_or_an_alias() {
        let pick = |text: &str| text.parse::<Reference>().unwrap().pick;
        assert_eq!(pick("customer-clv"), Pick::Latest);
        assert_eq!(pick("customer-clv:3"), Pick::Version(3));
        assert_eq!(pick("customer-clv@champion"), Pick::Alias("champion".parse().unwrap()));
    }

    #[test]
    fn a_reference_that_cannot_be_read_says_how_to_write_one() {
        for text in ["", "Name", "a:0", "a:x", "a@", "a@3", "a@b:1", "a:99999999999"] {
            let error = text.parse::<Reference>().unwrap_err();
            assert!(error.hint().is_some_and(|hint| hint.contains("name@alias")), "{text}: {error}");
        }
    }

    #[test]
    fn the_nearest_name_is_a_slip_away_or_there_is_none() {
        let names = ["customer-clv", "customer-kmeans"];
        assert_eq!(nearest("custmer-clv", names.into_iter()), Some("customer-clv"));
        assert_eq!(nearest("weather", names.into_iter()), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
