//! Intake: a validated request becomes tokens and limits, on the caller's thread, or is refused
//! there. What passes goes to the engine thread as an [`Accepted`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use crossbeam::channel::Sender;

use super::command::{Accepted, Command, StopRules};
use super::request::GenerateRequest;
use crate::error::{Error, Result};
use crate::ids::{RequestId, TokenId};
use crate::text::{check_prompt_chars, check_prompt_tokens, TextStream, Tokenizer};

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
}

impl Intake {
    /// Tokenise, check the room, hand over.
    pub fn accept(&self, request: GenerateRequest) -> Result<()> {
        let accepted = self.prepare(request)?;
        self.commands
            .send(Command::Submit(Box::new(accepted)))
            .map_err(|_| Error::Unavailable("the model is being unloaded".into()))
    }

    fn prepare(&self, request: GenerateRequest) -> Result<Accepted> {
        let GenerateRequest { prompt, params, stream, client, arrival, terms } = request;
        check_prompt_chars(&prompt, &self.tokenizer, self.max_model_len)?;
        let tokens = self.tokenizer.encode(&prompt)?;
        check_prompt_tokens(tokens.len(), self.max_model_len)?;
        let id = RequestId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let room = self.max_model_len - tokens.len() as u32;
        let mut stop_ids = params.stop_token_ids.clone();
        if !params.ignore_eos {
            stop_ids.extend_from_slice(&self.eos);
        }
        let limits = StopRules {
            max_tokens: params.max_tokens.map_or(room, |max| max.min(room)),
            min_tokens: params.min_tokens,
            stop_ids,
        };
        if self.log_requests {
            tracing::info!("request {id}: {} prompt tokens, {params:?}", tokens.len());
        }
        Ok(Accepted {
            id,
            sampler: Arc::new(params.sampler(&self.eos, mix(self.seed, id.0), Vec::new())),
            limits,
            text: TextStream::new(&self.tokenizer, &tokens, &params),
            prompt: tokens.into(),
            client,
            stream,
            eager: stream || !params.stop.is_empty(),
            arrival,
            priority: terms.priority,
        })
    }
}

/// SplitMix64's finaliser (Steele, Lea, Flood 2014): neighbouring ids give unrelated seeds.
fn mix(seed: u64, id: u64) -> u64 {
    let mut z = seed.wrapping_add(id.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
