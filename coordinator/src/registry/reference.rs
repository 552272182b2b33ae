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
}
