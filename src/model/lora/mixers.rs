//! Linears that adapters may change of latent attention, and of layers that keep a state: their
//! modules, where rows of these lie in the weights that `load` makes of them, and how ranks cut
//! them. Part of `projections`.

use super::part::{Part, Place, Projection};
use super::rows::Rows;
use crate::model::architectures::{DeltaProjections, LatentNames, Recurrent};
use crate::model::config::{LatentShape, ModelSpec, RecurrentKind};
use crate::model::head_order::HeadOrder;
use crate::model::row_ranges::{by_part, scan_input};
use crate::model::shard::{Cut, Shard};

/// What the Python backend calls what makes latent vectors and that which q is made of.
const LOW_RANK: &str = "fused_qkv_a_proj";

/// Of latent attention but its output. The matrices of K and V are no linears here: they are
/// multiplied into q and behind attention.
pub(super) fn latent(
    spec: &ModelSpec,
    names: &LatentNames,
    shape: &LatentShape,
    put: &mut impl FnMut(Place, Projection),
) {
    let ordered = |module: &str, outputs: usize, head_dim: usize, first: usize| {
        let turned = HeadOrder { head_dim, first, rotary_dim: shape.rotary };
        let order = names.neighbours.then_some((turned, outputs));
        Part::whole(module, outputs).of_rows(Rows { order, ..Rows::default() })
    };
    let of_heads =
        |module: &str| ordered(module, spec.heads * shape.q_dim(), shape.q_dim(), shape.nope);

    let hidden = spec.hidden;
    match shape.q_rank {
        None => put(Place::Query, Projection::new(vec![of_heads(names.q)], hidden, "")),
        Some(rank) => {
            let [down, _, up] = names.q_low_rank;
            put(Place::Query, Projection::new(vec![Part::whole(down, rank)], hidden, LOW_RANK));
            put(Place::Gate, Projection::new(vec![of_heads(up)], rank, ""));
        }
    }
    let latent = ordered(names.latent, shape.width(), shape.width(), shape.rank);
    let packed = if shape.q_rank.is_some() { LOW_RANK } else { "" };
    put(Place::Input, Projection::new(vec![latent], hidden, packed));
}

/// Which part of each of these a rank holds.
pub(super) fn latent_cuts(
    spec: &ModelSpec,
    shard: &Shard,
    shape: &LatentShape,
    put: &mut impl FnMut(Place, Cut),
) {
    let place = if shape.q_rank.is_some() { Place::Gate } else { Place::Query };
    put(place, shard.of_heads(spec, shape.q_dim()));
}

/// Of what keeps a state. A kind is made by its row.
pub(super) fn state(
    spec: &ModelSpec,
    row: &Recurrent,
    kind: &RecurrentKind,
    put: &mut impl FnMut(Place, Projection),
) {
    let (hidden, factors) = (spec.hidden, &spec.factors);
    let one = |part: Part, inputs| Projection::new(vec![part], inputs, "");
    let picked = |module: &str, outputs, rows: Rows| Part::whole(module, outputs).of_rows(rows);

    let out = match (row, kind) {
        (Recurrent::GatedDelta(row), RecurrentKind::GatedDelta { .. }) => {
            delta(hidden, row.projections, kind, put);
            Part::whole(row.out, hidden)
        }
        (Recurrent::ShortConv(row), RecurrentKind::ShortConv { width }) => {
            put(Place::Input, one(Part::whole(row.input, 3 * width).of_slices(3), hidden));
            Part::whole(row.out, hidden)
        }
        (Recurrent::SelectiveScan(row), RecurrentKind::SelectiveScan(shape)) => {
            let rows = scan_input(&shape.scan).to_vec();
            let outputs = rows.iter().map(|rows| rows.len()).sum();
            let rows = Rows { picked: rows, factors: factors.scan.to_vec(), ..Rows::default() };
            let input = picked(&format!("{}.in_proj", row.module), outputs, rows);
            put(Place::Input, one(input.of_slices(factors.scan.len()), hidden));
            Part::whole(format!("{}.out_proj", row.module), hidden).times(factors.scan_out)
        }
        (Recurrent::ChannelScan(row), RecurrentKind::ChannelScan(shape)) => {
            let (width, rank) = (shape.scan.width, shape.rank);
            let module = |part: &str| format!("{}.{part}", row.module);
            put(Place::Input, one(Part::whole(module("in_proj"), 2 * width).of_slices(2), hidden));
            let outputs = rank + 2 * shape.scan.state;
            let some = |rows| {
                let rows = Rows { picked: vec![rows], ..Rows::default() };
                picked(&module("x_proj"), outputs, rows)
            };
            put(Place::Rates, one(some(0..rank), width));
            put(Place::Columns, one(some(rank..outputs), width));
            put(Place::ChannelRates, one(Part::whole(module("dt_proj"), width), rank));
            Part::whole(module("out_proj"), hidden)
        }
        _ => return,
    };
    put(Place::StateOut, one(out, kind.out_width()));
}

/// In front of a gated delta rule: q|k|v|gate, and beta|rate.
fn delta(
    hidden: usize,
    projections: DeltaProjections,
    kind: &RecurrentKind,
    put: &mut impl FnMut(Place, Projection),
) {
    const MIXED: &str = "in_proj_qkvz";
    const RATES: &str = "in_proj_ba";
    let RecurrentKind::GatedDelta { delta, .. } = kind else { return };
    let (width, values, heads) = (delta.mixed_width(), delta.value_width(), delta.value_heads);

    let (input, rates) = match projections {
        DeltaProjections::Apart { mixed, gate, rates } => {
            let mixed = Part::whole(mixed, width).of_slices(3);
            let rates = rates.map(|module| Part::whole(module, heads));
            (vec![mixed, Part::whole(gate, values)], rates.to_vec())
        }
        DeltaProjections::ByKeyHead { mixed_and_gate, rates } => {
            let shared = heads / delta.key_heads;
            let of_values = shared * delta.value_dim;
            let by_head = |module: &str, outputs, parts: &[usize]| {
                let rows = Rows { picked: by_part(delta.key_heads, parts), ..Rows::default() };
                Part::whole(module, outputs).of_rows(rows).of_slices(parts.len())
            };
            let parts = [delta.key_dim, delta.key_dim, of_values, of_values];
            let input = by_head(mixed_and_gate, width + values, &parts);
            (vec![input], vec![by_head(rates, 2 * heads, &[shared, shared])])
        }
    };
    put(Place::Input, Projection::new(input, hidden, MIXED));
    put(Place::Rates, Projection::new(rates, hidden, RATES));
}

/// Which part of each of these a rank holds.
pub(super) fn state_cuts(shard: &Shard, kind: &RecurrentKind, put: &mut impl FnMut(Place, Cut)) {
    let out = shard.recurrent_out(kind);
    match kind {
        RecurrentKind::GatedDelta { delta, .. } => {
            put(Place::Input, shard.mixed(delta, true));
            put(Place::Rates, shard.value_heads(delta, 2));
        }
        RecurrentKind::ShortConv { width } => put(Place::Input, shard.channels(*width, 3)),
        RecurrentKind::SelectiveScan(shape) => put(Place::Input, shard.scan_input(&shape.scan)),
        RecurrentKind::ChannelScan(shape) => {
            let width = shape.scan.width;
            put(Place::Input, shard.channels(width, 2));
            put(Place::Rates, out.clone());
            put(Place::Columns, out.clone());
            put(Place::ChannelRates, shard.channels(width, 1));
        }
    }
    put(Place::StateOut, out);
}
