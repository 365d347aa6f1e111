//! Images of a step: how much the vision tower may have to do in it, and which images' vectors are
//! kept for tokens to come. An image is encoded in the step that feeds its first token; where the
//! step or the cache has no room for it, the chunk ends in front of it. Used by `mod`, and by
//! `image_time`; what the model does with the chunks that come of it is in `model::vision`.

use std::ops::Range;

use super::cost::StepShape;
use super::sequence::Sequence;
use crate::plan::{ImageCache, PromptImages};

/// What images a step may bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageLimits {
    /// Tokens of images that a step encodes at most, and that are kept: at least those of the
    /// largest image.
    pub tokens: usize,
    /// No chunk ends inside an image.
    pub whole: bool,
}

/// What the running sequences have of the limits.
#[derive(Debug)]
pub(super) struct ImageBudget {
    limits: ImageLimits,
    cache: ImageCache,
    /// Tokens that the step may still encode.
    left: usize,
    /// Images that are to be encoded for a chunk that is not planned yet.
    encoded: StepShape,
    /// Images whose last token the newest plan feeds: their vectors are needed until it ran.
    ended: Vec<[u8; 32]>,
}

impl ImageBudget {
    pub(super) fn new(limits: ImageLimits) -> ImageBudget {
        let cache = ImageCache::new(limits.tokens);
        let encoded = StepShape::default();
        ImageBudget { limits, cache, left: limits.tokens, encoded, ended: Vec::new() }
    }

    /// A step is planned.
    pub(super) fn begin(&mut self) {
        self.left = self.limits.tokens;
        self.encoded = StepShape::default();
        self.ended.drain(..).for_each(|hash| self.cache.leave(&hash));
    }

    /// This image is kept.
    pub(super) fn keeps(&self, hash: &[u8; 32]) -> bool {
        self.cache.rows(hash).is_some()
    }

    /// What is to be encoded for the chunk that was planned last.
    pub(super) fn take_encoded(&mut self) -> StepShape {
        std::mem::take(&mut self.encoded)
    }

    /// How many tokens the sequence with these images may feed, at most `count` behind
    /// `fed`. Its images
    /// among them are kept from now on; `entered` are those that are.
    fn admit(
        &mut self,
        images: &PromptImages,
        entered: &mut Range<usize>,
        fed: usize,
        count: usize,
    ) -> usize {
        for n in images.touching(fed..fed + count) {
            let span = &images.spans[n];
            if entered.contains(&n) {
                continue;
            }
            if !self.cache.enter(&span.patches.hash) {
                let tokens = span.patches.tokens;
                if tokens > self.left || !self.cache.fits(tokens) {
                    return span.start.saturating_sub(fed);
                }
                self.left -= tokens;
                self.encoded = self.encoded.with_image(span.patches.count());
                self.cache.add(span.patches.hash, tokens, 1);
            }
            *entered = if entered.start >= entered.end { n..n + 1 } else { entered.start..n + 1 };
        }
        count
    }

    /// So many tokens of the sequence are fed with the plan.
    pub(super) fn fed(&mut self, images: &PromptImages, entered: &mut Range<usize>, fed: usize) {
        let ended = |n: &usize| images.image_end(*n) <= fed;
        while entered.clone().next().as_ref().is_some_and(ended) {
            self.ended.push(images.spans[entered.start].patches.hash);
            entered.start += 1;
        }
    }

    /// The sequence feeds nothing more.
    pub(super) fn leave(&mut self, images: &PromptImages, entered: &mut Range<usize>) {
        for n in std::mem::replace(entered, 0..0) {
            self.cache.leave(&images.spans[n].patches.hash);
        }
    }

    /// Panics unless the images that are kept are those that sequences have `entered`, so many in
    /// all.
    pub(super) fn check(&self, entered: usize) {
        assert_eq!(self.cache.users(), entered + self.ended.len(), "images kept for somebody");
    }
}

impl Sequence {
    /// How many tokens it may feed by what images there is room for, which are kept then.
    pub(super) fn admit_images(
        &mut self,
        budget: Option<&mut ImageBudget>,
        fed: usize,
        count: usize,
    ) -> usize {
        match (budget, &self.images) {
            (Some(budget), Some(images)) if count > 0 => {
                budget.admit(images, &mut self.images_entered, fed, count)
            }
            _ => count,
        }
    }
}
