//! Tensors of a checkpoint by their names: stacked, put in order, scaled or made up, and uploaded.
//! The part of `load` that its other files are made of; it knows no layer.

use crate::device::{
    Bytes, DType, Device, HostTensor, Norm, NormKind, Source, WeightDesc, WeightKind,
};
use crate::error::Result;
use crate::model::architectures::{Fused, Names};
use crate::model::checkpoint::WeightSource;
use crate::model::config::ModelSpec;
use crate::model::weights::{Linear, Mlp};

/// A load under way.
pub(super) struct Loader<'a, D> {
    pub spec: &'a ModelSpec,
    pub format: &'a WeightSource,
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

    /// A table of `rows` vectors.
    pub(super) fn table(
        &mut self,
        name: &str,
        kind: WeightKind,
        rows: usize,
        width: usize,
    ) -> Result<D::Weight> {
        let name = format!("{}.weight", self.name(name));
        let parts = self.parts(std::slice::from_ref(&name), &[rows], width, false)?;
        self.upload(&name, kind, rows, width, false, parts)
    }

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
        let suffixed = |s: &str| names.iter().map(|n| format!("{n}{s}")).collect::<Vec<_>>();
        let weights = suffixed(".weight");
        let biases = suffixed(".bias");
        let kind = if parts == 2 { WeightKind::GateUp } else { WeightKind::Linear };
        let transposed = self.spec.family.transposed;
        let split = parts == 3 && self.spec.family.fused == Fused::PerHead;

        let values = self.parts(&weights, outputs, inputs, transposed)?;
        let values = if split { values.map(|v| self.by_head(v)) } else { values };
        let weight = self.upload(&weights[0], kind, total, inputs, transposed, values)?;
        if !bias {
            return Ok(Linear { weight, bias: None });
        }

        let values = self.parts(&biases, outputs, 1, false)?;
        let values = if split { values.map(|v| self.by_head(v)) } else { values };
        let values = values.or(Some(Source::Constant(0.0)));
        let bias = self.upload(&biases[0], WeightKind::Vector, total, 1, false, values)?;
        Ok(Linear { weight, bias: Some(bias) })
    }

    /// A tensor of q, k, v of head 0, of head 1, ... as parts in the order q, k, v.
    fn by_head(&self, source: Source<'a>) -> Source<'a> {
        let Source::Parts(parts) = source else { return source };
        let (heads, d) = (self.spec.heads, self.spec.head_dim);
        let cut = |whole: &HostTensor<'a>, row: usize| {
            let row_bytes = whole.cols * whole.dtype.bytes();
            let bytes = whole.bytes.slice(row * row_bytes..(row + d) * row_bytes);
            HostTensor { rows: d, bytes, ..whole.clone() }
        };
        let order = (0..3).flat_map(|part| (0..heads).map(move |head| (3 * head + part) * d));
        let cut_all = |whole: &HostTensor<'a>| -> Vec<_> {
            order.clone().map(|row| cut(whole, row)).collect()
        };
        Source::Parts(parts.iter().flat_map(cut_all).collect())
    }

    /// A norm over `width` elements, its weight and bias times `scale`.
    pub(super) fn norm(&mut self, name: &str, width: usize, scale: f32) -> Result<Norm<D::Weight>> {
        let kind = self.spec.family.norm;
        let neutral = if kind == NormKind::RmsPlusOne { 0.0 } else { 1.0 };
        let weight = self.vector(format!("{name}.weight"), width, neutral, scale)?;
        let bias = match kind {
            NormKind::Layer => Some(self.vector(format!("{name}.bias"), width, 0.0, scale)?),
            NormKind::Rms | NormKind::RmsPlusOne => None,
        };
        Ok(Norm { kind, eps: self.spec.norm_eps, weight, bias })
    }

    /// A vector times `scale`; `neutral` where there is no tensor.
    pub(super) fn vector(
        &mut self,
        name: String,
        width: usize,
        neutral: f32,
        scale: f32,
    ) -> Result<D::Weight> {
        let parts = if self.spec.norm_affine {
            self.parts(std::slice::from_ref(&name), &[width], 1, false)?
        } else {
            None
        };

        let scaled: Vec<u8>;
        let source = match parts {
            Some(Source::Parts(parts)) if scale != 1.0 => {
                let values = parts.iter().map(HostTensor::values).collect::<Result<Vec<_>>>()?;
                let values = values.iter().flatten();
                scaled = values.flat_map(|x| (x * scale).to_le_bytes()).collect();
                let bytes = Bytes::InMemory(&scaled);
                Source::Parts(vec![HostTensor { dtype: DType::F32, rows: width, cols: 1, bytes }])
            }
            Some(parts) => parts,
            None => Source::Constant(neutral * scale),
        };
        self.upload(&name, WeightKind::Vector, width, 1, false, Some(source))
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
        let tensor = |(name, &rows): (&String, &usize)| {
            let (rows, cols) = if transposed { (inputs, rows) } else { (rows, inputs) };
            checkpoint.tensor(name, rows, cols)
        };
        let parts: Vec<HostTensor<'a>> =
            names.iter().zip(outputs).map(tensor).collect::<Result<_>>()?;
        Ok(Some(Source::Parts(parts)))
    }

    /// Give a weight to the device; `source` None: a dummy.
    pub(super) fn upload(
        &mut self,
        name: &str,
        kind: WeightKind,
        outputs: usize,
        inputs: usize,
        transposed: bool,
        source: Option<Source<'_>>,
    ) -> Result<D::Weight> {
        let source = source.unwrap_or_else(|| dummy(name, inputs));
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
            quant: None,
            transposed,
            source,
        })
    }
}

/// Uniform in ±1/sqrt(inputs): activations keep their size from layer to layer.
fn dummy(name: &str, inputs: usize) -> Source<'static> {
    Source::Dummy { seed: fnv1a(name.as_bytes()), scale: (inputs as f32).sqrt().recip() }
}

/// 64-bit FNV-1a, so that a dummy weight depends on nothing but its name.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}
