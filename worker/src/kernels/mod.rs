//! The numerics behind the operators: arrays in, arrays out, no I/O, no orchestration types.

pub mod boost;
pub mod buyers;
pub mod describe;
pub mod kmeans;
pub mod metrics;
pub mod pca;
pub mod scale;
pub mod sentence;
pub mod silhouette;
pub mod similar;
pub mod tsne;

/// Why a kernel refused its arguments or gave up.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum KernelError {
    #[error("{0}")]
    Shape(String),
    #[error("row {row}, column {column} is not finite")]
    NotFinite { row: usize, column: usize },
    #[error("{0}")]
    Invalid(String),
    #[error("stopped on request")]
    Cancelled,
    #[error("{0}")]
    Backend(String),
}
