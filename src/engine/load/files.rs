//! What a load reads: the folders of model and tokenizer, local or from a hub, the model's
//! specification and where its weights are. Called by `load`, before a device is asked for memory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::args::{dtype_name, EngineArgs, GenerationConfig, LoadFormat, LoraArgs, TokenizerMode};
use crate::device::DType;
use crate::engine::adapters::AdapterList;
use crate::engine::options::EngineOptions;
use crate::error::{Error, Result};
use crate::files::Progress;
use crate::invalid;
use crate::json::cut;
use crate::model::config::{EagleVersion, SpecOptions};
use crate::model::folder::{self, Holds, Location};
use crate::model::gguf::{Gguf, GgufName, Vocabulary};
use crate::model::hub::{Hub, SnapshotRequest};
use crate::model::{head_files, lora};
use crate::model::{AdapterOptions, Checkpoint, Files, ModelSpec, PooledHead, WeightSource};
use crate::text::{Tokenizer, TokenizerFiles};

/// A model that was read, but for its weights.
pub(super) struct Model {
    pub spec: ModelSpec,
    pub weights: WeightSource,
    pub tokenizer: Arc<Tokenizer>,
    /// Of a model that classifies.
    pub head: Option<Arc<PooledHead>>,
}

/// What an argument names: a folder in Hugging Face's format, or a model's first GGUF file.
enum Place {
    Folder(PathBuf),
    Gguf(PathBuf),
}

/// What is looked for.
struct Wanted<'a> {
    /// The argument, for messages.
    key: &'static str,
    name: &'a str,
    revision: Option<&'a str>,
    /// None: no weights.
    weights: Option<Files>,
}

/// A load's arguments, and what may call it off.
struct Search<'a> {
    args: &'a EngineArgs,
    options: &'a EngineOptions,
    progress: &'a Arc<Progress>,
    /// The model is no head, whose config.json would say little.
    whole: bool,
}

/// Find and read all but the weights.
pub(super) fn read(
    args: &EngineArgs,
    options: &EngineOptions,
    progress: &Arc<Progress>,
) -> Result<Model> {
    let search = Search { args, options, progress, whole: true };
    let found = search.model()?;
    let tokenizer = match (&args.tokenizer, &found.place, &found.gguf) {
        (Some(name), ..) => search.tokenizer(name)?,
        (None, _, Some(gguf)) => tokenizer_of(gguf)?,
        (None, Place::Folder(folder) | Place::Gguf(folder), None) => {
            Tokenizer::load_from(folder, tokenizer_files(args))?
        }
    };
    let (spec, weights) = found.read(args, progress)?;
    let head = pooled_head(&spec, &weights, &tokenizer)?;
    Ok(Model { spec, weights, tokenizer: Arc::new(tokenizer), head })
}

/// The same of a model that needs no tokenizer.
pub(super) fn read_weights(
    args: &EngineArgs,
    options: &EngineOptions,
    progress: &Arc<Progress>,
) -> Result<(ModelSpec, WeightSource)> {
    Search { args, options, progress, whole: true }.model()?.read(args, progress)
}

/// The same of a head that drafts for the model `target`, whose weights may hold some of its own.
pub(super) fn read_head(
    args: &EngineArgs,
    options: &EngineOptions,
    progress: &Arc<Progress>,
    version: EagleVersion,
    target: (&ModelSpec, &WeightSource),
) -> Result<(ModelSpec, WeightSource)> {
    let found = Search { args, options, progress, whole: false }.model()?;
    let Place::Folder(folder) = &found.place else {
        return Err(Error::Unsupported("a head in a GGUF file is not supported.".into()));
    };
    let weights = open_weights(folder, args, progress)?;
    let stored = stored_dtype(&weights);
    let spec = ModelSpec::read_eagle(folder, version, &spec_options(args, stored), target.0)?;
    let weights = head_files::eagle(weights, &spec, target.0, target.1);
    Ok((spec, weights))
}

/// A model that is there.
struct Found {
    place: Place,
    gguf: Option<Gguf>,
    /// The folder of another config.json.
    config: Option<PathBuf>,
}

impl Found {
    fn read(
        &self,
        args: &EngineArgs,
        progress: &Arc<Progress>,
    ) -> Result<(ModelSpec, WeightSource)> {
        let config = self.config.as_deref();
        match (&self.place, &self.gguf) {
            (_, Some(gguf)) => read_gguf(gguf, config, args),
            (Place::Folder(folder) | Place::Gguf(folder), None) => {
                read_model(folder, config, args, progress)
            }
        }
    }
}

/// What follows pooled rows.
fn pooled_head(
    spec: &ModelSpec,
    weights: &WeightSource,
    tokenizer: &Tokenizer,
) -> Result<Option<Arc<PooledHead>>> {
    let Some(rule) = spec.pooling.as_ref() else { return Ok(None) };
    let token_of = |text: &str| tokenizer.token(text);
    let head = PooledHead::load(spec, rule, weights, &token_of);
    head.map(|head| head.map(Arc::new)).map_err(Error::on_one_line)
}

/// None: no files, the weights are made up.
fn weight_files(format: LoadFormat) -> Option<Files> {
    match format {
        LoadFormat::Auto => Some(Files::Any),
        LoadFormat::HuggingFace => Some(Files::HuggingFace),
        LoadFormat::Mistral => Some(Files::Mistral),
        LoadFormat::Safetensors => Some(Files::Safetensors),
        LoadFormat::Torch => Some(Files::Torch),
        LoadFormat::Gguf => Some(Files::Gguf),
        LoadFormat::Dummy => None,
    }
}

fn tokenizer_files(args: &EngineArgs) -> TokenizerFiles {
    match args.tokenizer_mode {
        TokenizerMode::Auto => TokenizerFiles::Any,
        TokenizerMode::HuggingFace => TokenizerFiles::HuggingFace,
        TokenizerMode::Mistral => TokenizerFiles::Mistral,
    }
}

impl Search<'_> {
    /// The model that the arguments name.
    fn model(&self) -> Result<Found> {
        let Search { args, progress, whole, .. } = *self;
        let config = match &args.hf_config_path {
            Some(name) => Some(self.config_folder(name)?),
            None => None,
        };
        let weights = weight_files(args.load_format);
        let revision = args.revision.as_deref();
        let wanted = Wanted { key: "model", name: &args.model, revision, weights };
        let judge = |folder: &Path| match weights {
            Some(_) if whole => judge_unread(folder, config.as_deref(), args),
            _ => Ok(()),
        };
        let place = self.find(&wanted, &judge)?;
        judge_load_format(&place, args)?;

        let gguf = match &place {
            Place::Gguf(path) => Some(Gguf::open(path, progress)?),
            Place::Folder(_) => None,
        };
        Ok(Found { place, gguf, config })
    }

    /// A local place, else a hub's, which `judge` may refuse before there are weights in it. Where
    /// no weights are wanted any folder will do.
    fn find(&self, wanted: &Wanted, judge: &dyn Fn(&Path) -> Result<()>) -> Result<Place> {
        let at = |e: Error| e.context(&format!("{}: {}: ", self.args.file, wanted.key));
        let found = folder::find(wanted.name, &self.options.version_dir, wanted.revision);
        let (folder, which) = match found.map_err(at)? {
            Location::Gguf(path) => return Ok(Place::Gguf(path)),
            Location::Folder(folder, which) => (folder, which),
            Location::Repo(repo, which) => {
                let request = SnapshotRequest {
                    repo: &repo,
                    revision: wanted.revision,
                    ignore: &self.args.ignore_patterns,
                    weights: wanted.weights,
                    gguf: &which,
                };
                let hub = hub(self.args).called_off_by(self.progress);
                (hub.judged_snapshot(&request, judge).map_err(at)?, which)
            }
        };

        if wanted.key != "model" {
            return Ok(Place::Folder(folder));
        }
        Ok(match folder::judge(&folder, &which)? {
            Holds::Model => Place::Folder(folder),
            Holds::Gguf(path) => Place::Gguf(path),
        })
    }

    /// The tokenizer of another folder, or of a GGUF file.
    fn tokenizer(&self, name: &str) -> Result<Tokenizer> {
        let revision = self.args.tokenizer_revision.as_deref();
        let wanted = Wanted { key: "tokenizer", name, revision, weights: None };
        match self.find(&wanted, &|_| Ok(()))? {
            Place::Folder(folder) => Tokenizer::load_from(&folder, tokenizer_files(self.args)),
            Place::Gguf(path) => tokenizer_of(&Gguf::open(&path, self.progress)?),
        }
    }

    /// The folder of another config.json.
    fn config_folder(&self, name: &str) -> Result<PathBuf> {
        const KEY: &str = "hf_config_path";
        let wanted = Wanted { key: KEY, name, revision: None, weights: None };
        let folder = match self.find(&wanted, &|_| Ok(()))? {
            Place::Folder(folder) => folder,
            Place::Gguf(path) => path,
        };
        if folder.join("config.json").exists() {
            return Ok(folder);
        }
        let file = &self.args.file;
        let text = format!("{file}: {KEY}: {} holds no config.json.", folder.display());
        Err(Error::NotFound(text).on_one_line())
    }
}

/// `load_format` may rule out what was found.
fn judge_load_format(model: &Place, args: &EngineArgs) -> Result<()> {
    let (path, is, format) = match (model, args.load_format) {
        (Place::Gguf(path), LoadFormat::Safetensors) => (path, "a GGUF file", "safetensors"),
        (Place::Gguf(path), LoadFormat::Torch) => (path, "a GGUF file", "pt"),
        (Place::Gguf(path), LoadFormat::Mistral) => (path, "a GGUF file", "mistral"),
        (Place::Folder(path), LoadFormat::Gguf) => {
            (path, "read by its config.json: name the GGUF file itself", "gguf")
        }
        _ => return Ok(()),
    };
    Err(invalid!("{}: load_format is '{format}', and {} is {is}.", args.file, path.display())
        .on_one_line())
}

/// What can be said of a model before its weights are here, so that nobody waits for gigabytes that
/// cannot be served.
fn judge_unread(folder: &Path, config: Option<&Path>, args: &EngineArgs) -> Result<()> {
    folder::judge(folder, &GgufName::Only)?;
    // Warnings wait until all of it is read.
    let quiet = tracing::subscriber::NoSubscriber::default();
    tracing::subscriber::with_default(quiet, || {
        ModelSpec::read(config.unwrap_or(folder), &spec_options(args, None))?;
        match args.tokenizer {
            Some(_) => Ok(()),
            None => Tokenizer::load_from(folder, tokenizer_files(args)).map(|_| ()),
        }
    })
}

fn tokenizer_of(gguf: &Gguf) -> Result<Tokenizer> {
    let parts = gguf.tokenizer()?;
    match parts.vocabulary {
        Vocabulary::Json(whole) => Tokenizer::from_json(gguf.path(), &whole, &parts.config),
        Vocabulary::Pieces(pieces) => Tokenizer::from_pieces(gguf.path(), &pieces, &parts.config),
    }
}

/// `config`: the folder of another config.json.
fn read_model(
    dir: &Path,
    config: Option<&Path>,
    args: &EngineArgs,
    progress: &Arc<Progress>,
) -> Result<(ModelSpec, WeightSource)> {
    let weights = open_weights(dir, args, progress)?;
    let stored = stored_dtype(&weights);
    let mut spec = ModelSpec::read(config.unwrap_or(dir), &spec_options(args, stored))?;
    spec.adapters = adapters(&spec, args)?;
    Ok((spec, weights))
}

fn open_weights(dir: &Path, args: &EngineArgs, progress: &Arc<Progress>) -> Result<WeightSource> {
    Ok(match weight_files(args.load_format) {
        None => WeightSource::Dummy,
        Some(files) => WeightSource::Files(Checkpoint::open_counted(dir, files, progress)?),
    })
}

fn stored_dtype(weights: &WeightSource) -> Option<DType> {
    match weights {
        WeightSource::Files(checkpoint) => checkpoint.stored_dtype(),
        WeightSource::Dummy => None,
    }
}

/// What `enable_lora` asks for, if the model can have it.
fn adapters(spec: &ModelSpec, args: &EngineArgs) -> Result<Option<AdapterOptions>> {
    let options = args.lora.as_ref().map(LoraArgs::options);
    if options.is_some() && !lora::has_adapters(spec) {
        return Err(Error::Unsupported(format!(
            "{}: enable_lora: adapters of {} are not supported.",
            args.file, spec.family.architecture
        )));
    }
    Ok(options)
}

/// A GGUF model by its own keys or by a config.json; of that the file knows two things better.
fn read_gguf(
    gguf: &Gguf,
    config: Option<&Path>,
    args: &EngineArgs,
) -> Result<(ModelSpec, WeightSource)> {
    const METHOD: &str = "gguf";
    if let Some(method) = args.quantization.as_deref().filter(|&method| method != METHOD) {
        return Err(invalid!(
            "{}: Quantization method specified in the model config ({METHOD}) does not match the \
             quantization method specified in the `quantization` argument ({}).",
            args.file,
            cut(method)
        ));
    }

    let tensors = gguf.tensors()?;
    let own = gguf.config()?;
    let over = gguf.over_config(&own);
    let stored = tensors.stored_dtype();
    let options =
        SpecOptions { quantization: "", over_config: Some(&over), ..spec_options(args, stored) };
    let mut spec = match config {
        Some(folder) => ModelSpec::read(folder, &options)?,
        None => ModelSpec::from_keys(gguf.path(), own, &options)?,
    };
    spec.quant = None;
    spec.adapters = adapters(&spec, args)?;
    tensors.say_tables(spec.dtype);
    let weights = match args.load_format {
        LoadFormat::Dummy => WeightSource::Dummy,
        _ => WeightSource::Files(Checkpoint::of_gguf(tensors)),
    };
    Ok((spec, weights))
}

/// What the arguments say of a model.
fn spec_options(args: &EngineArgs, stored_dtype: Option<DType>) -> SpecOptions<'_> {
    SpecOptions {
        hf_overrides: Some(&args.hf_overrides),
        overrides_file: &args.file,
        dtype: args.dtype.map_or("", dtype_name),
        stored_dtype,
        config_format: args.config_format,
        quantization: args.quantization.as_deref().unwrap_or_default(),
        supported: &[DType::BF16, DType::F16, DType::F32],
        max_model_len: args.max_model_len.map(i64::from),
        disable_sliding_window: args.disable_sliding_window,
        generation_config: match &args.generation_config {
            GenerationConfig::Model => None,
            GenerationConfig::Folder(folder) => Some(folder),
        },
        pooler: args.pooler.clone(),
        text_only: args.media.text_only,
        image_sizes: Some(&args.media.processor),
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
