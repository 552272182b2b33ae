#![allow(clippy::unwrap_used)]

use std::{collections::HashMap, path::PathBuf};

use candle_core::Tensor;
use serde_json::json;

use super::*;

const WORDS: [&str; 12] =
    ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "white", "heart", "holder", "light", "tea", "##s", "party", "bunting"];

/// A BERT of two layers with made-up weights: enough to compare forward passes without the real model.
fn small_model() -> ModelBytes {
    let (vocabulary, hidden, inner, positions) = (WORDS.len(), 64, 96, 64);
    let mut tensors: HashMap<String, Tensor> = HashMap::new();
    let mut state = 7u64;
    let mut add = |name: String, shape: &[usize], center: f32| {
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                center + ((state >> 40) as f32 / 16_777_216.0 - 0.5) * 0.4
            })
            .collect();
        tensors.insert(name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
    };
    for (name, rows) in [("word", vocabulary), ("position", positions), ("token_type", 2)] {
        add(format!("embeddings.{name}_embeddings.weight"), &[rows, hidden], 0.0);
    }
    add("embeddings.LayerNorm.weight".into(), &[hidden], 1.0);
    add("embeddings.LayerNorm.bias".into(), &[hidden], 0.0);
    for layer in 0..2 {
        let mut dense = |name: &str, outputs: usize, inputs: usize| {
            add(format!("encoder.layer.{layer}.{name}.weight"), &[outputs, inputs], 0.0);
            add(format!("encoder.layer.{layer}.{name}.bias"), &[outputs], 0.0);
        };
        for name in ["query", "key", "value"] {
            dense(&format!("attention.self.{name}"), hidden, hidden);
        }
        dense("attention.output.dense", hidden, hidden);
        dense("intermediate.dense", inner, hidden);
        dense("output.dense", hidden, inner);
        for name in ["attention.output", "output"] {
            add(format!("encoder.layer.{layer}.{name}.LayerNorm.weight"), &[hidden], 1.0);
            add(format!("encoder.layer.{layer}.{name}.LayerNorm.bias"), &[hidden], 0.0);
        }
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    candle_core::safetensors::save(&tensors, file.path()).unwrap();
    let weights = std::fs::read(file.path()).unwrap();
    let vocab: HashMap<&str, usize> = WORDS.iter().enumerate().map(|(i, w)| (*w, i)).collect();
    let tokenizer = json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                    "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": [],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                       "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": vocab},
    });
    let config = json!({
        "vocab_size": vocabulary, "hidden_size": hidden, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": inner, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
        "max_position_embeddings": positions, "type_vocab_size": 2, "initializer_range": 0.02,
        "layer_norm_eps": 1e-12, "pad_token_id": 0, "model_type": "bert",
    });
    ModelBytes { weights, tokenizer: tokenizer.to_string().into_bytes(), config: config.to_string().into_bytes() }
}

/// The real model, where it has been fetched.
fn real_model() -> Option<ModelBytes> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))?;
    let dir =
        std::env::var_os("SEGUE_MODEL_DIR").map_or_else(|| cache.join("segue/models/all-MiniLM-L6-v2"), PathBuf::from);
    let read = |name: &str| std::fs::read(dir.join(name)).ok();
    let files = (read("model.safetensors"), read("tokenizer.json"), read("config.json"));
    let (Some(weights), Some(tokenizer), Some(config)) = files else {
        eprintln!("skipped: no embedding model in {}; `deploy/bootstrap.sh model` fetches it", dir.display());
        return None;
    };
    Some(ModelBytes { weights, tokenizer, config })
}

/// The same weights in candle's own BERT, on padded batches on the CPU.
fn reference(files: &ModelBytes) -> SentenceModel {
    let config = parse_config(&files.config).unwrap();
    let vars = VarBuilder::from_buffered_safetensors(files.weights.clone(), DType::F32, &Device::Cpu).unwrap();
    SentenceModel {
        tokenizer: load_tokenizer(&files.tokenizer, &config).unwrap(),
        encoder: Encoder::Padded(Padded::load(vars, &config).unwrap()),
        width: config.hidden_size,
        words: config.vocab_size,
    }
}

fn embed(model: &SentenceModel, texts: &[&str]) -> Array2<f32> {
    model.embed(texts, &AtomicBool::new(false), &mut |_, _| {}).unwrap().vectors
}

fn cosine(vectors: &Array2<f32>, i: usize, other: &Array2<f32>, j: usize) -> f64 {
    vectors.row(i).iter().zip(other.row(j)).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn assert_same_as_reference(files: ModelBytes, texts: &[&str]) {
    let expected = embed(&reference(&files), texts);
    let vectors = embed(&SentenceModel::load(files, &Device::Cpu).unwrap(), texts);
    for (i, text) in texts.iter().enumerate() {
        assert!((1.0 - cosine(&vectors, i, &expected, i)).abs() < 1e-5, "{text}");
        let furthest = vectors.row(i).iter().zip(expected.row(i)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(furthest < 1e-4, "{text}: {furthest}");
    }
}

#[test]
fn own_forward_pass_equals_candles_bert_on_made_up_weights() {
    let long = "party bunting white teas ".repeat(30);
    assert_same_as_reference(
        small_model(),
        &["", "white heart", "teas party bunting holder light tea", &long, "unseen"],
    );
}

#[test]
fn own_forward_pass_equals_candles_bert_on_the_real_weights() {
    let Some(files) = real_model() else { return };
    let long = "a glass star frosted t-light holder with a rather long description ".repeat(40);
    assert_same_as_reference(
        files,
        &["WHITE HANGING HEART T-LIGHT HOLDER", "PARTY BUNTING", "", "é £ 漢字", &long, "4"],
    );
}

#[test]
fn real_descriptions_have_the_published_cosines() {
    let Some(files) = real_model() else { return };
    let heart = [
        ("PINK HANGING HEART T-LIGHT HOLDER", 0.92248),
        ("RED HANGING HEART T-LIGHT HOLDER", 0.90128),
        ("HEART T-LIGHT HOLDER", 0.85536),
        ("CREAM HANGING HEART T-LIGHT HOLDER", 0.84654),
        ("HANGING HEART ZINC T-LIGHT HOLDER", 0.83564),
    ];
    let bunting = [
        ("TEA TIME PARTY BUNTING", 0.79099),
        ("PAPER BUNTING VINTAGE PARTY", 0.78800),
        ("CONGRATULATIONS BUNTING", 0.71873),
        ("VINTAGE CHRISTMAS BUNTING", 0.71751),
        ("BUNTING , SPOTTY", 0.70992),
    ];
    let model = SentenceModel::load(files, &Device::Cpu).unwrap();
    for (query, neighbours) in [("WHITE HANGING HEART T-LIGHT HOLDER", heart), ("PARTY BUNTING", bunting)] {
        let texts: Vec<&str> = std::iter::once(query).chain(neighbours.map(|(text, _)| text)).collect();
        let vectors = embed(&model, &texts);
        for (i, (text, expected)) in neighbours.iter().enumerate() {
            let found = cosine(&vectors, 0, &vectors, i + 1);
            assert!((found - expected).abs() < 1e-3, "{query} / {text}: {found} instead of {expected}");
        }
    }
}

#[test]
fn vectors_have_length_one_and_do_not_depend_on_the_company_of_a_text() {
    let model = SentenceModel::load(small_model(), &Device::Cpu).unwrap();
    let texts: Vec<String> = (0..300).map(|i| format!("{} {}", WORDS[4 + i % 8], WORDS[4 + i / 7 % 8])).collect();
    let together = model.embed(&texts, &AtomicBool::new(false), &mut |_, _| {}).unwrap();
    assert_eq!(together.vectors.dim(), (300, 64));
    for i in [0, 1, 150, 299] {
        let alone = embed(&model, &[&texts[i]]);
        assert!((cosine(&together.vectors, i, &alone, 0) - 1.0).abs() < 1e-5, "{i}");
    }
    assert_eq!(model.embed(&texts, &AtomicBool::new(false), &mut |_, _| {}).unwrap(), together);
}

#[test]
fn progress_reaches_the_number_of_texts_and_a_set_flag_cancels() {
    let model = SentenceModel::load(small_model(), &Device::Cpu).unwrap();
    let texts = vec!["white heart holder"; 500];
    let mut seen = Vec::new();
    model.embed(&texts, &AtomicBool::new(false), &mut |done, total| seen.push((done, total))).unwrap();
    assert!(seen.len() > 1 && seen.is_sorted(), "{seen:?}");
    assert_eq!(seen.last(), Some(&(500, 500)));
    assert_eq!(model.embed(&texts, &AtomicBool::new(true), &mut |_, _| {}), Err(KernelError::Cancelled));
}

#[test]
fn no_texts_give_an_empty_matrix() {
    let model = SentenceModel::load(small_model(), &Device::Cpu).unwrap();
    assert_eq!(embed(&model, &[]).dim(), (0, 64));
}

#[test]
fn corrupt_files_are_refused_by_name() {
    let whole = small_model();
    let refused = |files: ModelBytes, name: &str| match SentenceModel::load(files, &Device::Cpu) {
        Err(KernelError::Invalid(message)) => assert!(message.contains(name), "{message}"),
        other => panic!("{other:?}"),
    };
    for weights in [Vec::new(), vec![0xff; 64], whole.weights[..whole.weights.len() / 2].to_vec(), b"{}".to_vec()] {
        refused(ModelBytes { weights, ..whole.clone() }, "model.safetensors");
    }
    for tokenizer in [Vec::new(), b"{}".to_vec(), vec![0xff; 64]] {
        refused(ModelBytes { tokenizer, ..whole.clone() }, "tokenizer.json");
    }
    let text = String::from_utf8(whole.config.clone()).unwrap();
    for (from, to) in [
        ("\"vocab_size\":12", "\"vocab_size\":3"),
        ("\"num_attention_heads\":2", "\"num_attention_heads\":0"),
        ("\"num_hidden_layers\":2", "\"num_hidden_layers\":3"),
        ("gelu", "relu"),
    ] {
        let config = text.replace(from, to).into_bytes();
        assert_ne!(config, whole.config, "{from}");
        assert!(SentenceModel::load(ModelBytes { config, ..whole.clone() }, &Device::Cpu).is_err(), "{to}");
    }
}

#[test]
fn batches_hold_every_sequence_once_and_keep_their_budget() {
    let lengths = [3, 3, 200, 256, 256, 300, 600, 700];
    let batches = packed_batches(lengths.into_iter());
    assert_eq!(batches.iter().flat_map(Clone::clone).collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
    for batch in batches {
        let tokens: usize = lengths[batch.clone()].iter().sum();
        assert!(tokens <= PACKED_TOKENS || batch.len() == 1, "{batch:?}");
    }
    assert_eq!(padded_batches([256; 300].into_iter()), [0..128, 128..256, 256..300]);
    assert!(packed_batches(std::iter::empty()).is_empty());
}
