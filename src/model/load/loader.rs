//! Tensors of a checkpoint by their names: stacked, put in order, scaled or made up, and uploaded.
//! The part of `load` that its other files are made of; it knows no layer.

use super::{cut, merged, reorder};
use crate::device::cpu::workers::Workers;
use crate::device::{
    Bytes, DType, Device, HostTensor, Join, Norm, NormKind, Source, WeightDesc, WeightKind,
};
use crate::error::Result;
use crate::model::architectures::{Names, Positions};
use crate::model::checkpoint::WeightSource;
use crate::model::config::ModelSpec;
use crate::model::head_order::HeadOrder;
use crate::model::quant::unpack::Values;
use crate::model::shard::{Cut, Shard};

/// What stands in front of every name but the head's: the first of the row's prefixes under which
/// there is a table of tokens.
pub(in crate::model) fn prefix_of(spec: &ModelSpec, source: &WeightSource) -> &'static str {
    let prefixes = spec.family.prefixes;
    let table = spec.family.names.embed;
    let found = match source {
        WeightSource::Files(c) => {
            prefixes.iter().find(|prefix| merged::is_stored(c, &format!("{prefix}{table}.weight")))
        }
        WeightSource::Dummy => None,
    };
    found.or(prefixes.first()).copied().unwrap_or("")
}

/// A weight that a device is to have.
pub(super) struct Upload<'n, 'v> {
    /// The checkpoint's, of the first part.
    pub name: &'n str,
    pub kind: WeightKind,
    /// That the rank holds, as `values` are.
    pub outputs: usize,
    pub inputs: usize,
    pub transposed: bool,
    pub join: Join,
    pub values: Values<'v>,
}

/// What a norm does beside multiplying by its weight.
#[derive(Clone, Copy)]
struct NormRule {
    kind: NormKind,
    /// Of its weight and bias.
    scale: f32,
    eps: f32,
}

/// A vector that a device is to have.
pub(super) struct Vector<'c> {
    /// The checkpoint's, whole.
    pub name: String,
    /// Elements, of all ranks.
    pub width: usize,
    /// What its elements are where there is no tensor.
    pub neutral: f32,
    /// Added to what is stored, and rounded to the model's type.
    pub plus: f32,
    /// Multiplies that.
    pub scale: f32,
    /// One that is cut goes with a mean over all ranks.
    pub cut: &'c Cut,
    /// Of heads that are held in another order.
    pub order: Option<HeadOrder>,
}

/// A load under way.
pub(super) struct Loader<'a, D> {
    pub spec: &'a ModelSpec,
    /// What of it `dev` holds.
    pub shard: &'a Shard,
    pub format: &'a WeightSource,
    /// The device only counts: no tensor is read but those that decide how others are held.
    pub shapes_only: bool,
    /// They unpack codes; none where nothing is quantised.
    pub workers: Option<Workers>,
    pub dev: &'a mut D,
    /// In front of every name but the head's.
    pub prefix: &'static str,
    pub names: &'static Names,
}

impl<'a, D: Device> Loader<'a, D> {
    /// A name behind the prefix.
    pub(super) fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// A name behind a layer's.
    pub(super) fn layer_name(&self, i: usize, name: &str) -> String {
        format!("{}{}.{i}.{name}", self.prefix, self.names.layers)
    }

    /// A table of `rows` vectors, all of it.
    pub(super) fn table(&mut self, name: &str, rows: usize, width: usize) -> Result<D::Weight> {
        let (name, values) = self.table_values(name, rows, width)?;
        self.whole_table(&name, rows, width, values)
    }

    /// The same of these values.
    pub(super) fn whole_table(
        &mut self,
        name: &str,
        rows: usize,
        width: usize,
        values: Values<'_>,
    ) -> Result<D::Weight> {
        self.upload(Upload {
            name,
            kind: WeightKind::Table,
            outputs: rows,
            inputs: width,
            transposed: false,
            join: Join::None,
            values,
        })
    }

    /// The table of tokens, as far as the rank holds it.
    pub(super) fn token_table(&mut self, name: &str, kind: WeightKind) -> Result<D::Weight> {
        let width = self.spec.embed_width;
        let rows = self.spec.token_rows();
        let typed = self.typed_tokens(name)?;
        let (name, values) = match &typed {
            None => self.table_values(name, rows, width)?,
            Some(bytes) => {
                let (dtype, cols, bytes) = (DType::F32, width, Bytes::InMemory(bytes));
                let source = Source::Parts(vec![HostTensor { dtype, rows, cols, bytes }]);
                (format!("{}.weight", self.name(name)), Values::plain(source))
            }
        };
        let values = self.rows_of_vocabulary(values, width)?;
        self.upload(Upload {
            name: &name,
            kind,
            outputs: self.shard.vocabulary.len(),
            inputs: width,
            transposed: false,
            join: self.shard.vocabulary_join(),
            values,
        })
    }

    /// The rank's rows of another table with a row for each token.
    pub(super) fn token_rows_of(&mut self, name: &str, width: usize) -> Result<D::Weight> {
        let (name, values) = self.table_values(name, self.spec.vocab_size, width)?;
        let values = self.rows_of_vocabulary(values, width)?;
        self.upload(Upload {
            name: &name,
            kind: WeightKind::Table,
            outputs: self.shard.vocabulary.len(),
            inputs: width,
            transposed: false,
            join: self.shard.vocabulary_join(),
            values,
        })
    }

    /// The rows of all tokens in each token type. Where a table of positions holds the vector of
    /// type 0, the others' rows carry the difference; else each row carries its own type's.
    fn typed_tokens(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let (WeightSource::Files(checkpoint), Some(types)) = (self.format, self.names.token_types)
        else {
            return Ok(None);
        };
        let spec = self.spec;
        let segments = spec.segments();
        let by_position = matches!(spec.family.positions, Positions::Learned { .. });
        if self.shapes_only || spec.token_types == 0 || (by_position && segments == 1) {
            return Ok(None);
        }

        let width = spec.embed_width;
        let stored = |name: &str, rows| {
            merged::stored(checkpoint, spec.merged_adapter, name, rows, width)?.values()
        };
        let tokens = format!("{}.weight", self.name(name));
        let tokens = stored(&tokens, spec.vocab_size)?;
        let types = format!("{}.weight", self.name(types));
        let types = stored(&types, spec.token_types)?;
        let first = if by_position { types[..width].to_vec() } else { vec![0.0; width] };

        let mut rows = Vec::new();
        for vector in types.chunks_exact(width).take(segments) {
            let steps: Vec<f32> =
                vector.iter().zip(&first).map(|(own, first)| own - first).collect();
            let typed = tokens.iter().zip(steps.iter().cycle()).map(|(token, step)| token + step);
            rows.extend(typed.flat_map(f32::to_le_bytes));
        }
        Ok(Some(rows))
    }

    fn table_values(&self, name: &str, rows: usize, width: usize) -> Result<(String, Values<'a>)> {
        let name = format!("{}.weight", self.name(name));
        let parts = self.parts(std::slice::from_ref(&name), &[rows], width, false)?;
        let values = Values::plain(parts.unwrap_or_else(|| dummy(&name, width)));
        Ok((name, values))
    }

    /// Of a weight with a row for each token those that the rank holds, zeros behind the last.
    pub(super) fn rows_of_vocabulary<'v>(
        &self,
        values: Values<'v>,
        width: usize,
    ) -> Result<Values<'v>> {
        if !self.shard.is_one_of_several() {
            return Ok(values);
        }
        let Values { form, source } = values;
        let source = self.of_rank(source);
        let held = self.shard.vocabulary_held(self.spec);
        let source = cut::outputs(source, form.as_ref(), &[held], false)?;
        let source = cut::padded(source, form.as_ref(), self.shard.vocabulary.len(), width);
        Ok(Values { form, source })
    }

    /// Dummy values that are another part of a weight on each rank.
    pub(super) fn of_rank<'v>(&self, source: Source<'v>) -> Source<'v> {
        const APART: u64 = 0x9e37_79b9_7f4a_7c15;
        match source {
            Source::Dummy { seed, scale } => {
                let rank = self.shard.rank.index as u64;
                Source::Dummy { seed: seed.wrapping_add(rank.wrapping_mul(APART)), scale }
            }
            other => other,
        }
    }

    /// A norm over the residual, its weight and bias times `scale`.
    pub(super) fn norm(&mut self, name: &str, scale: f32) -> Result<Norm<D::Weight>> {
        let rule = NormRule { scale, ..self.norm_rule(self.spec.norm_eps) };
        self.norm_of(rule, name, self.spec.hidden, &Cut::Whole, None)
    }

    /// A norm over what a sublayer is about to add.
    pub(super) fn added_norm(&mut self, name: &str) -> Result<Norm<D::Weight>> {
        let rule = self.norm_rule(self.spec.inner_eps);
        self.norm_of(rule, name, self.spec.hidden, &Cut::Whole, None)
    }

    /// A norm over something else that is added later, its weight times `scale`.
    pub(super) fn scaled_norm(
        &mut self,
        name: &str,
        width: usize,
        scale: f32,
    ) -> Result<Norm<D::Weight>> {
        let rule = NormRule { scale, ..self.norm_rule(self.spec.inner_eps) };
        self.norm_of(rule, name, width, &Cut::Whole, None)
    }

    /// A norm over heads of q or k. One that is cut is over those of all ranks.
    pub(super) fn head_norm(
        &mut self,
        name: &str,
        width: usize,
        cut: &Cut,
    ) -> Result<Norm<D::Weight>> {
        let rule = self.norm_rule(self.spec.inner_eps);
        self.norm_of(rule, name, width, cut, self.head_order())
    }

    /// What order rows of q and k are put in: by the family, or by the checkpoint's own format.
    pub(super) fn head_order(&self) -> Option<HeadOrder> {
        match self.format {
            WeightSource::Files(own) if own.turns_neighbours() => self.spec.neighbours_apart(),
            _ => self.spec.head_order(),
        }
    }

    /// A norm over something else, whole on each rank.
    pub(super) fn plain_norm(&mut self, name: &str, width: usize) -> Result<Norm<D::Weight>> {
        self.norm_of_kind(self.spec.family.norm, name, width)
    }

    /// The same of this kind.
    pub(super) fn norm_of_kind(
        &mut self,
        kind: NormKind,
        name: &str,
        width: usize,
    ) -> Result<Norm<D::Weight>> {
        let rule = NormRule { kind, ..self.norm_rule(self.spec.inner_eps) };
        self.norm_of(rule, name, width, &Cut::Whole, None)
    }

    /// The family's kind.
    fn norm_rule(&self, eps: f32) -> NormRule {
        NormRule { kind: self.spec.family.norm, scale: 1.0, eps }
    }

    fn norm_of(
        &mut self,
        rule: NormRule,
        name: &str,
        width: usize,
        cut: &Cut,
        order: Option<HeadOrder>,
    ) -> Result<Norm<D::Weight>> {
        let NormRule { kind, scale, eps } = rule;
        let neutral = if kind == NormKind::RmsPlusOne { 0.0 } else { 1.0 };
        let plus = if self.spec.family.norm_plus_one { 1.0 } else { 0.0 };
        let has_bias = kind == NormKind::Layer && self.spec.family.norm_bias;

        let weight = format!("{name}.weight");
        let weight = Vector { name: weight, width, neutral, plus, scale, cut, order };
        let weight = self.vector(weight)?;
        let bias = format!("{name}.bias");
        let bias = Vector { name: bias, width, neutral: 0.0, plus: 0.0, scale, cut, order };
        let bias = has_bias.then(|| self.vector(bias)).transpose()?;
        Ok(Norm { kind, eps, weight, bias })
    }

    pub(super) fn vector(&mut self, vector: Vector<'_>) -> Result<D::Weight> {
        let Vector { name, width, neutral, plus, scale, cut, order } = vector;
        let parts = if self.spec.norm_affine {
            self.parts(std::slice::from_ref(&name), &[width], 1, false)?
        } else {
            None
        };

        let scaled: Vec<u8>;
        let source = match parts {
            Some(Source::Parts(parts)) if plus != 0.0 || scale != 1.0 => {
                let dtype = self.spec.dtype;
                let of = |x: f32| if plus == 0.0 { x } else { dtype.round(x + plus) };
                let values = parts.iter().map(HostTensor::values).collect::<Result<Vec<_>>>()?;
                let values = values.iter().flatten();
                scaled = values.flat_map(|&x| (of(x) * scale).to_le_bytes()).collect();
                let bytes = Bytes::InMemory(&scaled);
                Source::Parts(vec![HostTensor { dtype: DType::F32, rows: width, cols: 1, bytes }])
            }
            Some(parts) => parts,
            None => Source::Constant(neutral * scale),
        };
        let mut join = Join::None;
        let source = if *cut == Cut::Whole {
            source
        } else {
            join = Join::Sum;
            cut::outputs(source, None, &cut.rows(1), false)?
        };
        let source = match order {
            Some(order) => reorder::heads(source, None, order, cut.outputs(width))?,
            None => source,
        };
        self.upload(Upload {
            name: &name,
            kind: WeightKind::Vector,
            outputs: cut.outputs(width),
            inputs: 1,
            transposed: false,
            join,
            values: Values::plain(source),
        })
    }

    /// The tensors of these names from the checkpoint; None when there is none (dummy).
    pub(super) fn parts(
        &self,
        names: &[String],
        outputs: &[usize],
        inputs: usize,
        transposed: bool,
    ) -> Result<Option<Source<'a>>> {
        let WeightSource::Files(checkpoint) = self.format else { return Ok(None) };
        if self.shapes_only {
            return Ok(None);
        }
        let tensor = |(name, &rows): (&String, &usize)| {
            let (rows, cols) = if transposed { (inputs, rows) } else { (rows, inputs) };
            merged::stored(checkpoint, self.spec.merged_adapter, name, rows, cols)
        };
        let parts: Vec<HostTensor<'a>> =
            names.iter().zip(outputs).map(tensor).collect::<Result<_>>()?;
        Ok(Some(Source::Parts(parts)))
    }

    /// Run `work` where rayon's parallel iterators use the loader's threads.
    pub(super) fn unpack<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match &self.workers {
            Some(workers) => workers.install(work),
            None => work(),
        }
    }

    /// Give a weight to the device.
    pub(super) fn upload(&mut self, upload: Upload<'_, '_>) -> Result<D::Weight> {
        let Upload { name, kind, outputs, inputs, transposed, join, values } = upload;
        let dtype = match kind {
            WeightKind::Vector => DType::F32,
            _ => self.spec.dtype,
        };
        self.dev.upload(WeightDesc {
            name,
            kind,
            outputs,
            inputs,
            dtype,
            quant: values.form,
            transposed,
            join,
            source: values.source,
        })
    }

    /// An RMS norm whose weight is 1; `name` is for messages.
    pub(super) fn unit_norm(
        &mut self,
        name: &str,
        width: usize,
        eps: f32,
    ) -> Result<Norm<D::Weight>> {
        let weight = self.upload(Upload {
            name,
            kind: WeightKind::Vector,
            outputs: width,
            inputs: 1,
            transposed: false,
            join: Join::None,
            values: Values::plain(Source::Constant(1.0)),
        })?;
        Ok(Norm { kind: NormKind::Rms, eps, weight, bias: None })
    }
}

/// Uniform in ±1/sqrt(inputs): activations keep their size from layer to layer.
pub(super) fn dummy(name: &str, inputs: usize) -> Source<'static> {
    Source::Dummy { seed: fnv1a(name.as_bytes()), scale: (inputs as f32).sqrt().recip() }
}

/// Matrices as one vector, row behind row.
pub(super) fn flat(source: Source<'_>) -> Source<'_> {
    let Source::Parts(parts) = source else { return source };
    let flat = parts.into_iter().map(|part| {
        let rows = part.rows * part.cols;
        HostTensor { rows, cols: 1, ..part }
    });
    Source::Parts(flat.collect())
}

/// 64-bit FNV-1a, so that a dummy weight depends on nothing but its name.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}
