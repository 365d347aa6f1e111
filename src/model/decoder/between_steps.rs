//! What of a decoder's weights is changed or handed on between steps: adapters, and what a head
//! that drafts has in common with its model. `engine` calls it; it runs nothing.

use std::sync::Arc;

use super::Decoder;
use crate::device::Device;
use crate::error::Result;
use crate::ids::AdapterSlotId;
use crate::internal;
use crate::model::head_files::CommonEnds;
use crate::model::lora::Adapter;
use crate::model::weights::{SharedEnds, Weights};

impl<D: Device> Decoder<D> {
    /// Put an adapter into an adapter slot, for the steps begun from now on.
    ///
    /// # Errors
    /// Those of the device; it is lost then.
    pub fn install(
        &mut self,
        dev: &mut D,
        adapter_slot: AdapterSlotId,
        adapter: &Adapter,
    ) -> Result<()> {
        for (i, layer) in self.weights.layers.iter_mut().enumerate() {
            for (p, linear) in layer.linears_mut().into_iter().enumerate() {
                if let Some(linear) = linear.filter(|_| self.adapted[i][p]) {
                    let parts = adapter.parts(i, p, &self.cuts[i][p])?;
                    dev.install(&mut linear.weight, adapter_slot, &parts)?;
                }
            }
        }

        let shared = || internal!("an adapter behind a weight that a head shares");
        if self.adapted_embed {
            let part = adapter.embed(&self.shard)?;
            let table = Arc::get_mut(&mut self.weights.embed).ok_or_else(shared)?;
            dev.install_table(table, adapter_slot, part)?;
        }
        if self.adapted_head {
            let head = self.weights.head.as_mut().unwrap_or(&mut self.weights.embed);
            let head = Arc::get_mut(head).ok_or_else(shared)?;
            dev.install(head, adapter_slot, &[adapter.head(&self.shard)?])?;
        }
        Ok(())
    }

    /// What a head has in common with this model, for a device of the same place.
    pub fn ends(&self, common: CommonEnds) -> SharedEnds<D::Weight> {
        let Weights { embed, head, .. } = &self.weights;
        SharedEnds {
            table: common.table.then(|| Arc::clone(embed)),
            head: common.head.then(|| Arc::clone(head.as_ref().unwrap_or(embed))),
        }
    }
}
