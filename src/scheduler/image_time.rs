//! How long a chunk may be by the time that is left of a step, where images in it are to be
//! encoded: one for which there is no time waits, and the chunk ends in front of it. Used by `mod`;
//! which images are kept is known to `images`, what they cost to `budget`.

use super::budget::StepBudget;
use super::cost::StepShape;
use super::images::ImageBudget;
use super::sequence::Sequence;

impl Sequence {
    /// How many of `count` tokens behind `fed` there is time for, with the images among them that
    /// are not kept yet.
    pub(super) fn in_time(
        &self,
        kept: Option<&ImageBudget>,
        budget: &StepBudget,
        fed: usize,
        count: usize,
    ) -> usize {
        let mut count = budget.in_time(count, fed);
        let (Some(kept), Some(images)) = (kept, &self.images) else { return count };

        let mut new: Vec<&[u8; 32]> = Vec::new();
        let mut tower = StepShape::default();
        for span in &images.spans[images.touching(fed..fed + count)] {
            let hash = &span.patches.hash;
            if kept.keeps(hash) || new.contains(&hash) {
                continue;
            }
            let before = span.start.saturating_sub(fed);
            tower = tower.with_image(span.patches.count());
            let fits = budget.in_time_with(count, fed, &tower);
            if fits <= before {
                return before.min(count);
            }
            new.push(hash);
            count = fits;
        }
        count
    }

    /// The plan feeds its tokens up to `fed`, and encodes images for that.
    pub(super) fn images_fed(&mut self, kept: Option<&mut ImageBudget>, budget: &mut StepBudget) {
        if let (Some(kept), Some(images)) = (kept, &self.images) {
            kept.fed(images, &mut self.images_entered, self.fed);
            budget.take_images(&kept.take_encoded());
        }
    }
}
