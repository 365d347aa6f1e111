//! A rank's share of a model: which heads, widths and rows of the vocabulary it holds
//! ([`Shard`]), and which part of each matrix that is ([`Cut`]). [`ModelSpec`] says what the model
//! is, this says what of it one device has: no number means both. `load` cuts by it, `decoder`
//! takes its sizes from it. It knows no tensor.

use std::ops::Range;

use super::config::{
    ChannelScanShape, KeysFrom, LayerAttention, ModelSpec, RecurrentKind, ScanShape,
};
use super::quant::QuantScheme;
use crate::device::{
    AttnSpec, ChannelScanSpec, DeltaSpec, Join, KvRow, KvShape, Rank, ScanSpec, StateShape,
};
use crate::error::{Error, Result};
use crate::invalid;

/// Rows of the vocabulary are made up to a multiple of this before they are shared out.
const VOCABULARY_STEP: usize = 64;

/// What one rank holds of a model.
#[derive(Debug, Clone)]
pub struct Shard {
    /// Which one it is.
    pub rank: Rank,
    /// Its heads of q.
    pub heads: usize,
    /// Its heads of k and v in each layer. Where a layer has fewer than there are ranks, ranks that
    /// follow each other hold the same one.
    pub kv_heads: Vec<usize>,
    /// Its width of the widest plain MLP.
    pub ffn: usize,
    /// Its part of the width of each expert; empty: there are none.
    pub experts: Slice,
    /// Its width of the expert that all tokens share, if there is one.
    pub shared_ffn: Option<usize>,
    /// Its heads or channels of layers with a state.
    pub recurrent: Option<RecurrentKind>,
    /// Its rows of the token table and the head. They may reach beyond the model's, into rows of
    /// zeros.
    pub vocabulary: Range<usize>,
}

/// Which part of a matrix a rank holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cut {
    /// All of it.
    Whole,
    /// Some outputs of each of the parts that lie one below the other: q, k, v; gate, up.
    Outputs(Vec<Slice>),
    /// Some inputs, the same of all parts.
    Inputs {
        /// Which.
        range: Range<usize>,
        /// The ranks' products are added up; else by a later op.
        summed: bool,
    },
}

/// Some outputs of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// All that the part has.
    pub of: usize,
    /// Those that the rank holds.
    pub range: Range<usize>,
}

impl Cut {
    /// Outputs that the rank holds of so many.
    pub fn outputs(&self, all: usize) -> usize {
        match self {
            Cut::Outputs(slices) => slices.iter().map(|slice| slice.range.len()).sum(),
            Cut::Whole | Cut::Inputs { .. } => all,
        }
    }

    /// Inputs that the rank holds of so many.
    pub fn inputs(&self, all: usize) -> usize {
        match self {
            Cut::Inputs { range, .. } => range.len(),
            Cut::Whole | Cut::Outputs(_) => all,
        }
    }

    /// Where the outputs lie that the rank holds, in `count` matrices one below the other.
    pub fn rows(&self, count: usize) -> Vec<Range<usize>> {
        let Cut::Outputs(slices) = self else { return Vec::new() };
        let mut rows = Vec::with_capacity(count * slices.len());
        let mut start = 0;
        for slice in (0..count).flat_map(|_| slices) {
            rows.push(start + slice.range.start..start + slice.range.end);
            start += slice.of;
        }
        rows
    }

    /// What becomes of the ranks' products.
    pub fn join(&self) -> Join {
        match self {
            Cut::Inputs { summed: true, .. } => Join::Sum,
            Cut::Whole | Cut::Outputs(_) | Cut::Inputs { .. } => Join::None,
        }
    }
}

impl Shard {
    /// # Errors
    /// InvalidArgument: heads, widths or the vocabulary cannot be shared out evenly. The texts are
    /// vLLM's.
    pub fn new(spec: &ModelSpec, rank: Rank) -> Result<Shard> {
        let of = rank.of;
        if !spec.heads.is_multiple_of(of) {
            return Err(invalid!(
                "Total number of attention heads ({}) must be divisible by tensor parallel size \
                 ({of}).",
                spec.heads
            ));
        }
        let kv_heads = |layer: &LayerAttention| match layer.attn.kv_heads {
            all if all >= of => even(all, of),
            all => even(of, all).map(|_| 1),
        };

        let mlps = (0..spec.layers).filter(|&layer| spec.has_mlp(layer));
        let ffns = mlps.map(|layer| even(spec.ffns[layer], of)).collect::<Result<Vec<_>>>()?;
        let mixture = spec.mixture.as_ref();
        let shared_ffn = mixture.and_then(|m| m.shared_ffn);
        let vocabulary = match of {
            1 => 0..spec.token_rows(),
            _ => {
                let padded = spec.token_rows().next_multiple_of(VOCABULARY_STEP);
                let rows = even(padded, of)?;
                rank.index * rows..(rank.index + 1) * rows
            }
        };
        Ok(Shard {
            rank,
            heads: spec.heads / of,
            kv_heads: spec.attention.iter().map(kv_heads).collect::<Result<_>>()?,
            ffn: ffns.into_iter().max().unwrap_or(0),
            experts: expert_share(spec, rank)?,
            shared_ffn: shared_ffn.map(|ffn| even(ffn, of)).transpose()?,
            recurrent: spec.recurrent.as_ref().map(|r| recurrent_of(&r.kind, of)).transpose()?,
            vocabulary,
        })
    }

    /// There are other ranks.
    pub fn is_one_of_several(&self) -> bool {
        self.rank.of > 1
    }

    /// Attention of each layer, over the rank's heads.
    pub fn attention(&self, spec: &ModelSpec) -> Vec<LayerAttention> {
        let mut layers = spec.attention.clone();
        for (layer, &kv_heads) in layers.iter_mut().zip(&self.kv_heads) {
            layer.attn.heads = self.heads;
            layer.attn.kv_heads = kv_heads;
        }
        layers
    }

    /// The rank's pages of a model with these.
    pub fn kv_shape(&self, spec: &ModelSpec, model: &KvShape) -> KvShape {
        let keeps = (0..spec.layers).filter(|&layer| spec.keys_of(layer) == Some(layer));
        let row = |(row, layer): (&KvRow, usize)| match *row {
            KvRow::Heads { head_dim, .. } => {
                KvRow::Heads { kv_heads: self.kv_heads[layer], head_dim }
            }
            // Each rank's heads see all of it.
            KvRow::Latent { width } => KvRow::Latent { width },
        };
        KvShape { rows: model.rows.iter().zip(keeps).map(row).collect(), ..model.clone() }
    }

    /// What the rank's layers keep of a sequence beside pages.
    pub fn state_shape(&self, spec: &ModelSpec) -> StateShape {
        let both = spec.recurrent.as_ref().zip(self.recurrent.as_ref());
        both.map_or_else(StateShape::default, |(recurrent, kind)| recurrent.state(kind))
    }

    /// Of q, k and v of a layer with a state, and of the gate of its output if that lies below.
    pub fn mixed(&self, delta: &DeltaSpec, gate: bool) -> Cut {
        let keys = self.share(delta.key_heads * delta.key_dim);
        let values = self.share(delta.value_width());
        let mut slices = vec![keys.clone(), keys, values.clone()];
        slices.extend(gate.then_some(values));
        self.outputs(slices)
    }

    /// Of `parts` matrices or vectors of an output for each value head.
    pub fn value_heads(&self, delta: &DeltaSpec, parts: usize) -> Cut {
        self.outputs(vec![self.share(delta.value_heads); parts])
    }

    /// Of x, B and C of a selective scan.
    pub fn scan_channels(&self, scan: &ScanSpec) -> Cut {
        self.outputs(self.scan_slices(scan))
    }

    /// Of the product in front of it: x, B, C, gate and rates, one below the other.
    pub fn scan_input(&self, scan: &ScanSpec) -> Cut {
        let mut slices = self.scan_slices(scan);
        slices.push(self.share(scan.inner_width()));
        slices.push(self.share(scan.heads));
        self.outputs(slices)
    }

    /// Of a vector with an element for each of so many heads or columns of a scan.
    pub fn scan_share(&self, of: usize) -> Cut {
        self.outputs(vec![self.share(of)])
    }

    /// B and C of a single group are every rank's.
    fn scan_slices(&self, scan: &ScanSpec) -> Vec<Slice> {
        let width = scan.group_width();
        let group = if scan.groups.is_multiple_of(self.rank.of) {
            self.share(width)
        } else {
            Slice { of: width, range: 0..width }
        };
        vec![self.share(scan.inner_width()), group.clone(), group]
    }

    /// Of the output product of a layer with a state.
    pub fn recurrent_out(&self, kind: &RecurrentKind) -> Cut {
        self.inputs(self.share(kind.out_width()).range, true)
    }

    /// Of `parts` matrices of an output for each of `channels`.
    pub fn channels(&self, channels: usize, parts: usize) -> Cut {
        self.outputs(vec![self.share(channels); parts])
    }

    /// Of the gate of a layer's attention's output.
    pub fn output_gate(&self, spec: &ModelSpec, layer: usize) -> Cut {
        self.outputs(vec![self.q_heads(spec, layer)])
    }

    /// Of a layer's q, k and v, which lie one below the other, or of what it makes of them.
    pub fn qkv(&self, spec: &ModelSpec, layer: usize) -> Cut {
        let q = self.q_heads(spec, layer);
        let kv = self.kv_head_range(spec, layer);
        let slices = match spec.attention[layer].keys {
            KeysFrom::Own | KeysFrom::Nowhere => vec![q, kv.clone(), kv],
            KeysFrom::OneProduct => vec![q, kv],
            KeysFrom::Layer(_) => vec![q],
        };
        self.outputs(slices)
    }

    /// Of the norm over all heads of q of a layer.
    pub fn q_norm(&self, spec: &ModelSpec, layer: usize) -> Cut {
        self.outputs(vec![self.q_heads(spec, layer)])
    }

    /// Of the norm over all heads of k of a layer.
    pub fn k_norm(&self, spec: &ModelSpec, layer: usize) -> Cut {
        self.outputs(vec![self.kv_head_range(spec, layer)])
    }

    /// Of a layer's attention's output product.
    pub fn attn_out(&self, spec: &ModelSpec, layer: usize) -> Cut {
        self.inputs(self.share(spec.attn_width(layer)).range, true)
    }

    /// Of a product whose outputs are so wide heads of q.
    pub fn of_heads(&self, spec: &ModelSpec, width: usize) -> Cut {
        self.outputs(vec![self.share(spec.heads * width)])
    }

    /// Of an MLP's first product: `parts` matrices (gate, up) of `width` outputs each.
    pub fn up(&self, width: usize, parts: usize) -> Cut {
        self.outputs(vec![self.share(width); parts])
    }

    /// Of an MLP's second product, of `width` inputs; the sum over ranks may be a later op's.
    pub fn down(&self, width: usize, summed: bool) -> Cut {
        self.inputs(self.share(width).range, summed)
    }

    /// Of the experts' first product: `parts` matrices (gate, up) of each.
    pub fn experts_up(&self, parts: usize) -> Cut {
        self.outputs(vec![self.experts.clone(); parts])
    }

    /// Of the experts' second product; the sum over ranks may be a later op's.
    pub fn experts_down(&self, summed: bool) -> Cut {
        self.inputs(self.experts.range.clone(), summed)
    }

    /// What becomes of what ranks look up in the token table, and of the head's products.
    pub fn vocabulary_join(&self) -> Join {
        if self.is_one_of_several() {
            Join::Rows { first: self.vocabulary.start }
        } else {
            Join::None
        }
    }

    /// Of the vocabulary what the model has, without rows of zeros behind it.
    pub fn vocabulary_held(&self, spec: &ModelSpec) -> Range<usize> {
        let Range { start, end } = self.vocabulary;
        start.min(spec.token_rows())..end.min(spec.token_rows())
    }

    fn q_heads(&self, spec: &ModelSpec, layer: usize) -> Slice {
        self.share(spec.attention[layer].attn.q_width())
    }

    fn kv_head_range(&self, spec: &ModelSpec, layer: usize) -> Slice {
        let AttnSpec { kv_heads, head_dim: d, .. } = spec.attention[layer].attn;
        let first = self.rank.index * kv_heads / self.rank.of;
        Slice { of: kv_heads * d, range: first * d..(first + self.kv_heads[layer]) * d }
    }

    fn share(&self, of: usize) -> Slice {
        let Rank { index, of: ranks } = self.rank;
        Slice { of, range: index * (of / ranks)..(index + 1) * (of / ranks) }
    }

    fn outputs(&self, slices: Vec<Slice>) -> Cut {
        if self.is_one_of_several() {
            Cut::Outputs(slices)
        } else {
            Cut::Whole
        }
    }

    fn inputs(&self, range: Range<usize>, summed: bool) -> Cut {
        if self.is_one_of_several() {
            Cut::Inputs { range, summed }
        } else {
            Cut::Whole
        }
    }
}

/// What a rank has of layers with a state. The text is as vLLM's of other heads.
fn recurrent_of(kind: &RecurrentKind, of: usize) -> Result<RecurrentKind> {
    let (delta, gate) = match kind {
        RecurrentKind::GatedDelta { delta, gate } => (delta, *gate),
        RecurrentKind::ShortConv { width } => {
            return Ok(RecurrentKind::ShortConv { width: even(*width, of)? });
        }
        RecurrentKind::SelectiveScan(shape) => {
            let scan = scan_of(&shape.scan, of)?;
            return Ok(RecurrentKind::SelectiveScan(ScanShape { scan, ..*shape }));
        }
        RecurrentKind::ChannelScan(shape) => {
            let scan = ChannelScanSpec { width: even(shape.scan.width, of)?, ..shape.scan };
            return Ok(RecurrentKind::ChannelScan(ChannelScanShape { scan, ..*shape }));
        }
    };
    if !delta.key_heads.is_multiple_of(of) {
        return Err(invalid!(
            "linear_num_key_heads ({}) must be divisible by tensor parallel size ({of}).",
            delta.key_heads
        ));
    }
    let (key_heads, value_heads) = (delta.key_heads / of, delta.value_heads / of);
    let delta = DeltaSpec { key_heads, value_heads, ..*delta };
    Ok(RecurrentKind::GatedDelta { delta, gate })
}

/// A rank's heads and groups of a scan. The second text is vLLM's.
fn scan_of(scan: &ScanSpec, of: usize) -> Result<ScanSpec> {
    if !scan.heads.is_multiple_of(of) {
        return Err(invalid!(
            "Total number of mamba heads ({}) must be divisible by tensor parallel size ({of}).",
            scan.heads
        ));
    }
    let groups = match scan.groups {
        groups if groups.is_multiple_of(of) => groups / of,
        1 => 1,
        _ => {
            return Err(invalid!(
                "If tensor parallel world size does not divide num_groups, then num_groups must \
                 equal 1: it is {}, of {of} ranks.",
                scan.groups
            ));
        }
    };
    Ok(ScanSpec { heads: scan.heads / of, groups, ..*scan })
}

/// A rank's part of the width of each expert. Of codes with scales of their own (MXFP4 of GPT-OSS)
/// it is whole groups, so that some ranks have one more than others: 2880 inputs of 90 groups are
/// 22 or 23 groups for each of four. vLLM rounds a rank's part up and pads the last one's with
/// zeros; the sum is the same.
fn expert_share(spec: &ModelSpec, rank: Rank) -> Result<Slice> {
    let Some(mixture) = &spec.mixture else { return Ok(Slice { of: 0, range: 0..0 }) };
    let (of, Rank { index, of: ranks }) = (mixture.ffn, rank);
    let quant = spec.quant.as_ref();
    let group = match quant.and_then(QuantScheme::uneven_expert_group) {
        Some(group) if of.is_multiple_of(group) => group,
        _ => even(of, ranks)?,
    };

    let groups = of / group;
    if groups < ranks {
        return Err(invalid!(
            "Each expert is {of} wide, which are {groups} groups of {group}: fewer than \
             tensor_parallel_size ({ranks})."
        ));
    }
    let at = |rank: usize| rank * groups / ranks * group;
    Ok(Slice { of, range: at(index)..at(index + 1) })
}

fn even(all: usize, of: usize) -> Result<usize> {
    if of == 0 || !all.is_multiple_of(of) {
        return Err(Error::InvalidArgument(format!("{all} is not divisible by {of}")));
    }
    Ok(all / of)
}

#[cfg(test)]
#[path = "shard_tests.rs"]
mod tests;
