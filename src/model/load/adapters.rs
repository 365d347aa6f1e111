//! Adapter slots behind the weights that adapters may change. Part of `load`, which calls it as it
//! uploads them.

use super::loader::Loader;
use crate::device::Device;
use crate::error::Result;
use crate::model::lora;
use crate::model::weights::Layer;

impl<D: Device> Loader<'_, D> {
    /// Behind the linears of a layer.
    pub(super) fn reserve_for_layer(
        &mut self,
        i: usize,
        layer: &mut Layer<D::Weight>,
    ) -> Result<()> {
        let Some(options) = &self.spec.adapters else { return Ok(()) };
        let projections = lora::projections(self.spec, i);
        let cuts = lora::cuts(self.spec, self.shard, i);
        let linears = layer.linears_mut().into_iter().zip(&projections).zip(&cuts);
        for ((linear, projection), cut) in linears {
            if let Some(linear) = linear.filter(|_| options.reaches(projection)) {
                let outputs = projection.outputs_of(cut);
                self.dev.adapt(&mut linear.weight, &outputs, options.capacity)?;
            }
        }
        Ok(())
    }

    /// Behind the table of tokens and the head, which may be the same weight.
    pub(super) fn reserve_for_tokens(
        &mut self,
        embed: &mut D::Weight,
        head: Option<&mut D::Weight>,
    ) -> Result<()> {
        let Some(options) = &self.spec.adapters else { return Ok(()) };
        if lora::reaches_embed(self.spec) {
            self.dev.adapt_table(embed, options.capacity)?;
        }
        if lora::reaches_head(self.spec) {
            let rows = self.shard.vocabulary.len();
            self.dev.adapt(head.unwrap_or(embed), &[rows], options.capacity)?;
        }
        Ok(())
    }
}
