//! A family's names and a spec's shapes -> weights on a device. Called by `decoder` alone; the
//! forward pass is not its business, nor are files: it asks [`Checkpoint`] for tensors by name.

mod adapters;

use super::config::{ModelSpec, NormOrder};
use super::families::{Fused, Mixture, Names, Positions, QkNorm};
use super::lora;
use super::mixture::MixtureSpec;
use super::weights::{Checkpoint, WeightSource};
use crate::device::{
    Bytes, DType, Device, HostTensor, Norm, NormKind, Routing, Source, WeightDesc, WeightKind,
};
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
    /// Of q and of k, before they are rotated.
    pub heads: Option<(Norm<W>, Norm<W>)>,
    pub attn_out: Linear<W>,
    /// Over the block's output, before it is added.
    pub attn_post: Option<Norm<W>>,
    /// None: the MLP reads what attention read.
    pub after_attn: Option<Norm<W>>,
    /// The MLP, or the expert that all tokens share.
    pub mlp: Option<Mlp<W>>,
    pub experts: Option<Experts<W>>,
    pub mlp_post: Option<Norm<W>>,
    /// None: the next layer reads the residual as it is.
    pub after_mlp: Option<Norm<W>>,
}

/// Two linears with an activation between.
pub struct Mlp<W> {
    pub up: Linear<W>,
    pub down: Linear<W>,
}

/// A mixture of experts.
pub struct Experts<W> {
    pub routing: Routing,
    pub router: W,
    /// Gate and up of all experts.
    pub up: W,
    pub down: W,
    /// Scales the shared expert.
    pub shared_gate: Option<W>,
}

impl<W> Layer<W> {
    /// What adapters may change, in the order of [`lora::projections`]; no experts.
    pub fn linears_mut(&mut self) -> [Option<&mut Linear<W>>; lora::PROJECTIONS] {
        let (up, down) = match self.mlp.as_mut().filter(|_| self.experts.is_none()) {
            Some(mlp) => (Some(&mut mlp.up), Some(&mut mlp.down)),
            None => (None, None),
        };
        [Some(&mut self.qkv), Some(&mut self.attn_out), up, down]
    }
}

type NormPair<W> = (Norm<W>, Norm<W>);

/// All weights of a decoder.
pub struct Weights<W> {
    pub embed: W,
    /// None: `embed` is the head.
    pub head: Option<W>,
    pub head_bias: Option<W>,
    pub project_in: Option<W>,
    pub project_out: Option<W>,
    /// Table and offset.
    pub positions: Option<(W, usize)>,
    /// Of the embedding, before the first layer.
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
    format: &WeightSource,
    dev: &mut D,
) -> Result<Weights<D::Weight>> {
    let names = &spec.family.names;
    let prefixes = spec.family.prefixes;
    let has = |c: &Checkpoint, prefix: &str| c.contains(&format!("{prefix}{}.weight", names.embed));
    let prefix = match format {
        WeightSource::Files(c) => prefixes.iter().find(|p| has(c, p)),
        WeightSource::Dummy => None,
    };
    let prefix = prefix.or(prefixes.first()).copied().unwrap_or("");
    Loader { spec, format, dev, prefix, names }.all()
}

struct Loader<'a, D> {
    spec: &'a ModelSpec,
    format: &'a WeightSource,
    dev: &'a mut D,
    prefix: &'static str,
    names: &'static Names,
}

impl<'a, D: Device> Loader<'a, D> {
    fn all(mut self) -> Result<Weights<D::Weight>> {
        let (spec, names) = (self.spec, self.names);
        let width = spec.embed_width;
        let kind = if spec.tied { WeightKind::TableAndLinear } else { WeightKind::Table };
        let mut embed = self.table(names.embed, kind, spec.vocab_size, width)?;
        let pools = spec.pooling.is_some();
        let mut head = if spec.tied || pools { None } else { Some(self.head()?) };
        self.make_room_for_words(&mut embed, head.as_mut())?;
        let head_bias = match spec.family.head_bias && !pools {
            true => Some(self.vector(format!("{}.bias", names.head), spec.vocab_size, 0.0, 1.0)?),
            false => None,
        };
        let (mut project_in, mut project_out) = (None, None);
        if let Some((before, after)) = names.project.filter(|_| width != spec.hidden) {
            let (before, after) = (self.name(before), self.name(after));
            project_in = Some(self.linear(&[before], &[spec.hidden], width, false)?.weight);
            project_out = Some(self.linear(&[after], &[width], spec.hidden, false)?.weight);
        }
        let positions = match spec.family.positions {
            Positions::Rope => None,
            Positions::Learned { name, offset, .. } => {
                let rows = spec.derived_len + offset;
                Some((self.position_table(name, rows)?, offset))
            }
        };
        let first = match spec.norms {
            NormOrder::Before => self.layer_norm(0, names.attn_norm)?,
            NormOrder::After => {
                let name = names.embed_norm.map(|name| self.name(name));
                name.map(|name| self.norm(&name, spec.hidden, 1.0)).transpose()?
            }
            NormOrder::HeadOnly => None,
        };
        let layers = (0..spec.layers).map(|i| self.layer(i)).collect::<Result<_>>()?;
        Ok(Weights { embed, head, head_bias, project_in, project_out, positions, first, layers })
    }

    fn layer(&mut self, i: usize) -> Result<Layer<D::Weight>> {
        let (spec, names) = (self.spec, self.names);
        let (q, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let stacked = |this: &Self, parts: &[&str]| -> Vec<String> {
            parts.iter().map(|p| this.layer_name(i, p)).collect()
        };
        let qkv = stacked(self, names.qkv);
        let qkv = self.linear(&qkv, &[q, kv, kv], spec.hidden, spec.qkv_bias)?;
        let heads = self.head_norms(i, q, kv)?;
        let out = self.layer_name(i, names.attn_out);
        let attn_out = self.linear(&[out], &[spec.hidden], q, spec.out_bias)?;
        let (mlp, experts) = self.feed_forward(i)?;
        let shares_norm = spec.parallel && !spec.family.parallel_mlp_norm;
        let mlp_norm = names.mlp_norm.filter(|_| !shares_norm);
        let (after_attn, after_mlp) = match (spec.norms, i + 1 == spec.layers) {
            (NormOrder::After, _) => (names.attn_norm, self.layer_norm(i, mlp_norm)?),
            (_, true) => (mlp_norm, Some(self.final_norm()?)),
            (_, false) => (mlp_norm, self.layer_norm(i + 1, names.attn_norm)?),
        };
        let mut layer = Layer {
            qkv,
            heads,
            attn_out,
            attn_post: self.layer_norm(i, names.attn_post)?,
            after_attn: self.layer_norm(i, after_attn)?,
            mlp,
            experts,
            mlp_post: self.layer_norm(i, names.mlp_post)?,
            after_mlp,
        };
        self.make_room(&mut layer)?;
        Ok(layer)
    }

    /// A layer's MLP, or its experts with the one that all tokens share.
    #[allow(clippy::type_complexity)]
    fn feed_forward(
        &mut self,
        i: usize,
    ) -> Result<(Option<Mlp<D::Weight>>, Option<Experts<D::Weight>>)> {
        let (spec, names) = (self.spec, self.names);
        match (&spec.family.mixture, spec.mixture_of(i)) {
            (Some(row), Some(mixture)) => {
                let block = self.block(i, row);
                let experts = self.experts(&block, row, mixture)?;
                let shared = row.shared.as_ref().zip(mixture.shared_ffn);
                let shared = shared.map(|(shared, ffn)| {
                    let up = shared.gate_up.map(|name| format!("{block}.{name}"));
                    self.mlp(&up, format!("{block}.{}", shared.down), ffn)
                });
                Ok((shared.transpose()?, Some(experts)))
            }
            _ => {
                let up: Vec<_> = names.up.iter().map(|name| self.layer_name(i, name)).collect();
                Ok((Some(self.mlp(&up, self.layer_name(i, names.down), spec.ffn)?), None))
            }
        }
    }

    fn mlp(&mut self, up: &[String], down: String, ffn: usize) -> Result<Mlp<D::Weight>> {
        let (hidden, bias) = (self.spec.hidden, self.spec.mlp_bias);
        let outputs = if self.spec.family.gated { &[ffn, ffn][..] } else { &[ffn] };
        let up = self.linear(up, outputs, hidden, bias)?;
        Ok(Mlp { up, down: self.linear(&[down], &[hidden], ffn, bias)? })
    }

    /// The first of the block's names under which the router exists.
    fn block(&self, i: usize, row: &Mixture) -> String {
        let mut names = row.blocks.iter().map(|block| self.layer_name(i, block));
        let first = names.next().unwrap_or_default();
        let has = |c: &Checkpoint, name: &str| c.contains(&format!("{name}.{}.weight", row.router));
        match self.format {
            WeightSource::Files(c) if !has(c, &first) => names.find(|n| has(c, n)).unwrap_or(first),
            _ => first,
        }
    }

    fn experts(
        &mut self,
        block: &str,
        row: &Mixture,
        mixture: &MixtureSpec,
    ) -> Result<Experts<D::Weight>> {
        let (hidden, ffn, routing) = (self.spec.hidden, mixture.ffn, mixture.routing);
        let router = [format!("{block}.{}", row.router)];
        let router = self.linear(&router, &[routing.experts], hidden, false)?.weight;
        let [up_stack, down_stack] = row.stacks.map(|s| format!("{block}.{}.{s}", row.list));
        let named = |parts: &[&str]| -> Vec<String> {
            let each =
                |e| parts.iter().map(move |p| format!("{block}.{}.{e}.{p}.weight", row.list));
            (0..routing.experts).flat_map(each).collect()
        };
        let up = self.stack(&up_stack, &named(&row.gate_up), &routing, ffn, hidden)?;
        let down = self.stack(&down_stack, &named(&[row.down]), &routing, hidden, ffn)?;
        let shared_gate = match &row.shared {
            Some(shared) => Some(self.gate(format!("{block}.{}.weight", shared.gate))?),
            None => None,
        };
        Ok(Experts { routing, router, up, down, shared_gate })
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

    fn head_norms(&mut self, i: usize, q: usize, kv: usize) -> Result<Option<NormPair<D::Weight>>> {
        let d = self.spec.head_dim;
        let (q_name, k_name, q, kv) = match self.names.qk_norm {
            QkNorm::None => return Ok(None),
            QkNorm::PerHead(q_name, k_name) => (q_name, k_name, d, d),
            QkNorm::Whole(q_name, k_name) => (q_name, k_name, q, kv),
        };
        let (q_name, k_name) = (self.layer_name(i, q_name), self.layer_name(i, k_name));
        Ok(Some((self.norm(&q_name, q, 1.0)?, self.norm(&k_name, kv, 1.0)?)))
    }

    fn layer_norm(&mut self, i: usize, name: Option<&str>) -> Result<Option<Norm<D::Weight>>> {
        let name = name.map(|name| self.layer_name(i, name));
        name.map(|name| self.norm(&name, self.spec.hidden, 1.0)).transpose()
    }

    fn final_norm(&mut self) -> Result<Norm<D::Weight>> {
        let name = self.name(self.names.final_norm);
        self.norm(&name, self.spec.hidden, self.spec.logit_scale)
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

    /// The table of positions; to each row the vector of token type 0 is added, if there is one.
    fn position_table(&mut self, name: &str, rows: usize) -> Result<D::Weight> {
        let (width, kind) = (self.spec.hidden, WeightKind::Table);
        let (WeightSource::Files(checkpoint), Some(types)) = (self.format, self.names.token_types)
        else {
            return self.table(name, kind, rows, width);
        };
        let name = format!("{}.weight", self.name(name));
        let table = checkpoint.tensor(&name, rows, width)?;
        let types = format!("{}.weight", self.name(types));
        let types = checkpoint.tensor(&types, self.spec.token_types, width)?;
        let (table, types) = (table.values()?, types.values()?);
        let sums = table.iter().zip(types[..width].iter().cycle()).map(|(p, t)| p + t);
        let bytes: Vec<u8> = sums.flat_map(f32::to_le_bytes).collect();
        let (dtype, cols, bytes) = (DType::F32, width, Bytes::InMemory(&bytes));
        let source = Source::Parts(vec![HostTensor { dtype, rows, cols, bytes }]);
        self.upload(&name, kind, rows, width, false, Some(source))
    }

    /// The head stands outside of the prefix, or under the language model's.
    fn head(&mut self) -> Result<D::Weight> {
        let usual = format!("{}.weight", self.names.head);
        let other = format!("language_model.{usual}");
        let name = match self.format {
            WeightSource::Files(c) if c.contains(&other) => other,
            _ => usual,
        };
        let (vocab, width) = (self.spec.vocab_size, self.spec.embed_width);
        let parts = self.parts(std::slice::from_ref(&name), &[vocab], width, false)?;
        self.upload(&name, WeightKind::Linear, vocab, width, false, parts)
    }

    /// `names` stacked along the outputs (without `.weight`); if fewer than `outputs`, the first
    /// holds them all. One output is a plain linear, two are gate and up, three q, k and v.
    fn linear(
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
        let (weights, biases) = (suffixed(".weight"), suffixed(".bias"));
        let kind = if parts == 2 { WeightKind::GateUp } else { WeightKind::Linear };
        let transposed = self.spec.family.transposed;
        let split = parts == 3 && self.spec.family.fused == Fused::PerHead;
        let values = self.parts(&weights, outputs, inputs, transposed)?;
        let values = if split { values.map(|v| self.by_head(v)) } else { values };
        let weight = self.upload(&weights[0], kind, total, inputs, transposed, values)?;
        let bias = match bias {
            true => {
                let values = self.parts(&biases, outputs, 1, false)?;
                let values = if split { values.map(|v| self.by_head(v)) } else { values };
                let values = values.or(Some(Source::Constant(0.0)));
                Some(self.upload(&biases[0], WeightKind::Vector, total, 1, false, values)?)
            }
            false => None,
        };
        Ok(Linear { weight, bias })
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
    fn norm(&mut self, name: &str, width: usize, scale: f32) -> Result<Norm<D::Weight>> {
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
    fn vector(
        &mut self,
        name: String,
        width: usize,
        neutral: f32,
        scale: f32,
    ) -> Result<D::Weight> {
        let parts = match self.spec.norm_affine {
            true => self.parts(std::slice::from_ref(&name), &[width], 1, false)?,
            false => None,
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
    fn parts(
        &self,
        names: &[String],
        outputs: &[usize],
        inputs: usize,
        transposed: bool,
    ) -> Result<Option<Source<'a>>> {
        let WeightSource::Files(checkpoint) = self.format else { return Ok(None) };
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
        source: Option<Source<'_>>,
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
