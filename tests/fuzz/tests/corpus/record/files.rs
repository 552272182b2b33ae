//! Files of people: pipelines, CSV files, models.

use std::{collections::HashMap, io::Write as _, ops::ControlFlow, path::Path};

use candle_core::{Device, Tensor};
use ndarray::{Array2, array};
use polars::prelude::{ParquetWriter, df};
use segue_worker::{
    kernels::boost::{Model, Objective, Settings},
    models::{ClvModel, KMeansModel, ModelDoc, ScalerModel, Transform, doc::Body},
    ops::{Context, arrays},
};
use serde_json::{Map, json};

use super::{Seed, seed};

/// Pipelines that are good and large; the small and the bad ones are read where they are.
pub fn pipelines() -> Vec<Seed> {
    let from_here = |path: &str| std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)).unwrap();
    vec![
        seed("every-key.toml", from_here("coordinator/src/spec/tests/everything.toml")),
        seed("segmentation.toml", from_here("pipelines/customer-segmentation.toml")),
    ]
}

const HEADER: &str = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n";

fn lines(lines: &[&str]) -> String {
    HEADER.to_owned() + &lines.concat()
}

pub fn csv() -> Vec<Seed> {
    let good = lines(&[
        "536365,85123A,WHITE HANGING HEART T-LIGHT HOLDER,6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom\n",
        "536365,71053,\"WHITE METAL, LANTERN\",6,2010-12-01 08:26:00,3.39,17850,United Kingdom\n",
        "C536379,D,Discount,-1,2010-12-01 09:41:00,27.5,14527,United Kingdom\n",
        "536380,22961,JAM MAKING SET PRINTED,24,2010-12-02 09:41:00,1.45,,France\n",
    ]);
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gz.write_all(good.as_bytes()).unwrap();
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(good.as_bytes()).unwrap();
    let zstd = zstd::stream::encode_all(good.as_bytes(), 3).unwrap();
    let row = "536365,1,A,6,2010-12-01 08:26:00,2.55,17850,UK\n";
    let dates = ["1/12/2010 8:26", "12/31/2010 23:59", "31.12.2010", "2010-12-01T08:26:00Z", "0000-00-00", "9999999"];
    let dates: Vec<String> = dates.iter().map(|date| format!("1,1,A,1,{date},1,1,UK\n")).collect();
    let numbers = ["1e308", "-0", "NaN", "inf", "1,5", "99999999999999999999", "0x10", "1.", ".5", "+3"];
    let numbers: Vec<String> = numbers.iter().map(|n| format!("1,1,A,{n},2010-12-01,\"{n}\",1,UK\n")).collect();
    let features =
        "CustomerID,Recency,Frequency,Monetary,AvgOrderValue,Tenure,AvgBasketSize\n1,1,2,3.5,1.7,9,4\n2,3,1,9,9,3,1\n";
    vec![
        seed("order-lines", good.clone()),
        seed("gzip", gz.finish().unwrap()),
        seed("xz", xz.finish().unwrap()),
        seed("zstd", zstd),
        seed("empty", ""),
        seed("header-alone", HEADER),
        seed("blank-lines-first", format!("\r\n\n  \n{good}")),
        seed("dates", lines(&dates.iter().map(String::as_str).collect::<Vec<_>>())),
        seed("numbers", lines(&numbers.iter().map(String::as_str).collect::<Vec<_>>())),
        seed("windows", good.replace('\n', "\r\n")),
        seed("byte-order-mark", [&b"\xef\xbb\xbf"[..], good.as_bytes()].concat()),
        seed("latin", good.replace("JAM", "CAF\u{e9}").chars().map(|c| c as u32 as u8).collect::<Vec<u8>>()),
        seed("wide-characters", good.replace("JAM", "日本 ﬀ e\u{301} 👩‍👧")),
        seed(
            "quotes",
            lines(&["1,1,\"a \"\"b\"\"\nc\",1,2010-12-01,1,1,UK\n", "2,1,\"open,1,2010-12-01,1,1,UK\n", row]),
        ),
        seed("ragged", lines(&["1,2\n", row, "1,2,3,4,5,6,7,8,9,10\n", ",,,,,,,\n"])),
        seed("no-last-newline", good.trim_end()),
        seed("same-line-twice", lines(&[row, row])),
        seed("semicolons", good.replace(',', ";")),
        seed("columns-twice", format!("CustomerID,{}{row}", HEADER)),
        seed("zero-bytes", good.replace("JAM", "J\0M")),
        seed("customers", features),
        seed("customers-twice", features.replace("\n2,", "\n1,")),
        seed("customers-that-are-no-numbers", features.replace("3.5", "much")),
    ]
}

fn doc(body: Body) -> Vec<u8> {
    let metrics = Map::from_iter([("mae".to_owned(), json!(1.5))]);
    ModelDoc::new(body, Map::new(), metrics).to_bytes()
}

fn trees(objective: Objective, columns: usize) -> String {
    let features = Array2::from_shape_fn((40, columns), |(i, j)| if j == 0 { i as f64 } else { (i * 7 % 11) as f64 });
    let target: Vec<f64> =
        (0..40).map(|i| if objective == Objective::Logistic { f64::from(i % 2) } else { 5.0 + f64::from(i) }).collect();
    let settings = Settings::new(objective, 2, 0.3, 2, 1);
    let model = Model::train(&settings, features.view(), &target, &mut |_| ControlFlow::Continue(())).unwrap();
    model.json().to_owned()
}

pub fn models() -> Vec<Seed> {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let scaler = ScalerModel {
        features: names(&["A", "B"]),
        transform: Transform::Log1p,
        mean: vec![1.0, 2.0],
        scale: vec![3.0, 4.0],
    };
    let kmeans = KMeansModel {
        features: names(&["B", "A"]),
        centroids: vec![vec![0.0, 1.0], vec![2.0, 3.0]],
        scaler: Some(scaler.clone()),
    };
    let clv = ClvModel {
        mode: "holdout".to_owned(),
        features: names(&["A", "B"]),
        target: "spend".to_owned(),
        buys: Some(trees(Objective::Logistic, 1)),
        spend: trees(Objective::Gamma, 2),
        spend_link: "expm1".to_owned(),
        calibration: 2.0,
        buys_features: names(&["A"]),
        baseline_feature: Some("B".to_owned()),
        baseline_weight: 0.5,
        baseline: None,
    };
    let dir = tempfile::tempdir().unwrap();
    let mut context = Context::new([].into(), dir.path().to_owned(), Map::new());
    arrays::write(&mut context, "f32", &array![[1.0f32, -2.5], [0.0, 1e-30]]).unwrap();
    arrays::write(&mut context, "f64", &array![[1.0f64], [2.0]]).unwrap();
    let written = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    let mut table = df!("CustomerID" => ["1", "2"], "Recency" => [1_i64, 2], "Monetary" => [1.5, 2.5]).unwrap();
    let mut parquet = Vec::new();
    ParquetWriter::new(&mut parquet).finish(&mut table).unwrap();
    let (weights, tokenizer, config) = embedding(dir.path());
    vec![
        seed("scaler.json", doc(Body::Scaler(scaler.clone()))),
        seed("kmeans.json", doc(Body::KMeans(kmeans.clone()))),
        seed("kmeans-without-scaler.json", doc(Body::KMeans(KMeansModel { scaler: None, ..kmeans }))),
        seed("clv.json", doc(Body::Clv(clv.clone()))),
        seed("trees.json", clv.spend),
        seed("trees-of-a-probability.json", clv.buys.unwrap_or_default()),
        seed("contradiction.json", doc(Body::Scaler(ScalerModel { mean: Vec::new(), ..scaler }))),
        seed("matrix-f32.npy", written("f32")),
        seed("matrix-f64.npy", written("f64")),
        seed("customers.parquet", parquet),
        seed("small.safetensors", weights),
        seed("small-tokenizer.json", tokenizer),
        seed("small-config.json", config),
    ]
}

/// A BERT of one layer with made-up weights.
fn embedding(dir: &Path) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "white", "heart", "##s"];
    let (hidden, inner, positions) = (16, 16, 16);
    let mut tensors: HashMap<String, Tensor> = HashMap::new();
    let mut add = |name: &str, shape: &[usize], center: f32| {
        let count = shape.iter().product::<usize>();
        let values: Vec<f32> = (0..count).map(|i| center + ((i * 37 % 19) as f32 - 9.0) / 50.0).collect();
        tensors.insert(name.to_owned(), Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
    };
    for (name, rows) in [("word", words.len()), ("position", positions), ("token_type", 2)] {
        add(&format!("embeddings.{name}_embeddings.weight"), &[rows, hidden], 0.0);
    }
    let dense = ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"];
    for name in dense.into_iter().chain(["intermediate.dense", "output.dense"]) {
        add(&format!("encoder.layer.0.{name}.weight"), &[hidden, inner], 0.0);
        add(&format!("encoder.layer.0.{name}.bias"), &[hidden], 0.0);
    }
    for name in ["embeddings", "encoder.layer.0.attention.output", "encoder.layer.0.output"] {
        add(&format!("{name}.LayerNorm.weight"), &[hidden], 1.0);
        add(&format!("{name}.LayerNorm.bias"), &[hidden], 0.0);
    }
    let path = dir.join("weights");
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let vocab: serde_json::Map<_, _> =
        words.iter().zip(0..).map(|(word, id)| ((*word).to_owned(), json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
                       "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": vocab},
    });
    let config = json!({
        "vocab_size": words.len(), "hidden_size": hidden, "num_hidden_layers": 1, "num_attention_heads": 1,
        "intermediate_size": inner, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
        "max_position_embeddings": positions, "type_vocab_size": 2, "initializer_range": 0.02, "layer_norm_eps": 1e-12,
        "pad_token_id": 0, "model_type": "bert",
    });
    (std::fs::read(path).unwrap(), tokenizer.to_string().into_bytes(), config.to_string().into_bytes())
}
