//! What steps cost: milliseconds by what a step has to do, fitted to the steps that ran. Used by
//! `budget`, which cuts prompts by it, and by `shared_prefix`; it has no clock: `engine` measures.
//!
//! A step takes, as a model of it,
//!
//! ```text
//! ms = fixed + per_row * rows + per_context * decode_context + per_pair * chunk_pairs
//!      + per_patch * patches + per_patch_pair * patch_pairs
//! ```
//!
//! where `fixed` stands for reading the weights, `per_row` for products, and the next two for
//! attention, which streams the context of a decode row and multiplies for a row of a chunk. The
//! last two are products and attention of the vision tower. None of the six is negative. They are
//! the least squares of *relative* errors over the last few steps of each size, so that steps of 8
//! rows count as much as steps of 8 000, a size that is rare is not forgotten, and a step that took
//! far too long for reasons of its own counts little. Steps that encode images have sizes of their
//! own, by their patches: those without are more, and would push them out.

use std::collections::VecDeque;

/// Steps that are remembered of a size, a power of two of token rows or of patches.
const KEPT: usize = 8;
/// So many without images, and with.
const SIZES: usize = 32;
/// Unknowns of the model.
const TERMS: usize = 6;
/// Steps between two fits, once their size is known well.
const FIT_EVERY: usize = 16;
/// Rounds of coordinate descent: six unknowns converge long before.
const ROUNDS: usize = 200;

/// What a step has to do, as far as its time depends on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepShape {
    /// Token rows.
    pub rows: usize,
    /// Positions that single rows look back on, all together.
    pub decode_context: u64,
    /// Pairs of a row and a position that it sees, of rows in longer chunks.
    pub chunk_pairs: u64,
    /// Patches of images that are encoded.
    pub patches: usize,
    /// Pairs of patches of the same image.
    pub patch_pairs: u64,
}

impl StepShape {
    /// With an image of so many patches to encode.
    pub(super) fn with_image(self, patches: usize) -> StepShape {
        let pairs = (patches as u64).saturating_mul(patches as u64);
        StepShape {
            patches: self.patches + patches,
            patch_pairs: self.patch_pairs.saturating_add(pairs),
            ..self
        }
    }

    /// With what another one has to do beside rows: its images.
    pub(super) fn with_images_of(self, other: &StepShape) -> StepShape {
        StepShape {
            patches: self.patches + other.patches,
            patch_pairs: self.patch_pairs.saturating_add(other.patch_pairs),
            ..self
        }
    }

    /// With so many tokens more, of a sequence that has `fed` behind it.
    pub(super) fn with_chunk(self, tokens: usize, fed: usize) -> StepShape {
        let mut shape = StepShape { rows: self.rows + tokens, ..self };
        if tokens == 1 {
            shape.decode_context += fed as u64 + 1;
        } else {
            shape.chunk_pairs += pairs(tokens as u64, fed as u64);
        }
        shape
    }

    fn terms(&self) -> [f64; TERMS] {
        [
            1.0,
            self.rows as f64,
            self.decode_context as f64,
            self.chunk_pairs as f64,
            self.patches as f64,
            self.patch_pairs as f64,
        ]
    }
}

/// Of a chunk behind `fed` positions: each token sees those, those before it, and itself.
fn pairs(tokens: u64, fed: u64) -> u64 {
    tokens * fed + tokens * (tokens + 1) / 2
}

/// Milliseconds of a step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StepCost {
    /// Of any step.
    pub fixed: f64,
    /// Of a token row.
    pub per_row: f64,
    /// Of a position that a single row looks back on.
    pub per_context: f64,
    /// Of a pair of a chunk's row and a position.
    pub per_pair: f64,
    /// Of a patch that the vision tower encodes.
    pub per_patch: f64,
    /// Of a pair of patches of the same image.
    pub per_patch_pair: f64,
}

impl StepCost {
    /// What such a step is to take.
    pub fn ms(&self, shape: &StepShape) -> f64 {
        dot(&self.factors(), &shape.terms())
    }

    /// What a chunk adds to a step.
    pub(super) fn chunk_ms(&self, tokens: usize, fed: usize) -> f64 {
        self.ms(&StepShape::default().with_chunk(tokens, fed)) - self.fixed
    }

    /// What encoding images adds to a step, apart from their tokens.
    pub(super) fn images_ms(&self, images: &StepShape) -> f64 {
        self.ms(&StepShape::default().with_images_of(images)) - self.fixed
    }

    /// The longest chunk behind `fed` positions that adds at most `ms`.
    pub(super) fn tokens_within(&self, ms: f64, fed: usize) -> usize {
        // per_pair / 2 n^2 + (per_row + per_pair (fed + 1/2)) n = ms, by a form that does not
        // divide by a factor that may be 0.
        let linear = self.per_row + self.per_pair * (fed as f64 + 0.5);
        let root = (linear * linear + 2.0 * self.per_pair * ms.max(0.0)).sqrt();
        let tokens = 2.0 * ms.max(0.0) / (linear + root);
        if tokens.is_finite() {
            tokens as usize
        } else {
            usize::MAX
        }
    }

    fn factors(&self) -> [f64; TERMS] {
        [
            self.fixed,
            self.per_row,
            self.per_context,
            self.per_pair,
            self.per_patch,
            self.per_patch_pair,
        ]
    }
}

/// Learns a [`StepCost`] from steps that ran.
#[derive(Debug, Default)]
pub(super) struct CostModel {
    /// By the logarithm of their rows, and behind these those with images by that of their patches;
    /// the newest last.
    steps: [[VecDeque<(StepShape, f64)>; SIZES]; 2],
    since_fit: usize,
    /// None: no step ran.
    cost: Option<StepCost>,
}

impl CostModel {
    /// What steps cost by what is known so far.
    pub(super) fn cost(&self) -> Option<&StepCost> {
        self.cost.as_ref()
    }

    /// Some step had about so many rows or more: what more rows cost is known.
    pub(super) fn has_seen(&self, rows: usize) -> bool {
        let [text, images] = &self.steps;
        let large = |(shape, _): &(StepShape, f64)| size_of(shape.rows) >= size_of(rows);
        text[size_of(rows)..].iter().any(|steps| !steps.is_empty())
            || images.iter().flatten().any(large)
    }

    /// A step of this shape took so long. What cannot be is not learnt.
    pub(super) fn learn(&mut self, shape: StepShape, ms: f64) {
        if shape.rows == 0 || !ms.is_finite() || ms <= 0.0 {
            return;
        }
        let [text, images] = &mut self.steps;
        let steps = match shape.patches {
            0 => &mut text[size_of(shape.rows)],
            patches => &mut images[size_of(patches)],
        };
        let known_well = steps.len() == KEPT;
        if known_well {
            steps.pop_front();
        }
        steps.push_back((shape, ms));

        self.since_fit += 1;
        if !known_well || self.since_fit >= FIT_EVERY {
            self.since_fit = 0;
            self.cost = Some(self.fit());
        }
    }

    /// Non-negative least squares of `ms(shape) / ms - 1`, by coordinate descent on the normal
    /// equations. A term that no step had has no factor.
    fn fit(&self) -> StepCost {
        let mut products = [[0.0; TERMS]; TERMS];
        let mut sums = [0.0; TERMS];
        for (shape, ms) in self.steps.iter().flatten().flatten() {
            let terms = shape.terms().map(|term| term / ms);
            for (i, term) in terms.iter().enumerate() {
                sums[i] += term;
                (0..TERMS).for_each(|j| products[i][j] += term * terms[j]);
            }
        }

        let mut factors = [0.0f64; TERMS];
        for _ in 0..ROUNDS {
            for i in 0..TERMS {
                if products[i][i] > 0.0 {
                    let rest = sums[i] - dot(&products[i], &factors);
                    factors[i] = (factors[i] + rest / products[i][i]).max(0.0);
                }
            }
        }
        let [fixed, per_row, per_context, per_pair, per_patch, per_patch_pair] = factors;
        StepCost { fixed, per_row, per_context, per_pair, per_patch, per_patch_pair }
    }
}

/// Where steps of so many rows, or patches, are remembered.
fn size_of(rows: usize) -> usize {
    (rows.max(1).ilog2() as usize).min(SIZES - 1)
}

fn dot(a: &[f64; TERMS], b: &[f64; TERMS]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// About an 8B model on an H200, and the tower of Qwen2.5-VL.
    const TRUE: StepCost = StepCost {
        fixed: 4.2,
        per_row: 0.022,
        per_context: 3e-5,
        per_pair: 1.3e-6,
        per_patch: 0.0045,
        per_patch_pair: 2.5e-7,
    };

    fn step(decodes: usize, context: usize, chunk: usize, fed: usize) -> StepShape {
        let shape = (0..decodes)
            .fold(StepShape::default(), |shape, _| shape.with_chunk(1, context.saturating_sub(1)));
        if chunk > 0 {
            shape.with_chunk(chunk, fed)
        } else {
            shape
        }
    }

    fn taught(noise: impl Fn(usize) -> f64) -> CostModel {
        let mut model = CostModel::default();
        for n in 0..60 {
            for (decodes, chunk) in [(1, 0), (16, 0), (60, 0), (16, 500), (30, 2000), (0, 8000)] {
                let shape = step(decodes, 100 + 30 * n, chunk, n % 4 * chunk);
                model.learn(shape, TRUE.ms(&shape) * noise(n));
            }
        }
        model
    }

    #[test]
    fn a_step_is_predicted_by_those_that_ran() {
        let model = taught(|n| 1.0 + [0.02, -0.02, 0.01, -0.01][n % 4]);
        let cost = model.cost().unwrap();
        for shape in [step(8, 700, 0, 0), step(40, 1500, 1000, 3000), step(3, 2000, 4000, 0)] {
            let ratio = cost.ms(&shape) / TRUE.ms(&shape);
            assert!((0.9..1.1).contains(&ratio), "{ratio}: {cost:?}");
        }
    }

    /// A step that took fifty times as long, now and then, does not spoil it.
    #[test]
    fn outliers_count_little() {
        let model = taught(|n| if n % 7 == 3 { 50.0 } else { 1.0 });
        let cost = model.cost().unwrap();
        for shape in [step(16, 700, 0, 0), step(30, 1500, 2000, 2000)] {
            let ratio = cost.ms(&shape) / TRUE.ms(&shape);
            assert!((0.6..1.3).contains(&ratio), "{ratio}: {cost:?}");
        }
    }

    #[test]
    fn a_chunk_within_a_time_takes_no_longer() {
        for fed in [0, 100, 5000, 100_000] {
            for ms in [0.0, 0.1, 3.0, 50.0, 1000.0] {
                let tokens = TRUE.tokens_within(ms, fed);
                assert!(TRUE.chunk_ms(tokens.max(2), fed) <= ms.max(TRUE.chunk_ms(2, fed)) + 1e-9);
                assert!(TRUE.chunk_ms(tokens + 2, fed) > ms, "{tokens} of {ms} ms behind {fed}");
            }
        }
        let free = StepCost { fixed: 5.0, ..StepCost::default() };
        assert_eq!(free.tokens_within(1.0, 10), usize::MAX);
        assert_eq!(TRUE.tokens_within(-1.0, 10), 0);
    }

    /// Images are seen now and then, between thousands of steps of text of the same rows.
    #[test]
    fn images_are_predicted_by_those_that_were_seen() {
        let noise = |n: usize| 1.0 + [0.02, -0.02, 0.01, -0.01][n % 4];
        let mut model = CostModel::default();
        let image = |patches| step(16, 700, 20 + patches / 4, 0).with_image(patches);
        for n in 0..40 {
            let shape = image([256, 1024, 5184][n % 3]);
            model.learn(shape, TRUE.ms(&shape) * noise(n));
        }
        for n in 0..3000 {
            let shape = step(16, n, [0, 300, 1400, 6000][n % 4], 0);
            model.learn(shape, TRUE.ms(&shape) * noise(n));
        }

        let cost = model.cost().unwrap();
        for patches in [500, 3000, 8000] {
            let image = StepShape::default().with_image(patches);
            let ratio = cost.images_ms(&image) / TRUE.images_ms(&image);
            assert!((0.8..1.2).contains(&ratio), "{ratio} of {patches}: {cost:?}");
        }
        let text = step(16, 700, 1400, 0);
        let ratio = cost.ms(&text) / TRUE.ms(&text);
        assert!((0.9..1.1).contains(&ratio), "{ratio}: {cost:?}");
    }

    /// What was never seen costs nothing, until it was seen once.
    #[test]
    fn the_first_long_step_is_learnt_at_once() {
        let mut model = CostModel::default();
        assert!(model.cost().is_none());
        for context in 0..100 {
            model.learn(step(8, context, 0, 0), 5.0);
        }
        assert!(model.cost().unwrap().tokens_within(20.0, 0) > 50_000 / 100);
        let long = step(8, 100, 8000, 0);
        model.learn(long, 190.0);
        let ratio = model.cost().unwrap().ms(&long) / 190.0;
        assert!((0.8..1.2).contains(&ratio), "{ratio}");
    }

    #[test]
    fn nonsense_is_not_learnt() {
        let mut model = CostModel::default();
        for ms in [f64::NAN, f64::INFINITY, 0.0, -3.0] {
            model.learn(step(1, 1, 0, 0), ms);
        }
        model.learn(StepShape::default(), 3.0);
        assert!(model.cost().is_none() && !model.has_seen(1));
        model.learn(step(0, 0, 300, 0), 3.0);
        assert!(model.has_seen(256) && model.has_seen(511) && !model.has_seen(512));
    }
}
