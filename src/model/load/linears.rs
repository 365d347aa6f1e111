//! Linears: the values of their parts, plain or quantised as the specification's scheme says,
//! stacked and uploaded with their biases. Part of `load`, which calls it layer by layer; how a
//! format's tensors become codes is `quant`'s affair.

use std::ops::Range;

use super::loader::{dummy, Loader, Upload};
use super::{cut, reorder, scale};
use crate::device::{Device, Join, QuantForm, ScaleOver, Source, WeightKind};
use crate::error::{Error, Result};
use crate::model::architectures::{Fused, QUARTERS};
use crate::model::checkpoint::{Checkpoint, StoredType, WeightSource};
use crate::model::config::{KeysFrom, LayerAttention};
use crate::model::head_order::HeadOrder;
use crate::model::quant::unpack::{self, Values, Wanted};
use crate::model::quant::{Format, LayerKind, Packing};
use crate::model::row_ranges;
use crate::model::shard::Cut;
use crate::model::weights::{Linear, Mlp};
use crate::{internal, invalid};

/// Behind a layer's name where its weight is, in any format.
const WEIGHTS: [&str; 3] = ["weight", "weight_packed", "qweight"];
/// Behind a layer's name where its weight is quantised, in any format that keeps `.weight`.
const SCALES: [&str; 4] = ["weight_scale", "weight_scale_inv", "weight.quant_map", "SCB"];

/// Tensors that lie one below the other.
pub(super) struct Stack<'s> {
    /// Without `.weight`.
    pub names: &'s [String],
    /// That each holds.
    pub outputs: &'s [usize],
    /// Those of all that are taken, in this order; empty: all.
    pub rows: Vec<Range<usize>>,
    pub inputs: usize,
    pub kind: WeightKind,
    /// The first rows are so many heads of the rank's, of q and k.
    pub rotated: usize,
}

impl Stack<'_> {
    /// Outputs that are taken.
    fn total(&self) -> usize {
        match &self.rows[..] {
            [] => self.outputs.iter().sum(),
            rows => rows.iter().map(Range::len).sum(),
        }
    }

    fn picked<'a>(&self, source: Source<'a>, form: Option<&QuantForm>) -> Result<Source<'a>> {
        if self.rows.is_empty() {
            return Ok(source);
        }
        cut::outputs(source, form, &self.rows, false)
    }
}

impl<'a, D: Device> Loader<'a, D> {
    /// An MLP of width `ffn`; `up` names gate and up if it is gated. `summed`: over ranks, else a
    /// later op does that.
    pub(super) fn mlp(
        &mut self,
        up: &[String],
        down: String,
        ffn: usize,
        summed: bool,
    ) -> Result<Mlp<D::Weight>> {
        let hidden = self.spec.hidden;
        let bias = self.spec.mlp_bias;
        let outputs = if self.spec.family.gated { &[ffn, ffn][..] } else { &[ffn] };
        let cut = self.shard.up(ffn, outputs.len());
        let factors = self.spec.factors;
        let up_bias = bias && !self.spec.family.up_without_bias;
        let up = self.linear_times(&factors.gate_up, up, outputs, hidden, up_bias, &cut)?;
        let cut = self.shard.down(ffn, summed);
        let width = cut.inputs(ffn);
        let down = self.linear_times(&[factors.down], &[down], &[hidden], ffn, bias, &cut)?;
        Ok(Mlp { up, down, width, activation: None })
    }

    /// `names` stacked along the outputs (without `.weight`); if fewer than `outputs`, the first
    /// holds them all. One output is a plain linear, two are gate and up.
    pub(super) fn linear(
        &mut self,
        names: &[String],
        outputs: &[usize],
        inputs: usize,
        bias: bool,
        cut: &Cut,
    ) -> Result<Linear<D::Weight>> {
        self.linear_times(&[], names, outputs, inputs, bias, cut)
    }

    /// The same with a factor of each part, folded into it. Only families whose parts are tensors
    /// of their own and have no bias have factors.
    pub(super) fn linear_times(
        &mut self,
        factors: &[f32],
        names: &[String],
        outputs: &[usize],
        inputs: usize,
        bias: bool,
        cut: &Cut,
    ) -> Result<Linear<D::Weight>> {
        let total: usize = outputs.iter().sum();
        let parts = outputs.len();
        let whole = [total];
        let swapped = parts == 2 && self.spec.family.up_before_gate;
        let stack = Stack {
            names,
            outputs: if names.len() == parts { outputs } else { &whole },
            rows: if swapped { vec![outputs[1]..total, 0..outputs[1]] } else { Vec::new() },
            inputs,
            kind: if parts == 2 { WeightKind::GateUp } else { WeightKind::Linear },
            rotated: 0,
        };
        self.stacked_times(factors, &stack, bias, cut)
    }

    /// What a layer makes of q, k and v, one below the other.
    pub(super) fn qkv(&mut self, i: usize, names: &[&str]) -> Result<Linear<D::Weight>> {
        let (spec, shard) = (self.spec, self.shard);
        let LayerAttention { attn, keys, .. } = &spec.attention[i];
        let (q, kv) = (attn.q_width(), attn.kv_heads * attn.head_dim);
        let (made, outputs): (_, &[usize]) = match keys {
            KeysFrom::Own | KeysFrom::Nowhere => (names, &[q, kv, kv]),
            KeysFrom::OneProduct => (&names[..2], &[q, kv]),
            KeysFrom::Layer(_) => (&names[..1], &[q]),
        };
        let names: Vec<String> = made.iter().map(|name| self.layer_name(i, name)).collect();
        let total: usize = outputs.iter().sum();
        let whole = [total];
        let kv_heads = if attn.q_only { 0 } else { shard.kv_heads[i] };
        let mut stack = Stack {
            names: &names,
            outputs: if names.len() == outputs.len() { outputs } else { &whole },
            rows: Vec::new(),
            inputs: spec.attention_inputs(i),
            kind: WeightKind::Linear,
            rotated: shard.heads + kv_heads,
        };

        let with_gates: Vec<usize>;
        if spec.family.output_gate {
            with_gates = [&[2 * q], &outputs[1..]].concat();
            stack.outputs = &with_gates;
            stack.rows = self.halves_of_heads(0);
            stack.rows.push(2 * q..q + total);
        } else if spec.family.fused != Fused::Stacked {
            stack.rows = self.rows_by_part();
        }
        let factors = spec.factors.qkv;
        self.stacked_times(&factors, &stack, spec.qkv_bias, &shard.qkv(spec, i))
    }

    /// The gate of attention's output, which lies among the heads of q.
    pub(super) fn output_gate(&mut self, i: usize, q: &str) -> Result<Linear<D::Weight>> {
        let names = [self.layer_name(i, q)];
        let cut = self.shard.output_gate(self.spec, i);
        let stack = Stack {
            names: &names,
            outputs: &[2 * self.spec.heads * self.spec.head_dim],
            rows: self.halves_of_heads(1),
            inputs: self.spec.hidden,
            kind: WeightKind::Linear,
            rotated: 0,
        };
        self.stacked(&stack, self.spec.qkv_bias, &cut)
    }

    /// A linear of tensors that lie one below the other, or of rows of them.
    pub(super) fn stacked(
        &mut self,
        stack: &Stack,
        bias: bool,
        cut: &Cut,
    ) -> Result<Linear<D::Weight>> {
        self.stacked_times(&[], stack, bias, cut)
    }

    /// The same with a factor of each part that is taken, folded into it.
    pub(super) fn stacked_times(
        &mut self,
        factors: &[f32],
        stack: &Stack,
        bias: bool,
        cut: &Cut,
    ) -> Result<Linear<D::Weight>> {
        let Stack { names, outputs, inputs, kind, rotated, .. } = *stack;
        let total = stack.total();
        let transposed = self.spec.family.transposed;
        let wanted = Wanted { names, outputs, inputs };
        let mut values = self.values(LayerKind::Linear, &wanted, transposed)?;
        values.source = stack.picked(values.source, values.form.as_ref())?;
        values.source = scale::parts(values.source, factors)?;
        let name = format!("{}.weight", names[0]);
        let mut values = self.part_of(values, LayerKind::Linear, &wanted, cut, 1, transposed)?;
        values.source = self.in_head_order(values.source, values.form.as_ref(), rotated)?;
        let weight = self.upload(Upload {
            name: &name,
            kind,
            outputs: cut.outputs(total),
            inputs: cut.inputs(inputs),
            transposed,
            join: cut.join(),
            values,
        })?;

        let biases: Vec<String> = names.iter().map(|name| format!("{name}.bias")).collect();
        if !bias {
            self.refuse_biases(&biases)?;
            return Ok(Linear { weight, bias: None });
        }

        // Ranks with some of the inputs add up what they have: one of them has the bias.
        if matches!(cut, Cut::Inputs { .. }) && self.shard.rank.index != 0 {
            return Ok(Linear { weight, bias: None });
        }
        let source = self.parts(&biases, outputs, 1, false)?.unwrap_or(Source::Constant(0.0));
        let mut source = stack.picked(source, None)?;
        if matches!(cut, Cut::Outputs(_)) {
            source = cut::outputs(source, None, &cut.rows(1), false)?;
        }
        source = self.in_head_order(source, None, rotated)?;
        let bias = self.upload(Upload {
            name: &biases[0],
            kind: WeightKind::Vector,
            outputs: cut.outputs(total),
            inputs: 1,
            transposed: false,
            join: Join::None,
            values: Values::plain(source),
        })?;
        Ok(Linear { weight, bias: Some(bias) })
    }

    /// A linear of one part and without a bias, whose rows are heads in this order.
    pub(super) fn ordered_linear(
        &mut self,
        name: &str,
        outputs: usize,
        inputs: usize,
        cut: &Cut,
        order: HeadOrder,
    ) -> Result<Linear<D::Weight>> {
        self.refuse_biases(&[format!("{name}.bias")])?;
        self.product(name, outputs, inputs, cut, Some(order))
    }

    /// The product alone of a linear of one part, whose bias, if it has one, is another's affair.
    pub(super) fn product(
        &mut self,
        name: &str,
        outputs: usize,
        inputs: usize,
        cut: &Cut,
        order: Option<HeadOrder>,
    ) -> Result<Linear<D::Weight>> {
        let names = [name.to_string()];
        let wanted = Wanted { names: &names, outputs: &[outputs], inputs };

        let values = self.values(LayerKind::Linear, &wanted, false)?;
        let mut values = self.part_of(values, LayerKind::Linear, &wanted, cut, 1, false)?;
        let held = cut.outputs(outputs);
        if let Some(order) = order {
            values.source = reorder::heads(values.source, values.form.as_ref(), order, held)?;
        }
        let weight = self.upload(Upload {
            name: &format!("{name}.weight"),
            kind: WeightKind::Linear,
            outputs: held,
            inputs: cut.inputs(inputs),
            transposed: false,
            join: cut.join(),
            values,
        })?;
        Ok(Linear { weight, bias: None })
    }

    /// The head, which may be quantised.
    pub(super) fn head_linear(&mut self, name: &str) -> Result<D::Weight> {
        let (vocab, width) = (self.spec.vocab_size, self.spec.embed_width);
        let names = [name.to_string()];
        let wanted = Wanted { names: &names, outputs: &[vocab], inputs: width };
        let values = self.values(LayerKind::Head, &wanted, false)?;
        let name = format!("{name}.weight");
        let values = self.rows_of_vocabulary(values, width)?;
        self.upload(Upload {
            name: &name,
            kind: WeightKind::Linear,
            outputs: self.shard.vocabulary.len(),
            inputs: width,
            transposed: false,
            join: self.shard.vocabulary_join(),
            values,
        })
    }

    /// The values of these parts, in the format that the scheme says.
    ///
    /// # Errors
    /// Parts that the scheme gives different formats; a tensor that is missing or wrong.
    pub(super) fn values(
        &self,
        kind: LayerKind,
        wanted: &Wanted,
        transposed: bool,
    ) -> Result<Values<'a>> {
        if let Some(values) = self.packed_values(wanted)? {
            return Ok(values);
        }
        let Some(format) = self.format_of(kind, wanted)? else {
            return self.plain_values(wanted, transposed);
        };
        let name = first(wanted);
        if transposed {
            return Err(Error::Unsupported(format!(
                "{name}: {} stores its weights [inputs, outputs], which are not quantised.",
                self.spec.family.architecture
            )));
        }

        let WeightSource::Files(checkpoint) = self.format else {
            let form = Some(unpack::form_of(&format, wanted)?);
            return Ok(Values { form, source: dummy(&name, wanted.inputs) });
        };
        if self.shapes_only {
            let form = unpack::form_held(checkpoint, &format, wanted)?;
            return Ok(Values { form, source: dummy(&name, wanted.inputs) });
        }
        let Format::Online { over, .. } = format else {
            return self.unpack(|| unpack::linear(checkpoint, &format, wanted));
        };
        let form = Some(unpack::form_of(&format, wanted)?);
        match self.plain_values(wanted, transposed)?.source {
            Source::Parts(parts) => Ok(Values { form, source: Source::Quantise { parts, over } }),
            _ => Err(internal!("{name}: no parts to quantise")),
        }
    }

    /// Codes of files that say themselves how they are packed (GGUF); none: they are plain.
    fn packed_values(&self, wanted: &Wanted) -> Result<Option<Values<'a>>> {
        let WeightSource::Files(checkpoint) = self.format else { return Ok(None) };
        let names: Vec<String> = wanted.names.iter().map(|name| format!("{name}.weight")).collect();
        if self.shapes_only {
            let form = checkpoint.code_form(&names);
            let source = || dummy(&first(wanted), wanted.inputs);
            return Ok(form.map(|form| Values { form: Some(form), source: source() }));
        }
        let codes = checkpoint.codes(&names, wanted.outputs, wanted.inputs)?;
        let source = |parts| Source::Codes { parts, order: Vec::new() };
        Ok(codes.map(|(form, parts)| Values { form: Some(form), source: source(parts) }))
    }

    /// What the scheme says of these parts; none: they are plain.
    pub(super) fn format_of(&self, kind: LayerKind, wanted: &Wanted) -> Result<Option<Format>> {
        let is_plain = |name: &str| match self.format {
            WeightSource::Files(checkpoint) => is_plain(checkpoint, name),
            WeightSource::Dummy => false,
        };
        match &self.spec.quant {
            Some(scheme) => scheme.format_of(kind, wanted.names, &is_plain),
            None => Ok(None),
        }
    }

    /// Parts of 16 or 32 bits, or what dummies have in their place.
    fn plain_values(&self, wanted: &Wanted, transposed: bool) -> Result<Values<'a>> {
        let names: Vec<String> = wanted.names.iter().map(|name| format!("{name}.weight")).collect();
        let parts = self.parts(&names, wanted.outputs, wanted.inputs, transposed)?;
        Ok(Values::plain(parts.unwrap_or_else(|| dummy(&first(wanted), wanted.inputs))))
    }

    /// GPTQ's and AWQ's tools write biases of zeros; others would change what the model says.
    fn refuse_biases(&self, names: &[String]) -> Result<()> {
        let (Some(_), WeightSource::Files(checkpoint)) = (&self.spec.quant, self.format) else {
            return Ok(());
        };
        for name in names {
            let Some(shape) = checkpoint.shape_of(name) else { continue };
            let raw = checkpoint.raw(name, &StoredType::PLAIN, &[shape])?;
            if raw.floats()?.iter().any(|&x| x != 0.0) {
                let family = self.spec.family.architecture;
                return Err(raw.wrong(format!("is not zero, but {family} has no bias there")));
            }
        }
        Ok(())
    }

    /// Where q, k and v lie among the heads of one tensor: of KV head 0, of KV head 1, ...; or of
    /// quarters, of which each has v before k.
    fn rows_by_part(&self) -> Vec<Range<usize>> {
        let d = self.spec.head_dim;
        let quarters = self.spec.family.fused == Fused::Quarters;
        let groups = if quarters { QUARTERS } else { self.spec.kv_heads };
        let q = self.spec.heads / groups;
        let (parts, whole) = if quarters {
            ([0..q, 2 * q..3 * q, q..2 * q], 3 * q)
        } else {
            ([0..q, q..q + 1, q + 1..q + 2], q + 2)
        };
        let of_part = |part: &Range<usize>| {
            let Range { start, end } = *part;
            (0..groups).map(move |group| group * whole).map(move |at| at + start..at + end)
        };
        let heads = parts.iter().flat_map(of_part);
        heads.map(|heads| heads.start * d..heads.end * d).collect()
    }

    /// Of heads of q that are each followed by a gate: all heads (0), or all gates (1).
    fn halves_of_heads(&self, half: usize) -> Vec<Range<usize>> {
        row_ranges::halves_of_heads(self.spec.heads, self.spec.head_dim, half)
    }

    /// The rank's first heads, of q and k, in the order in which devices rotate them.
    fn in_head_order(
        &self,
        source: Source<'a>,
        form: Option<&QuantForm>,
        heads: usize,
    ) -> Result<Source<'a>> {
        match self.head_order() {
            Some(order) if heads > 0 => reorder::heads(source, form, order, heads * order.head_dim),
            _ => Ok(source),
        }
    }

    /// The rank's part of the values of `count` matrices, one below the other, each cut alike.
    ///
    /// # Errors
    /// InvalidArgument: inputs that are no whole number of groups.
    pub(super) fn part_of(
        &self,
        values: Values<'a>,
        kind: LayerKind,
        wanted: &Wanted,
        cut: &Cut,
        count: usize,
        transposed: bool,
    ) -> Result<Values<'a>> {
        match cut {
            Cut::Whole => Ok(values),
            Cut::Outputs(_) => {
                let Values { form, source } = values;
                let source = self.of_rank(source);
                let source = cut::outputs(source, form.as_ref(), &cut.rows(count), transposed)?;
                Ok(Values { form, source })
            }
            Cut::Inputs { range, .. } => {
                let Values { form, source } = self.in_order(values, kind, wanted)?;
                if let Some(form) = &form {
                    self.judge_groups(form, kind, wanted, range)?;
                }

                let values = Values { form, source: self.of_rank(source) };
                cut::inputs(values, range, wanted.inputs, transposed)
            }
        }
    }

    /// Codes whose inputs lie in an order of their own, unpacked: a part of the inputs is a part of
    /// every group.
    fn in_order(&self, values: Values<'a>, kind: LayerKind, wanted: &Wanted) -> Result<Values<'a>> {
        let ordered = match (&values.source, self.format) {
            (Source::Codes { order, .. }, _) => !order.is_empty(),
            (_, WeightSource::Files(checkpoint)) if self.shapes_only => {
                match self.format_of(kind, wanted)? {
                    Some(format) => unpack::is_ordered(checkpoint, &format, wanted)?,
                    None => false,
                }
            }
            _ => false,
        };
        if !ordered {
            return Ok(values);
        }
        if self.shapes_only {
            return Ok(Values::plain(values.source));
        }
        tracing::warn!(
            "{}: its inputs are in an order of their own (desc_act), of which no rank has whole \
             groups: it is unpacked to 16 bits",
            first(wanted)
        );
        unpack::plain(values)
    }

    /// A rank's inputs must be whole groups. The texts are vLLM's.
    fn judge_groups(
        &self,
        form: &QuantForm,
        kind: LayerKind,
        wanted: &Wanted,
        inputs: &Range<usize>,
    ) -> Result<()> {
        let group = form.group;
        let count = inputs.len();
        let whole = |at: usize| at == wanted.inputs || at.is_multiple_of(group);
        if group >= wanted.inputs || whole(inputs.start) && whole(inputs.end) {
            return Ok(());
        }

        let of_blocks = |over| over == ScaleOver::Block;
        let text = match self.format_of(kind, wanted)? {
            Some(Format::Packed { packing: Packing::Awq, .. }) => {
                "The input size is not aligned with the quantized weight shape. This can be caused \
                 by too large tensor parallel size."
                    .to_string()
            }
            Some(Format::Bytes { over, .. } | Format::Online { over, .. }) if of_blocks(over) => {
                let what = match kind {
                    LayerKind::Experts => "The input_size of down's weight",
                    _ => "Weight input_size_per_partition",
                };
                format!(
                    "{what} = {count} is not divisible by weight quantization block_k = {group}."
                )
            }
            _ => format!(
                "Weight input_size_per_partition={count} is not divisible by group_size={group}. \
                 This happens when tensor_parallel_size splits the layer input into shards that \
                 are not a whole number of quant groups. Consider reducing tensor_parallel_size."
            ),
        };
        Err(invalid!("{}: {text}", first(wanted)))
    }
}

/// The name of a weight's first tensor, for messages.
fn first(wanted: &Wanted) -> String {
    format!("{}.weight", wanted.names.first().map_or("", String::as_str))
}

/// Whether a linear's weight is stored in 16 or 32 bits, with no scale.
pub(super) fn is_plain(checkpoint: &Checkpoint, name: &str) -> bool {
    let stored = checkpoint.type_of(&format!("{name}.weight"));
    let scaled = || SCALES.iter().any(|s| checkpoint.contains(&format!("{name}.{s}")));
    stored.is_some_and(|stored| stored.plain().is_some()) && !scaled()
}

/// Whether there is a linear of this name, in any format.
pub(super) fn has(checkpoint: &Checkpoint, name: &str) -> bool {
    WEIGHTS.iter().any(|weight| checkpoint.contains(&format!("{name}.{weight}")))
}

#[cfg(test)]
#[path = "linears_tests.rs"]
mod tests;
