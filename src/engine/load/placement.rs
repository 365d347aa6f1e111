//! Which device serves: a GPU or the CPU. Called by `assemble` before anything is read.

use std::path::Path;

use super::args::{DeviceArg, EngineArgs};
#[cfg(feature = "cuda")]
use crate::device::cuda::Cuda;
use crate::engine::options::EngineOptions;
use crate::error::{Error, Result};
#[cfg(feature = "cuda")]
use crate::invalid;

/// What the driver makes when it is loaded.
const DRIVER: &str = "/dev/nvidiactl";

/// The GPU that serves: the instance group's, else the first visible one (configurations copied
/// from the Python backend say KIND_CPU or KIND_MODEL, and it used the GPU there too). None: the
/// CPU serves, because model.json says so or because there is no NVIDIA device, which is warned of.
///
/// # Errors
/// A GPU that is there but cannot be used, or one that model.json or the instance group asks for
/// and that is not there: the CPU would serve at a hundredth of the speed.
pub(super) fn choose_gpu(args: &EngineArgs, options: &EngineOptions) -> Result<Option<usize>> {
    if args.device == DeviceArg::Cpu {
        return Ok(None);
    }
    if gpus()? > 0 {
        return Ok(Some(options.gpu.map_or(0, |gpu| gpu as usize)));
    }

    // Why there is none.
    let hidden =
        std::env::var_os("CUDA_VISIBLE_DEVICES").is_some_and(|v| v.is_empty() || v == "-1");
    let present = Path::new(DRIVER).exists();
    let why = match (cfg!(feature = "cuda"), hidden, present) {
        (false, ..) => "this library was built without the feature cuda".to_string(),
        (true, true, _) => "CUDA_VISIBLE_DEVICES hides all".to_string(),
        (true, false, true) => format!(
            "{DRIVER} exists, but libcuda.so.1 is missing or shows none: start the container with \
             --gpus"
        ),
        (true, false, false) => format!("there is no {DRIVER}"),
    };

    // Who wants one nevertheless.
    let asked = match (args.device, options.gpu) {
        (DeviceArg::Cuda, _) => format!("\"device\": \"cuda\" in {} asks for one", args.file),
        (_, Some(_)) => "KIND_GPU in config.pbtxt asks for one".into(),
        (_, None) if present && !hidden && cfg!(feature = "cuda") => "the machine has one".into(),
        (_, None) => {
            tracing::warn!(
                "{}: SERVED BY THE CPU, much slower than a GPU would: no NVIDIA GPU can be used \
                 ({why}). If that is meant, say \"device\": \"cpu\" in {}",
                options.name,
                args.file
            );
            return Ok(None);
        }
    };
    Err(Error::Unavailable(format!(
        "no NVIDIA GPU can be used ({why}), but {asked}. Serve by the CPU with \"device\": \
         \"cpu\" in {}.",
        args.file
    )))
}

/// The GPUs that share a model, in the order of ranks: `first` and those behind it.
///
/// # Errors
/// KIND_GPU, which names one GPU: the Python backend's text. Fewer visible GPUs than ranks.
#[cfg(feature = "cuda")]
pub(super) fn gpus_of_ranks(
    args: &EngineArgs,
    options: &EngineOptions,
    first: usize,
) -> Result<Vec<usize>> {
    let ranks = args.tensor_parallel_size as usize;
    if ranks == 1 {
        return Ok(vec![first]);
    }
    if options.gpu.is_some() {
        return Err(invalid!(
            "KIND_GPU is currently for single-GPU models, please specify KIND_MODEL in the model's \
             config.pbtxt for multi-GPU models"
        ));
    }
    let visible = gpus()?;
    if first + ranks > visible {
        return Err(invalid!(
            "World size ({ranks}) is larger than the number of available GPUs ({visible}) in this \
             node. Lower tensor_parallel_size in {}, or show more GPUs (CUDA_VISIBLE_DEVICES).",
            args.file
        ));
    }
    Ok((first..first + ranks).collect())
}

/// Visible ones that this build can use.
#[cfg(feature = "cuda")]
fn gpus() -> Result<usize> {
    Cuda::count()
}

#[cfg(not(feature = "cuda"))]
fn gpus() -> Result<usize> {
    Ok(0)
}
