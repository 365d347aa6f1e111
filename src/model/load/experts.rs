//! A mixture of experts: the router, the stacked matrices of all experts, and the expert that all
//! tokens share. Part of `load`, which asks for it layer by layer.

use super::loader::{dummy, Loader, Upload};
use super::{cut, linears};
use crate::device::{Bytes, DType, Device, HostTensor, Join, Routing, Source, WeightKind};
use crate::error::Result;
use crate::invalid;
use crate::model::architectures::{self, Mixture, NarrowExperts};
use crate::model::checkpoint::{Checkpoint, WeightSource};
use crate::model::config::MixtureSpec;
use crate::model::quant::unpack::{self, Values, Wanted};
use crate::model::quant::{Format, LayerKind};
use crate::model::shard::Cut;
use crate::model::weights::{Experts, Linear, SharedExpert};

/// Where output `n` of gates and then ups stands if they come in turn.
fn of_turn(n: usize, outputs: usize) -> usize {
    let half = outputs / 2;
    if n < half {
        2 * n
    } else {
        2 * (n - half) + 1
    }
}

/// `[count, inputs, outputs]` as `[count, outputs, inputs]`; `gated`: gates and ups come in turn,
/// and are to be one behind the other.
fn turn<'a>(stored: HostTensor<'_>, count: usize, gated: bool) -> Result<HostTensor<'a>> {
    let (inputs, outputs, size) = (stored.rows / count, stored.cols, stored.dtype.bytes());
    let bytes = stored.bytes.load()?;
    let mut out = Vec::with_capacity(bytes.len());
    for expert in bytes.chunks_exact(inputs * outputs * size) {
        for output in 0..outputs {
            let column = size * if gated { of_turn(output, outputs) } else { output };
            let rows = expert.chunks_exact(outputs * size);
            rows.for_each(|row| out.extend_from_slice(&row[column..column + size]));
        }
    }
    let bytes = Bytes::Shared(out.into());
    Ok(HostTensor { dtype: stored.dtype, rows: count * outputs, cols: inputs, bytes })
}

impl<'a, D: Device> Loader<'a, D> {
    pub(super) fn experts(
        &mut self,
        layer: usize,
        row: &Mixture,
        mixture: &MixtureSpec,
    ) -> Result<Experts<D::Weight>> {
        let hidden = self.spec.hidden;
        let width = mixture.narrowed.unwrap_or(hidden);
        let ffn = mixture.ffn;
        let routing = mixture.routing;
        let module = &self.mixture_name(layer, row);
        let router = [format!("{module}{}", row.router)];
        let router = self.linear(&router, &[routing.experts], hidden, row.biases, &Cut::Whole)?;

        let choice_bias = match row.choice_bias {
            Some(name) => Some(self.row_vector(format!("{module}{name}"), routing.experts)?),
            None => None,
        };
        let scales = match row.expert_scale {
            Some(name) => Some(self.row_vector(format!("{module}{name}"), routing.experts)?),
            None => None,
        };

        let [up_stack, down_stack] = row.stacks.map(|stack| format!("{module}{stack}"));
        let named = |parts: &[&str]| -> Vec<String> {
            let list = row.list.unwrap_or("experts");
            let each = |e| parts.iter().map(move |p| format!("{module}{list}.{e}.{p}"));
            (0..routing.experts).flat_map(each).collect()
        };
        // One sum over ranks, of all that is added up: behind the shared expert, if one is scaled.
        let shared = row.shared.as_ref().zip(mixture.shared_ffn);
        let summed = shared.is_none_or(|(shared, _)| shared.gate.is_none());
        let cut = self.shard.experts_up(row.gate_up.len());
        let up = self.stack(row, &up_stack, &named(row.gate_up), &routing, ffn, width, &cut)?;
        let up_width = row.gate_up.len() * ffn;
        let up_bias = self.stack_bias(row, &up_stack, &routing, up_width, &cut)?;
        let cut = self.shard.experts_down(summed);
        let down = self.stack(row, &down_stack, &named(&[row.down]), &routing, width, ffn, &cut)?;
        let down_bias = self.stack_bias(row, &down_stack, &routing, width, &cut)?;

        let shared = match shared {
            Some((shared, ffn)) => Some(self.shared(layer, module, shared, ffn, summed)?),
            None => None,
        };
        let narrowed = match (&row.narrowed, mixture.narrowed) {
            (Some(names), Some(width)) => Some(self.narrowed(module, names, width)?),
            _ => None,
        };
        Ok(Experts {
            routing,
            narrowed,
            router,
            choice_bias,
            scales,
            weighs_inputs: row.weighs_inputs,
            up: Linear { weight: up, bias: up_bias },
            down: Linear { weight: down, bias: down_bias },
            activation: row.activation,
            shared,
        })
    }

    /// The products in front of all experts and behind them, whole on each rank.
    fn narrowed(
        &mut self,
        module: &str,
        names: &NarrowExperts,
        width: usize,
    ) -> Result<[Linear<D::Weight>; 2]> {
        let (hidden, bias) = (self.spec.hidden, self.spec.mlp_bias);
        let [down, up] = [names.down, names.up].map(|name| [format!("{module}{name}")]);
        Ok([
            self.linear(&down, &[width], hidden, bias, &Cut::Whole)?,
            self.linear(&up, &[hidden], width, bias, &Cut::Whole)?,
        ])
    }

    /// The expert that all tokens share.
    fn shared(
        &mut self,
        layer: usize,
        module: &str,
        shared: &architectures::SharedExpert,
        ffn: usize,
        summed: bool,
    ) -> Result<SharedExpert<D::Weight>> {
        let own = shared.module.map(|name| format!("{}.", self.layer_name(layer, name)));
        let module = own.as_deref().unwrap_or(module);
        let gate = shared.gate.map(|gate| self.gate(format!("{module}{gate}"))).transpose()?;
        let up: Vec<String> = shared.gate_up.iter().map(|up| format!("{module}{up}")).collect();
        let mlp = self.mlp(&up, format!("{module}{}", shared.down), ffn, summed)?;
        Ok(SharedExpert { mlp, gate })
    }

    /// What stands in front of the module's names: the first of the row's names of it under which
    /// the router exists.
    fn mixture_name(&self, layer: usize, row: &Mixture) -> String {
        let name = |module: &&str| self.layer_name(layer, &format!("{module}."));
        let mut names = row.modules.iter().map(name);
        let first = names.next().unwrap_or_else(|| self.layer_name(layer, ""));
        let has = |c: &Checkpoint, name: &str| linears::has(c, &format!("{name}{}", row.router));
        match self.format {
            WeightSource::Files(c) if !has(c, &first) => names.find(|n| has(c, n)).unwrap_or(first),
            _ => first,
        }
    }

    /// A matrix of each expert, from one tensor or from `names` (without `.weight`), which are all
    /// of `outputs` x `inputs`: one of each expert, or a gate and an up.
    #[allow(clippy::too_many_arguments)]
    fn stack(
        &mut self,
        row: &Mixture,
        stack: &str,
        names: &[String],
        routing: &Routing,
        outputs: usize,
        inputs: usize,
        cut: &Cut,
    ) -> Result<D::Weight> {
        let count = routing.experts;
        let gated = names.len() > count;
        let each = outputs * names.len() / count;
        let outputs = vec![outputs; names.len()];
        let wanted = Wanted { names, outputs: &outputs, inputs };
        let stacked_only = row.list.is_none();
        let values = match self.format {
            WeightSource::Files(c) if stacked_only || c.contains(stack) => {
                self.plain_stack(c, row, stack, count, [each, inputs], gated)?
            }
            WeightSource::Files(c) if self.is_coded_stack(c, stack, names)? => {
                self.coded_stack(c, stack, &wanted, count, gated)?
            }
            _ => self.values(LayerKind::Experts, &wanted, false)?,
        };

        let kind = WeightKind::Experts { count, gated };
        let values = self.part_of(values, LayerKind::Experts, &wanted, cut, count, false)?;
        let first = names.first().map(|name| format!("{name}.weight"));
        self.upload(Upload {
            name: first.as_deref().unwrap_or(stack),
            kind,
            outputs: count * cut.outputs(each),
            inputs: cut.inputs(inputs),
            transposed: false,
            join: cut.join(),
            values,
        })
    }

    /// The biases of all experts, if the row has some: of each `outputs` of them, gates before ups.
    fn stack_bias(
        &mut self,
        row: &Mixture,
        stack: &str,
        routing: &Routing,
        outputs: usize,
        cut: &Cut,
    ) -> Result<Option<D::Weight>> {
        // Ranks with some of the inputs add up what they have: one of them has the biases.
        let elsewhere = matches!(cut, Cut::Inputs { .. }) && self.shard.rank.index != 0;
        if !row.biases || elsewhere {
            return Ok(None);
        }

        let count = routing.experts;
        let name = format!("{stack}_bias");
        let source = match self.format {
            WeightSource::Files(checkpoint) if !self.shapes_only => {
                let stored = checkpoint.tensor(&name, count, outputs)?;
                let in_turn = row.gates_in_turn && stack.ends_with(row.stacks[0]);
                let order = |n: usize| if in_turn { of_turn(n, outputs) } else { n };
                let values = stored.values()?;
                let each = values.chunks_exact(outputs);
                let values = each.flat_map(|one| (0..outputs).map(move |n| one[order(n)]));
                let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
                let bytes = Bytes::Shared(bytes.into());
                let rows = count * outputs;
                Source::Parts(vec![HostTensor { dtype: DType::F32, rows, cols: 1, bytes }])
            }
            _ => dummy(&name, 1),
        };
        let source = match cut {
            Cut::Outputs(_) => cut::outputs(source, None, &cut.rows(count), false)?,
            Cut::Whole | Cut::Inputs { .. } => source,
        };
        let bias = self.upload(Upload {
            name: &name,
            kind: WeightKind::Vector,
            outputs: count * cut.outputs(outputs),
            inputs: 1,
            transposed: false,
            join: Join::None,
            values: Values::plain(source),
        })?;
        Ok(Some(bias))
    }

    /// All experts in one tensor of 16 or 32 bits, or their gates in one and ups in another, which
    /// may become codes on the way.
    fn plain_stack(
        &self,
        checkpoint: &'a Checkpoint,
        row: &Mixture,
        stack: &str,
        count: usize,
        [each, inputs]: [usize; 2],
        gated: bool,
    ) -> Result<Values<'a>> {
        let names = [stack.to_string()];
        let wanted = Wanted { names: &names, outputs: &[each], inputs };
        let format = match &self.spec.quant {
            Some(scheme) => scheme.format_of(LayerKind::Experts, &names, &|_| true)?,
            None => None,
        };
        let form = format.map(|format| unpack::form_of(&format, &wanted)).transpose()?;
        if self.shapes_only {
            return Ok(Values { form, source: dummy(stack, inputs) });
        }

        let parts = match row.flat_ups {
            Some(ups) if gated => {
                let module = stack.strip_suffix(row.stacks[0]).unwrap_or_default();
                let rows = count * each / 2;
                let gates = checkpoint.tensor(stack, rows, inputs)?;
                let ups = checkpoint.tensor(&format!("{module}{ups}"), rows, inputs)?;
                cut::in_turn(&[gates, ups], each / 2)
            }
            Some(_) => vec![turn(checkpoint.tensor(stack, count * inputs, each)?, count, false)?],
            None if row.stacks_turned => {
                let stored = checkpoint.stack(stack, count, inputs, each)?;
                vec![turn(stored, count, gated && row.gates_in_turn)?]
            }
            None => vec![checkpoint.stack(stack, count, each, inputs)?],
        };
        let source = match format {
            Some(Format::Online { over, .. }) => Source::Quantise { parts, over },
            _ => return Ok(Values::plain(Source::Parts(parts))),
        };
        Ok(Values { form, source })
    }

    /// Whether the experts are, or must be, `*_blocks` and `*_scales`.
    fn is_coded_stack(&self, own: &Checkpoint, stack: &str, names: &[String]) -> Result<bool> {
        let is_plain = |name: &str| linears::has(own, name);
        let first = &names[..names.len().min(1)];
        let said = match &self.spec.quant {
            Some(scheme) => scheme.format_of(LayerKind::Experts, first, &is_plain)?,
            None => None,
        };
        Ok(said == Some(Format::Mxfp4Stack) || own.contains(&format!("{stack}_blocks")))
    }

    /// The same of codes, `*_blocks` and `*_scales`.
    fn coded_stack(
        &self,
        checkpoint: &'a Checkpoint,
        stack: &str,
        wanted: &Wanted,
        count: usize,
        gated: bool,
    ) -> Result<Values<'a>> {
        let format = match &self.spec.quant {
            Some(scheme) => scheme.format_of(LayerKind::Experts, wanted.names, &|_| false)?,
            None => None,
        };
        let Some(format @ Format::Mxfp4Stack) = format else {
            return Err(invalid!(
                "tensor '{stack}_blocks' holds experts in MXFP4, which config.json does not say: \
                 its quantization_config must have quant_method mxfp4."
            ));
        };
        if self.shapes_only {
            let form = Some(unpack::form_of(&format, wanted)?);
            return Ok(Values { form, source: dummy(stack, wanted.inputs) });
        }

        let names = [stack.to_string()];
        let outputs = [wanted.outputs.iter().sum::<usize>() / count];
        let each = Wanted { names: &names, outputs: &outputs, inputs: wanted.inputs };
        self.unpack(|| unpack::stack(checkpoint, &format, &each, count, gated))
    }

    /// A vector that may be stored as a matrix of one row.
    fn row_vector(&mut self, name: String, width: usize) -> Result<D::Weight> {
        let is_plain = match self.format {
            WeightSource::Files(c) => c.shape_of(&name).is_some_and(|shape| shape.len() == 1),
            WeightSource::Dummy => false,
        };
        let [rows, cols] = if is_plain { [width, 1] } else { [1, width] };
        let parts = self.parts(std::slice::from_ref(&name), &[rows], cols, false)?;
        self.upload(Upload {
            name: &name,
            kind: WeightKind::Vector,
            outputs: width,
            inputs: 1,
            transposed: !is_plain,
            join: Join::None,
            values: Values::plain(parts.unwrap_or(Source::Constant(0.0))),
        })
    }

    /// A linear of one output, as a vector; unpacked if it is quantised.
    fn gate(&mut self, name: String) -> Result<D::Weight> {
        let hidden = self.spec.hidden;
        let names = [name];
        let wanted = Wanted { names: &names, outputs: &[1], inputs: hidden };
        let values = self.values(LayerKind::Linear, &wanted, false)?;
        let values = unpack::plain(values)?;
        let name = format!("{}.weight", names[0]);
        let several = self.shard.is_one_of_several();
        self.upload(Upload {
            name: &name,
            kind: WeightKind::Vector,
            outputs: hidden,
            inputs: 1,
            transposed: true,
            join: if several { Join::Sum } else { Join::None },
            values,
        })
    }
}
