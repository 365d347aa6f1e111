//! Intake: a validated request becomes tokens and limits, on the thread that calls it, or is
//! refused there. What passes goes to the engine thread as an [`Accepted`]. Called by `handle` and
//! by `prepare_threads`; it never sees a slot or a step.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use crossbeam::channel::Sender;

use super::accepted::{Accepted, NewOutput, SequenceIds, StopRules};
use super::embedding::Embedder;
use super::images::ImageIntake;
use super::queued_prompts::QueuedPrompts;
use super::types::{EmbedInput, EmbedRequest, GenerateRequest, ImageSource, NewRequest, Returns};
use crate::engine::command::Command;
use crate::engine::grammar::{DropThread, MatcherState};
use crate::engine::output::{RepetitionDetector, SequenceLogprobs};
use crate::error::{Error, Result};
use crate::ids::{AdapterId, RequestId, TokenId};
use crate::invalid;
use crate::plan::PromptImages;
use crate::sampling::{LogprobSpec, SamplerSpec, SamplingParams};
use crate::text::{
    check_input_ids, check_input_tokens, check_prompt_chars, check_prompt_tokens, check_vocabulary,
    Grammars, Interrupt, Speller, TextStream, Tokenizer,
};

/// Gives each sequence a number of its own, also among the engines of one instance: what requests
/// without a seed draw depends on it.
#[derive(Default)]
pub(crate) struct RequestIds(AtomicU64);

impl RequestIds {
    /// The first of so many, from 1 on.
    fn next(&self, count: u32) -> RequestId {
        RequestId(1 + self.0.fetch_add(u64::from(count), Ordering::Relaxed))
    }
}

/// What the first half of an intake leaves to the second.
pub(crate) struct ReadPrompt {
    /// With those of the images.
    tokens: Vec<TokenId>,
    images: Option<Arc<PromptImages>>,
}

/// Shared by all callers of one engine.
pub(crate) struct Intake {
    pub tokenizer: Arc<Tokenizer>,
    pub grammars: Grammars,
    pub max_model_len: u32,
    /// Rows of the model's embedding table: no other id may reach a device.
    pub vocab_size: u32,
    /// The model's own ends: tokenizer's eos and generation_config's.
    pub eos: Vec<TokenId>,
    /// Engine seed: requests without a seed of their own derive one from it and their id.
    pub seed: u64,
    pub log_requests: bool,
    /// Names of multi_lora.json, in its order.
    pub adapters: Vec<String>,
    pub queued_prompts: Arc<QueuedPrompts>,
    pub commands: Sender<Command>,
    /// Where matchers of ended sequences go.
    pub drop_thread: DropThread,
    pub ids: Arc<RequestIds>,
    /// The model embeds or classifies and generates nothing.
    pub embedder: Option<Arc<Embedder>>,
    /// The model takes images.
    pub images: Option<ImageIntake>,
}

impl Intake {
    /// Tokenise, check the length, hand over to the engine thread, unless `interrupt` ends it.
    pub fn accept(&self, request: NewRequest, interrupt: &dyn Interrupt) -> Result<()> {
        match request {
            NewRequest::Generate(mut request) => {
                let prompt = self.read(&mut request, interrupt)?;
                self.accept_read(*request, prompt, interrupt)
            }
            NewRequest::Embed(request) => self.pass_on(self.prepare_embedding(request)?, interrupt),
        }
    }

    /// The first half of that: tokens, all of which the model has, and images, whose files are not
    /// needed any more.
    pub fn read(
        &self,
        request: &mut GenerateRequest,
        interrupt: &dyn Interrupt,
    ) -> Result<ReadPrompt> {
        if self.embedder.is_some() {
            return Err(invalid!("this model embeds or classifies, it does not generate text"));
        }
        self.adapter(request.params.lora_name.as_deref())?;
        self.check_length(&request.prompt)?;
        let images = std::mem::take(&mut request.images);
        self.prompt_tokens(&request.prompt, &images, interrupt)
    }

    /// The second half: what may follow, a grammar among it, and over to the engine thread.
    pub fn accept_read(
        &self,
        request: GenerateRequest,
        prompt: ReadPrompt,
        interrupt: &dyn Interrupt,
    ) -> Result<()> {
        self.pass_on(self.prepare(request, prompt, interrupt)?, interrupt)
    }

    fn pass_on(&self, accepted: Accepted, interrupt: &dyn Interrupt) -> Result<()> {
        interrupt.check()?;
        self.commands
            .send(Command::Submit(Box::new(accepted)))
            .map_err(|_| Error::Unavailable("the model is being unloaded".into()))
    }

    /// Tell the operator of ids that the tokenizer may give and the model lacks.
    pub fn warn_of_vocabulary(&self, name: &str) {
        let known = self.tokenizer.vocab_size();
        let rows = self.vocab_size;
        let always = self.tokenizer.encode("").unwrap_or_default();

        if let Err(error) = check_vocabulary(&always, rows) {
            tracing::warn!(
                "{name}: every text will be refused, for the tokenizer puts a token into each that \
                 the model's {rows} embedding rows lack ({error}): tokenizer and checkpoint do not \
                 belong together"
            );
        } else if known > rows {
            tracing::warn!(
                "{name}: the tokenizer's ids go up to {}, the model has {rows} embedding rows: \
                 prompts with tokens beyond them are refused",
                known - 1
            );
        }
    }

    /// Refuse what cannot fit before anybody spends time on its tokens.
    pub fn check_length(&self, prompt: &str) -> Result<()> {
        check_prompt_chars(prompt, &self.tokenizer, self.max_model_len)
    }

    fn prepare(
        &self,
        request: GenerateRequest,
        prompt: ReadPrompt,
        interrupt: &dyn Interrupt,
    ) -> Result<Accepted> {
        let GenerateRequest { params, stream, returns, client, arrival, options, .. } = request;
        let ReadPrompt { tokens, images } = prompt;
        let adapter = self.adapter(params.lora_name.as_deref())?;
        let ids = self.new_ids(params.n);
        let mut bad_words = self.tokenizer.bad_words(&params.bad_words)?;
        // What has a token that cannot be sampled never occurs.
        bad_words.retain(|word| check_vocabulary(word, self.vocab_size).is_ok());

        // What may follow, and when it ends.
        let matcher = self.matcher_state(&params, interrupt)?.map(Box::new);
        let room = self.max_model_len - tokens.len() as u32;
        let limits = self.stop_rules(&params, room)?;
        if self.log_requests {
            tracing::info!("request {}: {} prompt tokens, {params:?}", ids.first, tokens.len());
        }

        let returns = Returns { logprobs: returns.logprobs && params.wants_logprobs(), ..returns };
        let sampler = self.sampler(&params, returns, bad_words, matcher.is_some());
        let sequences = self.sequences(ids, &params, returns, &tokens, &sampler, matcher)?;
        Ok(Accepted {
            ids,
            adapter,
            sequences,
            limits: Arc::new(limits),
            queued: self.queued_prompts.add(tokens.len()),
            prompt: tokens.into(),
            images,
            client,
            stream,
            stream_interval: params.stream_interval,
            eager: stream || !params.stop.is_empty(),
            arrival,
            skip_cache: params.skip_reading_prefix_cache,
            priority: options.priority,
            embedding: None,
        })
    }

    /// The prompt's tokens with those of its images, and these.
    fn prompt_tokens(
        &self,
        prompt: &str,
        images: &[ImageSource],
        interrupt: &dyn Interrupt,
    ) -> Result<ReadPrompt> {
        let intake = self.images.as_ref().filter(|_| !images.is_empty());
        let written = intake.and_then(|intake| intake.written(prompt, images.len()));
        let text = written.as_ref().map_or(prompt, |written| &written.text);
        let tokens = self.tokenizer.encode(text)?;
        check_prompt_tokens(tokens.len(), self.max_model_len)?;
        check_vocabulary(&tokens, self.vocab_size)?;
        if images.is_empty() {
            return Ok(ReadPrompt { tokens, images: None });
        }

        let Some(intake) = intake else {
            return Err(invalid!("Multi-modal processor not available for text-only models"));
        };
        let places = written.as_ref().map(|written| &written.places[..]);
        let most = self.max_model_len;
        let (tokens, images) = intake.place(&tokens, places, images, most, interrupt)?;
        Ok(ReadPrompt { tokens, images: Some(Arc::new(images)) })
    }

    /// What the sequences of a request sample by, but for their seeds.
    fn sampler(
        &self,
        params: &SamplingParams,
        returns: Returns,
        bad_words: Vec<Box<[TokenId]>>,
        has_grammar: bool,
    ) -> SamplerSpec {
        let mut sampler = params.sampler(&self.eos, 0, bad_words);
        if !returns.logprobs {
            // The sum needs the sampled token's own only.
            sampler.logprobs = returns.cumulative_logprob.then_some(LogprobSpec::Top(0));
        }
        if has_grammar {
            // Masked by the matcher, which knows when the grammar has nothing else.
            sampler.min_tokens = 0;
            sampler.masked_until_min = Arc::from([]);
        }
        sampler
    }

    /// The sequences of a request, in index order. A seed is the first one's: the others count up
    /// from it.
    fn sequences(
        &self,
        ids: SequenceIds,
        params: &SamplingParams,
        returns: Returns,
        tokens: &[TokenId],
        sampler: &SamplerSpec,
        mut matcher: Option<Box<MatcherState>>,
    ) -> Result<Vec<NewOutput>> {
        let text = TextStream::new(&self.tokenizer, tokens, params)?;
        let sequence = |(index, id): (usize, RequestId)| {
            let given = params.seed.map(|seed| (seed as u64).wrapping_add(index as u64));
            let seed = given.unwrap_or_else(|| mix(self.seed, id.0));
            let sampler = SamplerSpec { seed, ..sampler.clone() };

            let logprobs = sampler.logprobs.is_some().then(|| {
                let spell = returns.logprobs && params.detokenize;
                let speller = spell.then(|| Speller::new(&self.tokenizer, tokens));
                SequenceLogprobs::new(returns, speller)
            });

            let matcher_state = if index + 1 == ids.count as usize {
                matcher.take()
            } else {
                matcher.as_ref().map(|matcher| Box::new(matcher.fork()))
            };
            NewOutput { sampler: Arc::new(sampler), text: text.clone(), logprobs, matcher_state }
        };
        Ok(ids.ids().enumerate().map(sequence).collect())
    }

    /// When a sequence of the request ends, with `room` for that many outputs.
    fn stop_rules(&self, params: &SamplingParams, room: u32) -> Result<StopRules> {
        let mut stop_ids = params.stop_token_ids.clone();
        if !params.ignore_eos {
            stop_ids.extend_from_slice(&self.eos);
        }
        stop_ids.sort_unstable();
        let limits = StopRules {
            max_tokens: params.max_tokens.map_or(room, |max| max.min(room)),
            min_tokens: params.min_tokens,
            stop_ids,
            repetition: params.repetition_detection.clone(),
        };
        if let Some(rule) = &limits.repetition {
            RepetitionDetector::check(rule, limits.max_tokens, params.n)?;
        }
        Ok(limits)
    }

    /// The compiled grammar of a request that has one.
    fn matcher_state(
        &self,
        params: &SamplingParams,
        interrupt: &dyn Interrupt,
    ) -> Result<Option<MatcherState>> {
        let Some(outputs) = &params.structured_outputs else { return Ok(None) };
        let matcher = self.grammars.compile(outputs, interrupt)?;
        let avoid = self.eos.iter().chain(&params.stop_token_ids).copied().collect();
        Ok(Some(MatcherState::new(matcher, params.min_tokens, avoid, self.drop_thread.clone())))
    }

    /// Tokenise and check a request to embed or classify: a sequence without outputs. Refuses
    /// everything if the model generates.
    fn prepare_embedding(&self, request: EmbedRequest) -> Result<Accepted> {
        let EmbedRequest { input, params, client, arrival, options } = request;
        let Some(embedder) = &self.embedder else {
            return Err(invalid!("this model generates text, it does not embed"));
        };
        let embedding = embedder.options(params)?;

        let tokens = self.input_tokens(embedder, input)?;
        let ids = self.new_ids(1);
        if self.log_requests {
            tracing::info!("request {}: {} tokens to pool", ids.first, tokens.len());
        }

        let silent = SamplingParams { detokenize: false, ..SamplingParams::default() };
        Ok(Accepted {
            adapter: AdapterId(0),
            ids,
            sequences: vec![NewOutput {
                sampler: Arc::default(),
                text: TextStream::new(&self.tokenizer, &tokens, &silent)?,
                logprobs: None,
                matcher_state: None,
            }],
            limits: Arc::new(StopRules {
                max_tokens: 1,
                min_tokens: 0,
                stop_ids: Vec::new(),
                repetition: None,
            }),
            queued: self.queued_prompts.add(tokens.len()),
            prompt: tokens.into(),
            images: None,
            client,
            stream: false,
            stream_interval: None,
            eager: false,
            arrival,
            priority: options.priority,
            skip_cache: false,
            embedding: Some(embedding),
        })
    }

    /// The tokens of a text, of a pair of texts, or those that the client sent.
    fn input_tokens(&self, embedder: &Embedder, input: EmbedInput) -> Result<Vec<TokenId>> {
        let is_text = !matches!(input, EmbedInput::Tokens(_));
        let (mut tokens, types) = match input {
            EmbedInput::Text(text) => {
                self.check_length(&text)?;
                let lower = embedder.lowercase.then(|| text.to_lowercase());
                (self.tokenizer.encode(lower.as_ref().unwrap_or(&text))?, Vec::new())
            }
            EmbedInput::Pair(query, document) => {
                let joins_texts = embedder.joins_texts()?;
                self.check_length(&query)?;
                self.check_length(&document)?;
                if joins_texts {
                    (self.tokenizer.encode(&(query + &document))?, Vec::new())
                } else {
                    self.tokenizer.encode_pair(&query, &document)?
                }
            }
            EmbedInput::Tokens(tokens) => (tokens, Vec::new()),
        };

        if is_text {
            check_input_tokens(tokens.len(), self.max_model_len)?;
        }
        check_input_ids(&tokens, self.max_model_len, embedder.vocab_size)?;
        embedder.typed(&mut tokens, &types);
        Ok(tokens)
    }

    fn new_ids(&self, count: u32) -> SequenceIds {
        SequenceIds { first: self.ids.next(count), count }
    }

    fn adapter(&self, name: Option<&str>) -> Result<AdapterId> {
        let Some(name) = name else { return Ok(AdapterId(0)) };
        match self.adapters.iter().position(|known| known == name) {
            Some(n) => Ok(AdapterId(n as u16 + 1)),
            None => Err(invalid!("LoRA {name} is not known.")),
        }
    }
}

/// SplitMix64's finaliser (Steele, Lea, Flood 2014): neighbouring ids give unrelated seeds.
fn mix(seed: u64, id: u64) -> u64 {
    let mut z = seed.wrapping_add(id.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
