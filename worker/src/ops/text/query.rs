//! Searches an embedding for what is near to any text.

use std::{path::Path, sync::atomic::AtomicBool};

use serde::Serialize;

use super::{Target, load, refused};
use crate::{
    kernels::similar,
    ops::{OpError, arrays, tables},
};

/// A text found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hit {
    pub text: String,
    /// Where the index has one.
    pub stock_code: Option<String>,
    /// In [-1, 1].
    pub cosine: f64,
}

/// Embeds `query` and gives the `k` nearest texts, nearest first. `vectors` and `index` are the outputs of `text.embed`.
///
/// # Errors
/// Class `user` for an empty query, `data` if the files do not belong together, `infra` if the model is not to be found.
pub fn nearest(query: &str, vectors: &Path, index: &Path, k: usize) -> Result<Vec<Hit>, OpError> {
    if query.trim().is_empty() {
        return Err(OpError::user("the text to search for is empty"));
    }
    let vectors = arrays::read::<f32>(vectors)?;
    let index = tables::read(index)?;
    let texts = tables::texts(&index, "Text")?;
    let codes = index.column("StockCode").is_ok().then(|| tables::texts(&index, "StockCode")).transpose()?;
    let model = load(None, Target::Cpu)?.model;
    // Trimmed as the texts of `retail.clean` are.
    let embedded = model.embed(&[query.trim()], &AtomicBool::new(false), &mut |_, _| {}).map_err(refused)?;
    let found = similar::nearest_to(embedded.vectors.row(0), vectors.view(), &texts, k).map_err(refused)?;
    let hit = |found: similar::Neighbour| Hit {
        text: texts[found.row].clone(),
        stock_code: codes.as_ref().map(|codes| codes[found.row].clone()),
        cosine: f64::from(found.cosine),
    };
    Ok(found.into_iter().map(hit).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use polars::prelude::*;
    use segue_proto::failure::FailureClass;

    use super::*;
    use crate::ops::text::{
        embed::Embed,
        testing::{Attempt, model_is_here},
    };

    #[test]
    fn any_text_finds_the_products_nearest_to_it() {
        if !model_is_here() {
            return;
        }
        let mut attempt = Attempt::new(&Embed);
        let texts = ["PARTY BUNTING", "RED HANGING HEART T-LIGHT HOLDER", "ALARM CLOCK BAKELIKE GREEN"];
        attempt.table("texts", df!("Description" => texts, "StockCode" => ["1", "2", "3"]).unwrap());
        let context = attempt.run(&Embed).unwrap();
        let (vectors, index) = (context.output("vectors"), context.output("index"));
        let hits = nearest(" a candle holder ", &vectors, &index, 2).unwrap();
        assert_eq!(hits.len(), 2);
        assert_eq!((hits[0].text.as_str(), hits[0].stock_code.as_deref()), (texts[1], Some("2")));
        assert!(hits[0].cosine > hits[1].cosine);
        let same = nearest("PARTY BUNTING", &vectors, &index, 1).unwrap();
        assert!((same[0].cosine - 1.0).abs() < 1e-5, "{same:?}");
        assert_eq!(nearest(" ", &vectors, &index, 1).unwrap_err().0.class, FailureClass::User);
    }
}
