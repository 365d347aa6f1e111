//! Requests as `triton` hands them to the engine: validated, not yet tokenised. Plain data; who
//! waits for the answer is a [`Client`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::client::Client;
use crate::ids::TokenId;
use crate::sampling::SamplingParams;

/// A request that passed validation. `Engine::submit` takes it or refuses it at once.
pub struct GenerateRequest {
    /// The prompt as sent. Tokenised with the tokenizer's own special tokens (BOS).
    pub prompt: String,
    /// In the order of their placeholders in the prompt.
    pub images: Vec<ImageSource>,
    /// How to sample, and when to stop.
    pub params: SamplingParams,
    /// Deltas as they come, or one answer at the end.
    pub stream: bool,
    /// What of the answer the client reads.
    pub returns: Returns,
    /// Who gets the answer.
    pub client: Arc<dyn Client>,
    /// When it came from the server: time to first token and latency count from here.
    pub arrival: Instant,
    /// Timeout and priority.
    pub options: RequestOptions,
}

/// What a client sent for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageSource {
    /// The file in base64 or as a `data:` URI, or a URL that leads to it.
    Text(String),
    /// The file.
    File(Vec<u8>),
}

impl ImageSource {
    /// Bytes of it.
    pub fn bytes(&self) -> usize {
        match self {
            ImageSource::Text(text) => text.len(),
            ImageSource::File(bytes) => bytes.len(),
        }
    }
}

/// What a request asks of the engine beside its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestOptions {
    /// From acceptance to the end; what is unfinished then fails. None = for ever.
    pub timeout: Option<Duration>,
    /// Among waiting requests a smaller number goes first; equal ones in order of arrival.
    pub priority: u64,
}

impl Default for RequestOptions {
    /// No timeout, and behind those who name a priority.
    fn default() -> Self {
        RequestOptions { timeout: None, priority: u64::MAX }
    }
}

/// What of an [`Output`](crate::engine::Output) the client reads, where making it costs something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Returns {
    /// If the parameters ask for logprobs at all.
    pub logprobs: bool,
    /// The sum of the logprobs of all tokens.
    pub cumulative_logprob: bool,
}

/// A request to embed or to classify that passed validation. `Engine::embed` takes it or refuses it
/// at once.
pub struct EmbedRequest {
    /// What is to be embedded or classified.
    pub input: EmbedInput,
    /// What of it is asked for.
    pub params: PoolingParams,
    /// Who gets the answer.
    pub client: Arc<dyn Client>,
    /// When it came from the server.
    pub arrival: Instant,
    /// Timeout and priority.
    pub options: RequestOptions,
}

/// What of a pooled vector a request asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolingParams {
    /// Elements of the vector, for models that were trained to be cut. None: all, or what
    /// `pooler_config` says.
    pub dimensions: Option<i64>,
    /// Scores or, if false, logits, of models that classify. None: what `pooler_config` says.
    pub use_activation: Option<bool>,
}

/// What is to be embedded or classified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EmbedInput {
    /// Tokenised with the tokenizer's own special tokens.
    Text(String),
    /// A query and a document, to be scored together.
    Pair(String, String),
    /// As they are.
    Tokens(Vec<TokenId>),
}

/// Either kind of request, on its way to tokens.
pub(crate) enum NewRequest {
    Generate(Box<GenerateRequest>),
    Embed(EmbedRequest),
}

impl NewRequest {
    /// Who waits for the end, and for how long.
    pub(crate) fn client_and_options(&mut self) -> (&mut Arc<dyn Client>, &RequestOptions) {
        match self {
            NewRequest::Generate(request) => (&mut request.client, &request.options),
            NewRequest::Embed(request) => (&mut request.client, &request.options),
        }
    }

    /// Sequences that it becomes.
    pub(crate) fn sequences(&self) -> usize {
        match self {
            NewRequest::Generate(request) => request.params.n as usize,
            NewRequest::Embed(_) => 1,
        }
    }

    /// What its preparation costs, in bytes of text to tokenise.
    pub(crate) fn work_bytes(&self) -> usize {
        /// Of a further sequence: its sampler, its text, its state in the engine.
        const SEQUENCE_BYTES: usize = 256;
        let lists = match self {
            NewRequest::Generate(request) => {
                let images: usize = request.images.iter().map(ImageSource::bytes).sum();
                let SamplingParams { stop, bad_words, n, .. } = &request.params;
                let stop: usize = stop.iter().map(String::len).sum();
                // Each with and without a blank in front, and never alone in a call.
                let bad_words: usize = bad_words.iter().map(|word| 2 * (word.len() + 16)).sum();
                images + stop + bad_words + SEQUENCE_BYTES * (*n as usize - 1)
            }
            NewRequest::Embed(_) => 0,
        };
        self.texts().iter().map(|text| text.len()).sum::<usize>() + lists
    }

    /// What is still to be tokenised.
    pub(crate) fn texts(&self) -> [&str; 2] {
        match self {
            NewRequest::Generate(request) => [&request.prompt, ""],
            NewRequest::Embed(request) => match &request.input {
                EmbedInput::Text(text) => [text, ""],
                EmbedInput::Pair(first, second) => [first, second],
                EmbedInput::Tokens(_) => ["", ""],
            },
        }
    }
}
