//! Requests that embed: from a text or token ids to a sequence without outputs, and from its pooled
//! vector to the answer. Intake and outbox call it; on the way between them such a request is one
//! among others.

use std::sync::Arc;
use std::time::Instant;

use super::command::{Accepted, NewOutput, StopRules};
use super::intake::Intake;
use super::request::{Answer, Client, FinishReason, GenerateRequest, Output, RequestOptions};
use crate::error::Result;
use crate::ids::{AdapterId, TokenId};
use crate::invalid;
use crate::model::config::PoolingRule;
use crate::sampling::{python::float_text, SamplingParams};
use crate::text::{check_input_ids, check_input_tokens, TextStream};

/// A request that passed the door. `Engine::embed` takes it or refuses it at once.
pub struct EmbedRequest {
    pub input: EmbedInput,
    /// Elements of the vector, for models that were trained to be cut. None: all, or what
    /// `pooler_config` says.
    pub dimensions: Option<i64>,
    pub client: Arc<dyn Client>,
    /// When the door saw it.
    pub arrival: Instant,
    pub options: RequestOptions,
}

/// What is to be embedded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EmbedInput {
    /// Tokenised with the tokenizer's own special tokens.
    Text(String),
    /// As they are.
    Tokens(Vec<TokenId>),
}

/// What intake knows of a model that embeds.
pub(super) struct Embedder {
    pub rule: PoolingRule,
    /// As model.json names it; stands in messages.
    pub model: String,
    pub vocab_size: u32,
}

/// What one request's vector becomes.
#[derive(Clone)]
pub(super) struct EmbedOptions {
    embedder: Arc<Embedder>,
    size: Option<usize>,
}

impl Intake {
    /// Tokenise and check. Refuses everything if the model generates.
    pub(super) fn prepare_embedding(&self, request: EmbedRequest) -> Result<Accepted> {
        let EmbedRequest { input, dimensions, client, arrival, options } = request;
        let Some(embedder) = &self.embedder else {
            return Err(invalid!("this model generates text, it does not embed"));
        };
        let Embedder { rule, model, vocab_size } = &**embedder;
        let size = dimensions.map(|size| rule.check(size, model)).transpose()?;
        let size = size.or(rule.default_dimensions);
        let tokens = match input {
            EmbedInput::Text(text) => {
                self.check_length(&text)?;
                let lower = rule.lowercase.then(|| text.to_lowercase());
                let tokens = self.tokenizer.encode(lower.as_ref().unwrap_or(&text))?;
                check_input_tokens(tokens.len(), self.max_model_len)?;
                tokens
            }
            EmbedInput::Tokens(tokens) => tokens,
        };
        check_input_ids(&tokens, self.max_model_len, *vocab_size)?;
        let ids = self.new_ids(1);
        if self.log_requests {
            tracing::info!("request {}: {} tokens to embed", ids.first, tokens.len());
        }
        let silent = SamplingParams { detokenize: false, ..SamplingParams::default() };
        Ok(Accepted {
            adapter: AdapterId(0),
            ids,
            sequences: vec![NewOutput {
                sampler: Arc::default(),
                text: TextStream::new(&self.tokenizer, &tokens, &silent)?,
                scores: None,
                matcher_state: None,
            }],
            limits: Arc::new(StopRules {
                max_tokens: 1,
                min_tokens: 0,
                stop_ids: Vec::new(),
                repetition: None,
            }),
            queued: self.queue.add(tokens.len()),
            prompt: tokens.into(),
            client,
            stream: false,
            stream_interval: None,
            eager: false,
            arrival,
            priority: options.priority,
            skip_cache: false,
            embedding: Some(EmbedOptions { embedder: embedder.clone(), size }),
        })
    }
}

impl EmbedOptions {
    /// The answer to the sequence of `prompt_tokens` whose rows were pooled to `vector`.
    pub(super) fn answer(&self, vector: Vec<f32>, prompt_tokens: u32) -> Answer {
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

/// Either kind of request, on its way to tokens.
pub(super) enum Job {
    Generate(Box<GenerateRequest>),
    Embed(EmbedRequest),
}

impl Job {
    /// Who waits for the end, and for how long.
    pub(super) fn end(&mut self) -> (&mut Arc<dyn Client>, &RequestOptions) {
        match self {
            Job::Generate(request) => (&mut request.client, &request.options),
            Job::Embed(request) => (&mut request.client, &request.options),
        }
    }

    /// Sequences that it becomes.
    pub(super) fn sequences(&self) -> usize {
        match self {
            Job::Generate(request) => request.params.n as usize,
            Job::Embed(_) => 1,
        }
    }

    /// What its preparation costs, in bytes of text to tokenise.
    pub(super) fn work_bytes(&self) -> usize {
        /// Of a further sequence: its sampler, its text, its place in the engine.
        const SEQUENCE_BYTES: usize = 256;
        let lists = match self {
            Job::Generate(request) => {
                let SamplingParams { stop, bad_words, n, .. } = &request.params;
                let stop: usize = stop.iter().map(String::len).sum();
                // Each with and without a blank in front, and never alone in a call.
                let bad_words: usize = bad_words.iter().map(|word| 2 * (word.len() + 16)).sum();
                stop + bad_words + SEQUENCE_BYTES * (*n as usize - 1)
            }
            Job::Embed(_) => 0,
        };
        self.text().len() + lists
    }

    /// What is still to be tokenised.
    pub(super) fn text(&self) -> &str {
        match self {
            Job::Generate(request) => &request.prompt,
            Job::Embed(EmbedRequest { input: EmbedInput::Text(text), .. }) => text,
            Job::Embed(_) => "",
        }
    }
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
