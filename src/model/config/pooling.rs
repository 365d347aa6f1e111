//! What becomes of the last hidden states of a model that pools: which rows make the vector, and
//! whether that is the answer, normalised and how short, or scores are made of it. From the user's
//! `pooler_config`, the files beside the checkpoint, and the Python backend's defaults. `config`
//! calls it at load, `engine` keeps the result.

use serde_json::Value;

use super::classifier::ClassifierRule;
use super::dense_modules::DenseModule;
use super::keys::{self, architecture};
use super::pooler_options::{Convert, PoolerOptions, RunnerKind};
use super::side_files::SideFiles;
use crate::device::Pooling;
use crate::error::{Error, Result};
use crate::invalid;
use crate::json::Object;
use crate::model::architectures::{self, Family};

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

/// What becomes of the last hidden states.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolingRule {
    /// Which rows make the vector.
    pub kind: Pooling,
    /// Texts are put in lower case before they are tokenised.
    pub lowercase: bool,
    /// What the vector becomes.
    pub answer: PooledAnswer,
}

/// What a pooled vector becomes.
#[derive(Debug, Clone, PartialEq)]
pub enum PooledAnswer {
    /// The model embeds.
    Vector(VectorRule),
    /// It classifies.
    Scores(ClassifierRule),
}

/// How vectors are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VectorRule {
    /// To length 1, after they were cut.
    pub normalize: bool,
    /// Products that make the vector of what was pooled.
    pub dense: Vec<DenseModule>,
    /// Elements of a whole vector, behind these.
    pub width: usize,
    /// What a request may ask for.
    pub dimensions: Dimensions,
    /// Of requests that name none.
    pub default_dimensions: Option<usize>,
}

/// To what end the model pools, if it does. The user decides, then the files beside the checkpoint,
/// then the name.
fn task(
    name: &str,
    family: &Family,
    options: &PoolerOptions,
    files: &SideFiles,
) -> Result<Option<Convert>> {
    let classifies = architectures::classifies(name);
    let pools = match options.runner {
        RunnerKind::Pooling => true,
        RunnerKind::Auto => {
            let cannot_generate = family.encoder || classifies || architectures::headless(name);
            files.pooling.is_some() || cannot_generate
        }
        RunnerKind::Generate if family.encoder || classifies => {
            let only = if classifies { "classifies" } else { "embeds" };
            return Err(Error::Unsupported(format!(
                "This model does not support runner 'generate': {name} only {only}. Remove \
                 'runner' from model.json, or set it to 'pooling'."
            )));
        }
        RunnerKind::Generate => false,
    };

    match options.convert {
        _ if !pools => Ok(None),
        Some(Convert::Embed) if classifies => Err(Error::Unsupported(format!(
            "This model does not support convert 'embed': {name} classifies. To embed with its \
             body set hf_overrides to {{\"architectures\": [\"{}\"]}}.",
            family.architecture
        ))),
        None if classifies => Ok(Some(Convert::Classify)),
        None => Ok(Some(Convert::Embed)),
        convert => Ok(convert),
    }
}

impl PoolingRule {
    /// The rule of a model that pools, None of one that generates.
    ///
    /// # Errors
    /// The user wants another kind than the model is of; those of [`VectorRule::new`] and of
    /// [`ClassifierRule::new`]; a part of `pooler_config` that such a model has not.
    pub fn of(
        config: &Object,
        family: &Family,
        options: &PoolerOptions,
        files: &SideFiles,
        width: usize,
    ) -> Result<Option<PoolingRule>> {
        let name = architecture(config)?.unwrap_or(family.architecture);
        let Some(task) = task(name, family, options, files)? else { return Ok(None) };
        refuse_own_width(config, family)?;

        match task {
            Convert::Embed => {
                not_set("logit_mean", options.logit_mean, name, "embeds")?;
                not_set("logit_sigma", options.logit_sigma, name, "embeds")?;
                let (kind, normalize) = files.pooling.unwrap_or((family.pooling, true));
                let width = width_behind(&files.dense, width)?;
                let mut rule = VectorRule::new(config, options, normalize, width)?;
                rule.dense.clone_from(&files.dense);
                Ok(Some(PoolingRule {
                    kind: options.kind.unwrap_or(kind),
                    lowercase: files.lowercase,
                    answer: PooledAnswer::Vector(rule),
                }))
            }
            Convert::Classify => {
                not_set("dimensions", options.dimensions, name, "classifies")?;
                let usual = classifier_pooling(config, family)?;
                let other = options.kind.filter(|&kind| family.encoder && kind != usual);
                let only = match usual {
                    Pooling::First => "pooling_type other than CLS",
                    Pooling::Last => "pooling_type other than LAST",
                    Pooling::Mean => "pooling_type other than MEAN",
                };
                not_set(only, other, name, "classifies")?;
                Ok(Some(PoolingRule {
                    kind: options.kind.unwrap_or(usual),
                    lowercase: false,
                    answer: PooledAnswer::Scores(ClassifierRule::new(config, options)?),
                }))
            }
        }
    }

    /// The step must feed a sequence as a whole.
    pub fn whole(&self) -> bool {
        self.kind != Pooling::Last
    }

    /// The rule of scores, if there is one.
    pub fn scores(&self) -> Option<&ClassifierRule> {
        match &self.answer {
            PooledAnswer::Scores(rule) => Some(rule),
            PooledAnswer::Vector(_) => None,
        }
    }
}

/// Which rows a classifier pools.
fn classifier_pooling(config: &Object, family: &Family) -> Result<Pooling> {
    let Some(key) = family.classifier.pooling else { return Ok(family.pooling) };
    match config.text(key)? {
        None => Ok(family.pooling),
        Some("cls") => Ok(Pooling::First),
        Some("mean") => Ok(Pooling::Mean),
        Some(_) => Err(config.wrong(key, "'cls' or 'mean'")),
    }
}

/// Elements of what products behind pooling make of a row.
fn width_behind(dense: &[DenseModule], mut width: usize) -> Result<usize> {
    for module in dense {
        if module.inputs != width {
            return Err(invalid!(
                "{}: 'in_features' is {}, and what the module reads has {width} elements.",
                module.folder.join("config.json").display(),
                module.inputs
            ));
        }
        width = module.outputs;
    }
    Ok(width)
}

fn refuse_own_width(config: &Object, family: &Family) -> Result<()> {
    let Some(key) = family.keys.embed_width else { return Ok(()) };
    let width = keys::width(config, key)?;
    if width.is_some() && width != keys::width(config, family.keys.hidden)? {
        return Err(Error::Unsupported(format!(
            "{}: pooling with a width of its own is not supported.",
            config.name(key)
        )));
    }
    Ok(())
}

/// A part of `pooler_config` that the model has no use for.
fn not_set<T>(key: &str, value: Option<T>, name: &str, does: &str) -> Result<()> {
    match value {
        None => Ok(()),
        Some(_) => Err(invalid!("pooler_config: {name} {does}, it takes no {key}")),
    }
}

impl VectorRule {
    /// The user's word goes before `normalize`, what the files say.
    ///
    /// # Errors
    /// `matryoshka_dimensions` is no list of sizes; a default size that the model cannot have.
    pub fn new(
        config: &Object,
        options: &PoolerOptions,
        normalize: bool,
        width: usize,
    ) -> Result<VectorRule> {
        let rule = VectorRule {
            normalize: options.use_activation.unwrap_or(normalize),
            dense: Vec::new(),
            width,
            dimensions: dimensions(config)?,
            default_dimensions: options.dimensions,
        };
        if let Some(size) = options.dimensions {
            rule.check(size as i64, "").map_err(|e| e.context("pooler_config: "))?;
        }
        Ok(rule)
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
