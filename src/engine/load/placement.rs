//! Which devices serve: GPUs or the CPU. Called by `assemble` before anything is read.

use std::path::Path;

use super::args::{DeviceArg, EngineArgs};
#[cfg(feature = "cuda")]
use crate::device::cuda::Cuda;
use crate::engine::options::{EngineOptions, Gpus};
use crate::error::{Error, Result};
use crate::invalid;

/// What the driver makes when it is loaded.
const DRIVER: &str = "/dev/nvidiactl";

/// The GPUs of each engine, in the order of its ranks. Configurations copied from the Python
/// backend say KIND_CPU or KIND_MODEL, and it used GPUs there too. None: the CPU serves, because
/// model.json says so or because there is no NVIDIA device, which is warned of.
///
/// # Errors
/// A GPU that is there but cannot be used, or one that model.json or config.pbtxt asks for and that
/// is not there: the CPU would serve at a hundredth of the speed. Fewer GPUs than the ranks of all
/// engines.
pub(super) fn choose_gpus(
    args: &EngineArgs,
    engines: &[EngineOptions],
) -> Result<Option<Vec<Vec<usize>>>> {
    if args.device == DeviceArg::Cpu {
        return Ok(None);
    }
    let visible = gpus()?;
    if visible > 0 {
        let chosen = engines.iter().map(|engine| gpus_of(args, engine, visible));
        return chosen.collect::<Result<_>>().map(Some);
    }
    explain_none(args, engines).map(|()| None)
}

/// Of one engine, where so many are visible.
fn gpus_of(args: &EngineArgs, engine: &EngineOptions, visible: usize) -> Result<Vec<usize>> {
    match &engine.gpus {
        Gpus::Group(gpu) => Ok(vec![*gpu as usize]),
        Gpus::Listed(gpus) => match gpus.iter().find(|&&gpu| gpu as usize >= visible) {
            None => Ok(gpus.iter().map(|&gpu| gpu as usize).collect()),
            Some(gpu) => Err(invalid!(
                "gpu_device_ids in config.pbtxt names GPU {gpu}, and {visible} are visible: they \
                 are counted from 0 (CUDA_VISIBLE_DEVICES)."
            )),
        },
        Gpus::Turn(turn) => gpus_by_turn(args, &engine.name, *turn, visible),
    }
}

/// As many GPUs as an engine has ranks, behind those of the engines before it.
fn gpus_by_turn(args: &EngineArgs, name: &str, turn: usize, visible: usize) -> Result<Vec<usize>> {
    let ranks = args.tensor_parallel_size as usize;
    let all = ranks * args.data_parallel_size as usize;
    if all > visible {
        return Err(invalid!(
            "World size ({all}) is larger than the number of available GPUs ({visible}) in this \
             node. Lower tensor_parallel_size or data_parallel_size in {}, or show more GPUs \
             (CUDA_VISIBLE_DEVICES).",
            args.file
        ));
    }

    let places = visible / ranks;
    if turn >= places {
        tracing::warn!(
            "{name}: shares a GPU with another instance of the model, as {visible} are visible: \
             each takes gpu_memory_utilization of it"
        );
    }
    let first = turn % places * ranks;
    Ok((first..first + ranks).collect())
}

/// There is no GPU to use.
///
/// # Errors
/// Somebody asks for one, or the machine has one.
fn explain_none(args: &EngineArgs, engines: &[EngineOptions]) -> Result<()> {
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
    let first = engines.first();
    let asked = match (args.device, first.map(|engine| &engine.gpus)) {
        (DeviceArg::Cuda, _) => format!("\"device\": \"cuda\" in {} asks for one", args.file),
        (_, Some(Gpus::Group(_))) => "KIND_GPU in config.pbtxt asks for one".into(),
        (_, Some(Gpus::Listed(_))) => "gpu_device_ids in config.pbtxt asks for some".into(),
        _ if present && !hidden && cfg!(feature = "cuda") => "the machine has one".into(),
        _ => {
            tracing::warn!(
                "{}: SERVED BY THE CPU, much slower than a GPU would: no NVIDIA GPU can be used \
                 ({why}). If that is meant, say \"device\": \"cpu\" in {}",
                first.map(|engine| &*engine.name).unwrap_or_default(),
                args.file
            );
            return Ok(());
        }
    };
    Err(Error::Unavailable(format!(
        "no NVIDIA GPU can be used ({why}), but {asked}. Serve by the CPU with \"device\": \
         \"cpu\" in {}.",
        args.file
    )))
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::engine::{Observation, Observer};

    struct Nobody;
    impl Observer for Nobody {
        fn observe(&self, _: Observation) {}
    }

    fn chosen(model_json: &str, gpus: Gpus, visible: usize) -> Result<Vec<usize>> {
        let (args, _) = EngineArgs::parse(model_json).unwrap();
        let engine = EngineOptions {
            name: "m".into(),
            version_dir: ".".into(),
            gpus,
            observer: Arc::new(Nobody),
            max_waiting: 1,
            max_backlog_tokens: 1,
            max_logprob_entries: 1,
            outbox_threads: None,
            step_timeout: None,
            prompt_step: None,
            grammar_timeout: Duration::ZERO,
            step_trace: None,
            proposer: None,
        };
        gpus_of(&args, &engine, visible)
    }

    #[test]
    fn instances_take_gpus_of_their_own_while_there_are_some() {
        let of = |json: &str, turn, visible| chosen(json, Gpus::Turn(turn), visible).unwrap();
        let one = r#"{"model":"x"}"#;
        assert_eq!((of(one, 0, 2), of(one, 1, 2), of(one, 2, 2)), (vec![0], vec![1], vec![0]));
        let two = r#"{"model":"x","tensor_parallel_size":2}"#;
        assert_eq!(
            (of(two, 0, 5), of(two, 1, 5), of(two, 2, 5)),
            (vec![0, 1], vec![2, 3], vec![0, 1])
        );

        let refused = |json: &str, visible| {
            chosen(json, Gpus::Turn(0), visible).unwrap_err().message().to_string()
        };
        assert!(refused(two, 1)
            .starts_with("World size (2) is larger than the number of available GPUs (1)"));
        let four = r#"{"model":"x","tensor_parallel_size":2,"data_parallel_size":2}"#;
        assert!(refused(four, 3).starts_with("World size (4)"));
        assert_eq!(of(four, 1, 4), [2, 3]);
    }

    #[test]
    fn what_config_pbtxt_names_is_taken() {
        let two = r#"{"model":"x","tensor_parallel_size":2}"#;
        assert_eq!(chosen(two, Gpus::Listed(vec![3, 1]), 4).unwrap(), [3, 1]);
        let error = chosen(two, Gpus::Listed(vec![3, 4]), 4).unwrap_err();
        assert!(error.message().contains("names GPU 4, and 4 are visible"), "{error}");
        assert_eq!(chosen(r#"{"model":"x"}"#, Gpus::Group(2), 4).unwrap(), [2]);
    }
}
