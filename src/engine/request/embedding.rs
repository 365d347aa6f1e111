//! Requests that embed or classify: what of a pooled vector a request wants, and what its answer
//! says. Intake makes the options and outboxes the answers; between them such a request is one
//! among others.

use std::sync::Arc;

use super::client::{Answer, FinishReason, Output};
use super::types::PoolingParams;
use crate::error::Result;
use crate::ids::TokenId;
use crate::model::config::{ClassifierRule, PooledAnswer, VectorRule};
use crate::model::{ModelSpec, PooledHead};
use crate::sampling::python::float_text;
use crate::{internal, invalid};

/// What intake knows of a model that pools.
pub(crate) struct Embedder {
    answer: PooledMaker,
    /// Texts are put in lower case.
    pub lowercase: bool,
    /// As model.json names it, for messages.
    model: String,
    /// Tokens that a client may name.
    pub vocab_size: u32,
    /// Token types that have rows of their own.
    segments: u32,
}

/// What makes answers of pooled vectors.
enum PooledMaker {
    Vector(VectorRule, Option<Arc<PooledHead>>),
    Scores(ClassifierRule, Arc<PooledHead>),
}

/// What one request's vector becomes.
#[derive(Clone)]
pub(crate) struct EmbedOptions {
    embedder: Arc<Embedder>,
    /// Elements of the vector; None = all.
    size: Option<usize>,
    /// Scores or logits; None = as the model's rule says.
    use_activation: Option<bool>,
}

impl Embedder {
    /// Of a model that pools.
    ///
    /// # Errors
    /// Internal: one that classifies, without its head.
    pub fn of(
        spec: &ModelSpec,
        head: Option<Arc<PooledHead>>,
        model: &str,
    ) -> Result<Option<Embedder>> {
        let Some(rule) = &spec.pooling else { return Ok(None) };
        let answer = match (&rule.answer, head) {
            (PooledAnswer::Vector(rule), head) => PooledMaker::Vector(rule.clone(), head),
            (PooledAnswer::Scores(rule), Some(head)) => PooledMaker::Scores(rule.clone(), head),
            (PooledAnswer::Scores(_), None) => return Err(internal!("a classifier has no head")),
        };
        Ok(Some(Embedder {
            answer,
            lowercase: rule.lowercase,
            model: model.into(),
            vocab_size: spec.vocab_size as u32,
            segments: spec.segments() as u32,
        }))
    }

    /// For a request that asks for this.
    ///
    /// # Errors
    /// InvalidArgument: the model's vectors cannot be cut to that; it has none.
    pub fn options(self: &Arc<Self>, params: PoolingParams) -> Result<EmbedOptions> {
        let PoolingParams { dimensions, use_activation } = params;
        let size = match (&self.answer, dimensions) {
            (PooledMaker::Vector(rule, _), None) => rule.default_dimensions,
            (PooledMaker::Vector(rule, _), Some(size)) => Some(rule.check(size, &self.model)?),
            (PooledMaker::Scores(..), None) => None,
            (PooledMaker::Scores(..), Some(_)) => {
                return Err(invalid!(
                    "'dimensions' cuts vectors, and this model classifies: it takes \
                     'use_activation' only"
                ))
            }
        };
        Ok(EmbedOptions { embedder: Arc::clone(self), size, use_activation })
    }

    /// How a query and a document become one sequence: as one text (true) or as the tokenizer has
    /// it.
    ///
    /// # Errors
    /// InvalidArgument: the model embeds.
    pub fn joins_texts(&self) -> Result<bool> {
        match &self.answer {
            PooledMaker::Scores(rule, _) => Ok(rule.joined),
            PooledMaker::Vector(..) => Err(invalid!(
                "this model embeds: it takes one 'input', no pair of 'text_1' and 'text_2'"
            )),
        }
    }

    /// The rows of the token table for tokens of these types; a type that the table does not know
    /// is 0.
    pub fn typed(&self, tokens: &mut [TokenId], types: &[u32]) {
        for (token, &kind) in tokens.iter_mut().zip(types) {
            if kind < self.segments {
                token.0 += kind * self.vocab_size;
            }
        }
    }
}

impl EmbedOptions {
    /// The answer to the sequence of `prompt_tokens` whose rows were pooled to `vector`.
    pub fn answer(&self, vector: Vec<f32>, prompt_tokens: u32) -> Answer {
        let values = match &self.embedder.answer {
            PooledMaker::Vector(rule, head) => {
                let vector = match head {
                    Some(head) => head.of(vector),
                    None => vector,
                };
                rule.finish(vector, self.size)
            }
            PooledMaker::Scores(rule, head) => rule.finish(head.of(vector), self.use_activation),
        };
        let output = Output {
            text: json_list(&values),
            tokens: 0,
            finish_reason: Some(FinishReason::Stop),
            cumulative_logprob: f32::NAN,
            logprobs: None,
        };
        Answer { prompt_tokens, outputs: vec![output] }
    }
}

/// As Python's `json.dumps` writes a list of floats; f32 widen exactly.
fn json_list(vector: &[f32]) -> String {
    let mut out = String::with_capacity(2 + 23 * vector.len());
    let mut separator = "[";
    for &x in vector {
        out.push_str(separator);
        separator = ", ";
        match x {
            x if x.is_nan() => out.push_str("NaN"),
            x if x.is_infinite() => out.push_str(if x > 0.0 { "Infinity" } else { "-Infinity" }),
            x => out.push_str(&float_text(f64::from(x))),
        }
    }
    out.push_str(if vector.is_empty() { "[]" } else { "]" });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expectations printed by Python 3.11's `json.dumps` of numpy float32 values.
    #[test]
    fn vectors_print_like_python() {
        assert_eq!(json_list(&[]), "[]");
        assert_eq!(
            json_list(&[0.1, -1.0, 1e-5, 0.0, 2.5e20]),
            "[0.10000000149011612, -1.0, 9.999999747378752e-06, 0.0, 2.5000000501021934e+20]"
        );
        assert_eq!(json_list(&[f32::NAN, f32::NEG_INFINITY]), "[NaN, -Infinity]");
    }
}
