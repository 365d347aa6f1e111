//! Requests that embed: what of a vector a request wants, and what its answer says. Intake makes
//! the options and outboxes the answers; between them such a request is one among others.

use std::sync::Arc;

use super::client::{Answer, FinishReason, Output};
use crate::error::Result;
use crate::model::config::PoolingRule;
use crate::sampling::python::float_text;

/// What intake knows of a model that embeds.
pub(crate) struct Embedder {
    pub rule: PoolingRule,
    /// As model.json names it, for messages.
    pub model: String,
    pub vocab_size: u32,
}

/// What one request's vector becomes.
#[derive(Clone)]
pub(crate) struct EmbedOptions {
    embedder: Arc<Embedder>,
    /// Elements of the vector; None = all.
    size: Option<usize>,
}

impl Embedder {
    /// For a request that asks for vectors of so many dimensions, or does not say.
    ///
    /// # Errors
    /// InvalidArgument: the model's vectors cannot be cut to that.
    pub fn options(self: &Arc<Self>, dimensions: Option<i64>) -> Result<EmbedOptions> {
        let size = dimensions.map(|size| self.rule.check(size, &self.model)).transpose()?;
        let size = size.or(self.rule.default_dimensions);
        Ok(EmbedOptions { embedder: Arc::clone(self), size })
    }
}

impl EmbedOptions {
    /// The answer to the sequence of `prompt_tokens` whose rows were pooled to `vector`.
    pub fn answer(&self, vector: Vec<f32>, prompt_tokens: u32) -> Answer {
        let text = json_list(&self.embedder.rule.finish(vector, self.size));
        let output = Output {
            text,
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
