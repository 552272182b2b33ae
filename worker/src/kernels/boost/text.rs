//! Checks XGBoost's JSON text before XGBoost sees it, and reads the figures that the binding does not give.
//!
//! XGBoost trusts a model: a child, parent or feature index outside its array is followed into foreign memory, and a loop
//! in a tree is walked for ever. So each of them is checked, and each array has its full length.

use serde::{Deserialize, de::IgnoredAny};

use super::KernelError;

/// What is known of a checked text.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    /// Number of features.
    pub features: usize,
    /// Number of trees.
    pub trees: usize,
    /// Loss removed by all splits on each feature.
    pub gain: Vec<f64>,
}

#[derive(Deserialize)]
struct Text {
    learner: Learner,
    #[serde(rename = "version")]
    _version: Vec<u32>,
}

#[derive(Deserialize)]
struct Learner {
    gradient_booster: GradientBooster,
    learner_model_param: LearnerParam,
    objective: Objective,
}

#[derive(Deserialize)]
struct GradientBooster {
    name: String,
    model: Trees,
}

#[derive(Deserialize)]
struct Trees {
    gbtree_model_param: TreesParam,
    tree_info: Vec<i64>,
    trees: Vec<Tree>,
}

#[derive(Deserialize)]
struct TreesParam {
    num_trees: String,
    size_leaf_vector: String,
}

#[derive(Deserialize)]
struct LearnerParam {
    base_score: String,
    num_class: String,
    num_feature: String,
    #[serde(default)]
    num_target: Option<String>,
}

#[derive(Deserialize)]
struct Objective {
    name: String,
}

#[derive(Deserialize)]
struct Tree {
    id: usize,
    base_weights: Vec<f64>,
    default_left: Vec<u8>,
    left_children: Vec<i64>,
    right_children: Vec<i64>,
    parents: Vec<i64>,
    loss_changes: Vec<f64>,
    sum_hessian: Vec<f64>,
    split_conditions: Vec<f64>,
    split_indices: Vec<i64>,
    #[serde(default)]
    split_type: Vec<u8>,
    #[serde(default)]
    categories_nodes: Vec<IgnoredAny>,
    tree_param: TreeParam,
}

#[derive(Deserialize)]
struct TreeParam {
    num_nodes: String,
    num_feature: String,
    size_leaf_vector: String,
}

/// Objectives that this crate trains, as XGBoost names them.
const OBJECTIVES: [&str; 3] = ["reg:squarederror", "binary:logistic", "reg:gamma"];

/// More features than any table of customers has; bounds what a damaged text can make us allocate.
const MOST_FEATURES: usize = 1 << 16;

impl Layout {
    /// Checks a text of trees for one output.
    ///
    /// # Errors
    /// `Invalid` with the first fault.
    pub fn check(text: &str) -> Result<Self, KernelError> {
        let parsed: Text = serde_json::from_str(text).map_err(|e| bad(format!("{e}")))?;
        let Learner { gradient_booster, learner_model_param, objective } = parsed.learner;
        if gradient_booster.name != "gbtree" {
            return Err(bad(format!("booster `{}` instead of `gbtree`", gradient_booster.name)));
        }
        if !OBJECTIVES.contains(&objective.name.as_str()) {
            return Err(bad(format!("objective `{}`; known are {}", objective.name, OBJECTIVES.join(", "))));
        }
        let features = number(&learner_model_param.num_feature, "num_feature")?;
        if features == 0 || features > MOST_FEATURES {
            return Err(bad(format!("{features} features")));
        }
        let base: f32 = learner_model_param.base_score.parse().map_err(|_| bad("base_score is not a number".into()))?;
        let single = learner_model_param.num_target.as_deref().is_none_or(|n| n == "1");
        if !base.is_finite() || learner_model_param.num_class != "0" || !single {
            return Err(bad("only a single output with a finite base_score is read".into()));
        }
        let Trees { gbtree_model_param, tree_info, trees } = gradient_booster.model;
        let count = number(&gbtree_model_param.num_trees, "num_trees")?;
        if count != trees.len() || tree_info.len() != count || tree_info.iter().any(|&group| group != 0) {
            return Err(bad(format!("{count} trees announced, {} there", trees.len())));
        }
        if gbtree_model_param.size_leaf_vector != "0" {
            return Err(bad("vector leaves".into()));
        }
        let mut gain = vec![0.0; features];
        for (index, tree) in trees.iter().enumerate() {
            let fault = |what: &str| bad(format!("tree {index}: {what}"));
            if tree.id != index {
                return Err(fault("its id is not its position"));
            }
            tree.check(features).map_err(|what| fault(&what))?;
            for (node, &left) in tree.left_children.iter().enumerate() {
                if left >= 0 {
                    // Checked above: splits of reachable nodes are on known features.
                    if let Some(total) = usize::try_from(tree.split_indices[node]).ok().and_then(|i| gain.get_mut(i)) {
                        *total += tree.loss_changes[node];
                    }
                }
            }
        }
        Ok(Self { features, trees: count, gain })
    }
}

impl Tree {
    fn check(&self, features: usize) -> Result<(), String> {
        let nodes = self.left_children.len();
        let lengths = [
            self.base_weights.len(),
            self.default_left.len(),
            self.right_children.len(),
            self.parents.len(),
            self.loss_changes.len(),
            self.sum_hessian.len(),
            self.split_conditions.len(),
            self.split_indices.len(),
        ];
        if nodes == 0 || lengths.iter().any(|&n| n != nodes) || self.tree_param.num_nodes != nodes.to_string() {
            return Err("its arrays differ in length".into());
        }
        if self.tree_param.num_feature != features.to_string() || self.tree_param.size_leaf_vector != "0" {
            return Err("it was made for other features".into());
        }
        let categorical = self.split_type.iter().any(|&t| t != 0) || !self.categories_nodes.is_empty();
        if categorical || !(self.split_type.is_empty() || self.split_type.len() == nodes) {
            return Err("it splits on categories".into());
        }
        let inside = |i: i64| usize::try_from(i).ok().filter(|&i| i < nodes);
        if self.parents.iter().skip(1).any(|&p| inside(p).is_none()) {
            return Err("a parent is not in the tree".into());
        }
        let mut seen = vec![false; nodes];
        let mut open = vec![0];
        while let Some(node) = open.pop() {
            if std::mem::replace(&mut seen[node], true) {
                return Err(format!("node {node} is reached twice"));
            }
            match (self.left_children[node], self.right_children[node]) {
                (-1, -1) => {}
                (left, right) => {
                    let split = usize::try_from(self.split_indices[node]).ok().filter(|&i| i < features);
                    let (Some(left), Some(right), Some(_)) = (inside(left), inside(right), split) else {
                        return Err(format!("node {node} points outside"));
                    };
                    open.extend([left, right]);
                }
            }
        }
        Ok(())
    }
}

fn number(text: &str, name: &str) -> Result<usize, KernelError> {
    text.parse().map_err(|_| bad(format!("{name} is `{text}`")))
}

fn bad(what: String) -> KernelError {
    KernelError::Invalid(format!("not a usable XGBoost model: {what}"))
}
