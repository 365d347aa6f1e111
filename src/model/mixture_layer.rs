//! A mixture of experts: its buffers, and the ops that it is. `decoder` calls it; it knows no norm
//! around it but those of experts beside an MLP.

use super::config::ModelSpec;
use super::shard::Shard;
use super::weights::{Both, Experts, Mlp};
use crate::device::{Activation, Device, Seam};
use crate::error::Result;
use crate::internal;

/// Activations of layers with experts; all but the last are `[step_tokens * top_k, _]`, of the
/// expert that all share, or for the device alone.
pub(super) struct MixtureBuffers<T> {
    routes: T,
    ffn: T,
    parts: T,
    shared: Option<SharedBuffers<T>>,
    /// Weighted inputs, `[step_tokens, hidden]`.
    weighed: Option<T>,
    /// What experts work on where it is narrower, and what they give, `[step_tokens, _]`.
    narrowed: Option<T>,
    /// What the experts give where an MLP stands beside them, `[step_tokens, hidden]`.
    beside: Option<T>,
}

/// Of the expert that all tokens share, `[step_tokens, _]`.
struct SharedBuffers<T> {
    ffn: T,
    output: T,
}

impl<T> MixtureBuffers<T> {
    pub(super) fn new<D: Device<Tensor = T>>(
        dev: &mut D,
        spec: &ModelSpec,
        shard: &Shard,
        tokens: usize,
    ) -> Result<Option<MixtureBuffers<T>>> {
        let Some(mixture) = &spec.mixture else { return Ok(None) };
        let choices = tokens * mixture.routing.top_k;
        let beside = spec.family.mixture.as_ref().is_some_and(|row| row.beside.is_some());
        let weighs = spec.family.mixture.as_ref().is_some_and(|row| row.weighs_inputs);
        let hidden = spec.hidden;

        Ok(Some(MixtureBuffers {
            routes: dev.routes_tensor(tokens, &mixture.routing)?,
            ffn: dev.tensor(choices, shard.experts.range.len())?,
            parts: dev.tensor(choices, mixture.narrowed.unwrap_or(hidden))?,
            shared: match shard.shared_ffn {
                Some(ffn) => Some(SharedBuffers {
                    ffn: dev.tensor(tokens, ffn)?,
                    output: dev.tensor(tokens, hidden)?,
                }),
                None => None,
            },
            weighed: weighs.then(|| dev.tensor(tokens, hidden)).transpose()?,
            narrowed: mixture.narrowed.map(|width| dev.tensor(tokens, width)).transpose()?,
            beside: beside.then(|| dev.tensor(tokens, hidden)).transpose()?,
        }))
    }

    /// The experts that each row of `input` chooses and the one that all share, into `output`.
    pub(super) fn run<D: Device<Tensor = T>>(
        &mut self,
        dev: &mut D,
        experts: &Experts<D::Weight>,
        act: Activation,
        input: &T,
        output: &mut T,
    ) -> Result<()> {
        self.route(dev, experts, input)?;
        let Some(mut weighed) = self.weighed.take().filter(|_| experts.weighs_inputs) else {
            return self.run_routed(dev, experts, act, input, input, output);
        };
        dev.weigh_inputs(&mut self.routes, input, &mut weighed)?;
        self.run_routed(dev, experts, act, &weighed, input, output)?;
        self.weighed = Some(weighed);
        Ok(())
    }

    /// `run` without an expert that all rows share, of what `seam.normed` holds, up to the seam's
    /// end.
    pub(super) fn run_add_norm<D: Device<Tensor = T>>(
        &mut self,
        dev: &mut D,
        experts: &Experts<D::Weight>,
        act: Activation,
        seam: Seam<'_, D::Weight, T>,
    ) -> Result<()> {
        self.route(dev, experts, seam.normed)?;
        self.multiply_up(dev, experts, act, seam.normed)?;
        let (down, parts) = (&experts.down, &mut self.parts);
        let bias = down.bias.as_ref();
        dev.experts_sum_add_norm(&down.weight, bias, &self.routes, &self.ffn, parts, seam)
    }

    /// Which experts each row of `input` chooses.
    fn route<D: Device<Tensor = T>>(
        &mut self,
        dev: &mut D,
        experts: &Experts<D::Weight>,
        input: &T,
    ) -> Result<()> {
        let Experts { router, routing, choice_bias, scales, .. } = experts;
        let bias = router.bias.as_ref();
        let routes = &mut self.routes;
        dev.route(&router.weight, bias, choice_bias.as_ref(), routing, input, routes)?;
        match scales {
            Some(scales) => dev.scale_routes(scales, routing, routes),
            None => Ok(()),
        }
    }

    /// The experts that were chosen, of `input`; that which all rows share reads `shared`.
    fn run_routed<D: Device<Tensor = T>>(
        &mut self,
        dev: &mut D,
        experts: &Experts<D::Weight>,
        act: Activation,
        input: &T,
        shared: &T,
        output: &mut T,
    ) -> Result<()> {
        match (&experts.narrowed, self.narrowed.take()) {
            (Some([down, up]), Some(mut narrow)) => {
                dev.linear(&down.weight, down.bias.as_ref(), input, &mut narrow)?;
                self.multiply_up(dev, experts, act, &narrow)?;
                self.sum(dev, experts, &mut narrow)?;
                dev.linear(&up.weight, up.bias.as_ref(), &narrow, output)?;
                self.narrowed = Some(narrow);
            }
            _ => {
                self.multiply_up(dev, experts, act, input)?;
                self.sum(dev, experts, output)?;
            }
        }

        let Some((expert, b)) = experts.shared.as_ref().zip(self.shared.as_mut()) else {
            return Ok(());
        };
        let Mlp { up, down, .. } = &expert.mlp;
        dev.linear_act(&up.weight, up.bias.as_ref(), act, shared, &mut b.ffn)?;
        dev.linear(&down.weight, down.bias.as_ref(), &b.ffn, &mut b.output)?;
        match &expert.gate {
            Some(gate) => dev.add_gated(gate, shared, &b.output, output),
            None => dev.add(&b.output, output),
        }
    }

    /// The gates and ups that each row chose, of `input`.
    fn multiply_up<D: Device<Tensor = T>>(
        &mut self,
        dev: &mut D,
        experts: &Experts<D::Weight>,
        act: Activation,
        input: &T,
    ) -> Result<()> {
        let up = &experts.up;
        let act = experts.activation.unwrap_or(act);
        dev.experts_act(&up.weight, up.bias.as_ref(), act, &self.routes, input, &mut self.ffn)
    }

    /// What each row's experts make of them, summed, into `output`.
    fn sum<D: Device<Tensor = T>>(
        &mut self,
        dev: &mut D,
        experts: &Experts<D::Weight>,
        output: &mut T,
    ) -> Result<()> {
        let (down, parts) = (&experts.down, &mut self.parts);
        let bias = down.bias.as_ref();
        dev.experts_sum(&down.weight, bias, &self.routes, &self.ffn, parts, output)
    }

    /// The experts beside an MLP, which gave `delta`: both normed and added up, into `delta`.
    /// `normed` is not needed any more.
    pub(super) fn beside<D: Device<Tensor = T>>(
        &mut self,
        dev: &mut D,
        both: &Both<D::Weight>,
        act: Activation,
        residual: &T,
        normed: &mut T,
        delta: &mut T,
    ) -> Result<()> {
        let Some(mut output) = self.beside.take() else {
            return Err(internal!("experts beside an MLP without their buffer"));
        };
        dev.norm(&both.mlp_post, delta, normed)?;
        dev.norm(&both.router_norm, residual, delta)?;
        self.route(dev, &both.experts, delta)?;
        dev.norm(&both.experts_norm, residual, delta)?;
        self.run_routed(dev, &both.experts, act, delta, delta, &mut output)?;

        dev.norm(&both.experts_post, &output, delta)?;
        self.beside = Some(output);
        dev.add(normed, delta)
    }
}
