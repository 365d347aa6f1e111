//! The second sublayer of a layer: an MLP, experts, or both. Part of `decoder`.

use super::Buffers;
use crate::device::{Activation, Device, Seam};
use crate::error::Result;
use crate::internal;
use crate::model::config::NormOrder;
use crate::model::seam::{self, Behind};
use crate::model::weights::{Both, FeedForward, Mlp};

impl<T> Buffers<T> {
    /// The MLP or the experts, into `delta`, whose old content is added to the residual in between
    /// if attention and MLP read the same (`parallel`; no family has experts there). With a norm
    /// `behind` up to that (`norms` are before sublayers then).
    pub(super) fn feed_forward<D: Device<Tensor = T>>(
        &mut self,
        dev: &mut D,
        feed_forward: &FeedForward<D::Weight>,
        act: Activation,
        norms: NormOrder,
        parallel: bool,
        behind: Option<Behind<'_, D::Weight>>,
    ) -> Result<()> {
        let input = if norms == NormOrder::Before { &self.normed } else { &self.residual };

        match feed_forward {
            FeedForward::Mlp(Mlp { up, down, activation, width }) => {
                let act = activation.unwrap_or(act);
                dev.reshape(&mut self.ffn, *width)?;
                dev.linear_act(&up.weight, up.bias.as_ref(), act, input, &mut self.ffn)?;
                if parallel {
                    dev.add(&self.delta, &mut self.residual)?;
                }
                let Buffers { ffn, residual, delta, normed, .. } = self;
                seam::output(dev, down, ffn, behind, delta, residual, normed)
            }
            FeedForward::Experts(experts) => {
                let Some(buffers) = &mut self.mixture else {
                    return Err(internal!("experts without their buffers"));
                };
                let Some(Behind { norm, next }) = behind else {
                    return buffers.run(dev, experts, act, input, &mut self.delta);
                };
                let Buffers { residual, delta, normed, .. } = self;
                let seam = Seam { norm, delta, residual, normed, next };
                buffers.run_add_norm(dev, experts, act, seam)
            }
            FeedForward::Both(both) => self.both(dev, both, act),
        }
    }

    /// An MLP and experts side by side, into `delta`.
    fn both<D: Device<Tensor = T>>(
        &mut self,
        dev: &mut D,
        both: &Both<D::Weight>,
        act: Activation,
    ) -> Result<()> {
        let Buffers { residual, delta, normed, ffn, mixture, .. } = self;
        let Some(buffers) = mixture else {
            return Err(internal!("experts without their buffers"));
        };
        let Mlp { up, down, activation, width } = &both.mlp;
        let act = activation.unwrap_or(act);
        dev.reshape(ffn, *width)?;
        dev.linear_act(&up.weight, up.bias.as_ref(), act, normed, ffn)?;
        dev.linear(&down.weight, down.bias.as_ref(), ffn, delta)?;
        buffers.beside(dev, both, act, residual, normed, delta)
    }
}
