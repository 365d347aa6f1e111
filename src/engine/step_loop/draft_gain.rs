//! Whether drafts pay, by the clock: tokens a second of steps with drafts beside those without, for
//! each number of sequences. The loop in `step` says what each step was, and asks before it plans
//! the next one. It decides when drafts are tried, never what is answered.
//!
//! Drafts are on at first. After some steps with them, and at times later on, a few steps go
//! without, unless there were such steps anyhow; where drafts came to less they are off for long,
//! then tried again for a few steps: what they cost where they fail has a limit.

use std::time::Instant;

/// Steps of one kind that say enough.
const TRIAL: u32 = 16;
/// Steps with drafts before they are judged for the first time.
const FIRST: u32 = 48;
/// Steps from one judgement to the next.
const LONG: u32 = 512;
/// Drafts that come to so much of the plain speed are kept: clocks are not exact.
const ENOUGH: f64 = 0.98;
/// Of what is known, as much stays with each new step.
const MEMORY: f64 = 0.9;

/// What a step was.
#[derive(Debug, Clone, Copy)]
pub(super) struct StepKind {
    /// Sequences that it had.
    pub sequences: usize,
    /// Some had drafts.
    pub drafts: bool,
    /// Some were at their prompts: its time says nothing.
    pub prompts: bool,
}

/// What steps came to, by number of sequences: 1, 2 to 3, 4 to 7, and so on.
#[derive(Debug, Default)]
pub(super) struct DraftGain {
    sizes: Vec<Size>,
    /// When the step before ended, and whether it had drafts.
    last: Option<(Instant, bool)>,
}

/// Tokens and the time that they took, of the newest steps.
#[derive(Debug, Default, Clone, Copy)]
struct Pace {
    tokens: f64,
    seconds: f64,
    steps: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// Drafts are on.
    On,
    /// They are off for a few steps, to compare.
    Compare,
    /// They do not pay.
    Off,
}

#[derive(Debug)]
struct Size {
    plain: Pace,
    drafted: Pace,
    phase: Phase,
    /// Steps that are left of the phase, of its kind.
    left: u32,
    /// Steps with drafts since the last one without.
    since_plain: u32,
}

impl Default for Size {
    fn default() -> Size {
        let (plain, drafted) = (Pace::default(), Pace::default());
        Size { plain, drafted, phase: Phase::On, left: FIRST, since_plain: 0 }
    }
}

impl DraftGain {
    /// Whether the next step of so many sequences may have drafts.
    pub fn pays(&self, sequences: usize) -> bool {
        let size = self.sizes.get(place(sequences));
        size.is_none_or(|size| size.phase == Phase::On)
    }

    /// A step has ended, with so many tokens.
    pub fn ended(&mut self, at: Instant, step: StepKind, tokens: usize) {
        let Some((before, drafts_before)) = self.last.replace((at, step.drafts)) else { return };
        // Steps do not overlap behind one with drafts.
        let mixed = drafts_before && !step.drafts;
        if step.prompts || mixed || tokens == 0 {
            return;
        }
        let seconds = at.saturating_duration_since(before).as_secs_f64();
        let place = place(step.sequences);
        if self.sizes.len() <= place {
            self.sizes.resize_with(place + 1, Size::default);
        }
        self.sizes[place].ended(step.drafts, tokens as f64, seconds);
    }
}

fn place(sequences: usize) -> usize {
    sequences.max(1).ilog2() as usize
}

impl Pace {
    fn add(&mut self, tokens: f64, seconds: f64) {
        self.tokens = MEMORY * self.tokens + tokens;
        self.seconds = MEMORY * self.seconds + seconds;
        self.steps = self.steps.saturating_add(1);
    }

    fn tokens_per_second(&self) -> f64 {
        self.tokens / self.seconds.max(1e-9)
    }
}

impl Size {
    fn ended(&mut self, drafts: bool, tokens: f64, seconds: f64) {
        if drafts {
            self.drafted.add(tokens, seconds);
            self.since_plain = self.since_plain.saturating_add(1);
        } else {
            self.plain.add(tokens, seconds);
            self.since_plain = 0;
        }

        if drafts == (self.phase == Phase::On) {
            self.left = self.left.saturating_sub(1);
        }
        if self.left == 0 {
            self.next_phase();
        }
    }

    fn next_phase(&mut self) {
        let compared = self.plain.steps >= TRIAL && self.since_plain < LONG;
        match self.phase {
            Phase::On if !compared => {
                self.plain = Pace::default();
                self.enter(Phase::Compare, TRIAL);
            }
            Phase::On | Phase::Compare => {
                let least = ENOUGH * self.plain.tokens_per_second();
                let pays = self.drafted.tokens_per_second() >= least;
                self.enter(if pays { Phase::On } else { Phase::Off }, LONG);
            }
            Phase::Off => {
                self.drafted = Pace::default();
                self.enter(Phase::On, TRIAL);
            }
        }
    }

    fn enter(&mut self, phase: Phase, steps: u32) {
        self.phase = phase;
        self.left = steps;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// So many steps of 8 sequences, where a plain one takes a millisecond: those with drafts, and
    /// milliseconds for each token of a sequence in the end.
    fn run(gain: &mut DraftGain, steps: u32, tokens: f64, milliseconds: f64) -> (u32, f64) {
        let (mut drafted, mut came) = (0, 0.0);
        let mut now = gain.last.map_or_else(Instant::now, |(at, _)| at);
        let began = now;
        for _ in 0..steps {
            let drafts = gain.pays(8);
            let (each, took) = if drafts { (tokens, milliseconds) } else { (1.0, 1.0) };
            drafted += u32::from(drafts);
            came += each;
            now += Duration::from_secs_f64(took / 1e3);
            let kind = StepKind { sequences: 8, drafts, prompts: false };
            gain.ended(now, kind, (8.0 * each) as usize);
        }
        (drafted, (now - began).as_secs_f64() * 1e3 / came)
    }

    #[test]
    fn what_pays_stays_on_and_what_does_not_is_seldom_tried() {
        let mut gain = DraftGain::default();
        let (drafted, each) = run(&mut gain, 6000, 2.5, 1.3);
        assert!(drafted > 5700 && each < 0.55, "{drafted} steps, {each} ms");

        let mut gain = DraftGain::default();
        let (drafted, _) = run(&mut gain, 6000, 1.0, 1.4);
        assert!(drafted < 300, "{drafted} steps");
        let (_, each) = run(&mut gain, 6000, 1.0, 1.4);
        assert!(each < 1.02, "{each} ms a token");
    }

    #[test]
    fn what_changes_is_noticed() {
        let mut gain = DraftGain::default();
        run(&mut gain, 3000, 1.0, 1.4);
        assert!(!gain.pays(8));
        assert!(gain.pays(1) && gain.pays(16), "nothing is known of those");
        run(&mut gain, 1200, 2.0, 1.4);
        assert!(gain.pays(8));
        run(&mut gain, 1200, 1.0, 1.4);
        assert!(!gain.pays(8));
    }

    #[test]
    fn steps_with_prompts_say_nothing() {
        let mut gain = DraftGain::default();
        let mut now = Instant::now();
        for _ in 0..1000 {
            now += Duration::from_millis(9);
            gain.ended(now, StepKind { sequences: 8, drafts: true, prompts: true }, 8);
        }
        assert!(gain.pays(8) && gain.sizes.is_empty());
    }
}
