//! Operators of the family `text`: sentence embeddings and what is near to what.

pub mod embed;
pub mod query;
pub mod similar;
#[cfg(test)]
mod testing;
pub mod weights;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use candle_core::Device;

use self::weights::{ModelFiles, Places};
use super::{OpError, Operator};
use crate::kernels::{KernelError, sentence::SentenceModel};

/// Gives the operators of this family.
#[must_use]
pub fn operators() -> Vec<Box<dyn Operator>> {
    vec![Box::new(embed::Embed), Box::new(similar::Similar)]
}

/// Where a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Cpu,
    Cuda,
}

impl Target {
    /// Gives the device that an attempt may use: a GPU when it holds one and this build can use it.
    const fn choose(built_for_cuda: bool, gpus: u32) -> Self {
        if built_for_cuda && gpus > 0 { Self::Cuda } else { Self::Cpu }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }

    fn open(self) -> Result<Device, OpError> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            // CUDA numbers the visible devices from 0.
            Self::Cuda => Device::new_cuda(0).map_err(|e| {
                OpError::infra(format!("the GPU of this task cannot be used: {e}"))
                    .hint("unset CUDA_VISIBLE_DEVICES, or give the task `device = \"cpu\"`")
            }),
        }
    }
}

/// A model ready for use.
struct Loaded {
    model: Arc<SentenceModel>,
    files: ModelFiles,
    target: Target,
    /// It was there from an earlier attempt of this process.
    warm: bool,
}

/// Gives the model, loading it only when this process does not hold it for this directory and device yet.
fn load(dir: Option<PathBuf>, target: Target) -> Result<Loaded, OpError> {
    type Warm = (ModelFiles, Target, Arc<SentenceModel>);
    // One model at a time: a runner executes one attempt at a time, and a second model would only take memory.
    static WARM: Mutex<Option<Warm>> = Mutex::new(None);
    let files = Places::from_env().with_dir(dir).fetch()?;
    let mut held = WARM.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, _, model)) = held.as_ref().filter(|(f, t, _)| f.dir == files.dir && *t == target) {
        return Ok(Loaded { model: Arc::clone(model), files, target, warm: true });
    }
    *held = None;
    let model = SentenceModel::load(files.read()?, &target.open()?)
        .map_err(|e| OpError::data(format!("{}: {e}", files.dir.display())).hint(weights::FIX))?;
    let model = Arc::new(model);
    *held = Some((files.clone(), target, Arc::clone(&model)));
    Ok(Loaded { model, files, target, warm: false })
}

/// Says whose fault a kernel's refusal is.
fn refused(error: KernelError) -> OpError {
    match error {
        KernelError::Cancelled => OpError::user("cancelled"),
        KernelError::Backend(_) => OpError::infra(error.to_string()),
        KernelError::Shape(_) | KernelError::NotFinite { .. } | KernelError::Invalid(_) => {
            OpError::data(error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_used_only_when_the_task_holds_one_and_the_build_can() {
        assert_eq!(Target::choose(true, 1), Target::Cuda);
        assert_eq!(Target::choose(true, 0), Target::Cpu);
        assert_eq!(Target::choose(false, 1), Target::Cpu);
    }
}
