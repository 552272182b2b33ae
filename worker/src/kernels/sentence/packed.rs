//! The encoder on CPU: the tokens of a batch of sequences packed into one `(tokens, hidden)` matrix, no padding.
//!
//! Dense layers are candle matrix products on one thread; a batch is the unit of parallelism, so every core works on its
//! own batch and nothing waits in the middle of a layer.

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Storage, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::Config;

use super::{
    attention::{Heads, Scratch, attend},
    math::{self, Norm},
};

/// Weights of the encoder, laid out for the CPU.
pub struct Packed {
    heads: Heads,
    hidden: usize,
    /// `(vocabulary, hidden)`.
    words: Tensor,
    /// `(positions, hidden)`; the embedding of token type 0 is added in.
    positions: Tensor,
    norm: Norm,
    layers: Vec<Layer>,
}

struct Layer {
    /// Query, key and value in one product.
    qkv: Dense,
    attended: Dense,
    attended_norm: Norm,
    up: Dense,
    down: Dense,
    down_norm: Norm,
}

struct Dense {
    /// `(in, out)`: the order in which gemm needs no packing of weights.
    weight: Tensor,
    bias: Vec<f32>,
}

impl Packed {
    /// Takes the weights out of a checkpoint. `config` was checked.
    ///
    /// # Errors
    /// candle's, naming a tensor that is missing or of another shape.
    pub fn load(vars: &VarBuilder<'_>, config: &Config) -> candle_core::Result<Self> {
        // All cores are busy with a batch each: a product must not be split again. Results are the same either way.
        gemm::set_threading_threshold(usize::MAX);
        let (hidden, heads) = (config.hidden_size, config.num_attention_heads);
        let embeddings = vars.pp("embeddings");
        let words = embeddings.get((config.vocab_size, hidden), "word_embeddings.weight")?;
        let positions = embeddings.get((config.max_position_embeddings, hidden), "position_embeddings.weight")?;
        let types = embeddings.get((config.type_vocab_size, hidden), "token_type_embeddings.weight")?;
        let layers = (0..config.num_hidden_layers)
            .map(|i| Layer::load(&vars.pp(format!("encoder.layer.{i}")), config))
            .collect::<candle_core::Result<_>>()?;
        Ok(Self {
            heads: Heads { count: heads, width: hidden / heads },
            hidden,
            words: words.contiguous()?,
            positions: positions.broadcast_add(&types.narrow(0, 0, 1)?)?,
            norm: load_norm(&embeddings.pp("LayerNorm"), config)?,
            layers,
        })
    }

    /// Embeds sequences of token ids: a row of length 1 each, written to `out` (`ids.len() * hidden`).
    ///
    /// # Errors
    /// candle's.
    pub fn embed(&self, ids: &[&[u32]], out: &mut [f32]) -> candle_core::Result<()> {
        let lengths: Vec<usize> = ids.iter().map(|sequence| sequence.len()).collect();
        let tokens = lengths.iter().sum();
        let mut x = self.look_up(ids, tokens)?;
        let mut scratch = Scratch::default();
        for layer in &self.layers {
            x = layer.forward(&x, &lengths, self.heads, &mut scratch)?;
        }
        with_slice(&x, |mut rows| {
            for (length, target) in lengths.iter().zip(out.chunks_exact_mut(self.hidden)) {
                let (sequence, later) = rows.split_at(length * self.hidden);
                math::mean_unit(sequence, target);
                rows = later;
            }
        })
    }

    /// Sums word, position and type embeddings and normalises them.
    fn look_up(&self, ids: &[&[u32]], tokens: usize) -> candle_core::Result<Tensor> {
        let hidden = self.hidden;
        let mut rows = Vec::with_capacity(tokens * hidden);
        with_slice(&self.words, |words| {
            with_slice(&self.positions, |positions| {
                for sequence in ids {
                    for (id, position) in sequence.iter().zip(positions.chunks_exact(hidden)) {
                        let word = &words[*id as usize * hidden..][..hidden];
                        rows.extend(word.iter().zip(position).map(|(w, p)| w + p));
                    }
                }
            })
        })??;
        self.norm.apply_rows(&mut rows);
        Tensor::from_vec(rows, (tokens, hidden), &Device::Cpu)
    }
}

impl Layer {
    fn load(vars: &VarBuilder<'_>, config: &Config) -> candle_core::Result<Self> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let attention = vars.pp("attention.self");
        Ok(Self {
            qkv: Dense::load(&["query", "key", "value"].map(|name| attention.pp(name)), hidden, hidden)?,
            attended: Dense::load(&[vars.pp("attention.output.dense")], hidden, hidden)?,
            attended_norm: load_norm(&vars.pp("attention.output.LayerNorm"), config)?,
            up: Dense::load(&[vars.pp("intermediate.dense")], hidden, inner)?,
            down: Dense::load(&[vars.pp("output.dense")], inner, hidden)?,
            down_norm: load_norm(&vars.pp("output.LayerNorm"), config)?,
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        lengths: &[usize],
        heads: Heads,
        scratch: &mut Scratch,
    ) -> candle_core::Result<Tensor> {
        let qkv = x.matmul(&self.qkv.weight)?;
        let mut context = vec![0.0; x.elem_count()];
        with_slice(&qkv, |qkv| attend(qkv, &self.qkv.bias, lengths, heads, scratch, &mut context))?;
        let context = Tensor::from_vec(context, x.dims(), &Device::Cpu)?;
        let attended = self.attended.add_and_norm(&context, x, &self.attended_norm)?;
        let inner = attended.matmul(&self.up.weight)?;
        inner.inplace_op1(&Edit(|rows: &mut [f32]| math::bias_gelu(rows, &self.up.bias)))?;
        self.down.add_and_norm(&inner, &attended, &self.down_norm)
    }
}

impl Dense {
    /// Loads one dense layer, or several of the same input side by side.
    fn load(parts: &[VarBuilder<'_>], inputs: usize, outputs: usize) -> candle_core::Result<Self> {
        let mut weights = Vec::with_capacity(parts.len());
        let mut bias = Vec::with_capacity(parts.len() * outputs);
        for part in parts {
            weights.push(part.get((outputs, inputs), "weight")?);
            bias.extend(part.get(outputs, "bias")?.to_vec1::<f32>()?);
        }
        Ok(Self { weight: Tensor::cat(&weights, 0)?.t()?.contiguous()?, bias })
    }

    /// `LayerNorm(residual + input * weight + bias)`.
    fn add_and_norm(&self, input: &Tensor, residual: &Tensor, norm: &Norm) -> candle_core::Result<Tensor> {
        let output = input.matmul(&self.weight)?;
        with_slice(residual, |residual| {
            output.inplace_op1(&Edit(|rows: &mut [f32]| math::bias_residual_norm(rows, &self.bias, residual, norm)))
        })??;
        Ok(output)
    }
}

fn load_norm(vars: &VarBuilder<'_>, config: &Config) -> candle_core::Result<Norm> {
    Ok(Norm {
        gain: vars.get(config.hidden_size, "weight")?.to_vec1()?,
        shift: vars.get(config.hidden_size, "bias")?.to_vec1()?,
        epsilon: config.layer_norm_eps as f32,
    })
}

/// Shows the numbers of a contiguous CPU tensor.
fn with_slice<T>(tensor: &Tensor, look: impl FnOnce(&[f32]) -> T) -> candle_core::Result<T> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => Ok(look(&values[start..end])),
        _ => candle_core::bail!("a contiguous f32 tensor on the CPU was expected"),
    }
}

/// Changes the numbers of a contiguous CPU tensor where they are.
struct Edit<F>(F);

impl<F: Fn(&mut [f32])> InplaceOp1 for Edit<F> {
    fn name(&self) -> &'static str {
        "edit"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        match (storage, layout.contiguous_offsets()) {
            (CpuStorage::F32(values), Some((start, end))) => {
                (self.0)(&mut values[start..end]);
                Ok(())
            }
            _ => candle_core::bail!("a contiguous f32 tensor was expected"),
        }
    }
}
