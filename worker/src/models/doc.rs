//! The JSON document of a model artifact. Self-contained: a k-means model carries the scaler its centroids live in.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::kernels::buyers::{BgNbd, GammaGamma};

/// Name of this layout; another one is refused with a clear error.
pub const FORMAT: &str = "segue-model/1";

/// A model artifact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelDoc {
    /// Always [`FORMAT`].
    pub format: String,
    /// Numbers for people and for comparison with other versions.
    pub metrics: Map<String, Value>,
    /// How it was trained.
    pub params: Map<String, Value>,
    #[serde(flatten)]
    pub body: Body,
}

/// The model itself, by kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "model", rename_all = "lowercase")]
pub enum Body {
    Scaler(ScalerModel),
    KMeans(KMeansModel),
    Clv(ClvModel),
}

/// Applied before standardisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transform {
    None,
    /// ln(1 + x)
    Log1p,
}

/// `(transform(x) - mean) / scale` by column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScalerModel {
    /// Column names, in order.
    pub features: Vec<String>,
    pub transform: Transform,
    pub mean: Vec<f64>,
    /// Standard deviation with ddof 0; 1 where a column is constant.
    pub scale: Vec<f64>,
}

/// Centroids in scaled space.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KMeansModel {
    pub features: Vec<String>,
    /// k rows.
    pub centroids: Vec<Vec<f64>>,
    /// The scaler to apply first; absent: features are taken as they are.
    pub scaler: Option<ScalerModel>,
}

/// Gradient-boosted trees for customer lifetime value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClvModel {
    /// `holdout` (two stages: buys again, how much) or `in_sample` (one stage).
    pub mode: String,
    pub features: Vec<String>,
    /// What is predicted, with its unit, for example "spend in the next 90 days".
    pub target: String,
    /// XGBoost's own JSON text, kept byte for byte: probability of buying again. Only `holdout`.
    pub buys: Option<String>,
    /// XGBoost's own JSON text: spend (given that the customer buys, in `holdout`).
    pub spend: String,
    /// Applied to the output of `spend`: `none` or `expm1` (trained on ln(1 + spend)).
    pub spend_link: String,
    /// Multiplies the expected spend, so that predictions for the customers trained on add up; 1 where unused.
    pub calibration: f64,
    /// Those of `features` that `buys` takes, in order; empty: all of them.
    #[serde(default)]
    pub buys_features: Vec<String>,
    /// Column with the spend that the baseline expects, blended into the prediction by `baseline_weight`; absent: no blending.
    #[serde(default)]
    pub baseline_feature: Option<String>,
    /// `w` of `calibration * (probability * spend)^(1 - w) * baseline^w`, from 0 to 1.
    #[serde(default)]
    pub baseline_weight: f64,
    /// The baseline behind the features of the scored table, for the record. Only `holdout`.
    #[serde(default)]
    pub baseline: Option<BaselineModel>,
}

/// BG/NBD and Gamma-Gamma with times in days.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BaselineModel {
    pub purchases: BgNbd,
    pub spend: GammaGamma,
    /// Days that the expectation covers.
    pub horizon_days: u32,
}

impl ModelDoc {
    /// Makes a document.
    #[must_use]
    pub fn new(body: Body, params: Map<String, Value>, metrics: Map<String, Value>) -> Self {
        Self { format: FORMAT.to_owned(), metrics, params, body }
    }

    /// Names the kind.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self.body {
            Body::Scaler(_) => "scaler",
            Body::KMeans(_) => "kmeans",
            Body::Clv(_) => "clv",
        }
    }

    /// Gives the features it takes, in order.
    #[must_use]
    pub fn features(&self) -> &[String] {
        match &self.body {
            Body::Scaler(model) => &model.features,
            Body::KMeans(model) => &model.features,
            Body::Clv(model) => &model.features,
        }
    }

    /// Reads a document and checks its layout.
    ///
    /// # Errors
    /// Says what is wrong with the bytes: not JSON, another format, missing fields.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let doc: Self = serde_json::from_slice(bytes).map_err(|e| format!("not a Segue model document: {e}"))?;
        if doc.format != FORMAT {
            return Err(format!("model document of format `{}`; this version reads `{FORMAT}`", doc.format));
        }
        Ok(doc)
    }

    /// Writes the document.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }
}
