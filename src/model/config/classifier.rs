//! What a classifier's logits become: how many there are, where their rows come from, which
//! activation makes scores of them. By config.json and the user's `pooler_config`, as vLLM reads
//! them. `pooling` calls it at load, `engine` keeps the result.

use super::keys::{flag, MAX_DIMENSION};
use super::pooler_options::PoolerOptions;
use crate::error::{Error, Result};
use crate::invalid;
use crate::json::{self, Object};
use crate::model::architectures::Flag;

/// What makes scores of logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScoreActivation {
    /// Logits are scores.
    None,
    /// One label: sigmoid; more: softmax over them.
    Probability,
    /// Each label by itself.
    Sigmoid,
    /// Each label by itself.
    Tanh,
}

/// Where the rows of the last product come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClassifierWeights {
    /// The checkpoint has them.
    Stored,
    /// The language model's head has them: its rows of these tokens.
    OfTokens {
        /// As the vocabulary spells them.
        tokens: Vec<String>,
        /// One row: that of the second token less that of the first.
        difference: bool,
        /// The token table is the head.
        tied: bool,
    },
}

/// How scores are made.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassifierRule {
    /// How many scores there are.
    pub labels: usize,
    /// What their logits are made by.
    pub weights: ClassifierWeights,
    /// From logits to scores.
    pub activation: ScoreActivation,
    /// Requests that do not say get scores, not logits.
    pub activated: bool,
    /// Taken off each logit.
    pub mean: f64,
    /// Divides what is left.
    pub sigma: f64,
    /// The texts of a pair are one, the second right behind the first; else the tokenizer joins
    /// them.
    pub joined: bool,
}

/// In front of the names of activations; vLLM imports nothing else.
const MODULES: &str = "torch.nn.modules.";

/// Ways to make a classifier of a language model, and whether they take two rows for one.
const METHODS: [(&str, bool); 2] = [("from_2_way_softmax", true), ("no_post_processing", false)];

impl ClassifierRule {
    /// By config.json, and what the user says over it.
    ///
    /// # Errors
    /// One line that names the key: a value of another kind, numbers of labels that contradict each
    /// other, an activation or a method that is not known.
    pub fn new(config: &Object, options: &PoolerOptions) -> Result<ClassifierRule> {
        let weights = weights(config)?;
        let labels = match &weights {
            ClassifierWeights::Stored => labels(config)?,
            ClassifierWeights::OfTokens { difference: true, .. } => 1,
            ClassifierWeights::OfTokens { tokens, .. } => tokens.len(),
        };
        let sigma = options.logit_sigma.unwrap_or(1.0);
        if !sigma.is_normal() {
            return Err(invalid!("pooler_config.logit_sigma must not be 0, got {sigma}"));
        }

        // Two names, by the release of vLLM.
        let by_tokenizer = config.flag("use_sep_token")?.or(config.flag("use_pad_token")?);
        let by_tokenizer = by_tokenizer.unwrap_or(weights == ClassifierWeights::Stored);
        Ok(ClassifierRule {
            labels,
            weights,
            activation: activation(config)?,
            activated: options.use_activation.unwrap_or(true),
            mean: options.logit_mean.unwrap_or(0.0),
            sigma,
            joined: !by_tokenizer,
        })
    }

    /// What the client gets for these logits. `activated`: as the request says, if it does.
    pub fn finish(&self, logits: Vec<f32>, activated: Option<bool>) -> Vec<f32> {
        let calibrated = |x: f32| (f64::from(x) - self.mean) / self.sigma;
        let logits: Vec<f64> = logits.into_iter().map(calibrated).collect();
        let activation = match activated.unwrap_or(self.activated) {
            true => self.activation,
            false => ScoreActivation::None,
        };

        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let scores: Vec<f64> = match activation {
            ScoreActivation::None => logits,
            ScoreActivation::Tanh => logits.into_iter().map(f64::tanh).collect(),
            ScoreActivation::Probability if logits.len() > 1 => softmax(&logits),
            ScoreActivation::Probability | ScoreActivation::Sigmoid => {
                logits.into_iter().map(sigmoid).collect()
            }
        };
        scores.into_iter().map(|x| x as f32).collect()
    }
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = logits.iter().map(|x| (x - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|x| x / sum).collect()
}

/// `id2label` names as many as there are; two where nothing is said, as in transformers.
fn labels(config: &Object) -> Result<usize> {
    const COUNT: &str = "num_labels";
    const NAMES: &str = "id2label";
    let count = config.count(COUNT, MAX_DIMENSION)?;
    let named = config.object(NAMES)?.map(|names| names.keys().count());
    match (count, named) {
        (_, Some(0)) => Err(config.wrong(NAMES, "an object with a name for each label")),
        (Some(count), Some(named)) if count != named => Err(invalid!(
            "{} is {count}, and {} names {named} labels.",
            config.name(COUNT),
            config.name(NAMES)
        )),
        (count, named) => Ok(count.or(named).unwrap_or(2)),
    }
}

fn weights(config: &Object) -> Result<ClassifierWeights> {
    const TOKENS: &str = "classifier_from_token";
    const QWEN3: &str = "is_original_qwen3_reranker";
    let known = METHODS.map(|(name, _)| name).join(", ");
    let method = match config.text("method")? {
        Some(name) => Some(METHODS.iter().find(|(known, _)| *known == name).ok_or_else(|| {
            Error::Unsupported(format!(
                "{}: '{}' is not supported; supported: {known}.",
                config.name("method"),
                json::cut(name)
            ))
        })?),
        None => config.flag(QWEN3)?.unwrap_or(false).then_some(&METHODS[0]),
    };

    let (difference, tokens) = match (method, config.texts(TOKENS)?) {
        (None, None) => return Ok(ClassifierWeights::Stored),
        (Some(&(_, difference)), Some(tokens)) => (difference, tokens),
        (Some((name, _)), None) => {
            let expected = format!("a list of tokens, for method '{name}'");
            return Err(config.wrong(TOKENS, &expected));
        }
        (None, Some(_)) => {
            return Err(invalid!(
                "{} says nothing without 'method' ({known}) or {QWEN3}.",
                config.name(TOKENS)
            ))
        }
    };
    match tokens.len() {
        0 => return Err(config.wrong(TOKENS, "a list of tokens")),
        n if difference && n != 2 => return Err(config.wrong(TOKENS, "a list of two tokens")),
        _ => {}
    }
    let tokens = tokens.into_iter().map(String::from).collect();
    let tied = flag(config, Flag::Key("tie_word_embeddings"))?;
    Ok(ClassifierWeights::OfTokens { tokens, difference, tied })
}

/// What the model was trained for, else what sentence-transformers wrote, else probabilities.
fn activation(config: &Object) -> Result<ScoreActivation> {
    const PROBLEM: &str = "problem_type";
    match config.text(PROBLEM)? {
        Some("regression") => return Ok(ScoreActivation::None),
        Some("single_label_classification") => return Ok(ScoreActivation::Probability),
        Some("multi_label_classification") => return Ok(ScoreActivation::Sigmoid),
        Some(_) => {
            let expected = "regression, single_label_classification or multi_label_classification";
            return Err(config.wrong(PROBLEM, expected));
        }
        None => {}
    }

    const NEW: &str = "activation_fn";
    const OLD: &str = "sbert_ce_default_activation_function";
    if let Some(inner) = config.object("sentence_transformers")? {
        if inner.given(NEW).is_some() {
            return by_name(&inner, NEW);
        }
    }
    match config.given(OLD) {
        Some(_) => by_name(config, OLD),
        None => Ok(ScoreActivation::Probability),
    }
}

fn by_name(config: &Object, key: &str) -> Result<ScoreActivation> {
    let name = config.text(key)?.unwrap_or_default();
    let class = name.strip_prefix(MODULES).and_then(|path| path.rsplit('.').next());
    Ok(match class {
        Some("Identity") => ScoreActivation::None,
        Some("Sigmoid" | "Softmax") => ScoreActivation::Probability,
        Some("Tanh") => ScoreActivation::Tanh,
        _ => {
            return Err(Error::Unsupported(format!(
                "{}: '{}' is not supported; supported: {MODULES}linear.Identity, \
                 {MODULES}activation.Sigmoid, .Softmax and .Tanh.",
                config.name(key),
                json::cut(name)
            )))
        }
    })
}

#[cfg(test)]
#[path = "classifier_tests.rs"]
mod tests;
