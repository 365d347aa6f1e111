//! What a step's logits rows came to, put together sequence by sequence: a draft counts while all
//! before it were the tokens that were chosen. Devices call it row by row, in order; it chooses
//! nothing itself.

use crate::ids::{SlotId, TokenId};
use crate::plan::{Purpose, Sampled};
use crate::sampling::{NonFinite, TokenLogprobs};

/// Whether the next row counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Next {
    /// It is the first of its sequence.
    #[default]
    First,
    /// All drafts up to it were accepted.
    Accepted,
    /// One was not.
    Void,
}

/// The samples of a step so far.
#[derive(Debug, Default)]
pub struct Samples {
    list: Vec<Sampled>,
    next: Next,
}

/// A row that was sampled from.
#[derive(Debug)]
pub struct RowSample {
    /// Whose.
    pub slot: SlotId,
    /// `Sample` or `Verify`.
    pub purpose: Purpose,
    /// The token that its sampler chose.
    pub chosen: Result<TokenId, NonFinite>,
    /// Of that token, if they are asked for.
    pub logprobs: Option<TokenLogprobs>,
}

impl Samples {
    /// False: what the next row says is void, and nothing need be chosen for it.
    pub fn row_counts(&self) -> bool {
        self.next != Next::Void
    }

    /// The next row is void.
    pub fn skip(&mut self, purpose: Purpose) {
        if purpose == Purpose::Sample {
            self.next = Next::First;
        }
    }

    /// The next row, void or not. A row that is not finite behind accepted drafts says nothing: its
    /// token is sampled anew in the next step, as the first.
    pub fn push(&mut self, row: RowSample) {
        let RowSample { slot, purpose, chosen, logprobs } = row;
        match (self.next, self.list.last_mut()) {
            (Next::Void, _) => return self.skip(purpose),
            (Next::Accepted, Some(Sampled { tokens: Ok(tokens), logprobs: all, .. })) => {
                tokens.extend(chosen);
                all.extend(logprobs.filter(|_| chosen.is_ok()));
            }
            _ => {
                let tokens = chosen.map(|token| vec![token]);
                self.list.push(Sampled { slot, tokens, logprobs: logprobs.into_iter().collect() });
            }
        }
        self.next = match purpose {
            Purpose::Verify { draft } if chosen == Ok(draft) => Next::Accepted,
            Purpose::Verify { .. } => Next::Void,
            Purpose::Sample | Purpose::Report { .. } => Next::First,
        };
    }

    /// One entry per chunk that was sampled from.
    pub fn into_list(self) -> Vec<Sampled> {
        self.list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(slot: u32, draft: Option<u32>, chosen: Option<u32>) -> RowSample {
        let verify = |draft| Purpose::Verify { draft: TokenId(draft) };
        RowSample {
            slot: SlotId(slot),
            purpose: draft.map_or(Purpose::Sample, verify),
            chosen: chosen.map(TokenId).ok_or(NonFinite),
            logprobs: None,
        }
    }

    #[test]
    fn a_draft_counts_while_all_before_it_were_chosen() {
        let mut samples = Samples::default();
        for new in [
            row(3, Some(5), Some(5)),
            row(3, Some(6), Some(7)),
            row(3, Some(8), Some(8)),
            row(3, None, Some(9)),
            row(1, None, Some(4)),
            row(2, Some(1), Some(1)),
            row(2, None, None),
            row(4, Some(1), None),
            row(4, None, Some(1)),
        ] {
            samples.push(new);
        }
        let tokens = |ids: &[u32]| Ok(ids.iter().map(|&id| TokenId(id)).collect::<Vec<_>>());
        let came: Vec<_> = samples.into_list().into_iter().map(|s| (s.slot.0, s.tokens)).collect();
        let wanted =
            [(3, tokens(&[5, 7])), (1, tokens(&[4])), (2, tokens(&[1])), (4, Err(NonFinite))];
        assert_eq!(came, wanted);
    }
}
