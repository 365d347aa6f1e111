//! A mixture of experts: the router, the stacked matrices of all experts, and the expert that all
//! tokens share. Part of `load`, which asks for it layer by layer.

use super::linears;
use super::loader::{dummy, Loader, Upload};
use crate::device::{Device, Join, Routing, Source, WeightKind};
use crate::error::Result;
use crate::invalid;
use crate::model::architectures::{self, Mixture};
use crate::model::checkpoint::{Checkpoint, WeightSource};
use crate::model::config::MixtureSpec;
use crate::model::quant::unpack::{self, Values, Wanted};
use crate::model::quant::{Format, LayerKind};
use crate::model::shard::Cut;
use crate::model::weights::{Experts, SharedExpert};

impl<'a, D: Device> Loader<'a, D> {
    pub(super) fn experts(
        &mut self,
        layer: usize,
        row: &Mixture,
        mixture: &MixtureSpec,
    ) -> Result<Experts<D::Weight>> {
        let hidden = self.spec.hidden;
        let ffn = mixture.ffn;
        let routing = mixture.routing;
        let module = &self.mixture_name(layer, row);
        let router = [format!("{module}.{}", row.router)];
        let router = self.linear(&router, &[routing.experts], hidden, false, &Cut::Whole)?.weight;

        let choice_bias = match row.choice_bias {
            Some(name) => Some(self.row_vector(format!("{module}.{name}"), routing.experts)?),
            None => None,
        };

        let [up_stack, down_stack] = row.stacks.map(|stack| format!("{module}.{stack}"));
        let named = |parts: &[&str]| -> Vec<String> {
            let list = row.list.unwrap_or("experts");
            let each = |e| parts.iter().map(move |p| format!("{module}.{list}.{e}.{p}"));
            (0..routing.experts).flat_map(each).collect()
        };
        // One sum over ranks, of all that is added up: behind the shared expert, if one is scaled.
        let shared = row.shared.as_ref().zip(mixture.shared_ffn);
        let summed = shared.is_none_or(|(shared, _)| shared.gate.is_none());
        let cut = self.shard.up(ffn, row.gate_up.len());
        let up = self.stack(&up_stack, &named(&row.gate_up), &routing, ffn, hidden, &cut)?;
        let cut = self.shard.down(ffn, summed);
        let down = self.stack(&down_stack, &named(&[row.down]), &routing, hidden, ffn, &cut)?;

        let shared = match shared {
            Some((shared, ffn)) => Some(self.shared(layer, module, shared, ffn, summed)?),
            None => None,
        };
        Ok(Experts { routing, router, choice_bias, up, down, shared })
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
        let own = shared.module.map(|name| self.layer_name(layer, name));
        let module = own.as_deref().unwrap_or(module);
        let gate = shared.gate.map(|gate| self.gate(format!("{module}.{gate}"))).transpose()?;
        let up: Vec<String> = shared.gate_up.iter().map(|up| format!("{module}.{up}")).collect();
        let mlp = self.mlp(&up, format!("{module}.{}", shared.down), ffn, summed)?;
        Ok(SharedExpert { mlp, gate })
    }

    /// The first of the row's names of the module under which the router exists.
    fn mixture_name(&self, layer: usize, row: &Mixture) -> String {
        let mut names = row.modules.iter().map(|module| self.layer_name(layer, module));
        let first = names.next().unwrap_or_default();
        let has = |c: &Checkpoint, name: &str| linears::has(c, &format!("{name}.{}", row.router));
        match self.format {
            WeightSource::Files(c) if !has(c, &first) => names.find(|n| has(c, n)).unwrap_or(first),
            _ => first,
        }
    }

    /// A matrix of each expert, from one tensor or from `names` (without `.weight`), which are all
    /// of `outputs` x `inputs`: one of each expert, or a gate and an up.
    fn stack(
        &mut self,
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
        let row = self.spec.family.mixture.as_ref();
        let stacked_only = row.is_some_and(|row| row.list.is_none());
        let values = match self.format {
            WeightSource::Files(c) if stacked_only || c.contains(stack) => {
                self.plain_stack(c, stack, count, each, inputs)?
            }
            WeightSource::Files(c) if c.contains(&format!("{stack}_blocks")) => {
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

    /// All experts in one tensor of 16 or 32 bits, which may become codes on the way.
    fn plain_stack(
        &self,
        checkpoint: &'a Checkpoint,
        stack: &str,
        count: usize,
        each: usize,
        inputs: usize,
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
        let parts = vec![checkpoint.stack(stack, count, each, inputs)?];
        let source = match format {
            Some(Format::Online { over, .. }) => Source::Quantise { parts, over },
            _ => return Ok(Values::plain(Source::Parts(parts))),
        };
        Ok(Values { form, source })
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

    /// A vector that is stored as a matrix of one row.
    fn row_vector(&mut self, name: String, width: usize) -> Result<D::Weight> {
        let parts = self.parts(std::slice::from_ref(&name), &[1], width, false)?;
        self.upload(Upload {
            name: &name,
            kind: WeightKind::Vector,
            outputs: width,
            inputs: 1,
            transposed: true,
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
