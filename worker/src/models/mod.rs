//! Model documents: what a model artifact holds, how it is exported, how it scores new customers.

pub mod doc;

pub use doc::{ClvModel, KMeansModel, ModelDoc, ScalerModel, Transform};
