//! What becomes of the last hidden states of a model that embeds: which rows make the vector,
//! whether it is normalised, how short a request may have it. From the user's `pooler_config`, the
//! files beside the checkpoint, and the Python backend's defaults. `config` calls it at load,
//! `engine` keeps the result.

use serde_json::Value;

use super::keys::{self, architecture};
use super::side_files::SideFiles;
use crate::device::Pooling;
use crate::error::{Error, Result};
use crate::invalid;
use crate::json::Object;
use crate::model::architectures::{self, Family};

/// Does the model embed or generate?
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RunnerKind {
    /// It embeds if sentence-transformers' files say so, or an architecture without a head.
    #[default]
    Auto,
    /// It generates; an error for one that cannot.
    Generate,
    /// It embeds.
    Pooling,
}

/// What the user said (`runner`, `pooler_config`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolerOptions {
    /// Does the model embed?
    pub runner: RunnerKind,
    /// Which rows make the vector; None: as the files or the defaults say.
    pub kind: Option<Pooling>,
    /// To length 1; None: as the files or the defaults say.
    pub normalize: Option<bool>,
    /// Of requests that name none.
    pub dimensions: Option<usize>,
}

/// What a request's `dimensions` may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dimensions {
    /// The model was not trained to be cut.
    Whole,
    /// Any, up to the whole vector.
    Any,
    /// One of these.
    Listed(Vec<usize>),
}

/// How vectors are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolingRule {
    /// Which rows make the vector.
    pub kind: Pooling,
    /// To length 1, after they were cut.
    pub normalize: bool,
    /// Texts are put in lower case before they are tokenised.
    pub lowercase: bool,
    /// Elements of a whole vector.
    pub width: usize,
    /// What a request may ask for.
    pub dimensions: Dimensions,
    /// Of requests that name none.
    pub default_dimensions: Option<usize>,
}

/// Does the model embed? The user decides, then the files beside the checkpoint, then the name.
fn embeds(
    config: &Object,
    family: &Family,
    options: &PoolerOptions,
    files: &SideFiles,
) -> Result<bool> {
    let name = architecture(config)?.unwrap_or(family.architecture);
    let pools = match options.runner {
        RunnerKind::Pooling => true,
        RunnerKind::Auto => {
            files.pooling.is_some() || family.encoder || architectures::headless(name)
        }
        RunnerKind::Generate if family.encoder => {
            return Err(Error::Unsupported(format!(
                "This model does not support runner 'generate': {name} only embeds. Remove \
                 'runner' from model.json, or set it to 'pooling'."
            )))
        }
        RunnerKind::Generate => false,
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

impl PoolingRule {
    /// The rule of a model that embeds, None of one that generates.
    ///
    /// # Errors
    /// Those of [`PoolingRule::new`]; the user wants the other kind, which the model is not.
    pub fn of(
        config: &Object,
        family: &Family,
        options: &PoolerOptions,
        files: &SideFiles,
        width: usize,
    ) -> Result<Option<PoolingRule>> {
        if !embeds(config, family, options, files)? {
            return Ok(None);
        }
        PoolingRule::new(config, options, files, family.encoder, width).map(Some)
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
