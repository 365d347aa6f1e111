//! Who drafts in a simulated engine: it knows what the requests will get, and spoils it.

use std::sync::Arc;

use parking_lot::Mutex;
use triton_vllm::ids::TokenId;
use triton_vllm::scheduler::{NewSequence, Proposer};

use super::device::{straight_run, VOCAB};
use super::Rng;

/// The requests so far.
pub type Known = Arc<Mutex<Vec<NewSequence>>>;

#[derive(Debug)]
pub struct Oracle {
    pub known: Known,
    pub rng: Rng,
    /// Of a hundred drafts so many are wrong.
    pub wrong: usize,
}

impl Proposer for Oracle {
    fn propose(&mut self, tokens: &[TokenId], most: usize, drafts: &mut Vec<TokenId>) {
        if self.rng.percent(20) {
            return;
        }
        // Whoever began so, if need be another: its tokens are as good as any.
        let known = self.known.lock();
        let begun = known.iter().find_map(|new| {
            let outputs = tokens.strip_prefix(&new.prompt[..])?;
            let run = straight_run(new, outputs.len() + most);
            run.starts_with(outputs).then(|| run[outputs.len()..].to_vec())
        });
        for token in begun.unwrap_or_default() {
            let other = TokenId(self.rng.below(VOCAB as usize) as u32);
            drafts.push(if self.rng.percent(self.wrong) { other } else { token });
        }
    }
}
