//! Which linears of a model adapters may change: by its row ([`Family`]), its shapes and
//! `lora_target_modules`. Called by `load`, which reserves adapter slots behind them, by `decoder`,
//! and by the reader of adapters. Those of latent attention and of layers with a state are in
//! `mixers`.
//!
//! [`Family`]: crate::model::architectures::Family

use super::mixers;
use super::part::{Part, Place, Projection, PROJECTIONS};
use super::rows::{Heads, Rows};
use crate::device::AttnSpec;
use crate::model::architectures::{Fused, Recurrent, ScanLayers};
use crate::model::config::{AdapterOptions, KeysFrom, ModelSpec};
use crate::model::row_ranges::halves_of_heads;
use crate::model::shard::{Cut, Shard};

/// What q, k and v are called together.
const QKV: &str = "qkv_proj";

/// Those of a layer, in the order of [`crate::model::weights::Layer::linears_mut`]. Experts take no
/// adapters, nor does the one that all rows share.
pub fn projections(spec: &ModelSpec, layer: usize) -> [Projection; PROJECTIONS] {
    let names = &spec.family.names;
    let mut all: [Projection; PROJECTIONS] = Default::default();
    let mut put = |place: Place, projection| all[place as usize] = projection;

    if spec.sublayers[layer].attention {
        match names.latent.as_ref().zip(spec.latent.as_ref()) {
            Some((names, shape)) => mixers::latent(spec, names, shape, &mut put),
            None => heads(spec, layer, &mut put),
        }
        let out = Part::whole(names.attn_out, spec.hidden).times(spec.factors.attn_out);
        put(Place::Out, Projection::new(vec![out], spec.attn_width(layer), ""));
    }
    if spec.has_mlp(layer) {
        put(Place::Up, up(spec, layer));
        let down = Part::whole(names.down, spec.hidden).times(spec.factors.down);
        put(Place::Down, Projection::new(vec![down], spec.ffns[layer], ""));
    }
    if let Some((row, recurrent)) = spec.family.recurrent.as_ref().zip(spec.recurrent_of(layer)) {
        mixers::state(spec, row, &recurrent.kind, &mut put);
    }
    all
}

/// q, k and v, and the gate of attention's output, which lies among the heads of q.
fn heads(spec: &ModelSpec, layer: usize, put: &mut impl FnMut(Place, Projection)) {
    let (names, family) = (&spec.family.names, spec.family);
    let AttnSpec { heads, kv_heads, head_dim, .. } = spec.attention[layer].attn;
    let (q, kv) = (heads * head_dim, kv_heads * head_dim);
    let (modules, outputs) = match spec.attention[layer].keys {
        KeysFrom::Own | KeysFrom::Nowhere => (names.qkv, vec![q, kv, kv]),
        KeysFrom::OneProduct => (&names.qkv[..2], vec![q, kv]),
        KeysFrom::Layer(_) => (&names.qkv[..1], vec![q]),
    };
    let order = |rotated: usize| spec.head_order().map(|order| (order, rotated));

    if modules.len() < outputs.len() {
        let heads = Heads {
            q: heads,
            kv: kv_heads,
            dim: head_dim,
            quarters: family.fused == Fused::Quarters,
        };
        let by_group = (family.fused != Fused::Stacked).then_some(heads);
        let rows = Rows { by_group, order: order(q + kv), ..Rows::default() };
        let all = Part::whole(modules[0], outputs.iter().sum()).of_rows(rows);
        let all = all.of_slices(outputs.len());
        return put(Place::Query, Projection::new(vec![all], spec.hidden, QKV));
    }

    let mut parts = Vec::with_capacity(3);
    for (n, (module, outputs)) in modules.iter().zip(outputs).enumerate() {
        let rotated = if n < 2 { outputs } else { 0 };
        let factors = vec![spec.factors.qkv[n]];
        let rows = Rows { factors, order: order(rotated), ..Rows::default() };
        parts.push(Part::whole(*module, outputs).of_rows(rows));
    }
    if family.output_gate {
        let half = |half| {
            let picked = halves_of_heads(heads, head_dim, half);
            let rows = Rows { picked, ..Rows::default() };
            Part::whole(modules[0], 2 * q).of_rows(rows)
        };
        parts[0] = half(0);
        put(Place::Gate, Projection::new(vec![half(1)], spec.hidden, QKV));
    }
    put(Place::Query, Projection::new(parts, spec.hidden, QKV));
}

/// Gate and up of a layer's MLP, or up alone.
fn up(spec: &ModelSpec, layer: usize) -> Projection {
    const PACKED: &str = "gate_up_proj";
    let (family, ffn) = (spec.family, spec.ffns[layer]);
    let modules = family.names.up;
    if family.gated && modules.len() == 1 {
        let picked = if family.up_before_gate { vec![ffn..2 * ffn, 0..ffn] } else { Vec::new() };
        let rows = Rows { picked, ..Rows::default() };
        let both = Part::whole(modules[0], 2 * ffn).of_rows(rows).of_slices(2);
        return Projection::new(vec![both], spec.hidden, PACKED);
    }
    let factors = spec.factors.gate_up;
    let part = |(module, factor): (&&str, f32)| Part::whole(*module, ffn).times(factor);
    let parts = modules.iter().zip(factors).map(part).collect();
    Projection::new(parts, spec.hidden, PACKED)
}

/// Which linears of a layer have adapter slots.
pub fn reached(spec: &ModelSpec, layer: usize) -> [bool; PROJECTIONS] {
    let has = |p: Projection| spec.adapters.as_ref().is_some_and(|options| options.reaches(&p));
    projections(spec, layer).map(has)
}

/// Which part of each of a layer a rank holds.
pub fn cuts(spec: &ModelSpec, shard: &Shard, layer: usize) -> [Cut; PROJECTIONS] {
    let mut all = [const { Cut::Whole }; PROJECTIONS];
    let mut put = |place: Place, cut| all[place as usize] = cut;
    if spec.sublayers[layer].attention {
        match &spec.latent {
            Some(shape) => mixers::latent_cuts(spec, shard, shape, &mut put),
            None => {
                put(Place::Query, shard.qkv(spec, layer));
                if spec.family.output_gate {
                    put(Place::Gate, shard.output_gate(spec, layer));
                }
            }
        }
        put(Place::Out, shard.attn_out(spec, layer));
    }
    if spec.has_mlp(layer) {
        let (ffn, parts) = (spec.ffns[layer], if spec.family.gated { 2 } else { 1 });
        put(Place::Up, shard.up(ffn, parts));
        put(Place::Down, shard.down(ffn, true));
    }
    if let Some(recurrent) = spec.recurrent_of(layer) {
        mixers::state_cuts(shard, &recurrent.kind, &mut put);
    }
    all
}

/// Whether a model can have adapters. The Python backend has none where layers are a scan and
/// nothing else.
pub fn has_adapters(spec: &ModelSpec) -> bool {
    let layers = match &spec.family.recurrent {
        Some(Recurrent::SelectiveScan(row)) => row.layers,
        Some(Recurrent::ChannelScan(row)) => row.layers,
        Some(Recurrent::GatedDelta(_) | Recurrent::ShortConv(_)) | None => return true,
    };
    layers != ScanLayers::Alone
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
