//! Which linears of a model adapters may change: by its row ([`Family`]), its shapes and
//! `lora_target_modules`. Called by `load`, which reserves adapter slots behind them, by `decoder`,
//! and by the reader of adapters.
//!
//! [`Family`]: crate::model::architectures::Family

use crate::device::AttnSpec;
use crate::model::architectures::{Fused, QUARTERS};
use crate::model::config::{AdapterOptions, KeysFrom, ModelSpec};
use crate::model::shard::{Cut, Shard, Slice};

/// Heads of q and of k or v, and their dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heads {
    pub(super) q: usize,
    pub(super) kv: usize,
    pub(super) dim: usize,
    /// They come in quarters of all heads, of which each has q, v and k.
    pub(super) quarters: bool,
}

impl Heads {
    /// Where a row goes: its head of its group, before which there are those of other groups.
    pub(super) fn held(&self, row: usize) -> usize {
        let &Heads { q, kv, dim, quarters } = self;
        if quarters {
            let of_quarter = q / QUARTERS;
            let (quarter, at) = (row / dim / (3 * of_quarter), row / dim % (3 * of_quarter));
            let part = [0, q + kv, q][at / of_quarter];
            return (part + quarter * of_quarter + at % of_quarter) * dim + row % dim;
        }
        let of_q = q / kv;
        let (group, head) = (row / dim / (of_q + 2), row / dim % (of_q + 2));
        let head = match head.checked_sub(of_q) {
            None => group * of_q + head,
            Some(part) => q + part * kv + group,
        };
        head * dim + row % dim
    }
}

/// One linear of a layer as adapters see it: of one part, or of several that are stacked along
/// the outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Projection {
    /// Modules behind `<layers>.<i>.`, one per part.
    pub modules: &'static [&'static str],
    /// Of each part.
    pub outputs: Vec<usize>,
    /// Of all parts alike.
    pub inputs: usize,
    /// Its parts are q, k and v.
    pub(super) is_qkv: bool,
    /// The rows of B are q, k and v of KV head 0, of KV head 1, ...
    pub(super) by_group: bool,
    /// Heads of q, and of k or v.
    pub(super) heads: Heads,
    /// What the Python backend calls all parts together.
    packed: &'static str,
}

impl Projection {
    /// Outputs of each part that a rank holds.
    pub fn outputs_of(&self, cut: &Cut) -> Vec<usize> {
        match cut {
            Cut::Outputs(slices) if slices.len() == self.outputs.len() => {
                slices.iter().map(|Slice { range, .. }| range.len()).collect()
            }
            // All parts are one.
            Cut::Outputs(_) => vec![cut.outputs(0)],
            Cut::Whole | Cut::Inputs { .. } => self.outputs.clone(),
        }
    }
}

/// How many matrices of a layer take adapters: q|k|v, attention's output, gate|up, down.
pub const PROJECTIONS: usize = 4;
/// What q, k and v are called together.
const QKV: &str = "qkv_proj";
/// From here on they belong to the MLP.
const FIRST_OF_MLP: usize = 2;

/// Whether a layer has this projection as a linear: experts take no adapters, nor does the one that
/// all rows share.
pub fn takes_adapters(spec: &ModelSpec, layer: usize, projection: usize) -> bool {
    if projection < FIRST_OF_MLP {
        spec.sublayers[layer].attention
    } else {
        spec.has_mlp(layer)
    }
}

/// Those of a layer, in the order of [`crate::model::weights::Layer::linears_mut`].
pub fn projections(spec: &ModelSpec, layer: usize) -> [Projection; PROJECTIONS] {
    let names = &spec.family.names;
    let AttnSpec { heads, kv_heads, head_dim, .. } = spec.attention[layer].attn;
    let (q, kv) = (heads * head_dim, kv_heads * head_dim);
    let (qkv, heads_of) = match spec.attention[layer].keys {
        KeysFrom::Own | KeysFrom::Nowhere => (names.qkv, vec![q, kv, kv]),
        KeysFrom::OneProduct => (&names.qkv[..2], vec![q, kv]),
        KeysFrom::Layer(_) => (&names.qkv[..1], vec![q]),
    };

    let ffn = spec.ffns[layer];
    let up = if spec.family.gated { vec![ffn; 2] } else { vec![ffn] };
    let projection =
        |modules: &'static [&'static str], outputs: Vec<usize>, inputs, packed: &'static str| {
            let fused = modules.len() < outputs.len();
            let is_qkv = packed == QKV;
            let by_group = fused && is_qkv && spec.family.fused != Fused::Stacked;
            let outputs = if fused { vec![outputs.iter().sum()] } else { outputs };
            let quarters = spec.family.fused == Fused::Quarters;
            let heads = Heads { q: heads, kv: kv_heads, dim: head_dim, quarters };
            Projection { modules, outputs, inputs, is_qkv, by_group, heads, packed }
        };

    let one = std::slice::from_ref;
    [
        projection(qkv, heads_of, spec.hidden, QKV),
        projection(one(&names.attn_out), vec![spec.hidden], spec.attn_width(layer), ""),
        projection(names.up, up, spec.hidden, "gate_up_proj"),
        projection(one(&names.down), vec![spec.hidden], ffn, ""),
    ]
}

/// Which linears of a layer have adapter slots.
pub fn reached(spec: &ModelSpec, layer: usize) -> [bool; PROJECTIONS] {
    let has = |p: Projection| spec.adapters.as_ref().is_some_and(|options| options.reaches(&p));
    projections(spec, layer).map(has)
}

/// Which part of each of a layer a rank holds.
pub fn cuts(spec: &ModelSpec, shard: &Shard, layer: usize) -> [Cut; PROJECTIONS] {
    let parts = if spec.family.gated { 2 } else { 1 };
    let ffn = spec.ffns[layer];
    [
        shard.qkv(spec, layer),
        shard.attn_out(spec, layer),
        shard.up(ffn, parts),
        shard.down(ffn, true),
    ]
}

/// Whether adapters may change the table of tokens: not an encoder's.
pub fn reaches_embed(spec: &ModelSpec) -> bool {
    let allows = |o: &AdapterOptions| o.allows_name(spec.family.names.embed);
    !spec.family.encoder && spec.adapters.as_ref().is_some_and(allows)
}

/// Whether adapters may change the head, if there is one. Where it is tied to the table, peft
/// adapts each for itself.
pub fn reaches_head(spec: &ModelSpec) -> bool {
    let allows = |o: &AdapterOptions| o.allows_name(spec.family.names.head);
    spec.pooling.is_none() && spec.adapters.as_ref().is_some_and(allows)
}

impl AdapterOptions {
    /// Whether adapters may change some module of the projection.
    pub fn reaches(&self, projection: &Projection) -> bool {
        projection.modules.iter().any(|module| self.allows(projection, module))
    }

    /// Whether adapters may change this module of the projection.
    pub fn allows(&self, projection: &Projection, module: &str) -> bool {
        let packed = |allowed: &Vec<String>| allowed.iter().any(|name| name == projection.packed);
        self.allows_name(module) || self.modules.as_ref().is_some_and(packed)
    }
}
