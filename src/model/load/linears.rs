//! Linears: the values of their parts, plain or quantised as the specification's scheme says,
//! stacked and uploaded with their biases. Part of `load`, which calls it layer by layer; how a
//! format's tensors become codes is `quant`'s affair.

use super::loader::{dummy, Loader};
use crate::device::{Device, HostTensor, QuantForm, QuantPart, Source, WeightKind};
use crate::error::{Error, Result};
use crate::internal;
use crate::model::architectures::Fused;
use crate::model::checkpoint::{Checkpoint, StoredType, WeightSource};
use crate::model::quant::unpack::{self, Values, Wanted};
use crate::model::quant::{Format, LayerKind};
use crate::model::weights::{Linear, Mlp};

/// Behind a layer's name where its weight is, in any format.
const WEIGHTS: [&str; 3] = ["weight", "weight_packed", "qweight"];
/// Behind a layer's name where its weight is quantised, in any format that keeps `.weight`.
const SCALES: [&str; 4] = ["weight_scale", "weight_scale_inv", "weight.quant_map", "SCB"];

impl<'a, D: Device> Loader<'a, D> {
    /// An MLP of width `ffn`; `up` names gate and up if it is gated.
    pub(super) fn mlp(
        &mut self,
        up: &[String],
        down: String,
        ffn: usize,
    ) -> Result<Mlp<D::Weight>> {
        let hidden = self.spec.hidden;
        let bias = self.spec.mlp_bias;
        let outputs = if self.spec.family.gated { &[ffn, ffn][..] } else { &[ffn] };
        let up = self.linear(up, outputs, hidden, bias)?;
        Ok(Mlp { up, down: self.linear(&[down], &[hidden], ffn, bias)? })
    }

    /// `names` stacked along the outputs (without `.weight`); if fewer than `outputs`, the first
    /// holds them all. One output is a plain linear, two are gate and up, three q, k and v.
    pub(super) fn linear(
        &mut self,
        names: &[String],
        outputs: &[usize],
        inputs: usize,
        bias: bool,
    ) -> Result<Linear<D::Weight>> {
        let total: usize = outputs.iter().sum();
        let parts = outputs.len();
        let outputs = if names.len() == parts { outputs } else { &[total] };
        let kind = if parts == 2 { WeightKind::GateUp } else { WeightKind::Linear };
        let transposed = self.spec.family.transposed;
        let split = parts == 3 && self.spec.family.fused == Fused::PerHead;

        let wanted = Wanted { names, outputs, inputs };
        let mut values = self.values(LayerKind::Linear, &wanted, transposed)?;
        if split {
            values.source = self.by_head(values.source, values.form.as_ref());
        }
        let name = format!("{}.weight", names[0]);
        let weight = self.upload(&name, kind, total, inputs, transposed, values)?;
        let biases: Vec<String> = names.iter().map(|name| format!("{name}.bias")).collect();
        if !bias {
            self.refuse_biases(&biases)?;
            return Ok(Linear { weight, bias: None });
        }

        let values = self.parts(&biases, outputs, 1, false)?.unwrap_or(Source::Constant(0.0));
        let values = if split { self.by_head(values, None) } else { values };
        let values = Values::plain(values);
        let bias = self.upload(&biases[0], WeightKind::Vector, total, 1, false, values)?;
        Ok(Linear { weight, bias: Some(bias) })
    }

    /// The head, which may be quantised.
    pub(super) fn head_linear(&mut self, name: &str) -> Result<D::Weight> {
        let (vocab, width) = (self.spec.vocab_size, self.spec.embed_width);
        let names = [name.to_string()];
        let wanted = Wanted { names: &names, outputs: &[vocab], inputs: width };
        let values = self.values(LayerKind::Head, &wanted, false)?;
        let name = format!("{name}.weight");
        self.upload(&name, WeightKind::Linear, vocab, width, false, values)
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
    fn format_of(&self, kind: LayerKind, wanted: &Wanted) -> Result<Option<Format>> {
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

    /// Rows of q, k, v of head 0, of head 1, ... as parts in the order q, k, v.
    fn by_head(&self, source: Source<'a>, form: Option<&QuantForm>) -> Source<'a> {
        let (heads, d) = (self.spec.heads, self.spec.head_dim);
        let order = (0..3).flat_map(|part| (0..heads).map(move |head| (3 * head + part) * d));
        match (source, form) {
            (Source::Parts(parts), _) => {
                let cut = |whole: &HostTensor<'a>| -> Vec<_> {
                    order.clone().map(|row| rows_of(whole, row, d)).collect()
                };
                Source::Parts(parts.iter().flat_map(cut).collect())
            }
            (Source::Quantise { parts, over }, _) => {
                let cut = |whole: &HostTensor<'a>| -> Vec<_> {
                    order.clone().map(|row| rows_of(whole, row, d)).collect()
                };
                Source::Quantise { parts: parts.iter().flat_map(cut).collect(), over }
            }
            (Source::Codes { parts, order: inputs }, Some(form)) => {
                let cut = |whole: &QuantPart<'a>| -> Vec<_> {
                    order.clone().map(|row| codes_of(whole, form, row, d)).collect()
                };
                Source::Codes { parts: parts.iter().flat_map(cut).collect(), order: inputs }
            }
            (other, _) => other,
        }
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

/// `count` rows of a tensor, from `row` on.
fn rows_of<'a>(whole: &HostTensor<'a>, row: usize, count: usize) -> HostTensor<'a> {
    let row_bytes = whole.cols * whole.dtype.bytes();
    let bytes = whole.bytes.slice(row * row_bytes..(row + count) * row_bytes);
    HostTensor { rows: count, bytes, ..whole.clone() }
}

/// The same of codes.
fn codes_of<'a>(
    whole: &QuantPart<'a>,
    form: &QuantForm,
    row: usize,
    count: usize,
) -> QuantPart<'a> {
    let row_bytes = form.codes.row_bytes(whole.cols);
    let groups = form.groups(whole.cols);
    let of_groups = |all: &[f32]| match all {
        [] => Vec::new(),
        all => all[row * groups..(row + count) * groups].to_vec(),
    };
    QuantPart {
        rows: count,
        cols: whole.cols,
        codes: whole.codes.slice(row * row_bytes..(row + count) * row_bytes),
        scales: of_groups(&whole.scales),
        offsets: of_groups(&whole.offsets),
    }
}
