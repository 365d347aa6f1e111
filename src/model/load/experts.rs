//! A mixture of experts: the router, the stacked matrices of all experts, and the expert that all
//! tokens share. Part of `load`, which asks for it layer by layer.

use super::loader::Loader;
use crate::device::{Device, Routing, Source, WeightKind};
use crate::error::Result;
use crate::model::architectures::Mixture;
use crate::model::checkpoint::{Checkpoint, WeightSource};
use crate::model::config::MixtureSpec;
use crate::model::weights::{Experts, SharedExpert};

impl<D: Device> Loader<'_, D> {
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
        let router = self.linear(&router, &[routing.experts], hidden, false)?.weight;

        let [up_stack, down_stack] = row.stacks.map(|s| format!("{module}.{}.{s}", row.list));
        let named = |parts: &[&str]| -> Vec<String> {
            let each =
                |e| parts.iter().map(move |p| format!("{module}.{}.{e}.{p}.weight", row.list));
            (0..routing.experts).flat_map(each).collect()
        };
        let up = self.stack(&up_stack, &named(&row.gate_up), &routing, ffn, hidden)?;
        let down = self.stack(&down_stack, &named(&[row.down]), &routing, hidden, ffn)?;

        let shared = match row.shared.as_ref().zip(mixture.shared_ffn) {
            Some((shared, ffn)) => {
                let gate = self.gate(format!("{module}.{}.weight", shared.gate))?;
                let up = shared.gate_up.map(|name| format!("{module}.{name}"));
                let mlp = self.mlp(&up, format!("{module}.{}", shared.down), ffn)?;
                Some(SharedExpert { mlp, gate })
            }
            None => None,
        };
        Ok(Experts { routing, router, up, down, shared })
    }

    /// The first of the row's names of the module under which the router exists.
    fn mixture_name(&self, layer: usize, row: &Mixture) -> String {
        let mut names = row.modules.iter().map(|module| self.layer_name(layer, module));
        let first = names.next().unwrap_or_default();
        let has = |c: &Checkpoint, name: &str| c.contains(&format!("{name}.{}.weight", row.router));
        match self.format {
            WeightSource::Files(c) if !has(c, &first) => names.find(|n| has(c, n)).unwrap_or(first),
            _ => first,
        }
    }

    /// A matrix of each expert, from one tensor or from `names`, which are all of `outputs` x
    /// `inputs`: one of each expert, or a gate and an up.
    fn stack(
        &mut self,
        stack: &str,
        names: &[String],
        routing: &Routing,
        outputs: usize,
        inputs: usize,
    ) -> Result<D::Weight> {
        let count = routing.experts;
        let gated = names.len() > count;
        let each = outputs * names.len() / count;
        let source = match self.format {
            WeightSource::Files(c) if c.contains(stack) => {
                Some(Source::Parts(vec![c.stack(stack, count, each, inputs)?]))
            }
            _ => self.parts(names, &vec![outputs; names.len()], inputs, false)?,
        };
        let kind = WeightKind::Experts { count, gated };
        let name = names.first().map_or(stack, String::as_str);
        self.upload(name, kind, count * each, inputs, false, source)
    }

    /// A linear of one output, as a vector.
    fn gate(&mut self, name: String) -> Result<D::Weight> {
        let hidden = self.spec.hidden;
        let source = self.parts(std::slice::from_ref(&name), &[1], hidden, false)?;
        self.upload(&name, WeightKind::Vector, hidden, 1, true, source)
    }
}
