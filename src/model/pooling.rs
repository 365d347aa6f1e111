//! What becomes of the last hidden states of a model that embeds: which rows make the vector,
//! whether it is normalised, how short a request may have it. From the files that
//! sentence-transformers leaves beside a checkpoint, the user's `pooler_config`, and the
//! incumbent's defaults. `config` calls it at load, `engine` keeps the result.

use std::path::Path;

use serde_json::{Map, Value};

use super::config::{architecture, read_object, truthy, SpecOptions, MAX_DIMENSION};
use super::families::Family;
use crate::device::Pooling;
use crate::error::{Error, Result};
use crate::files::{self, Kind};
use crate::invalid;

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
fn embeds(config: &Map<String, Value>, family: &Family, options: &SpecOptions) -> Result<bool> {
    let name = architecture(config).unwrap_or(family.architecture);
    let pools = match options.pooler.runner {
        Runner::Pooling => true,
        Runner::Auto => {
            options.files.pooling.is_some() || family.encoder || name != family.architecture
        }
        Runner::Generate if family.encoder => {
            return Err(Error::Unsupported(format!(
                "This model does not support runner 'generate': {name} only embeds. Remove \
                 'runner' from model.json, or set it to 'pooling'."
            )))
        }
        Runner::Generate => false,
    };
    if pools && truthy(config.get("word_embed_proj_dim")) {
        let [hidden, width] = [family.keys.hidden, "word_embed_proj_dim"].map(|k| config.get(k));
        if hidden != width {
            return Err(Error::Unsupported(
                "config.json: embedding with a 'word_embed_proj_dim' of its own is not supported."
                    .into(),
            ));
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
        let length = |object: &Map<String, Value>, key: &str| {
            let tokens = object.get(key).and_then(Value::as_f64);
            tokens.filter(|x| (1.0..=MAX_DIMENSION as f64).contains(x)).map(|x| x as usize)
        };
        if let Some(config) = files::optional(read_object(&dir.join("tokenizer_config.json")))? {
            files.tokenizer_max_length = length(&config, "model_max_length");
        }
        for name in SENTENCE_CONFIGS {
            if let Some(config) = files::optional(read_object(&dir.join(name)))? {
                files.max_seq_length = length(&config, "max_seq_length");
                files.lowercase = config.get("do_lower_case") == Some(&Value::Bool(true));
                break;
            }
        }
        Ok(files)
    }
}

/// `modules.json`: which module works on what the one before it gives.
fn modules(dir: &Path) -> Result<Option<(Pooling, bool)>> {
    let path = dir.join("modules.json");
    let Some(text) = files::optional(files::read(&path, Kind::Config))? else { return Ok(None) };
    let shown = path.display();
    let list: Vec<Map<String, Value>> = serde_json::from_slice(&text)
        .map_err(|e| invalid!("{shown}: is not a list of modules: {e}."))?;
    let (mut kind, mut normalize) = (None, false);
    for module in &list {
        let text = |key: &str| module.get(key).and_then(Value::as_str).unwrap_or_default();
        match text("type").rsplit('.').next().unwrap_or_default() {
            "Transformer" => {}
            "Pooling" => {
                // The folder comes from a file: it must not lead out of the checkpoint.
                let folder = text("path");
                let plain = !folder.split('/').any(|part| part == "..") && !folder.starts_with('/');
                let config = dir.join(if plain { folder } else { "" }).join("config.json");
                kind = Some(kind_of(&read_object(&config)?, &config)?);
            }
            "Normalize" => normalize = true,
            other => {
                return Err(Error::Unsupported(format!(
                    "{shown}: module '{other}' is not supported; supported: Transformer, Pooling, \
                     Normalize."
                )))
            }
        }
    }
    Ok(kind.map(|kind| (kind, normalize)))
}

/// `1_Pooling/config.json`: the one flag that is true, or `pooling_mode`.
fn kind_of(config: &Map<String, Value>, path: &Path) -> Result<Pooling> {
    let on = |(key, value): (&String, &Value)| {
        let mode = key.strip_prefix("pooling_mode_")?;
        (value == &Value::Bool(true)).then(|| mode.to_string())
    };
    let mut modes: Vec<String> = config.iter().filter_map(on).collect();
    modes.extend(config.get("pooling_mode").and_then(Value::as_str).map(str::to_string));
    match modes.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["cls_token" | "cls"] => Ok(Pooling::First),
        ["lasttoken"] => Ok(Pooling::Last),
        ["mean_tokens" | "mean"] => Ok(Pooling::Mean),
        ref other => Err(Error::Unsupported(format!(
            "{}: pooling by {other:?} is not supported; supported: one of cls_token, lasttoken, \
             mean_tokens.",
            path.display()
        ))),
    }
}

impl PoolingRule {
    /// The rule of a model that embeds, None of one that generates.
    ///
    /// # Errors
    /// Those of [`PoolingRule::new`]; the user wants the other kind, which the model is not.
    pub fn of(
        config: &Map<String, Value>,
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
        config: &Map<String, Value>,
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
    /// The incumbent's texts, which name the `model`; more than a whole vector has.
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

fn dimensions(config: &Map<String, Value>) -> Result<Dimensions> {
    let flag = config.get("is_matryoshka").and_then(Value::as_bool).unwrap_or(false);
    let wrong = |v: &Value| invalid!("config.json: 'matryoshka_dimensions' must list sizes: {v}.");
    match config.get("matryoshka_dimensions") {
        None | Some(Value::Null) if flag => Ok(Dimensions::Any),
        None | Some(Value::Null) => Ok(Dimensions::Whole),
        Some(value) => {
            let list = value.as_array().filter(|list| !list.is_empty());
            let size = |v: &Value| v.as_u64().filter(|&n| n > 0).map(|n| n as usize);
            let sizes = list.and_then(|list| list.iter().map(size).collect::<Option<Vec<_>>>());
            sizes.map(Dimensions::Listed).ok_or_else(|| wrong(value))
        }
    }
}

#[cfg(test)]
#[path = "pooling_tests.rs"]
mod tests;
