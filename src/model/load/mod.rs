//! A row's names and a specification's shapes -> weights on a device. Called by `decoder` alone;
//! the forward pass is not its business, nor are files: it asks a checkpoint for tensors by
//! name.
//!
//! | file | holds |
//! |---|---|
//! | `loader` | tensors by name, stacked, scaled, made up, uploaded |
//! | `linears` | linears, plain or quantised |
//! | `cut` | a rank's part of values |
//! | `reorder` | rows of q and k in the order in which devices rotate them |
//! | `scale` | factors that are folded into weights |
//! | `kv_scales` | scales of K and V in pages of eight bits |
//! | `draft_head` | what heads have that draft from hidden states |
//! | `latent` | attention over latent vectors |
//! | `experts` | a mixture of experts |
//! | `recurrent` | layers that keep a state |
//! | `channel_scan` | those with a scan of Mamba 1 |
//! | `vision`, `tower_mlp` | a vision tower |
//! | `head_norms` | norms of q and k with weights of each head |
//! | `layer_inputs` | an input of each layer's own; experts beside an MLP |
//! | `adapters` | adapter slots behind the weights that adapters may change |
//! | `alibi` | slopes of heads |
//! | `activation` | numbers of an activation that learned some |
//! | `merged` | matrices that are stored with adapters of several tasks |

mod activation;
mod adapters;
mod alibi;
mod channel_scan;
mod cut;
mod draft_head;
mod experts;
mod head_norms;
mod kv_scales;
mod latent;
mod layer_inputs;
mod linears;
mod loader;
mod merged;
mod recurrent;
mod reorder;
mod tower_mlp;
mod vision;
mod scale;

use std::sync::Arc;

use super::architectures::{Positions, QkNorm};
use super::checkpoint::WeightSource;
use super::config::{HeadKind, ModelSpec, NormOrder};
use super::shard::{Cut, Shard};
use super::weights::{
    FeedForward, HeadAttention, Layer, Linear, Mixer, PositionTable, QkNorms, SharedEnds, Weights,
};
use crate::device::cpu::workers::{self, Workers};
use crate::device::{
    Activation, Bytes, DType, Device, HostTensor, Join, Norm, Rank, Source, WeightKind,
};
use crate::error::Result;
use crate::internal;
use crate::model::quant::unpack::Values;
pub use kv_scales::kv_scales;
pub(super) use loader::prefix_of;
use loader::{dummy, Loader, Upload, Vector};

/// The table of tokens, and the head where that is another weight.
type Ends<W> = (Arc<W>, Option<Arc<W>>);

/// Upload everything that the shard holds, but what is `shared` with another model. Dummy weights
/// depend on the tensors' names and shapes only, and on the rank.
///
/// # Errors
/// A tensor that is missing or has another shape or dtype (one line naming file and tensor); out of
/// memory on the device.
pub fn load<D: Device>(
    spec: &ModelSpec,
    shard: &Shard,
    format: &WeightSource,
    dev: &mut D,
    shared: SharedEnds<D::Weight>,
) -> Result<Weights<D::Weight>> {
    loader(spec, shard, format, dev, false)?.weights(shared)
}

/// The same for a device that only counts: every weight has the shape and form that it would have,
/// and made-up values.
///
/// # Errors
/// As `load`, as far as names, types and shapes tell.
pub fn load_shapes<D: Device>(
    spec: &ModelSpec,
    shard: &Shard,
    format: &WeightSource,
    dev: &mut D,
) -> Result<Weights<D::Weight>> {
    loader(spec, shard, format, dev, true)?.weights(SharedEnds::default())
}

/// What a model multiplies the inputs of its layers by for the head `spec`, whose files these are;
/// None: the head reads its last hidden state. All of it on each rank. `shapes_only` as
/// `load_shapes`.
///
/// # Errors
/// As `load`.
pub fn tapped_product<D: Device>(
    spec: &ModelSpec,
    format: &WeightSource,
    dev: &mut D,
    shapes_only: bool,
) -> Result<Option<Linear<D::Weight>>> {
    let Some(head) = spec.draft_head.as_ref().filter(|head| !head.taps.is_empty()) else {
        return Ok(None);
    };
    let shard = Shard::new(spec, Rank::ALONE)?;
    loader(spec, &shard, format, dev, shapes_only)?.tapped_product(head).map(Some)
}

fn loader<'a, D: Device>(
    spec: &'a ModelSpec,
    shard: &'a Shard,
    format: &'a WeightSource,
    dev: &'a mut D,
    shapes_only: bool,
) -> Result<Loader<'a, D>> {
    let names = &spec.family.names;
    let prefix = prefix_of(spec, format);
    let unpackers = match (format, &spec.quant) {
        (WeightSource::Files(_), Some(_)) if !shapes_only => {
            // Ranks load at the same time.
            let threads = (workers::cores() / shard.rank.of).max(1);
            Some(Workers::new(threads, "unpack")?)
        }
        _ => None,
    };
    Ok(Loader { spec, shard, format, shapes_only, workers: unpackers, dev, prefix, names })
}

impl<D: Device> Loader<'_, D> {
    fn weights(mut self, shared: SharedEnds<D::Weight>) -> Result<Weights<D::Weight>> {
        let (spec, names) = (self.spec, self.names);
        let width = spec.embed_width;
        let (embed, head) = self.ends(shared)?;
        let head_bias = if spec.head_bias {
            Some(self.vector(Vector {
                name: format!("{}.bias", names.head),
                width: spec.vocab_size,
                neutral: 0.0,
                plus: 0.0,
                scale: 1.0,
                cut: &Cut::Whole,
                order: None,
            })?)
        } else {
            None
        };

        let mut project_in = None;
        let mut project_out = None;
        if let Some((before, after)) = names.project.filter(|_| width != spec.hidden) {
            let (before, after) = (self.name(before), self.name(after));
            project_in =
                Some(self.linear(&[before], &[spec.hidden], width, false, &Cut::Whole)?.weight);
            project_out =
                Some(self.linear(&[after], &[width], spec.hidden, false, &Cut::Whole)?.weight);
        }

        let positions = match spec.family.positions {
            Positions::Rope | Positions::Alibi { .. } => None,
            Positions::Learned { name, offset, .. } => {
                let table = self.position_table(name, spec.derived_len + offset)?;
                Some(PositionTable { table, offset })
            }
        };
        let embed_norm = names.embed_norm.map(|name| self.name(name));
        let embed_norm = embed_norm.map(|name| self.norm(&name, 1.0)).transpose()?;
        let first = match spec.norms {
            NormOrder::Before if spec.family.first_norm_of_embedding => None,
            NormOrder::Before => self.norm_in_front(0)?,
            NormOrder::After | NormOrder::HeadOnly => None,
        };

        let layer_table = self.layer_table()?;
        let layers = (0..spec.layers).map(|i| self.layer(i)).collect::<Result<_>>()?;
        let tower = spec.vision.as_ref().map(|vision| self.tower(vision)).transpose()?;
        let draft_head = spec.draft_head.as_ref().map(|head| self.draft_head(head)).transpose()?;
        Ok(Weights {
            embed,
            head,
            head_bias,
            project_in,
            project_out,
            positions,
            embed_norm,
            layer_table,
            first,
            layers,
            tower,
            draft_head,
        })
    }

    /// The table of tokens and the head, which may be the same weight. Who shares has no adapters.
    fn ends(&mut self, shared: SharedEnds<D::Weight>) -> Result<Ends<D::Weight>> {
        let (spec, names) = (self.spec, self.names);
        let kind = if spec.tied { WeightKind::TableAndLinear } else { WeightKind::Table };
        let mut table = match shared.table {
            None => Some(self.token_table(names.embed, kind)?),
            Some(_) => None,
        };
        let none = spec.tied || spec.pooling.is_some() || shared.head.is_some();
        let mut head = if none { None } else { Some(self.head()?) };
        if let Some(table) = &mut table {
            self.reserve_for_tokens(table, head.as_mut())?;
        }

        let table = shared.table.or(table.map(Arc::new));
        let table = table.ok_or_else(|| internal!("no table of tokens"))?;
        Ok((table, shared.head.or(head.map(Arc::new))))
    }

    fn layer(&mut self, i: usize) -> Result<Layer<D::Weight>> {
        let (spec, names) = (self.spec, self.names);
        let parts = spec.sublayers[i];
        let mixer = match spec.family.recurrent.as_ref().zip(spec.recurrent_of(i)) {
            Some((row, recurrent)) => Some(self.recurrent(i, row, recurrent)?),
            None if !parts.attention => None,
            None => Some(match names.latent.as_ref().zip(spec.latent) {
                Some((names, shape)) => Mixer::Latent(self.latent_attention(i, names, &shape)?),
                None => Mixer::Heads(self.head_attention(i)?),
            }),
        };
        let feed_forward = spec.feeds_forward(i).then(|| self.feed_forward(i)).transpose()?;

        // What each sublayer is followed by: the norm in front of the next one, or its own.
        let shares_norm = spec.parallel && !spec.family.parallel_mlp_norm;
        let both = mixer.is_some() && feed_forward.is_some();
        let mlp_norm = names.mlp_norm.filter(|_| both && !shares_norm);
        let after_attn = match spec.norms {
            NormOrder::After => names.attn_norm,
            NormOrder::Before | NormOrder::HeadOnly => mlp_norm,
        };
        let after_mlp = match spec.norms {
            NormOrder::After => self.layer_norm(i, mlp_norm)?,
            NormOrder::Before | NormOrder::HeadOnly => self.norm_in_front(i + 1)?,
        };
        let mut layer = Layer {
            mixer,
            attn_post: self.added_norm_of(i, names.attn_post)?,
            after_attn: self.layer_norm(i, after_attn)?,
            feed_forward,
            mlp_post: self.added_norm_of(i, names.mlp_post)?,
            input: self.layer_input(i)?,
            scalar: self.layer_scalar(i)?,
            after_mlp,
        };
        self.reserve_for_layer(i, &mut layer)?;
        Ok(layer)
    }

    pub(super) fn head_attention(&mut self, i: usize) -> Result<HeadAttention<D::Weight>> {
        let (spec, names) = (self.spec, self.names);
        let qkv = self.qkv(i, names.qkv)?;
        let gate = match names.qkv.first().filter(|_| spec.family.output_gate) {
            Some(q) => Some(self.output_gate(i, q)?),
            None => None,
        };
        let stores = !spec.attention[i].attn.q_only;
        let value_norm = (spec.family.value_norm && stores).then(|| self.value_norm(i));
        Ok(HeadAttention {
            qkv,
            gate,
            qk_norms: self.qk_norms(i)?,
            value_norm: value_norm.transpose()?,
            sinks: names.sinks.map(|name| self.sinks(i, name)).transpose()?,
            slopes: self.slopes(i)?,
            out: self.attention_out(i)?,
        })
    }

    /// Attention's output product.
    pub(super) fn attention_out(&mut self, i: usize) -> Result<Linear<D::Weight>> {
        let spec = self.spec;
        let name = self.layer_name(i, self.names.attn_out);
        let cut = self.shard.attn_out(spec, i);
        let factor = [spec.factors.attn_out];
        let outputs = [spec.hidden];
        self.linear_times(&factor, &[name], &outputs, spec.attn_width(i), spec.out_bias, &cut)
    }

    /// A score of each of the rank's heads.
    fn sinks(&mut self, i: usize, name: &str) -> Result<D::Weight> {
        let heads = self.spec.heads;
        let name = self.layer_name(i, name);
        let parts = self.parts(std::slice::from_ref(&name), &[heads], 1, false)?;
        let source = parts.unwrap_or_else(|| dummy(&name, 1));
        let first = self.shard.rank.index * self.shard.heads;
        let rows = first..first + self.shard.heads;
        let source = cut::outputs(source, None, &[rows], false)?;
        self.upload(Upload {
            name: &name,
            kind: WeightKind::Vector,
            outputs: self.shard.heads,
            inputs: 1,
            transposed: false,
            join: Join::None,
            values: Values::plain(source),
        })
    }

    fn feed_forward(&mut self, i: usize) -> Result<FeedForward<D::Weight>> {
        let (spec, names) = (self.spec, self.names);
        let mut beside = None;
        if let Some((row, mixture)) = spec.family.mixture.as_ref().zip(spec.mixture_of(i)) {
            let experts = self.experts(i, row, mixture)?;
            match &row.beside {
                None => return Ok(FeedForward::Experts(experts)),
                Some(names) => beside = Some((names, experts)),
            }
        }
        let up: Vec<String> = names.up.iter().map(|name| self.layer_name(i, name)).collect();
        let down = self.layer_name(i, names.down);
        let mut mlp = self.mlp(&up, down, spec.ffns[i], true)?;
        if let (Activation::XIelu(usual), Some(module)) = (spec.activation, names.activation) {
            let module = self.layer_name(i, module);
            mlp.activation = Some(Activation::XIelu(self.xielu(&module, usual)?));
        }
        Ok(match beside {
            None => FeedForward::Mlp(mlp),
            Some((names, experts)) => {
                FeedForward::Both(Box::new(self.beside(i, names, mlp, experts)?))
            }
        })
    }

    fn qk_norms(&mut self, i: usize) -> Result<Option<QkNorms<D::Weight>>> {
        let (spec, shard) = (self.spec, self.shard);
        let attn = &spec.attention[i].attn;
        let d = attn.head_dim;
        let (q_name, k_name, q, kv, cuts) = match self.names.qk_norm {
            _ if !spec.qk_norms => return Ok(None),
            QkNorm::None => return Ok(None),
            QkNorm::Unweighted => {
                let turns = spec.turns(i);
                return if turns { self.unweighted_norms(i).map(Some) } else { Ok(None) };
            }
            QkNorm::EachHead { q, k, listed } => {
                return self.norms_of_each_head(i, [q, k], listed).map(Some);
            }
            QkNorm::PerHead(q_name, k_name) => (q_name, k_name, d, d, [Cut::Whole, Cut::Whole]),
            QkNorm::Whole(q_name, k_name) => {
                let cuts = [shard.q_norm(spec, i), shard.k_norm(spec, i)];
                (q_name, k_name, attn.q_width(), attn.kv_heads * d, cuts)
            }
        };

        let q = self.head_norm(&self.layer_name(i, q_name), q, &cuts[0])?;
        if attn.q_only {
            return Ok(Some(QkNorms { q, k: None }));
        }
        let k = self.head_norm(&self.layer_name(i, k_name), kv, &cuts[1])?;
        Ok(Some(QkNorms { q, k: Some(k) }))
    }

    /// The norm in front of the first sublayer that there is from a layer on, or of the head.
    fn norm_in_front(&mut self, layer: usize) -> Result<Option<Norm<D::Weight>>> {
        let (spec, names) = (self.spec, self.names);
        let there = (layer..spec.layers).find(|&i| spec.attends(i) || spec.feeds_forward(i));
        let Some(i) = there else {
            let bare = spec.draft_head.as_ref().is_some_and(|head| head.kind == HeadKind::Eagle);
            return if bare { Ok(None) } else { self.final_norm().map(Some) };
        };
        // Where all layers have one sublayer only, its norm has one name.
        let name = if spec.attends(i) { None } else { names.mlp_norm };
        self.layer_norm(i, name.or(names.attn_norm))
    }

    fn layer_norm(&mut self, i: usize, name: Option<&str>) -> Result<Option<Norm<D::Weight>>> {
        let name = name.map(|name| self.layer_name(i, name));
        name.map(|name| self.norm(&name, 1.0)).transpose()
    }

    /// The same over what a sublayer is about to add.
    fn added_norm_of(&mut self, i: usize, name: Option<&str>) -> Result<Option<Norm<D::Weight>>> {
        let name = name.map(|name| self.layer_name(i, name));
        name.map(|name| self.added_norm(&name)).transpose()
    }

    fn final_norm(&mut self) -> Result<Norm<D::Weight>> {
        let name = self.name(self.names.final_norm);
        self.norm(&name, self.spec.logit_scale)
    }

    /// The table of positions; to each row the vector of token type 0 is added, if there is one.
    fn position_table(&mut self, name: &str, rows: usize) -> Result<D::Weight> {
        let width = self.spec.hidden;
        let types = self.names.token_types.filter(|_| !self.shapes_only);
        let (WeightSource::Files(checkpoint), Some(types)) = (self.format, types) else {
            return self.table(name, rows, width);
        };
        let name = format!("{}.weight", self.name(name));
        let table = checkpoint.tensor(&name, rows, width)?;
        let types = format!("{}.weight", self.name(types));
        let types = checkpoint.tensor(&types, self.spec.token_types, width)?;

        let (table, types) = (table.values()?, types.values()?);
        let sums = table.iter().zip(types[..width].iter().cycle()).map(|(p, t)| p + t);
        let bytes: Vec<u8> = sums.flat_map(f32::to_le_bytes).collect();
        let dtype = DType::F32;
        let cols = width;
        let bytes = Bytes::InMemory(&bytes);
        let source = Source::Parts(vec![HostTensor { dtype, rows, cols, bytes }]);
        self.whole_table(&name, rows, width, Values::plain(source))
    }

    /// The head stands outside of the prefix, or under the language model's.
    fn head(&mut self) -> Result<D::Weight> {
        if let Some(few) = self.spec.draft_head.as_ref().and_then(|head| head.few) {
            return self.head_of_few(few);
        }
        let usual = self.names.head;
        let other = format!("language_model.{usual}");
        let name = match self.format {
            WeightSource::Files(c) if linears::has(c, &other) => &other,
            _ => usual,
        };
        self.head_linear(name)
    }
}
