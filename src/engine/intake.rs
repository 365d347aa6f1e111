//! Intake: a validated request becomes tokens and limits, on the caller's thread, or is refused
//! there. What passes goes to the engine thread as an [`Accepted`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use crossbeam::channel::Sender;

use super::command::{Accepted, Command, Family, NewOutput, StopRules};
use super::pooling::{Embedder, Job};
use super::request::{GenerateRequest, Returns};
use super::scores::Scores;
use crate::error::{Error, Result};
use crate::ids::{RequestId, TokenId};
use crate::invalid;
use crate::sampling::{LogprobSpec, SamplerSpec};
use crate::text::{check_prompt_chars, check_prompt_tokens, Speller, TextStream, Tokenizer};

/// Prompts up to this many bytes are tokenised on the caller's thread (a fraction of a
/// millisecond); longer ones on a thread of their own, so that one book does not hold up a hundred
/// questions.
pub(super) const INLINE_BYTES: usize = 16 * 1024;

/// Shared by all callers of one engine.
pub(super) struct Intake {
    pub tokenizer: Arc<Tokenizer>,
    pub max_model_len: u32,
    /// The model's own ends: tokenizer's eos and generation_config's.
    pub eos: Vec<TokenId>,
    /// Engine seed: requests without a seed of their own derive one from it and their id.
    pub seed: u64,
    pub log_requests: bool,
    pub commands: Sender<Command>,
    pub next_id: AtomicU64,
    /// The model embeds and generates nothing.
    pub embedder: Option<Arc<Embedder>>,
}

impl Intake {
    /// Tokenise, check the room, hand over.
    pub fn accept(&self, job: Job) -> Result<()> {
        let accepted = match job {
            Job::Generate(request) => self.prepare(*request)?,
            Job::Embed(request) => self.prepare_embedding(request)?,
        };
        self.commands
            .send(Command::Submit(Box::new(accepted)))
            .map_err(|_| Error::Unavailable("the model is being unloaded".into()))
    }

    /// Refuse what cannot fit before anybody spends time on its tokens.
    pub fn check_length(&self, prompt: &str) -> Result<()> {
        check_prompt_chars(prompt, &self.tokenizer, self.max_model_len)
    }

    fn prepare(&self, request: GenerateRequest) -> Result<Accepted> {
        let GenerateRequest { prompt, params, stream, returns, client, arrival, terms } = request;
        if self.embedder.is_some() {
            return Err(invalid!("this model embeds, it does not generate text"));
        }
        self.check_length(&prompt)?;
        let tokens = self.tokenizer.encode(&prompt)?;
        check_prompt_tokens(tokens.len(), self.max_model_len)?;
        let ids = self.new_ids(params.n);
        let first = ids.first;
        let room = self.max_model_len - tokens.len() as u32;
        let bad_words = self.tokenizer.bad_words(&params.bad_words)?;
        let mut stop_ids = params.stop_token_ids.clone();
        if !params.ignore_eos {
            stop_ids.extend_from_slice(&self.eos);
        }
        let limits = StopRules {
            max_tokens: params.max_tokens.map_or(room, |max| max.min(room)),
            min_tokens: params.min_tokens,
            stop_ids,
            repetition: params.repetition_detection.clone(),
        };
        if self.log_requests {
            tracing::info!("request {first}: {} prompt tokens, {params:?}", tokens.len());
        }
        let returns = Returns { logprobs: returns.logprobs && params.wants_logprobs(), ..returns };
        let mut sampler = params.sampler(&self.eos, 0, bad_words);
        if !returns.logprobs {
            // The sum needs the sampled token's own only.
            sampler.logprobs = returns.cumulative_logprob.then_some(LogprobSpec::Top(0));
        }
        let sequence = |(index, id): (usize, RequestId)| {
            // A seed is the first sequence's: the others count up from it.
            let given = params.seed.map(|seed| (seed as u64).wrapping_add(index as u64));
            let seed = given.unwrap_or_else(|| mix(self.seed, id.0));
            let sampler = SamplerSpec { seed, ..sampler.clone() };
            let text = TextStream::new(&self.tokenizer, &tokens, &params);
            let scores = sampler.logprobs.is_some().then(|| {
                let spell = returns.logprobs && params.detokenize;
                let speller = spell.then(|| Speller::new(&self.tokenizer, &tokens));
                Scores::new(returns, speller)
            });
            NewOutput { sampler: Arc::new(sampler), text, scores }
        };
        Ok(Accepted {
            ids,
            sequences: ids.ids().enumerate().map(sequence).collect(),
            limits: Arc::new(limits),
            prompt: tokens.into(),
            client,
            stream,
            eager: stream || !params.stop.is_empty(),
            arrival,
            skip_cache: params.skip_reading_prefix_cache,
            priority: terms.priority,
            embedding: None,
        })
    }

    pub(super) fn new_ids(&self, count: u32) -> Family {
        let first = RequestId(self.next_id.fetch_add(u64::from(count), Ordering::Relaxed));
        Family { first, count }
    }
}

/// SplitMix64's finaliser (Steele, Lea, Flood 2014): neighbouring ids give unrelated seeds.
fn mix(seed: u64, id: u64) -> u64 {
    let mut z = seed.wrapping_add(id.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
