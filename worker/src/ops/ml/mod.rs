//! Operators of machine learning: scaling, clustering, projections, registration.

mod features;
mod kmeans;
mod pca;
mod register;
mod scale;
#[cfg(test)]
mod testing;
mod tsne;

use super::Operator;

/// Gives the operators of this family.
#[must_use]
pub fn operators() -> Vec<Box<dyn Operator>> {
    vec![
        Box::new(scale::Scale),
        Box::new(kmeans::KMeans),
        Box::new(pca::Pca),
        Box::new(tsne::Tsne),
        Box::new(register::Register),
    ]
}
