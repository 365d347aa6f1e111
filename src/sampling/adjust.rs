//! Steps 1 and 3 to 7 of [`SamplerSpec`]: what is done to a logits row before a
//! token is drawn, and what must be remembered of a sequence for it. Reference code, as
//! [`choose`](mod@super::choose), which calls it. It knows no batch.

use std::collections::HashMap;

use super::{SamplerSpec, Seen};
use crate::ids::TokenId;

/// What a sampler must know of the tokens before: kept only as far as its spec needs it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    /// Output tokens so far.
    outputs: u32,
    counts: Option<TokenCounts>,
    /// The newest outputs, oldest first; at most [`SamplerSpec::tail_tokens`].
    tail: Vec<TokenId>,
    tail_tokens: usize,
}

impl History {
    /// From the tokens of a slot that opens: prompt, then outputs that a preemption had
    /// interrupted.
    pub fn new(spec: &SamplerSpec, prompt: &[TokenId], outputs: &[TokenId]) -> History {
        let tail_tokens = spec.tail_tokens();
        let tail = outputs.len().saturating_sub(tail_tokens);
        History {
            outputs: outputs.len() as u32,
            counts: spec.needs_counts().then(|| TokenCounts::new(prompt, outputs)),
            tail: outputs.get(tail..).unwrap_or_default().to_vec(),
            tail_tokens,
        }
    }

    /// One more output token.
    pub fn push(&mut self, token: TokenId) {
        self.outputs += 1;
        if let Some(counts) = &mut self.counts {
            counts.push(token);
        }
        self.tail.push(token);
        if self.tail.len() > self.tail_tokens {
            self.tail.remove(0);
        }
    }
}

/// How often each token occurs in one sequence: sparse. Prompt tokens are a set, outputs are
/// counted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TokenCounts {
    /// Each token once, with its count in the output (0 = in the prompt only).
    entries: Vec<(TokenId, u32)>,
    places: HashMap<TokenId, usize>,
}

impl TokenCounts {
    /// Of a sequence with this prompt and these outputs so far.
    pub fn new(prompt: &[TokenId], outputs: &[TokenId]) -> TokenCounts {
        let mut counts = TokenCounts::default();
        for token in prompt {
            counts.entry(*token);
        }
        for token in outputs {
            counts.push(*token);
        }
        counts
    }

    /// One more output token.
    pub fn push(&mut self, token: TokenId) {
        let place = self.entry(token);
        self.entries[place].1 += 1;
    }

    fn entry(&mut self, token: TokenId) -> usize {
        *self.places.entry(token).or_insert_with(|| {
            self.entries.push((token, 0));
            self.entries.len() - 1
        })
    }

    /// Every token that occurs, with its count in the output.
    pub fn iter(&self) -> impl Iterator<Item = (TokenId, u32)> + '_ {
        self.entries.iter().copied()
    }
}

/// Steps 1 and 3: -inf for every token whose bit is not set. Bit i of word i/32 = token i may be
/// chosen; tokens beyond the mask's end may not. `seen` sees what is hidden.
pub fn forbid(logits: &mut [f32], mask: &[u32], seen: &mut Seen) {
    for (i, chunk) in logits.chunks_mut(32).enumerate() {
        let word = mask.get(i).copied().unwrap_or(0);
        if word == u32::MAX {
            continue;
        }
        for (bit, logit) in chunk.iter_mut().enumerate() {
            if word >> bit & 1 == 0 {
                hide(logit, seen);
            }
        }
    }
}

fn hide(logit: &mut f32, seen: &mut Seen) {
    seen.one(*logit);
    *logit = f32::NEG_INFINITY;
}

/// Steps 3 to 7. Ids that the row has not are passed over. `seen` sees what is hidden.
pub(super) fn adjust(logits: &mut [f32], spec: &SamplerSpec, history: &History, seen: &mut Seen) {
    if let Some(allowed) = &spec.allowed {
        forbid(logits, allowed, seen);
    }
    for (token, bias) in spec.bias.iter() {
        if let Some(logit) = logits.get_mut(token.index()) {
            *logit += bias;
        }
    }

    if history.outputs < spec.min_tokens {
        spec.masked_until_min.iter().for_each(|token| forbid_one(logits, *token, seen));
    }
    if let Some(counts) = &history.counts {
        penalise(logits, spec, counts);
    }

    // Bad words of one token, and those that the newest output may complete.
    let behind_newest = match history.tail.last() {
        Some(&newest) => spec.bad_words_behind(Some(newest)),
        None => &[],
    };
    for word in spec.bad_words_behind(None).iter().chain(behind_newest) {
        if let Some((last, before)) = word.split_last() {
            if history.tail.ends_with(before) {
                forbid_one(logits, *last, seen);
            }
        }
    }
}

fn forbid_one(logits: &mut [f32], token: TokenId, seen: &mut Seen) {
    if let Some(logit) = logits.get_mut(token.index()) {
        hide(logit, seen);
    }
}

/// Repetition, then frequency, then presence penalty.
fn penalise(logits: &mut [f32], spec: &SamplerSpec, counts: &TokenCounts) {
    for (token, outputs) in counts.iter() {
        let Some(logit) = logits.get_mut(token.index()) else { continue };
        if *logit > 0.0 {
            *logit /= spec.repetition_penalty;
        } else {
            *logit *= spec.repetition_penalty;
        }
        *logit -= spec.frequency_penalty * outputs as f32;
        if outputs > 0 {
            *logit -= spec.presence_penalty;
        }
    }
}
