//! Room for adapters behind the weights that they may change. `load` calls it as it uploads them.

use super::{Layer, Loader};
use crate::device::Device;
use crate::error::Result;
use crate::model::lora;

impl<D: Device> Loader<'_, D> {
    pub(super) fn make_room(&mut self, layer: &mut Layer<D::Weight>) -> Result<()> {
        let Some(options) = &self.spec.adapters else { return Ok(()) };
        let projections = lora::projections(self.spec);
        for (linear, projection) in layer.linears_mut().into_iter().zip(&projections) {
            if let Some(linear) = linear.filter(|_| options.reaches(projection)) {
                self.dev.adapt(&mut linear.weight, &projection.outputs, options.room)?;
            }
        }
        Ok(())
    }

    /// Behind the table of tokens and the head, which may be the same weight.
    pub(super) fn make_room_for_words(
        &mut self,
        embed: &mut D::Weight,
        head: Option<&mut D::Weight>,
    ) -> Result<()> {
        let Some(options) = &self.spec.adapters else { return Ok(()) };
        if lora::reaches_embed(self.spec) {
            self.dev.adapt_table(embed, options.room)?;
        }
        if lora::reaches_head(self.spec) {
            self.dev.adapt(head.unwrap_or(embed), &[self.spec.vocab_size], options.room)?;
        }
        Ok(())
    }
}
