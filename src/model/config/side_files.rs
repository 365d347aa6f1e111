//! What sentence-transformers leaves beside a checkpoint: how to pool, how long a text may be, and
//! whether it is put in lower case. Called by `config` alone, which judges what to make of it.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::dense_modules::DenseModule;
use super::keys::MAX_DIMENSION;
use crate::device::Pooling;
use crate::error::{Error, Result};
use crate::files::{self, Kind};
use crate::invalid;
use crate::json::{self, Object};

/// What the files beside a checkpoint say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SideFiles {
    /// `modules.json` with a pooling module: its kind, and whether a normalising one follows.
    pub pooling: Option<(Pooling, bool)>,
    /// Products between the two.
    pub dense: Vec<DenseModule>,
    /// Tokens of a text at most, `sentence_*_config.json`.
    pub max_seq_length: Option<usize>,
    /// Texts are to be put in lower case before they are tokenised.
    pub lowercase: bool,
    /// `model_max_length` of tokenizer_config.json.
    pub tokenizer_max_length: Option<usize>,
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

impl SideFiles {
    /// Absent files say nothing.
    ///
    /// # Errors
    /// A broken file; a module or a way of pooling that is not built, named.
    pub fn read(dir: &Path) -> Result<SideFiles> {
        let mut files = modules(dir)?;
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
fn modules(dir: &Path) -> Result<SideFiles> {
    let path = dir.join("modules.json");
    let mut files = SideFiles::default();
    let Some(value) = files::optional(json::read(&path, Kind::Config))? else { return Ok(files) };
    let shown = path.display().to_string();
    let wrong = |value: &Value| {
        invalid!("{shown}: must be a list of modules, got {}.", json::shown(value)).on_one_line()
    };

    let mut kind = None;
    let mut normalize = false;
    for module in value.as_array().ok_or_else(|| wrong(&value))? {
        let module = Object::new(&shown, module.as_object().ok_or_else(|| wrong(module))?);
        let class = module.needed("type", "the class of a module", module.text("type")?)?;
        match class.rsplit('.').next().unwrap_or_default() {
            "Transformer" => {}
            "Pooling" => kind = Some(kind_of(&folder_of(dir, &module)?.join("config.json"))?),
            "Dense" if kind.is_some() && !normalize => {
                files.dense.push(DenseModule::read(&folder_of(dir, &module)?)?);
            }
            "Normalize" => normalize = true,
            other => {
                return Err(Error::Unsupported(format!(
                    "{shown}: module '{}' is not supported there; supported: Transformer, Pooling, \
                     then Dense, then Normalize.",
                    json::cut(other)
                )))
            }
        }
    }
    files.pooling = kind.map(|kind| (kind, normalize));
    Ok(files)
}

/// Where a module's files lie. The folder comes from a file: it must not lead out of the
/// checkpoint.
fn folder_of(dir: &Path, module: &Object) -> Result<PathBuf> {
    let folder = module.text("path")?.unwrap_or_default();
    let plain = !folder.split('/').any(|part| part == "..") && !folder.starts_with('/');
    if !plain {
        return Err(module.wrong("path", "a folder of the checkpoint"));
    }
    Ok(dir.join(folder))
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
