//! Sentence embeddings with a BERT encoder such as all-MiniLM-L6-v2: tokenise, encode, mean over tokens, length 1.

mod attention;
mod math;
mod packed;
mod padded;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    ops::Range,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{Config, HiddenAct};
use ndarray::Array2;
use rayon::prelude::*;
use tokenizers::{Tokenizer, TruncationParams};

use self::{packed::Packed, padded::Padded};
use super::KernelError;

/// Longer texts are cut; the limit that all-MiniLM-L6-v2 is published with.
pub const MAX_TOKENS: usize = 256;

/// Tokens of a CPU batch: its widest matrix (512 by 1536 numbers) still fits the second-level cache beside the weights in
/// use, and products of this height run at full speed.
const PACKED_TOKENS: usize = 512;

/// Padded tokens of a batch on an accelerator: enough to keep it busy.
const PADDED_TOKENS: usize = 32 * 1024;

/// Texts tokenised at a time, which bounds the memory of encodings.
const SLAB: usize = 16 * 1024;

/// The files of a model, read.
#[derive(Clone)]
pub struct ModelBytes {
    /// `model.safetensors`
    pub weights: Vec<u8>,
    /// `tokenizer.json`
    pub tokenizer: Vec<u8>,
    /// `config.json`
    pub config: Vec<u8>,
}

impl fmt::Debug for ModelBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelBytes").field("weights", &self.weights.len()).finish_non_exhaustive()
    }
}

/// A loaded model.
pub struct SentenceModel {
    tokenizer: Tokenizer,
    encoder: Encoder,
    width: usize,
    /// Words of the vocabulary.
    words: usize,
}

enum Encoder {
    Packed(Packed),
    Padded(Padded),
}

/// What [`SentenceModel::embed`] gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedded {
    /// `(texts, width)`, rows of length 1, in the order of the texts.
    pub vectors: Array2<f32>,
    /// Tokens read, the two special ones of each text included.
    pub tokens: usize,
}

impl fmt::Debug for SentenceModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SentenceModel").field("width", &self.width).finish_non_exhaustive()
    }
}

impl SentenceModel {
    /// Loads a model onto a device. On a CPU it runs its own forward pass, elsewhere candle's.
    ///
    /// # Errors
    /// `Invalid` names the file that is corrupt or holds another kind of model.
    pub fn load(files: ModelBytes, device: &Device) -> Result<Self, KernelError> {
        let config = parse_config(&files.config)?;
        let tokenizer = load_tokenizer(&files.tokenizer, &config)?;
        let corrupt = |e: candle_core::Error| {
            KernelError::Invalid(format!("model.safetensors is corrupt or holds another model: {e}"))
        };
        let vars = VarBuilder::from_buffered_safetensors(files.weights, DType::F32, device).map_err(corrupt)?;
        let encoder = if device.is_cpu() {
            Encoder::Packed(Packed::load(&vars, &config).map_err(corrupt)?)
        } else {
            Encoder::Padded(Padded::load(vars, &config).map_err(corrupt)?)
        };
        Ok(Self { tokenizer, encoder, width: config.hidden_size, words: config.vocab_size })
    }

    /// Gives the length of a vector.
    #[must_use]
    pub const fn width(&self) -> usize {
        self.width
    }

    /// Embeds texts, on all cores of the current rayon pool. Calls `on_progress` with texts done and all texts after each
    /// batch, from any thread.
    ///
    /// Batches depend on the texts alone, so equal texts on equal hardware give equal bytes however many cores there are.
    ///
    /// # Errors
    /// `Cancelled` soon after `cancelled` is set; `Invalid` if the tokenizer gives ids that the model has no words for;
    /// `Backend` if the device gives up.
    pub fn embed<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
        cancelled: &AtomicBool,
        on_progress: &mut (dyn FnMut(usize, usize) + Send),
    ) -> Result<Embedded, KernelError> {
        let mut vectors = Array2::zeros((texts.len(), self.width));
        let mut tokens = 0;
        let progress = Mutex::new((0, on_progress));
        for (slab, first) in texts.chunks(SLAB).zip((0..).step_by(SLAB)) {
            let ids = self.tokenise(slab)?;
            tokens += ids.iter().map(Vec::len).sum::<usize>();
            // Neighbours of like length waste little padding, and batches of equal tokens then hold whole sequences.
            let mut order: Vec<usize> = (0..ids.len()).collect();
            order.sort_by_key(|&i| ids[i].len());
            let run = |batch: Range<usize>| {
                if cancelled.load(Ordering::Relaxed) {
                    return Err(KernelError::Cancelled);
                }
                let sequences: Vec<&[u32]> = order[batch.clone()].iter().map(|&i| ids[i].as_slice()).collect();
                let rows = self.encode(&sequences)?;
                if let Ok(mut progress) = progress.lock() {
                    progress.0 += sequences.len();
                    let done = progress.0;
                    (progress.1)(done, texts.len());
                }
                Ok((batch, rows))
            };
            let lengths = order.iter().map(|&i| ids[i].len());
            let encoded: Vec<_> = match self.encoder {
                Encoder::Packed(_) => {
                    packed_batches(lengths).into_par_iter().map(run).collect::<Result<_, KernelError>>()?
                }
                Encoder::Padded(_) => {
                    padded_batches(lengths).into_iter().map(run).collect::<Result<_, KernelError>>()?
                }
            };
            for (batch, rows) in encoded {
                for (&i, row) in order[batch].iter().zip(rows.chunks_exact(self.width)) {
                    for (to, from) in vectors.row_mut(first + i).iter_mut().zip(row) {
                        *to = *from;
                    }
                }
            }
        }
        Ok(Embedded { vectors, tokens })
    }

    fn tokenise<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Result<Vec<Vec<u32>>, KernelError> {
        let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
        let encodings = self
            .tokenizer
            .encode_batch_fast(texts, true)
            .map_err(|e| KernelError::Backend(format!("cannot tokenise: {e}")))?;
        let ids: Vec<Vec<u32>> = encodings.iter().map(|encoding| encoding.get_ids().to_vec()).collect();
        // The vocabulary was checked, but the template of a tokenizer adds ids of its own.
        let largest = ids.iter().flatten().max().copied().unwrap_or_default() as usize;
        if largest >= self.words {
            let words = self.words;
            return Err(KernelError::Invalid(format!(
                "tokenizer.json cannot be used: it gives id {largest}, and config.json has {words} words"
            )));
        }
        Ok(ids)
    }

    fn encode(&self, sequences: &[&[u32]]) -> Result<Vec<f32>, KernelError> {
        let mut rows = vec![0.0; sequences.len() * self.width];
        // A tokenizer without special tokens makes nothing of an empty text; its vector stays zero.
        if sequences.iter().any(|sequence| !sequence.is_empty()) {
            match &self.encoder {
                Encoder::Packed(encoder) => encoder.embed(sequences, &mut rows),
                Encoder::Padded(encoder) => encoder.embed(sequences, &mut rows),
            }
            .map_err(|e| KernelError::Backend(format!("cannot embed: {e}")))?;
        }
        Ok(rows)
    }
}

/// Cuts sequences of these lengths, in this order, into batches of at most [`PACKED_TOKENS`] (or one sequence).
fn packed_batches(lengths: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    cut(lengths, PACKED_TOKENS, |tokens, _, length| tokens + length)
}

/// Cuts sequences of rising length into batches of at most [`PADDED_TOKENS`], padding counted.
fn padded_batches(lengths: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    cut(lengths, PADDED_TOKENS, |_, count, length| (count + 1) * length)
}

/// `cost` gives the size of a batch after adding a sequence: size so far, sequences so far, length of the sequence.
fn cut(
    lengths: impl Iterator<Item = usize>,
    budget: usize,
    cost: impl Fn(usize, usize, usize) -> usize,
) -> Vec<Range<usize>> {
    let mut batches = Vec::new();
    let (mut start, mut end, mut size) = (0, 0, 0);
    for length in lengths {
        let grown = cost(size, end - start, length);
        if grown > budget && end > start {
            batches.push(start..end);
            start = end;
            size = cost(0, 0, length);
        } else {
            size = grown;
        }
        end += 1;
    }
    if end > start {
        batches.push(start..end);
    }
    batches
}

fn parse_config(bytes: &[u8]) -> Result<Config, KernelError> {
    let config: Config = serde_json::from_slice(bytes)
        .map_err(|e| KernelError::Invalid(format!("config.json is not the configuration of a BERT model: {e}")))?;
    let refuse = |what: &str| Err(KernelError::Invalid(format!("config.json: {what}")));
    if config.hidden_act != HiddenAct::Gelu {
        return refuse("hidden_act must be `gelu`");
    }
    let heads = config.num_attention_heads;
    if heads == 0 || config.hidden_size == 0 || !config.hidden_size.is_multiple_of(heads) {
        return refuse("hidden_size must be a multiple of num_attention_heads");
    }
    if !(config.hidden_size / heads).is_multiple_of(math::LANES) || config.intermediate_size == 0 {
        return refuse("the width of a head must be a multiple of 16, and intermediate_size above 0");
    }
    if config.max_position_embeddings < 8 || config.type_vocab_size == 0 {
        return refuse("max_position_embeddings must be at least 8 and type_vocab_size at least 1");
    }
    Ok(config)
}

fn load_tokenizer(bytes: &[u8], config: &Config) -> Result<Tokenizer, KernelError> {
    let invalid = |e: &dyn fmt::Display| KernelError::Invalid(format!("tokenizer.json cannot be used: {e}"));
    // As a document first: the library panics where a decoder breaks off. Nothing is decoded here.
    let mut document: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(bytes).map_err(|e| invalid(&e))?;
    document.remove("decoder");
    let mut tokenizer: Tokenizer = serde_json::from_value(document.into()).map_err(|e| invalid(&e))?;
    // The file carries its own padding and truncation (128), which are not the model's.
    tokenizer.with_padding(None);
    let max_length = MAX_TOKENS.min(config.max_position_embeddings);
    tokenizer
        .with_truncation(Some(TruncationParams { max_length, ..TruncationParams::default() }))
        .map_err(|e| invalid(&e))?;
    let largest = tokenizer.get_vocab(true).into_values().max();
    if largest.is_none_or(|id| id as usize >= config.vocab_size) {
        return Err(invalid(&format!("its ids do not fit the {} words of config.json", config.vocab_size)));
    }
    Ok(tokenizer)
}
