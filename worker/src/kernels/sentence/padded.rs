//! The encoder on an accelerator: candle's BERT on padded batches. On a CPU it is the reference that [`super::packed`] is
//! tested against.

use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};

/// candle's BERT on one device.
pub struct Padded {
    model: BertModel,
    device: Device,
}

impl Padded {
    /// Loads the weights onto the device of `vars`.
    ///
    /// # Errors
    /// candle's, naming a tensor that is missing or of another shape.
    pub fn load(vars: VarBuilder<'_>, config: &Config) -> candle_core::Result<Self> {
        let device = vars.device().clone();
        Ok(Self { model: BertModel::load(vars, config)?, device })
    }

    /// Embeds sequences of token ids: a row of length 1 each, written to `out`.
    ///
    /// # Errors
    /// candle's.
    pub fn embed(&self, ids: &[&[u32]], out: &mut [f32]) -> candle_core::Result<()> {
        let longest = ids.iter().map(|sequence| sequence.len()).max().unwrap_or(0);
        let mut padded = vec![0u32; ids.len() * longest];
        let mut mask = vec![0f32; ids.len() * longest];
        for (i, sequence) in ids.iter().enumerate() {
            padded[i * longest..][..sequence.len()].copy_from_slice(sequence);
            mask[i * longest..][..sequence.len()].fill(1.0);
        }
        let shape = (ids.len(), longest);
        let padded = Tensor::from_vec(padded, shape, &self.device)?;
        let mask = Tensor::from_vec(mask, shape, &self.device)?;
        let states = self.model.forward(&padded, &padded.zeros_like()?, Some(&mask))?;
        // Division by the number of tokens cancels in the scaling to length 1.
        let sums = states.broadcast_mul(&mask.unsqueeze(D::Minus1)?)?.sum(1)?;
        let unit = sums.broadcast_div(&sums.sqr()?.sum_keepdim(1)?.sqrt()?)?;
        out.copy_from_slice(&unit.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?);
        Ok(())
    }
}
