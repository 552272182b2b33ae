//! Writes models as files that other programs read: XGBoost's own formats, NumPy archives, and a manifest in JSON.

use std::{
    fs,
    io::{Cursor, Write},
    path::{Path, PathBuf},
};

use ndarray::{Array1, Array2};
use ndarray_npy::NpzWriter;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::doc::{Body, ClvModel, KMeansModel, ModelDoc, ScalerModel, Transform};
use crate::{kernels::boost::Model, ops::OpError};

/// Name of the manifest's layout.
const FORMAT: &str = "segue-export/1";

/// A file to be written.
struct Export {
    /// After `<name>-<version>`, for example `.spend.json`.
    suffix: String,
    format: &'static str,
    content: &'static str,
    bytes: Vec<u8>,
}

/// Writes a model version into `dir`, which is made if it is not there, and gives the paths, the manifest last.
///
/// CLV: `<name>-<version>.spend.ubj` and `.json`, and the same with `buys` for the first stage; scaler and k-means:
/// `<name>-<version>.npz`; always `<name>-<version>.manifest.json` with features in order, formula, checksums, metrics, parameters,
/// signature and `registry_facts` as lineage. A file that is there already with the same bytes is left alone.
///
/// # Errors
/// Class `user` if a file of that name has other content (nothing is written then) or the name cannot be a file's; class `data` if the
/// model is damaged; class `infra` if the disk refuses.
pub fn export(
    name: &str,
    version: u32,
    doc: &ModelDoc,
    registry_facts: Value,
    dir: &Path,
) -> Result<Vec<PathBuf>, OpError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        return Err(
            OpError::user(format!("model name `{name}` cannot be a file name")).hint("use letters, digits, `-`, `_`")
        );
    }
    let stem = format!("{name}-{version}");
    let mut files = match &doc.body {
        Body::Scaler(model) => vec![npz("mean, scale (k,), log1p (1 or 0)", &scaler_arrays(model), None)?],
        Body::KMeans(model) => vec![k_means(model)?],
        Body::Clv(model) => clv(model)?,
    };
    let manifest = manifest(name, version, &stem, doc, registry_facts, &files)?;
    files.push(Export { suffix: ".manifest.json".into(), format: "json", content: "manifest", bytes: manifest });
    fs::create_dir_all(dir).map_err(|e| OpError::infra(format!("cannot make {}: {e}", dir.display())))?;
    write(&stem, &files, dir)
}

fn write(stem: &str, files: &[Export], dir: &Path) -> Result<Vec<PathBuf>, OpError> {
    let mut written = Vec::with_capacity(files.len());
    let mut absent = Vec::new();
    for file in files {
        let path = dir.join(format!("{stem}{}", file.suffix));
        match fs::read(&path) {
            Ok(there) if there == file.bytes => {}
            Ok(_) => {
                return Err(OpError::user(format!("{} exists with other content", path.display()))
                    .hint("export to another directory, or remove the file"));
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => absent.push((path.clone(), &file.bytes)),
            Err(e) => return Err(OpError::infra(format!("cannot look at {}: {e}", path.display()))),
        }
        written.push(path);
    }
    for (path, bytes) in absent {
        // `create_new`: what somebody else made in the meantime is not overwritten either.
        let result =
            fs::OpenOptions::new().write(true).create_new(true).open(&path).and_then(|mut f| f.write_all(bytes));
        result.map_err(|e| OpError::infra(format!("cannot write {}: {e}", path.display())))?;
    }
    Ok(written)
}

fn clv(model: &ClvModel) -> Result<Vec<Export>, OpError> {
    let mut files = Vec::new();
    let stages = [("buys", "probability of buying", model.buys.as_ref()), ("spend", "spend", Some(&model.spend))];
    for (stage, content, text) in stages {
        let Some(text) = text else { continue };
        let trees =
            Model::from_json(text).map_err(|e| OpError::data(format!("the trees of `{stage}` are damaged: {e}")))?;
        files.push(Export { suffix: format!(".{stage}.ubj"), format: "xgboost-ubj", content, bytes: ubj(&trees)? });
        files.push(Export {
            suffix: format!(".{stage}.json"),
            format: "xgboost-json",
            content,
            bytes: trees.json().as_bytes().to_vec(),
        });
    }
    Ok(files)
}

/// Gives XGBoost's binary JSON. The binding gives it only as a file.
fn ubj(trees: &Model) -> Result<Vec<u8>, OpError> {
    let path = scratch_file();
    let saved = trees.save(&path).map_err(|e| OpError::infra(format!("cannot write {}: {e}", path.display())));
    let bytes = saved
        .and_then(|()| fs::read(&path).map_err(|e| OpError::infra(format!("cannot read {}: {e}", path.display()))));
    let _ = fs::remove_file(&path); // Absent where saving failed.
    bytes
}

/// Names a file that no other export of this or another process uses.
fn scratch_file() -> PathBuf {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("segue-export-{}-{number}.ubj", std::process::id()))
}

fn k_means(model: &KMeansModel) -> Result<Export, OpError> {
    let width = model.features.len();
    let flat: Vec<f64> = model.centroids.iter().flatten().copied().collect();
    let centroids = Array2::from_shape_vec((model.centroids.len(), width), flat)
        .map_err(|_| OpError::data("the k-means model is damaged: centroids and features do not fit"))?;
    let arrays = model.scaler.as_ref().map(scaler_arrays).unwrap_or_default();
    npz("centroids (k, d); with a scaler: mean, scale (d,), log1p (1 or 0)", &arrays, Some(&centroids))
}

fn scaler_arrays(model: &ScalerModel) -> Vec<(&'static str, Array1<f64>)> {
    let log1p = f64::from(u8::from(model.transform == Transform::Log1p));
    vec![("mean", model.mean.clone().into()), ("scale", model.scale.clone().into()), ("log1p", vec![log1p].into())]
}

fn npz(
    content: &'static str,
    arrays: &[(&'static str, Array1<f64>)],
    centroids: Option<&Array2<f64>>,
) -> Result<Export, OpError> {
    let failed = |e: &dyn std::fmt::Display| OpError::infra(format!("cannot make the npz archive: {e}"));
    let mut bytes = Vec::new();
    let mut archive = NpzWriter::new(Cursor::new(&mut bytes));
    if let Some(centroids) = centroids {
        archive.add_array("centroids", centroids).map_err(|e| failed(&e))?;
    }
    for (name, array) in arrays {
        archive.add_array(*name, array).map_err(|e| failed(&e))?;
    }
    archive.finish().map_err(|e| failed(&e))?;
    Ok(Export { suffix: ".npz".into(), format: "npz", content, bytes })
}

fn manifest(
    name: &str,
    version: u32,
    stem: &str,
    doc: &ModelDoc,
    registry_facts: Value,
    files: &[Export],
) -> Result<Vec<u8>, OpError> {
    let listed: Vec<Value> = files
        .iter()
        .map(|file| {
            let sum: String = Sha256::digest(&file.bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            json!({
                "file": format!("{stem}{}", file.suffix),
                "format": file.format,
                "content": file.content,
                "sha256": sum,
                "bytes": file.bytes.len(),
            })
        })
        .collect();
    let number = |name: &str| json!({"name": name, "type": "double"});
    let inputs: Vec<Value> = doc.features().iter().map(|name| number(name)).collect();
    let (outputs, model) = match &doc.body {
        Body::Scaler(scaler) => (inputs.clone(), scaler_facts(scaler)),
        Body::KMeans(k_means) => (
            vec![json!({"name": "Cluster", "type": "long"}), number("Distance")],
            json!({
                "formula": "the centroid nearest to the scaled features by Euclidean distance; the first of equals",
                "scaler": k_means.scaler.as_ref().map(scaler_facts),
            }),
        ),
        Body::Clv(clv) => {
            let mut outputs = vec![number("Predicted")];
            outputs.extend(clv.buys.as_ref().map(|_| number("ProbabilityBuys")));
            (outputs, clv_facts(clv))
        }
    };
    let manifest = json!({
        "format": FORMAT,
        "name": name,
        "version": version,
        "kind": doc.kind(),
        "features": doc.features(),
        "model": model,
        "signature": {"inputs": inputs, "outputs": outputs},
        "files": listed,
        "metrics": doc.metrics,
        "params": doc.params,
        "lineage": registry_facts,
    });
    let mut bytes =
        serde_json::to_vec_pretty(&manifest).map_err(|e| OpError::infra(format!("cannot write the manifest: {e}")))?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn scaler_facts(scaler: &ScalerModel) -> Value {
    json!({
        "formula": "(transform(x) - mean) / scale",
        "transform": scaler.transform,
        "features": scaler.features,
    })
}

fn clv_facts(clv: &ClvModel) -> Value {
    let buys = if clv.buys_features.is_empty() { &clv.features } else { &clv.buys_features };
    let formula = match (&clv.buys, clv.baseline_weight > 0.0) {
        (None, _) => "calibration * link(spend)",
        (Some(_), false) => "calibration * buys * link(spend)",
        (Some(_), true) => {
            "calibration * (buys * link(spend)) ** (1 - baseline_weight) * baseline_feature ** baseline_weight"
        }
    };
    json!({
        "mode": clv.mode,
        "target": clv.target,
        "formula": formula,
        "missing": "NaN",
        "buys_features": clv.buys.as_ref().map(|_| buys),
        "spend_features": clv.features,
        "link": clv.spend_link,
        "calibration": clv.calibration,
        "baseline_feature": clv.baseline_feature,
        "baseline_weight": clv.baseline_weight,
        "baseline": clv.baseline,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::ops::ControlFlow;

    use ndarray_npy::NpzReader;
    use serde_json::Map;

    use super::*;
    use crate::kernels::boost::{Objective, Settings};

    fn doc(body: Body) -> ModelDoc {
        let metrics = json!({"mae": 1.5}).as_object().cloned().unwrap();
        ModelDoc::new(body, Map::new(), metrics)
    }

    fn k_means_doc() -> ModelDoc {
        let scaler = ScalerModel {
            features: vec!["A".into(), "B".into()],
            transform: Transform::Log1p,
            mean: vec![1.0, 2.0],
            scale: vec![3.0, 4.0],
        };
        doc(Body::KMeans(KMeansModel {
            features: scaler.features.clone(),
            centroids: vec![vec![0.0, 1.0], vec![2.0, 3.0], vec![4.0, 5.0]],
            scaler: Some(scaler),
        }))
    }

    fn clv_doc() -> ModelDoc {
        let matrix = Array2::from_shape_fn((80, 2), |(i, j)| if j == 0 { i as f64 } else { (i * 7 % 11) as f64 });
        let spent: Vec<f64> = (0..80).map(|i| 5.0 + f64::from(i)).collect();
        let settings = Settings::new(Objective::Gamma, 10, 0.3, 3, 1);
        let trees = Model::train(&settings, matrix.view(), &spent, &mut |_| ControlFlow::Continue(())).unwrap();
        doc(Body::Clv(ClvModel {
            mode: "in_sample".into(),
            features: vec!["A".into(), "B".into()],
            target: "Monetary".into(),
            buys: None,
            spend: trees.json().to_owned(),
            spend_link: "none".into(),
            calibration: 1.0,
            buys_features: Vec::new(),
            baseline_feature: None,
            baseline_weight: 0.0,
            baseline: None,
        }))
    }

    fn names(paths: &[PathBuf]) -> Vec<String> {
        paths.iter().map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn k_means_becomes_an_npz_with_its_scaler_and_a_manifest_whose_checksum_is_right() {
        let dir = tempfile::tempdir().unwrap();
        let paths = export("customer-kmeans", 3, &k_means_doc(), json!({"run": "run_1"}), dir.path()).unwrap();
        assert_eq!(names(&paths), ["customer-kmeans-3.npz", "customer-kmeans-3.manifest.json"]);
        let mut archive = NpzReader::new(fs::File::open(&paths[0]).unwrap()).unwrap();
        let centroids: Array2<f64> = archive.by_name("centroids").unwrap();
        assert_eq!(centroids.dim(), (3, 2));
        assert_eq!(centroids[[2, 0]], 4.0);
        let scale: Array1<f64> = archive.by_name("scale").unwrap();
        assert_eq!(scale.to_vec(), [3.0, 4.0]);
        let manifest: Value = serde_json::from_slice(&fs::read(&paths[1]).unwrap()).unwrap();
        let sum: String =
            Sha256::digest(fs::read(&paths[0]).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(manifest["files"][0]["sha256"], json!(sum));
        assert_eq!(manifest["features"], json!(["A", "B"]));
        assert_eq!(manifest["lineage"]["run"], json!("run_1"));
        assert_eq!(manifest["metrics"]["mae"], json!(1.5));
    }

    #[test]
    fn a_clv_model_becomes_the_text_it_was_stored_as_and_its_binary_twin() {
        let dir = tempfile::tempdir().unwrap();
        let doc = clv_doc();
        let paths = export("clv", 1, &doc, Value::Null, dir.path()).unwrap();
        assert_eq!(names(&paths), ["clv-1.spend.ubj", "clv-1.spend.json", "clv-1.manifest.json"]);
        let Body::Clv(model) = &doc.body else { panic!("another kind") };
        assert_eq!(fs::read_to_string(&paths[1]).unwrap(), model.spend);
        assert!(fs::read(&paths[0]).unwrap().starts_with(b"{"));
    }

    #[test]
    fn exporting_again_changes_nothing_and_other_content_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let paths = export("clv", 1, &clv_doc(), Value::Null, dir.path()).unwrap();
        assert_eq!(export("clv", 1, &clv_doc(), Value::Null, dir.path()).unwrap(), paths);
        fs::write(&paths[1], "mine").unwrap();
        fs::remove_file(&paths[0]).unwrap();
        let error = export("clv", 1, &clv_doc(), Value::Null, dir.path()).unwrap_err();
        assert!(error.0.message.contains("clv-1.spend.json") && !error.0.hint.is_empty(), "{error}");
        assert_eq!(fs::read_to_string(&paths[1]).unwrap(), "mine");
        assert!(!paths[0].exists(), "nothing is written when one file is in the way");
    }

    #[test]
    fn a_name_that_leaves_the_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["../clv", "", ".hidden", "a/b"] {
            assert!(export(name, 1, &k_means_doc(), Value::Null, dir.path()).is_err(), "{name}");
        }
    }

    #[test]
    fn damaged_trees_are_an_error() {
        let mut doc = clv_doc();
        if let Body::Clv(model) = &mut doc.body {
            model.spend.truncate(100);
        }
        let dir = tempfile::tempdir().unwrap();
        assert!(export("clv", 1, &doc, Value::Null, dir.path()).unwrap_err().0.message.contains("spend"));
    }
}
