//! Fuzz targets: any bytes, handed to the code that such bytes reach in a running Segue.
//!
//! A target takes bytes and panics where a rule is broken. `make fuzz` builds each as a program of libFuzzer, which looks for
//! such bytes; the test of this package hands every target its corpus.

pub mod honest;
pub mod rules;
pub mod scratch;
pub mod targets;

pub use targets::{TARGETS, Target};
