//! Logprobs of one sequence as its answers show them: from what the device reports to entries with
//! texts, and their running sum. Called by `stream`, on outbox threads; it knows no wire format.

use crate::engine::request::{LogprobEntry, Position, Returns};
use crate::ids::TokenId;
use crate::sampling::TokenLogprobs;
use crate::text::Speller;

/// The logprobs of one sequence, where its request reads any.
pub(crate) struct SequenceLogprobs {
    returns: Returns,
    /// None: texts are not wanted.
    speller: Option<Speller>,
    /// In f64, as the Python backend sums.
    sum: f64,
    /// Not yet reported.
    positions: Vec<Position>,
}

impl SequenceLogprobs {
    /// `returns`: what of it the client reads.
    pub fn new(returns: Returns, speller: Option<Speller>) -> SequenceLogprobs {
        SequenceLogprobs { returns, speller, sum: 0.0, positions: Vec::new() }
    }

    /// The next token of the sequence.
    pub fn push(&mut self, scored: &TokenLogprobs) {
        self.sum += f64::from(scored.logprob);
        if self.returns.logprobs {
            let position = self.position(scored);
            self.positions.push(position);
        }
        if let Some(speller) = &mut self.speller {
            speller.push(scored.token);
        }
    }

    /// The token itself, then the others with the ranks 1, 2, … of their order; if it is among
    /// them it stays first and takes its rank there.
    fn position(&self, scored: &TokenLogprobs) -> Position {
        let entry = |token: TokenId, logprob: f32, rank: u32| {
            let text = self.speller.as_ref().map(|speller| speller.spell(token));
            LogprobEntry { token, logprob, rank, text }
        };
        let mut position = vec![entry(scored.token, scored.logprob, scored.rank)];
        for (&(token, logprob), rank) in scored.top.iter().zip(1..) {
            if token == scored.token {
                position[0].rank = rank;
            } else {
                position.push(entry(token, logprob, rank));
            }
        }
        position
    }

    /// The sum of all, if it is read.
    pub fn sum(&self) -> f32 {
        if self.returns.cumulative_logprob {
            self.sum as f32
        } else {
            f32::NAN
        }
    }

    /// What is new since the last call, if it is read.
    pub fn take(&mut self) -> Option<Vec<Position>> {
        self.returns.logprobs.then(|| std::mem::take(&mut self.positions))
    }
}
