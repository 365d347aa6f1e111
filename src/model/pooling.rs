//! What becomes of the last hidden states of a model that embeds: which rows make the vector,
//! whether it is normalised, how short a request may have it. From the files that
//! sentence-transformers leaves beside a checkpoint, the user's `pooler_config`, and the
//! Python backend's defaults. `config` calls it at load, `engine` keeps the result.

use std::path::Path;

use serde_json::{Map, Value};

use super::architectures;
use super::config::{architecture, SpecOptions};
use super::families::Family;
use super::keys::{self, MAX_DIMENSION};
use crate::device::Pooling;
use crate::error::{Error, Result};
use crate::files::{self, Kind};
use crate::invalid;
use crate::json::{self, Object};

/// Does the model embed or generate?
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Runner {
    /// It embeds if sentence-transformers' files say so, or an architecture without a head.
    #[default]
    Auto,
    Generate,
    Pooling,
}

/// What the user said (`runner`, `pooler_config`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolerOptions {
    pub runner: Runner,
    pub kind: Option<Pooling>,
    pub normalize: Option<bool>,
    /// Of requests that name none.
    pub dimensions: Option<usize>,
}

/// What the files beside a checkpoint say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SideFiles {
    /// `modules.json` with a pooling module: its kind, and whether a normalising one follows.
    pub pooling: Option<(Pooling, bool)>,
    /// Tokens of a text at most, `sentence_*_config.json`.
    pub max_seq_length: Option<usize>,
    /// Texts are to be put in lower case before they are tokenised.
    pub lowercase: bool,
    /// `model_max_length` of tokenizer_config.json.
    pub tokenizer_max_length: Option<usize>,
}

/// What a request's `dimensions` may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dimensions {
    /// The model was not trained to be cut.
    Whole,
    Any,
    Listed(Vec<usize>),
}

/// How vectors are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolingRule {
    pub kind: Pooling,
    /// To length 1, after they were cut.
    pub normalize: bool,
    pub lowercase: bool,
    /// Elements of a whole vector.
    pub width: usize,
    pub dimensions: Dimensions,
    /// Of requests that name none.
    pub default_dimensions: Option<usize>,
}

/// Files of older sentence-transformers, one name per architecture; all hold the same keys.
const SENTENCE_CONFIGS: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

/// Does the model embed? The user decides, then the files beside the checkpoint, then the name.
fn embeds(config: &Object, family: &Family, options: &SpecOptions) -> Result<bool> {
    let name = architecture(config)?.unwrap_or(family.architecture);
    let pools = match options.pooler.runner {
        Runner::Pooling => true,
        Runner::Auto => {
            options.files.pooling.is_some() || family.encoder || architectures::headless(name)
        }
        Runner::Generate if family.encoder => {
            return Err(Error::Unsupported(format!(
                "This model does not support runner 'generate': {name} only embeds. Remove \
                 'runner' from model.json, or set it to 'pooling'."
            )))
        }
        Runner::Generate => false,
    };
    if let Some(key) = family.keys.embed_width.filter(|_| pools) {
        let width = keys::width(config, key)?;
        if width.is_some() && width != keys::width(config, family.keys.hidden)? {
            return Err(Error::Unsupported(format!(
                "{}: embedding with a width of its own is not supported.",
                config.name(key)
            )));
        }
    }
    Ok(pools)
}

impl SideFiles {
    /// Absent files say nothing.
    ///
    /// # Errors
    /// A broken file; a module or a way of pooling that is not built, named.
    pub fn read(dir: &Path) -> Result<SideFiles> {
        let mut files = SideFiles { pooling: modules(dir)?, ..SideFiles::default() };
        let tokenizer = dir.join("tokenizer_config.json");
        if let Some(config) = optional(&tokenizer)? {
            let shown = tokenizer.display().to_string();
            files.tokenizer_max_length = length(&Object::new(&shown, &config), "model_max_length")?;
        }
        for name in SENTENCE_CONFIGS {
            let path = dir.join(name);
            if let Some(config) = optional(&path)? {
                let shown = path.display().to_string();
                let config = Object::new(&shown, &config);
                files.max_seq_length = length(&config, "max_seq_length")?;
                files.lowercase = config.flag("do_lower_case")?.unwrap_or(false);
                break;
            }
        }
        Ok(files)
    }
}

/// Tokens at most; a number beyond all lengths, as tokenizers write it, says nothing.
fn length(object: &Object, key: &str) -> Result<Option<usize>> {
    match object.positive(key)? {
        Some(x) if x < 1.0 => Err(object.wrong(key, "a number of tokens")),
        length => Ok(length.filter(|&x| x <= MAX_DIMENSION as f64).map(|x| x as usize)),
    }
}

fn optional(path: &Path) -> Result<Option<Map<String, Value>>> {
    files::optional(json::read_object(path, Kind::Config))
}

/// `modules.json`: which module works on what the one before it gives.
fn modules(dir: &Path) -> Result<Option<(Pooling, bool)>> {
    let path = dir.join("modules.json");
    let Some(value) = files::optional(json::read(&path, Kind::Config))? else { return Ok(None) };
    let shown = path.display().to_string();
    let wrong = |value: &Value| {
        invalid!("{shown}: must be a list of modules, got {}.", json::shown(value)).on_one_line()
    };
    let (mut kind, mut normalize) = (None, false);
    for module in value.as_array().ok_or_else(|| wrong(&value))? {
        let module = Object::new(&shown, module.as_object().ok_or_else(|| wrong(module))?);
        let class = module.needed("type", "the class of a module", module.text("type")?)?;
        match class.rsplit('.').next().unwrap_or_default() {
            "Transformer" => {}
            "Pooling" => {
                // The folder comes from a file: it must not lead out of the checkpoint.
                let folder = module.text("path")?.unwrap_or_default();
                let plain = !folder.split('/').any(|part| part == "..") && !folder.starts_with('/');
                if !plain {
                    return Err(module.wrong("path", "a folder of the checkpoint"));
                }
                kind = Some(kind_of(&dir.join(folder).join("config.json"))?);
            }
            "Normalize" => normalize = true,
            other => {
                return Err(Error::Unsupported(format!(
                    "{shown}: module '{}' is not supported; supported: Transformer, Pooling, \
                     Normalize.",
                    json::cut(other)
                )))
            }
        }
    }
    Ok(kind.map(|kind| (kind, normalize)))
}

/// `1_Pooling/config.json`: the one flag that is true, or `pooling_mode`.
fn kind_of(path: &Path) -> Result<Pooling> {
    let map = json::read_object(path, Kind::Config)?;
    let shown = path.display().to_string();
    let config = Object::new(&shown, &map);
    let mut modes: Vec<&str> = config.text("pooling_mode")?.into_iter().collect();
    for key in map.keys() {
        let Some(mode) = key.strip_prefix("pooling_mode_") else { continue };
        if config.flag(key)?.unwrap_or(false) {
            modes.push(mode);
        }
    }
    match modes[..] {
        ["cls_token" | "cls"] => Ok(Pooling::First),
        ["lasttoken"] => Ok(Pooling::Last),
        ["mean_tokens" | "mean"] => Ok(Pooling::Mean),
        ref other => Err(Error::Unsupported(format!(
            "{shown}: pooling by {} is not supported; supported: one of cls_token, lasttoken, \
             mean_tokens.",
            json::cut(&format!("{other:?}"))
        ))),
    }
}

impl PoolingRule {
    /// The rule of a model that embeds, None of one that generates.
    ///
    /// # Errors
    /// Those of [`PoolingRule::new`]; the user wants the other kind, which the model is not.
    pub fn of(
        config: &Object,
        family: &Family,
        options: &SpecOptions,
        width: usize,
    ) -> Result<Option<PoolingRule>> {
        if !embeds(config, family, options)? {
            return Ok(None);
        }
        let SpecOptions { pooler, files, .. } = options;
        PoolingRule::new(config, pooler, files, family.encoder, width).map(Some)
    }

    /// The user's word first, then the files', then the default: the first row of an encoder, the
    /// last of a decoder, normalised.
    ///
    /// # Errors
    /// `matryoshka_dimensions` is no list of sizes; a default size that the model cannot have.
    pub fn new(
        config: &Object,
        options: &PoolerOptions,
        files: &SideFiles,
        encoder: bool,
        width: usize,
    ) -> Result<PoolingRule> {
        let usual = if encoder { Pooling::First } else { Pooling::Last };
        let (kind, normalize) = files.pooling.unwrap_or((usual, true));
        let rule = PoolingRule {
            kind: options.kind.unwrap_or(kind),
            normalize: options.normalize.unwrap_or(normalize),
            lowercase: files.lowercase,
            width,
            dimensions: dimensions(config)?,
            default_dimensions: options.dimensions,
        };
        if let Some(size) = options.dimensions {
            rule.check(size as i64, "").map_err(|e| e.context("pooler_config: "))?;
        }
        Ok(rule)
    }

    /// The step must feed a sequence as a whole.
    pub fn whole(&self) -> bool {
        self.kind != Pooling::Last
    }

    /// The size that a request asks for.
    ///
    /// # Errors
    /// The Python backend's texts, which name the `model`; more than a whole vector has.
    pub fn check(&self, size: i64, model: &str) -> Result<usize> {
        let positive = usize::try_from(size).ok().filter(|&n| n > 0);
        match (&self.dimensions, positive) {
            (Dimensions::Whole, _) => Err(invalid!(
                "Model \"{model}\" does not support matryoshka representation, changing output \
                 dimensions will lead to poor results."
            )),
            (Dimensions::Listed(list), n) => match n.filter(|n| list.contains(n)) {
                Some(n) => Ok(n),
                None => Err(invalid!(
                    "Model \"{model}\" only supports {list:?} matryoshka dimensions, use other \
                     output dimensions will lead to poor results."
                )),
            },
            (Dimensions::Any, Some(n)) if n <= self.width => Ok(n),
            (Dimensions::Any, Some(n)) => Err(invalid!(
                "dimensions must be at most {}, the size of this model's vectors, got {n}.",
                self.width
            )),
            (Dimensions::Any, None) => Err(invalid!("Dimensions must be greater than 0")),
        }
    }

    /// A pooled vector as the client gets it: cut to `size`, then of length 1.
    pub fn finish(&self, mut vector: Vec<f32>, size: Option<usize>) -> Vec<f32> {
        vector.truncate(size.unwrap_or(vector.len()));
        if self.normalize {
            let squares: f64 = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            let length = squares.sqrt().max(1e-12);
            vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
        }
        vector
    }
}

fn dimensions(config: &Object) -> Result<Dimensions> {
    const KEY: &str = "matryoshka_dimensions";
    let any = config.flag("is_matryoshka")?.unwrap_or(false);
    let expected = "a list of sizes";
    match config.list(KEY)? {
        None if any => Ok(Dimensions::Any),
        None => Ok(Dimensions::Whole),
        Some([]) => Err(config.wrong(KEY, expected)),
        Some(list) => {
            let size = |v: &Value| v.as_u64().filter(|&n| n > 0).map(|n| n as usize);
            let sizes = list.iter().map(size).collect::<Option<Vec<_>>>();
            sizes.map(Dimensions::Listed).ok_or_else(|| config.wrong(KEY, expected))
        }
    }
}

#[cfg(test)]
#[path = "pooling_tests.rs"]
mod tests;
