//! Drafts: tokens that probably come next, fed together with a sequence's newest token so that one
//! step verifies them all. Here: who proposes them, how many, and how well that went. The scheduler
//! asks; whether a draft is right the device finds out. An answer does not depend on any of it.

use std::fmt::{self, Debug};

use super::draft_model::{DraftModel, ModelDrafts};
use crate::ids::TokenId;
use crate::plan::MAX_DRAFTS;

/// Guesses how sequences go on.
pub trait Proposer: Debug + Send {
    /// Append to `drafts` up to `most` tokens that may follow `tokens`, a sequence's prompt and
    /// outputs. None is an answer too. What is appended must be in the model's vocabulary.
    fn propose(&mut self, tokens: &[TokenId], most: usize, drafts: &mut Vec<TokenId>);

    /// A sequence that was running is over: what it generated.
    fn ended(&mut self, _outputs: &[TokenId]) {}
}

/// How drafts are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DraftMethod {
    /// What followed the sequence's last `most` tokens where they occurred before, or else its last
    /// fewer, down to `least`.
    Ngram {
        /// At least 1.
        least: usize,
        /// At least `least`.
        most: usize,
    },
    /// How texts went on behind the sequence's last tokens, in itself and in earlier outputs.
    Suffix(SuffixConfig),
    /// What a smaller model says.
    Model(DraftModel),
}

/// Drafts by suffixes. Fields are vLLM's members `suffix_decoding_*`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SuffixConfig {
    /// Tokens that are compared at most, at least 1.
    pub max_depth: usize,
    /// Earlier outputs that are remembered at most.
    pub cached_requests: usize,
    /// Drafts at most, as a multiple of the tokens that agree; at least 0.
    pub max_factor: f64,
    /// A draft ends before it is less likely than this, by what was counted; 0 to 1.
    pub min_probability: f64,
}

impl fmt::Display for DraftMethod {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            DraftMethod::Ngram { least, most } => write!(f, "n-grams of {least} to {most} tokens"),
            DraftMethod::Suffix(config) => {
                write!(f, "suffixes of up to {} tokens", config.max_depth)
            }
            DraftMethod::Model(DraftModel { head: true, .. }) => f.write_str("a head"),
            DraftMethod::Model(_) => f.write_str("a draft model"),
        }
    }
}

/// How many drafts a sequence has, by how many sequences run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DraftLengths {
    /// From so many running sequences on, so many drafts. Ascending; the first is for 1.
    from: Vec<(usize, usize)>,
}

impl DraftLengths {
    /// However many run.
    pub fn constant(drafts: usize) -> DraftLengths {
        DraftLengths { from: vec![(1, drafts.min(MAX_DRAFTS))] }
    }

    /// `from`: running sequences, and drafts from so many on. Ascending; below the first there are
    /// none.
    pub fn by_running(from: Vec<(usize, usize)>) -> DraftLengths {
        let from = from.into_iter().map(|(running, drafts)| (running, drafts.min(MAX_DRAFTS)));
        DraftLengths { from: from.collect() }
    }

    /// Drafts of each of so many running sequences.
    pub fn of(&self, running: usize) -> usize {
        let at = self.from.partition_point(|&(first, _)| first <= running);
        at.checked_sub(1).map_or(0, |at| self.from[at].1)
    }

    /// The most that a sequence ever has.
    pub fn most(&self) -> usize {
        self.from.iter().map(|&(_, drafts)| drafts).max().unwrap_or(0)
    }
}

/// What the scheduler is told of speculation.
#[derive(Debug, Clone, PartialEq)]
pub struct SpeculationConfig {
    /// Who proposes.
    pub method: DraftMethod,
    /// Drafts of a sequence.
    pub lengths: DraftLengths,
    /// Drafts of all sequences in one step: as many logits rows has the device beyond one for each
    /// slot.
    pub rows: usize,
}

/// What became of drafts, since the start or since the last look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DraftStats {
    /// Steps of a sequence that had drafts.
    pub drafts: u64,
    /// Tokens of those.
    pub draft_tokens: u64,
    /// Tokens of those that were accepted.
    pub accepted_tokens: u64,
    /// The same by their place in the draft.
    pub accepted_by_place: Vec<u64>,
}

impl DraftStats {
    fn new(places: usize) -> DraftStats {
        DraftStats { accepted_by_place: vec![0; places], ..DraftStats::default() }
    }

    fn count(&mut self, drafts: usize, accepted: usize) {
        self.drafts += 1;
        self.draft_tokens += drafts as u64;
        self.accepted_tokens += accepted as u64;
        self.accepted_by_place.iter_mut().take(accepted).for_each(|times| *times += 1);
    }

    /// What came since `last`, a state of the same statistics.
    pub fn since(&self, last: &DraftStats) -> DraftStats {
        let before = last.accepted_by_place.iter().chain(std::iter::repeat(&0));
        let places = self.accepted_by_place.iter().zip(before).map(|(now, then)| now - then);
        DraftStats {
            drafts: self.drafts - last.drafts,
            draft_tokens: self.draft_tokens - last.draft_tokens,
            accepted_tokens: self.accepted_tokens - last.accepted_tokens,
            accepted_by_place: places.collect(),
        }
    }
}

/// Speculation in a scheduler.
#[derive(Debug)]
pub(super) struct Speculation {
    pub(super) config: SpeculationConfig,
    pub(super) drafter: Drafter,
    pub(super) stats: DraftStats,
    /// Drafts may be made.
    pub(super) on: bool,
    /// What it proposes counts in place of what a model says.
    pub(super) overruling: Option<Box<dyn Proposer>>,
}

/// Who drafts.
#[derive(Debug)]
pub(super) enum Drafter {
    /// On the host, from tokens alone.
    Host(Box<dyn Proposer>),
    /// A model; None while it is being asked.
    Model(Option<Box<ModelDrafts>>),
}

impl Speculation {
    pub(super) fn new(config: SpeculationConfig, drafter: Drafter) -> Speculation {
        let stats = DraftStats::new(config.lengths.most());
        Speculation { config, drafter, stats, on: true, overruling: None }
    }
}

/// Of one sequence: the drafts that a planned step verifies, and how its last ones fared.
#[derive(Debug, Default)]
pub(super) struct SequenceDrafts {
    /// Fed behind its newest token by a step in flight.
    pub(super) in_flight: usize,
    /// Nothing was planned for it, so that its newest token could be waited for.
    pub(super) awaited: bool,
    /// Drafts, one after the other, of which nothing was accepted.
    misses: u32,
    /// Steps that it goes on without drafts.
    pause: u32,
}

impl SequenceDrafts {
    /// Misses that cost nothing yet: one wrong draft says little.
    const FREE_MISSES: u32 = 2;
    /// Steps of the longest pause, as a power of 2: a sequence whose drafts are always wrong feeds
    /// some in one step of 32.
    const LONGEST_PAUSE: u32 = 5;
    /// The same of a model or head that drafts. It is wrong so often in a row only where it will be
    /// wrong again, while a text may begin to repeat itself at any token.
    const LONGEST_PAUSE_OF_MODEL: u32 = 7;

    /// Drafts may be tried.
    pub(super) fn wanted(&self) -> bool {
        self.pause == 0 && self.in_flight == 0
    }

    /// A step without drafts is planned.
    pub(super) fn rest(&mut self) {
        self.pause = self.pause.saturating_sub(1);
    }

    /// So many drafts are fed; none although they were waited for is as bad as wrong ones.
    pub(super) fn fed(&mut self, drafts: usize) {
        if std::mem::take(&mut self.awaited) && drafts == 0 {
            self.missed();
        }
        self.in_flight = drafts;
    }

    /// The step is over: how many of its drafts were accepted. Gives how many they were.
    pub(super) fn verified(&mut self, accepted: usize) -> usize {
        let drafts = std::mem::take(&mut self.in_flight);
        if accepted > 0 {
            self.misses = 0;
        } else if drafts > 0 {
            self.missed();
        }
        drafts
    }

    fn missed(&mut self) {
        self.misses = self.misses.saturating_add(1);
        let beyond = self.misses.saturating_sub(Self::FREE_MISSES).min(Self::LONGEST_PAUSE);
        self.pause = (1 << beyond) - 1;
    }

    /// The drafts that step `step` verified were a model's. It is asked for all sequences at once,
    /// each time with all of its passes, while no step of the target runs: those whose drafts fail
    /// pause until the same steps, the multiples of a power of 2.
    pub(super) fn pause_as_others(&mut self, step: u64) {
        let beyond = self.misses.saturating_sub(Self::FREE_MISSES);
        let period = 1 << beyond.min(Self::LONGEST_PAUSE_OF_MODEL);
        self.pause = (period - 1 - step % period) as u32;
    }
}

impl Speculation {
    /// A model or a head drafts.
    pub(super) fn asks_a_model(&self) -> bool {
        matches!(self.drafter, Drafter::Model(_))
    }

    /// A sequence's drafts were verified.
    pub(super) fn count(&mut self, drafts: usize, accepted: usize) {
        if drafts > 0 {
            self.stats.count(drafts, accepted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_follow_what_runs() {
        let lengths = DraftLengths::by_running(vec![(1, 5), (4, 2), (9, 0)]);
        let found: Vec<usize> = [0, 1, 3, 4, 8, 9, 1000].map(|running| lengths.of(running)).into();
        assert_eq!(found, [0, 5, 5, 2, 2, 0, 0]);
        assert_eq!((lengths.most(), DraftLengths::constant(3).of(700)), (5, 3));
    }

    #[test]
    fn pauses_grow_while_nothing_is_accepted_and_end_with_a_success() {
        let mut drafts = SequenceDrafts::default();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            drafts.fed(3);
            assert!(!drafts.wanted(), "they are in flight");
            assert_eq!(drafts.verified(0), 3);
            let mut steps = 0;
            while !drafts.wanted() {
                drafts.rest();
                steps += 1;
            }
            pauses.push(steps);
        }
        assert_eq!(pauses, [0, 0, 1, 3, 7, 15, 31, 31, 31]);
        drafts.fed(2);
        drafts.verified(1);
        drafts.fed(2);
        drafts.verified(0);
        assert!(drafts.wanted());
    }

    #[test]
    fn sequences_that_a_model_fails_pause_until_the_same_steps() {
        let drafting_steps = |first: u64| {
            let mut drafts = SequenceDrafts::default();
            let mut steps = Vec::new();
            for step in first..first + 1000 {
                if drafts.wanted() {
                    drafts.fed(3);
                    drafts.verified(0);
                    drafts.pause_as_others(step);
                    steps.push(step);
                } else {
                    drafts.rest();
                }
            }
            steps
        };

        assert_eq!(drafting_steps(1)[..7], [1, 2, 3, 4, 8, 16, 32]);
        for first in [1, 2, 7, 100, 255] {
            let steps = drafting_steps(first);
            assert!(steps.len() < 18, "{steps:?}");
            let late = steps.iter().filter(|&&step| step > first + 256);
            assert!(late.into_iter().all(|step| step.is_multiple_of(128)), "{steps:?}");
        }

        let mut drafts = SequenceDrafts::default();
        for accepted in [0, 0, 0, 0, 1] {
            drafts.fed(3);
            drafts.verified(accepted);
            drafts.pause_as_others(4);
        }
        assert!(drafts.wanted(), "one success ends it");
    }

    #[test]
    fn what_was_awaited_in_vain_is_a_miss() {
        let mut drafts = SequenceDrafts::default();
        for _ in 0..3 {
            drafts.awaited = true;
            drafts.fed(0);
        }
        assert!(!drafts.wanted());
    }

    #[test]
    fn accepted_tokens_are_counted_by_place() {
        let mut stats = DraftStats::new(3);
        stats.count(3, 2);
        let then = stats.clone();
        stats.count(2, 1);
        stats.count(1, 0);
        assert_eq!((stats.drafts, stats.draft_tokens, stats.accepted_tokens), (3, 6, 3));
        assert_eq!(stats.accepted_by_place, [2, 1, 0]);
        let since = stats.since(&then);
        assert_eq!((since.drafts, since.draft_tokens, since.accepted_tokens), (2, 3, 1));
        assert_eq!(since.accepted_by_place, [1, 0, 0]);
        assert_eq!(stats.since(&DraftStats::default()), stats);
    }
}
