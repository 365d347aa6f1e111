//! A family's names and a spec's shapes -> weights on a device. Called by `decoder` alone; the
//! forward pass is not its business, nor are files: it asks [`Checkpoint`] for tensors by name.

use super::config::ModelSpec;
use super::families::{Names, Positions};
use super::weights::{Checkpoint, LoadFormat};
use crate::device::{DType, Device, HostTensor, Norm, NormKind, Source, WeightDesc, WeightKind};
use crate::error::Result;

/// A matrix with its optional bias.
pub struct Linear<W> {
    pub weight: W,
    pub bias: Option<W>,
}

/// One layer. Its norms are named by what they follow, so that norm-before and norm-after models
/// run the same code: before a block means after the previous one.
pub struct Layer<W> {
    pub qkv: Linear<W>,
    pub attn_out: Linear<W>,
    pub after_attn: Norm<W>,
    pub up: Linear<W>,
    pub down: Linear<W>,
    pub after_mlp: Norm<W>,
}

/// All weights of a decoder.
pub struct Weights<W> {
    pub embed: W,
    /// None: `embed` is the head.
    pub head: Option<W>,
    pub project_in: Option<W>,
    pub project_out: Option<W>,
    /// Table and offset.
    pub positions: Option<(W, usize)>,
    /// Of the embedding, in norm-before models.
    pub first: Option<Norm<W>>,
    pub layers: Vec<Layer<W>>,
}

/// Upload everything. Dummy weights depend on the tensors' names and shapes only.
///
/// # Errors
/// A tensor that is missing or has another shape or dtype (one line naming file and tensor); out of
/// memory on the device.
pub fn load<D: Device>(
    spec: &ModelSpec,
    format: &LoadFormat,
    dev: &mut D,
) -> Result<Weights<D::Weight>> {
    let names = &spec.family.names;
    let prefixes = spec.family.prefixes;
    let has = |c: &Checkpoint, prefix: &str| c.contains(&format!("{prefix}{}.weight", names.embed));
    let prefix = match format {
        LoadFormat::Files(c) => prefixes.iter().find(|p| has(c, p)),
        LoadFormat::Dummy => None,
    };
    let prefix = prefix.or(prefixes.first()).copied().unwrap_or("");
    Loader { spec, format, dev, prefix, names }.all()
}

struct Loader<'a, D> {
    spec: &'a ModelSpec,
    format: &'a LoadFormat,
    dev: &'a mut D,
    prefix: &'static str,
    names: &'static Names,
}

impl<'a, D: Device> Loader<'a, D> {
    fn all(mut self) -> Result<Weights<D::Weight>> {
        let (spec, names) = (self.spec, self.names);
        let width = spec.embed_width;
        let kind = if spec.tied { WeightKind::TableAndLinear } else { WeightKind::Table };
        let embed = self.table(names.embed, kind, spec.vocab_size, width)?;
        let head = if spec.tied { None } else { Some(self.head()?) };
        let (mut project_in, mut project_out) = (None, None);
        if let Some((before, after)) = names.project.filter(|_| width != spec.hidden) {
            let (before, after) = (self.name(before), self.name(after));
            project_in = Some(self.linear(&[before], &[spec.hidden], width, false)?.weight);
            project_out = Some(self.linear(&[after], &[width], spec.hidden, false)?.weight);
        }
        let positions = match spec.family.positions {
            Positions::Rope => None,
            Positions::Learned { name, offset } => {
                let rows = spec.derived_len + offset;
                Some((self.table(name, WeightKind::Table, rows, spec.hidden)?, offset))
            }
        };
        let first = match spec.pre_norm {
            true => Some(self.norm(&self.layer_name(0, names.attn_norm))?),
            false => None,
        };
        let layers = (0..spec.layers).map(|i| self.layer(i)).collect::<Result<_>>()?;
        Ok(Weights { embed, head, project_in, project_out, positions, first, layers })
    }

    fn layer(&mut self, i: usize) -> Result<Layer<D::Weight>> {
        let (spec, names) = (self.spec, self.names);
        let (q, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let stacked = |this: &Self, parts: &[&str]| -> Vec<String> {
            parts.iter().map(|p| this.layer_name(i, p)).collect()
        };
        let qkv = stacked(self, names.qkv);
        let qkv = self.linear(&qkv, &[q, kv, kv], spec.hidden, spec.qkv_bias)?;
        let out = self.layer_name(i, names.attn_out);
        let attn_out = self.linear(&[out], &[spec.hidden], q, spec.out_bias)?;
        let up = stacked(self, names.up);
        let up = self.linear(&up, &vec![spec.ffn; names.up.len()], spec.hidden, spec.mlp_bias)?;
        let down = self.layer_name(i, names.down);
        let down = self.linear(&[down], &[spec.hidden], spec.ffn, spec.mlp_bias)?;
        let mlp_norm = self.layer_name(i, names.mlp_norm);
        let (after_attn, after_mlp) = match (spec.pre_norm, i + 1 == spec.layers) {
            (true, false) => (mlp_norm, self.layer_name(i + 1, names.attn_norm)),
            (true, true) => (mlp_norm, self.name(names.final_norm)),
            (false, _) => (self.layer_name(i, names.attn_norm), mlp_norm),
        };
        let (after_attn, after_mlp) = (self.norm(&after_attn)?, self.norm(&after_mlp)?);
        Ok(Layer { qkv, attn_out, after_attn, up, down, after_mlp })
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn layer_name(&self, i: usize, name: &str) -> String {
        format!("{}{}.{i}.{name}", self.prefix, self.names.layers)
    }

    fn table(
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

    /// The head stands outside of the prefix, or under the language model's.
    fn head(&mut self) -> Result<D::Weight> {
        let other = "language_model.lm_head.weight";
        let name = match self.format {
            LoadFormat::Files(c) if c.contains(other) => other,
            _ => "lm_head.weight",
        };
        let (vocab, width) = (self.spec.vocab_size, self.spec.embed_width);
        let parts = self.parts(&[name.to_string()], &[vocab], width, false)?;
        self.upload(name, WeightKind::Linear, vocab, width, false, parts)
    }

    /// `names` stacked along the outputs (without `.weight`); if fewer than `outputs`, the first
    /// holds them all.
    fn linear(
        &mut self,
        names: &[String],
        outputs: &[usize],
        inputs: usize,
        bias: bool,
    ) -> Result<Linear<D::Weight>> {
        let total: usize = outputs.iter().sum();
        let outputs = if names.len() == outputs.len() { outputs } else { &[total] };
        let suffixed = |s: &str| names.iter().map(|n| format!("{n}{s}")).collect::<Vec<_>>();
        let (weights, biases) = (suffixed(".weight"), suffixed(".bias"));
        let gated = self.spec.activation.is_gated() && names.len() == 2;
        let kind = if gated { WeightKind::GateUp } else { WeightKind::Linear };
        let transposed = self.spec.family.transposed;
        let parts = self.parts(&weights, outputs, inputs, transposed)?;
        let weight = self.upload(&weights[0], kind, total, inputs, transposed, parts)?;
        let bias = match bias {
            true => {
                let parts = self.parts(&biases, outputs, 1, false)?;
                let parts = parts.or(Some(Source::Constant(0.0)));
                Some(self.upload(&biases[0], WeightKind::Vector, total, 1, false, parts)?)
            }
            false => None,
        };
        Ok(Linear { weight, bias })
    }

    fn norm(&mut self, name: &str) -> Result<Norm<D::Weight>> {
        let kind = self.spec.family.norm;
        let weight = self.norm_vector(format!("{name}.weight"), 1.0)?;
        let bias = match kind {
            NormKind::Layer => Some(self.norm_vector(format!("{name}.bias"), 0.0)?),
            NormKind::Rms | NormKind::RmsPlusOne => None,
        };
        Ok(Norm { kind, eps: self.spec.norm_eps, weight, bias })
    }

    fn norm_vector(&mut self, name: String, default: f32) -> Result<D::Weight> {
        let hidden = self.spec.hidden;
        let parts = match self.spec.norm_affine {
            true => self.parts(std::slice::from_ref(&name), &[hidden], 1, false)?,
            false => None,
        };
        let source = parts.or(Some(Source::Constant(default)));
        self.upload(&name, WeightKind::Vector, hidden, 1, false, source)
    }

    /// The tensors of these names from the checkpoint; None when there is none (dummy).
    fn parts(
        &self,
        names: &[String],
        outputs: &[usize],
        inputs: usize,
        transposed: bool,
    ) -> Result<Option<Source<'a>>> {
        let LoadFormat::Files(checkpoint) = self.format else { return Ok(None) };
        let tensor = |(name, &rows): (&String, &usize)| match transposed {
            true => checkpoint.tensor(name, inputs, rows),
            false => checkpoint.tensor(name, rows, inputs),
        };
        let parts: Vec<HostTensor<'a>> =
            names.iter().zip(outputs).map(tensor).collect::<Result<_>>()?;
        Ok(Some(Source::Parts(parts)))
    }

    fn upload(
        &mut self,
        name: &str,
        kind: WeightKind,
        outputs: usize,
        inputs: usize,
        transposed: bool,
        source: Option<Source<'a>>,
    ) -> Result<D::Weight> {
        let source = source.unwrap_or_else(|| dummy(name, inputs));
        let dtype = match kind {
            WeightKind::Vector => DType::F32,
            _ => self.spec.dtype,
        };
        self.dev.upload(WeightDesc { name, kind, outputs, inputs, dtype, transposed, source })
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
