//! Model documents: what a model artifact holds, how it is exported, how it scores new customers.

pub mod doc;
pub mod export;
pub mod predict;
pub mod scorer;

pub use doc::{BaselineModel, ClvModel, KMeansModel, ModelDoc, ScalerModel, Transform};
