//! What a load reads: the folders of model and tokenizer, local or from a hub, the model's
//! specification and where its weights are. Called by `load`, before a device is asked for memory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::args::{dtype_name, EngineArgs, GenerationConfig, LoadFormat, LoraArgs};
use crate::device::DType;
use crate::engine::adapters::AdapterList;
use crate::engine::options::EngineOptions;
use crate::error::{Error, Result};
use crate::files::Progress;
use crate::model::config::SpecOptions;
use crate::model::folder::{self, Location};
use crate::model::hub::{Hub, SnapshotRequest};
use crate::model::{Checkpoint, Files, ModelSpec, WeightSource};
use crate::text::Tokenizer;

/// A model that was read, but for its weights.
pub(super) struct Model {
    pub spec: ModelSpec,
    pub weights: WeightSource,
    pub tokenizer: Arc<Tokenizer>,
}

/// Find and read all but the weights.
pub(super) fn read(
    args: &EngineArgs,
    options: &EngineOptions,
    progress: &Arc<Progress>,
) -> Result<Model> {
    let weights = weight_files(args.load_format);
    let judge = |folder: &Path| match weights {
        Some(_) => judge_unread(folder, args),
        None => Ok(()),
    };
    let wanted = wanted(args, &args.model, &args.revision, weights);
    let folder = resolve(&wanted, "model", args, options, progress, &judge)?;
    folder::judge(&folder)?;

    let tokenizer_folder = match &args.tokenizer {
        Some(name) => {
            let wanted = self::wanted(args, name, &args.tokenizer_revision, None);
            resolve(&wanted, "tokenizer", args, options, progress, &|_| Ok(()))?
        }
        None => folder.clone(),
    };
    let tokenizer = Arc::new(Tokenizer::load(&tokenizer_folder)?);

    let (spec, weights) = read_model(&folder, args, progress)?;
    Ok(Model { spec, weights, tokenizer })
}

/// None: no files, the weights are made up.
fn weight_files(format: LoadFormat) -> Option<Files> {
    match format {
        LoadFormat::Auto => Some(Files::Any),
        LoadFormat::Safetensors => Some(Files::Safetensors),
        LoadFormat::Torch => Some(Files::Torch),
        LoadFormat::Dummy => None,
    }
}

fn wanted<'a>(
    args: &'a EngineArgs,
    repo: &'a str,
    revision: &'a Option<String>,
    weights: Option<Files>,
) -> SnapshotRequest<'a> {
    SnapshotRequest { repo, revision: revision.as_deref(), ignore: &args.ignore_patterns, weights }
}

/// What can be said of a model before its weights are here, so that nobody waits for gigabytes that
/// cannot be served.
fn judge_unread(folder: &Path, args: &EngineArgs) -> Result<()> {
    folder::judge(folder)?;
    // Warnings wait until all of it is read.
    let quiet = tracing::subscriber::NoSubscriber::default();
    tracing::subscriber::with_default(quiet, || {
        ModelSpec::read(folder, &spec_options(args, None))?;
        match args.tokenizer {
            Some(_) => Ok(()),
            None => Tokenizer::load(folder).map(|_| ()),
        }
    })
}

/// The folder of what the argument `key` wants: a local one, else a hub's, which `judge` may refuse
/// before there are weights in it.
fn resolve(
    wanted: &SnapshotRequest,
    key: &str,
    args: &EngineArgs,
    options: &EngineOptions,
    progress: &Arc<Progress>,
    judge: &dyn Fn(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let at = |e: Error| e.context(&format!("{}: {key}: ", args.file));
    let found = folder::find(wanted.repo, &options.version_dir, wanted.revision).map_err(at)?;
    if let Location::Folder(folder) = found {
        return Ok(folder);
    }
    hub(args).called_off_by(progress).judged_snapshot(wanted, judge).map_err(at)
}

fn read_model(
    dir: &Path,
    args: &EngineArgs,
    progress: &Arc<Progress>,
) -> Result<(ModelSpec, WeightSource)> {
    let weights = match weight_files(args.load_format) {
        None => WeightSource::Dummy,
        Some(files) => WeightSource::Files(Checkpoint::open_counted(dir, files, progress)?),
    };
    let stored = match &weights {
        WeightSource::Files(checkpoint) => checkpoint.stored_dtype(),
        WeightSource::Dummy => None,
    };
    let mut spec = ModelSpec::read(dir, &spec_options(args, stored))?;
    spec.adapters = args.lora.as_ref().map(LoraArgs::options);
    Ok((spec, weights))
}

/// What the arguments say of a model.
fn spec_options(args: &EngineArgs, stored_dtype: Option<DType>) -> SpecOptions<'_> {
    SpecOptions {
        hf_overrides: Some(&args.hf_overrides),
        overrides_file: &args.file,
        dtype: args.dtype.map_or("", dtype_name),
        stored_dtype,
        quantization: args.quantization.as_deref().unwrap_or_default(),
        supported: &[DType::BF16, DType::F16, DType::F32],
        max_model_len: args.max_model_len.map(i64::from),
        disable_sliding_window: args.disable_sliding_window,
        generation_config: match &args.generation_config {
            GenerationConfig::Model => None,
            GenerationConfig::Folder(folder) => Some(folder),
        },
        pooler: args.pooler.clone(),
        ..SpecOptions::default()
    }
}

/// The list of adapters, where LoRA is on.
pub(super) fn adapters_of(
    spec: &ModelSpec,
    args: &EngineArgs,
    options: &EngineOptions,
) -> Result<Option<AdapterList>> {
    let Some(lora) = &args.lora else { return Ok(None) };
    if let Some(other) = lora.lora_dtype.filter(|&dtype| dtype != spec.dtype) {
        let other = dtype_name(other);
        let own = dtype_name(spec.dtype);
        tracing::warn!("lora_dtype: adapters have the model's type, {own}, not {other}");
    }
    AdapterList::read(&options.version_dir, hub(args)).map(Some)
}

/// The hub that model.json and the environment name, with their token and cache.
fn hub(args: &EngineArgs) -> Hub {
    let var = |name: &str| std::env::var(name).ok();
    Hub::new(args.download_dir.as_deref(), &args.hf_token, var)
}
