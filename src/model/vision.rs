//! The vision tower in a step: it makes vectors of the images whose tokens the step feeds, keeps
//! the newest, and puts them in the place of the table's rows. Called by `decoder` between the
//! lookup of tokens and the first layer. Of a sequence it knows its images and how much of it was
//! fed.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::config::VisionSpec;
use super::weights::{TowerLayer, TowerWeights};
use crate::device::{Activation, AttnSpec, Device, KvScales, RowCopy};
use crate::error::Result;
use crate::internal;
use crate::plan::{ImageSpan, PatchRows, PromptImages, SlotChange, StepPlan};

/// Of the rotation of patches.
const THETA: f32 = 10000.0;

/// A tower on a device.
pub(super) struct VisionTower<D: Device> {
    spec: VisionSpec,
    weights: TowerWeights<D::Weight>,
    attn: AttnSpec,
    buffers: TowerBuffers<D::Tensor>,
    encoded: EncodedImages,
    slots: Vec<SlotImages>,
}

/// Activations of one image, `[max_patches, _]`, and of its tokens from `merged` on.
struct TowerBuffers<T> {
    patches: T,
    residual: T,
    delta: T,
    normed: T,
    qkv: T,
    attn: T,
    ffn: T,
    merged: T,
    mixed: T,
    output: T,
    /// The newest images' vectors.
    kept: T,
}

/// What of a slot matters here.
#[derive(Clone, Default)]
struct SlotImages {
    fed: usize,
    images: Option<Arc<PromptImages>>,
}

impl<D: Device> VisionTower<D> {
    /// Make the buffers for images of the largest size, and keep as many vectors as a step has
    /// tokens, or as that image.
    pub fn new(
        dev: &mut D,
        spec: &VisionSpec,
        weights: TowerWeights<D::Weight>,
        hidden: usize,
        step_tokens: usize,
    ) -> Result<VisionTower<D>> {
        let patches = spec.max_patches();
        let tokens = spec.max_tokens;
        let merged = spec.settings.merge * spec.settings.merge * spec.width;
        let patch = 3 * spec.settings.copies * spec.settings.patch * spec.settings.patch;
        let kept = tokens.max(step_tokens);
        let buffers = TowerBuffers {
            patches: dev.tensor(patches, patch)?,
            residual: dev.tensor(patches, spec.width)?,
            delta: dev.tensor(patches, spec.width)?,
            normed: dev.tensor(patches, spec.width)?,
            qkv: dev.tensor(patches, 3 * spec.width)?,
            attn: dev.tensor(patches, spec.width)?,
            ffn: dev.tensor(patches, spec.ffn)?,
            merged: dev.tensor(tokens, merged)?,
            mixed: dev.tensor(tokens, merged)?,
            output: dev.tensor(tokens, hidden)?,
            kept: dev.tensor(kept, hidden)?,
        };

        let head_dim = spec.head_dim();
        let attn = AttnSpec {
            heads: spec.heads,
            kv_heads: spec.heads,
            head_dim,
            scale: (head_dim as f32).sqrt().recip(),
            window: None,
            chunk: None,
            softcap: None,
            kv_scales: KvScales::ONE,
            q_only: false,
        };
        Ok(VisionTower {
            spec: spec.clone(),
            weights,
            attn,
            buffers,
            encoded: EncodedImages::new(kept),
            slots: Vec::new(),
        })
    }

    /// Vectors of images in the place of their tokens' rows in `x`, the step's lookup.
    ///
    /// # Errors
    /// Those of the device; it is lost then. Internal: an image is larger than the buffers.
    pub fn place(&mut self, dev: &mut D, plan: &StepPlan, x: &mut D::Tensor) -> Result<()> {
        self.follow(plan);
        let mut first_row = 0;
        for chunk in &plan.chunks {
            let tokens = chunk.feed.tokens();
            let Some(slot) = self.slots.get_mut(chunk.slot.index()) else {
                first_row += tokens;
                continue;
            };
            let fed = slot.fed..slot.fed + tokens;
            slot.fed = fed.end;

            if let Some(images) = slot.images.clone() {
                for span in images.overlapping(fed.clone()) {
                    let kept = self.encoded(dev, &span.patches)?;
                    let copies = copies(span, &fed, kept, first_row);
                    dev.copy_rows(&self.buffers.kept, &copies, x)?;
                }
            }
            first_row += tokens;
        }
        Ok(())
    }

    /// Which slots have images now, and how far they are.
    fn follow(&mut self, plan: &StepPlan) {
        for change in &plan.changes {
            let SlotChange::Open(open) = change else { continue };
            let at = open.slot.index();
            if at >= self.slots.len() {
                self.slots.resize(at + 1, SlotImages::default());
            }
            self.slots[at] = SlotImages { fed: open.cached_tokens as usize, images: None };
        }
        for (slot, images) in &plan.images {
            if let Some(held) = self.slots.get_mut(slot.index()) {
                held.images = Some(Arc::clone(images));
            }
        }
    }

    /// Where the vectors of an image are, which is encoded if need be.
    fn encoded(&mut self, dev: &mut D, patches: &PatchRows) -> Result<usize> {
        if let Some(first) = self.encoded.find(&patches.hash) {
            return Ok(first);
        }
        let merge = self.spec.settings.merge;
        let tokens = patches.count() / (merge * merge);
        if tokens > self.spec.max_tokens || tokens == 0 {
            let most = self.spec.max_tokens;
            return Err(internal!("an image of {tokens} tokens, at most {most}"));
        }

        let windows = Windows::of(patches.rows / merge, patches.columns / merge, self.spec.window);
        let encoded = self.encode(dev, patches, &windows);
        dev.end_rows();
        encoded?;

        let first = self.encoded.add(patches.hash, tokens);
        let copy = |(from, &token): (usize, &usize)| RowCopy { from, to: first + token };
        let copies: Vec<RowCopy> = windows.order.iter().enumerate().map(copy).collect();
        let b = &mut self.buffers;
        dev.copy_rows(&b.output, &copies, &mut b.kept)?;
        Ok(first)
    }

    /// Vectors of all tokens into `output`, window by window.
    fn encode(&mut self, dev: &mut D, patches: &PatchRows, windows: &Windows) -> Result<()> {
        let (w, b) = (&self.weights, &mut self.buffers);
        let square = self.spec.settings.merge * self.spec.settings.merge;
        let of_token = |token: &usize| token * square..(token + 1) * square;
        let order: Vec<usize> = windows.order.iter().flat_map(of_token).collect();
        let ends: Vec<usize> = windows.ends.iter().map(|end| end * square).collect();
        let all = [order.len()];
        let angles = angles(&self.spec, patches, &order);

        dev.begin_rows(order.len())?;
        dev.put_patches(patches, &order, &mut b.patches)?;
        dev.linear(&w.patches, None, &b.patches, &mut b.residual)?;
        for (layer, &whole) in w.layers.iter().zip(&self.spec.whole) {
            let TowerLayer { norms, qkv, out, mlp } = layer;
            let spans = if whole { &all[..] } else { &ends };
            dev.norm(&norms[0], &b.residual, &mut b.normed)?;
            dev.linear(&qkv.weight, qkv.bias.as_ref(), &b.normed, &mut b.qkv)?;
            dev.turn_rows(&self.attn, &angles, &mut b.qkv)?;
            dev.attend_spans(&self.attn, spans, &b.qkv, &mut b.attn)?;
            dev.linear(&out.weight, out.bias.as_ref(), &b.attn, &mut b.delta)?;
            dev.add_norm(&norms[1], &b.delta, &mut b.residual, &mut b.normed)?;

            let up = &mlp.up;
            let act = self.spec.activation;
            dev.linear_act(&up.weight, up.bias.as_ref(), act, &b.normed, &mut b.ffn)?;
            dev.linear(&mlp.down.weight, mlp.down.bias.as_ref(), &b.ffn, &mut b.delta)?;
            dev.add(&b.delta, &mut b.residual)?;
        }

        dev.norm(&w.merge_norm, &b.residual, &mut b.normed)?;
        dev.join_rows(square, &b.normed, &mut b.merged)?;
        dev.begin_rows(order.len() / square)?;
        let [first, second] = &w.merge;
        let gelu = Activation::Gelu;
        dev.linear_act(&first.weight, first.bias.as_ref(), gelu, &b.merged, &mut b.mixed)?;
        dev.linear(&second.weight, second.bias.as_ref(), &b.mixed, &mut b.output)
    }
}

/// The rows of one image that a chunk feeds: `fed` of its sequence, from token row `first_row` on.
fn copies(span: &ImageSpan, fed: &Range<usize>, kept: usize, first_row: usize) -> Vec<RowCopy> {
    let from = span.start.max(fed.start);
    let to = (span.start + span.tokens()).min(fed.end);
    let copy = |token: usize| RowCopy {
        from: kept + token - span.start,
        to: first_row + token - fed.start,
    };
    (from..to).map(copy).collect()
}

/// By what each row's heads are turned: half of the frequencies by its patch's row, half by its
/// column.
fn angles(spec: &VisionSpec, patches: &PatchRows, order: &[usize]) -> Vec<f32> {
    let quarter = spec.head_dim() / 4;
    let frequency = |i: usize| THETA.powf(-((2 * i) as f32) / (2 * quarter) as f32);
    let frequencies: Vec<f32> = (0..quarter).map(frequency).collect();
    let merge = spec.settings.merge;
    let square = merge * merge;
    let columns = patches.columns / merge;

    let mut angles = Vec::with_capacity(order.len() * 2 * quarter);
    for n in order {
        let (token, inside) = (n / square, n % square);
        let row = token / columns * merge + inside / merge;
        let column = token % columns * merge + inside % merge;
        for position in [row, column] {
            angles.extend(frequencies.iter().map(|f| position as f32 * f));
        }
    }
    angles
}

/// The tokens of an image window by window.
struct Windows {
    order: Vec<usize>,
    /// Where each window ends.
    ends: Vec<usize>,
}

impl Windows {
    /// Squares of `side` tokens from the top left, smaller ones at the other edges.
    fn of(rows: usize, columns: usize, side: usize) -> Windows {
        let mut windows = Windows { order: Vec::new(), ends: Vec::new() };
        for top in (0..rows).step_by(side) {
            for left in (0..columns).step_by(side) {
                for row in top..(top + side).min(rows) {
                    let right = (left + side).min(columns);
                    windows.order.extend((left..right).map(|column| row * columns + column));
                }
                windows.ends.push(windows.order.len());
            }
        }
        windows
    }
}

/// Which images' vectors are kept where: in the order in which they came, over the oldest.
struct EncodedImages {
    capacity: usize,
    next: usize,
    held: VecDeque<([u8; 32], Range<usize>)>,
}

impl EncodedImages {
    fn new(capacity: usize) -> EncodedImages {
        EncodedImages { capacity, next: 0, held: VecDeque::new() }
    }

    fn find(&self, hash: &[u8; 32]) -> Option<usize> {
        let held = self.held.iter().find(|(held, _)| held == hash);
        held.map(|(_, rows)| rows.start)
    }

    /// A place for so many rows, at most the capacity.
    fn add(&mut self, hash: [u8; 32], rows: usize) -> usize {
        if self.next + rows > self.capacity {
            self.next = 0;
        }
        let place = self.next..self.next + rows;
        self.held.retain(|(_, held)| held.end <= place.start || place.end <= held.start);
        self.held.push_back((hash, place.clone()));
        self.next = place.end;
        place.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_ragged_at_the_edges() {
        let windows = Windows::of(3, 5, 2);
        assert_eq!(windows.order, [0, 1, 5, 6, 2, 3, 7, 8, 4, 9, 10, 11, 12, 13, 14]);
        assert_eq!(windows.ends, [4, 8, 10, 12, 14, 15]);
    }

    #[test]
    fn the_oldest_images_make_room() {
        let mut images = EncodedImages::new(10);
        let hash = |n: u8| [n; 32];
        assert_eq!(images.add(hash(1), 4), 0);
        assert_eq!(images.add(hash(2), 4), 4);
        assert_eq!(images.add(hash(3), 3), 0);
        assert_eq!(images.find(&hash(1)), None);
        assert_eq!(images.find(&hash(2)), Some(4));
        assert_eq!(images.add(hash(4), 10), 0);
        assert_eq!(images.find(&hash(2)), None);
        assert_eq!(images.find(&hash(4)), Some(0));
    }
}
