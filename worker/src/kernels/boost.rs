//! Gradient-boosted trees: a safe, checked and repeatable way to XGBoost.
//!
//! The binding is used where it can be trusted. Its `train` ignores the number of rounds, its `from_dense` takes 0 for missing,
//! `load_buffer` believes any bytes, and a cloned `Booster` frees its handle twice: none of these is reached from outside here.

mod text;

use std::{ops::ControlFlow, path::Path};

use ndarray::ArrayView2;
use xgboost_rs::{
    Booster, DMatrix, XGBError,
    parameters::{
        BoosterParametersBuilder, BoosterType,
        learning::{LearningTaskParametersBuilder, Objective as XgbObjective},
        tree::{TreeBoosterParametersBuilder, TreeMethod},
    },
};

use super::KernelError;
pub use text::Layout;

/// What the trees learn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objective {
    /// The mean of a number, by squared error.
    SquaredError,
    /// The probability of a label of 1; labels are 0 or 1.
    Logistic,
    /// The mean of a positive, skewed number, through a log link.
    Gamma,
}

/// How to train. Same settings, same data, same model, byte for byte.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    pub objective: Objective,
    /// Number of trees, at least 1.
    pub rounds: u32,
    /// Shrinkage of each tree, above 0 and at most 1.
    pub learning_rate: f64,
    /// Levels of a tree, 1 to 16.
    pub max_depth: u32,
    /// Share of rows seen by a tree, above 0 and at most 1.
    pub row_share: f64,
    /// Share of columns seen by a tree, above 0 and at most 1.
    pub column_share: f64,
    /// Least weight of the rows in a leaf.
    pub min_child_weight: f64,
    /// L2 penalty of leaf values.
    pub lambda: f64,
    pub seed: u32,
    /// Threads, at least 1. A fixed number, never that of the machine: sums of another order could grow other trees.
    /// On some thousand rows one is fastest; train several models side by side instead.
    pub threads: u32,
}

impl Settings {
    /// Makes XGBoost's own defaults with the given size of the ensemble.
    #[must_use]
    pub const fn new(objective: Objective, rounds: u32, learning_rate: f64, max_depth: u32, seed: u32) -> Self {
        Self {
            objective,
            rounds,
            learning_rate,
            max_depth,
            row_share: 1.0,
            column_share: 1.0,
            min_child_weight: 1.0,
            lambda: 1.0,
            seed,
            threads: 1,
        }
    }

    fn check(&self) -> Result<(), KernelError> {
        let share = |v: f64| v > 0.0 && v <= 1.0;
        let faults = [
            (self.rounds >= 1, "rounds must be at least 1"),
            (share(self.learning_rate), "learning_rate must be above 0 and at most 1"),
            ((1..=16).contains(&self.max_depth), "max_depth must be 1 to 16"),
            (
                share(self.row_share) && share(self.column_share),
                "row_share and column_share must be above 0 and at most 1",
            ),
            (self.min_child_weight >= 0.0 && self.lambda >= 0.0, "min_child_weight and lambda must not be negative"),
            (self.seed <= i32::MAX as u32, "seed must fit in 31 bits"),
            (self.threads >= 1, "threads must be at least 1"),
        ];
        faults.iter().find(|(fine, _)| !fine).map_or(Ok(()), |(_, says)| Err(KernelError::Invalid((*says).into())))
    }
}

/// Trained trees.
pub struct Model {
    booster: Booster,
    layout: Layout,
    text: String,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("layout", &self.layout).finish_non_exhaustive()
    }
}

impl Model {
    /// Trains trees on `features` `(rows, columns)`, where NaN means missing, to predict `target` `(rows,)`.
    ///
    /// The first guess is the mean of the target (XGBoost 1.6 would start at 0.5). `tick` is told the number of rounds done after each
    /// one and may stop. Cost: `O(rounds * rows * columns)` with histograms of 256 bins. Deterministic for given settings.
    ///
    /// # Errors
    /// `Invalid` for settings out of range or a target that the objective cannot have, `Shape` if sizes differ or are zero,
    /// `NotFinite` for an infinite feature or a target that is not finite (column = number of columns), `Cancelled`, `Backend`.
    pub fn train(
        settings: &Settings,
        features: ArrayView2<'_, f64>,
        target: &[f64],
        tick: &mut dyn FnMut(u32) -> ControlFlow<()>,
    ) -> Result<Self, KernelError> {
        settings.check()?;
        if features.nrows() != target.len() || features.is_empty() {
            return Err(KernelError::Shape(format!(
                "{} x {} features for {} targets; the number of rows must agree, and nothing be 0",
                features.nrows(),
                features.ncols(),
                target.len()
            )));
        }
        let labels = labels(settings.objective, target, features.ncols())?;
        let mut matrix = dense(features, settings.threads)?;
        matrix.set_labels(&labels).map_err(backend)?;
        let mut booster = new_booster(settings, target, &matrix)?;
        for round in 0..settings.rounds {
            booster.update(&matrix, round as i32).map_err(backend)?;
            if tick(round + 1).is_break() {
                return Err(KernelError::Cancelled);
            }
        }
        // Read back from its text, so that a fresh model and a stored one are the same thing, free of the training data.
        let text = booster.save_to_buffer("json".into()).map_err(backend)?;
        Self::from_json(&text)
    }

    /// Reads XGBoost's JSON text. Every array of every tree is checked first, because XGBoost follows whatever indices it is given.
    ///
    /// # Errors
    /// `Invalid` with what is wrong with the text; `Backend` if XGBoost refuses it all the same.
    pub fn from_json(text: &str) -> Result<Self, KernelError> {
        // XGBoost tells JSON by a `{"` at the very start, and ends its own texts with a zero byte.
        let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
        let layout = Layout::check(text)?;
        let booster = Booster::load_buffer(text.as_bytes()).map_err(backend)?;
        Ok(Self { booster, layout, text: text.to_owned() })
    }

    /// Gives XGBoost's JSON text, which [`Model::from_json`] and every XGBoost from 1.3 on read.
    #[must_use]
    pub fn json(&self) -> &str {
        &self.text
    }

    /// Writes the model in the format of the file's extension, `json` or `ubj`. An existing file is replaced.
    ///
    /// # Errors
    /// `Invalid` for another extension, `Backend` if the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), KernelError> {
        match path.extension().and_then(|e| e.to_str()) {
            Some("json" | "ubj") => self.booster.save(path).map_err(backend),
            _ => Err(KernelError::Invalid(format!("{}: the extension must be .json or .ubj", path.display()))),
        }
    }

    /// Predicts `(rows,)` from `features` `(rows, columns)`, NaN meaning missing: a probability, or a number in the unit of the target.
    ///
    /// # Errors
    /// `Shape` if the number of columns is not that of the training, `NotFinite` for an infinite feature.
    pub fn predict(&self, features: ArrayView2<'_, f64>) -> Result<Vec<f64>, KernelError> {
        if features.ncols() != self.layout.features {
            return Err(KernelError::Shape(format!(
                "the model takes {} features, not {}",
                self.layout.features,
                features.ncols()
            )));
        }
        if features.nrows() == 0 {
            return Ok(Vec::new());
        }
        let matrix = dense(features, 1)?;
        let predicted = self.booster.predict(&matrix).map_err(backend)?;
        if predicted.len() != features.nrows() {
            return Err(KernelError::Backend(format!("{} predictions for {} rows", predicted.len(), features.nrows())));
        }
        Ok(predicted.into_iter().map(f64::from).collect())
    }

    /// Gives the number of features it takes.
    #[must_use]
    pub const fn features(&self) -> usize {
        self.layout.features
    }

    /// Gives for every feature its share of the loss removed by all splits ("total gain"); the shares add up to 1, or to 0 without splits.
    #[must_use]
    pub fn importance(&self) -> Vec<f64> {
        let total: f64 = self.layout.gain.iter().sum();
        self.layout.gain.iter().map(|g| if total > 0.0 { g / total } else { 0.0 }).collect()
    }
}

fn new_booster(settings: &Settings, target: &[f64], matrix: &DMatrix) -> Result<Booster, KernelError> {
    let mean = target.iter().sum::<f64>() / target.len() as f64;
    let (objective, base) = match settings.objective {
        Objective::SquaredError => (XgbObjective::RegSquaredError, mean),
        // A probability of 0 or 1 has no finite logit.
        Objective::Logistic => (XgbObjective::BinaryLogistic, mean.clamp(1e-6, 1.0 - 1e-6)),
        Objective::Gamma => (XgbObjective::RegGamma, mean.max(1e-6)),
    };
    let invalid = |e: &dyn std::fmt::Display| KernelError::Invalid(e.to_string());
    let tree = TreeBoosterParametersBuilder::default()
        .eta(settings.learning_rate as f32)
        .max_depth(settings.max_depth)
        .subsample(settings.row_share as f32)
        .colsample_bytree(settings.column_share as f32)
        .min_child_weight(settings.min_child_weight as f32)
        .lambda(settings.lambda as f32)
        .tree_method(TreeMethod::Hist)
        .build()
        .map_err(|e| invalid(&e))?;
    let learning = LearningTaskParametersBuilder::default()
        .objective(objective)
        .base_score(base as f32)
        .seed(u64::from(settings.seed))
        .build()
        .map_err(|e| invalid(&e))?;
    let parameters = BoosterParametersBuilder::default()
        .booster_type(BoosterType::Tree(tree))
        .learning_params(learning)
        .threads(Some(settings.threads))
        .build()
        .map_err(|e| invalid(&e))?;
    // Without the matrix XGBoost would not know the number of features.
    Booster::new_with_cached_dmats(&parameters, &[matrix]).map_err(backend)
}

fn labels(objective: Objective, target: &[f64], column: usize) -> Result<Vec<f32>, KernelError> {
    let allowed = |y: f64| match objective {
        Objective::SquaredError => true,
        Objective::Logistic => y == 0.0 || y == 1.0,
        Objective::Gamma => y > 0.0,
    };
    let mut labels = Vec::with_capacity(target.len());
    for (row, &y) in target.iter().enumerate() {
        if !(y as f32).is_finite() {
            return Err(KernelError::NotFinite { row, column });
        }
        if !allowed(y) {
            return Err(KernelError::Invalid(format!("target {y} of row {row} cannot be learnt by {objective:?}")));
        }
        labels.push(y as f32);
    }
    Ok(labels)
}

/// Copies features column by column into a matrix in which only NaN is missing.
fn dense(features: ArrayView2<'_, f64>, threads: u32) -> Result<DMatrix, KernelError> {
    let (rows, columns) = features.dim();
    let mut data = Vec::with_capacity(rows * columns);
    for (column, values) in features.columns().into_iter().enumerate() {
        for (row, &value) in values.iter().enumerate() {
            let value = value as f32;
            if value.is_infinite() {
                return Err(KernelError::NotFinite { row, column });
            }
            data.push(value);
        }
    }
    let cell = size_of::<f32>();
    DMatrix::from_col_major_f32(&data, cell, cell * rows, rows, columns, threads as i32, f32::NAN).map_err(backend)
}

/// Keeps what XGBoost says, without the clock, the place in its sources and the C++ stack trace around it.
fn backend(error: XGBError) -> KernelError {
    let text = error.to_string();
    let text = text.split("\nStack trace").next().unwrap_or_default();
    // "XGBoost error: [12:00:00] /path/learner.cc:652: what is wrong"
    let said = text.split_once("] ").and_then(|(_, rest)| rest.split_once(": ")).map_or(text, |(_, said)| said);
    KernelError::Backend(format!("XGBoost: {}", said.trim()))
}

#[cfg(test)]
mod tests;
