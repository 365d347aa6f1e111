//! The vision tower in a step: it makes vectors of the images whose tokens the step feeds, keeps
//! the newest, and puts them in the place of the table's rows. Called by `decoder` between the
//! lookup of tokens and the first layer. Of a sequence it knows its images and how much of it was
//! fed.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::architectures::{Joined, Turns};
use super::config::{PlacesSpec, VisionSpec};
use super::tower_layout::{angles, corners, Layout};
use super::weights::{MergeNorm, MergeProduct, Merger, TowerLayer, TowerWeights};
use crate::device::{
    AttnSpec, Device, KvScales, Norm, PatchOf, RowCopy, Span, TowerLimits, TowerRows,
};
use crate::error::Result;
use crate::image::Processed;
use crate::internal;
use crate::plan::{ImageSpan, PatchRows, PromptImages, SlotChange, StepPlan};

/// A tower on a device.
pub(super) struct VisionTower<D: Device> {
    spec: VisionSpec,
    weights: TowerWeights<D::Weight>,
    attn: AttnSpec,
    buffers: TowerBuffers<D::Tensor>,
    encoded: EncodedImages,
    slots: Vec<SlotImages>,
    /// Token rows of this step that have vectors of images.
    fed: Vec<RowCopy>,
}

/// Activations of images that run together, `[rows, _]`, and of its tokens from `merged` on.
struct TowerBuffers<T> {
    patches: T,
    residual: T,
    delta: T,
    normed: T,
    qkv: T,
    attn: T,
    ffn: T,
    merged: T,
    /// `merged` behind a norm.
    squared: T,
    /// Between products.
    inner: Vec<T>,
    /// Vectors: the decoder's input, then what its first layers add.
    output: Vec<T>,
    /// Those of the newest images.
    kept: Vec<T>,
    /// What the decoder's first layers add, of a step's token rows.
    added: Vec<T>,
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
        let rows = spec.max_patches() + spec.class_rows();
        let tokens = spec.max_tokens;
        let merged = match weights.merger.joined {
            Joined::Mean => spec.width,
            Joined::SideBySide | Joined::ChannelsFirst => spec.square() * spec.width,
        };
        let patch = Processed::patch_width(&spec.settings);
        let kept = tokens.max(step_tokens);
        dev.reserve_tower(&TowerLimits {
            rows,
            patch_width: patch,
            angles: if spec.tower.turns == Turns::None { 0 } else { spec.head_dim() / 2 },
            places: spec.places != PlacesSpec::None,
            gate_up: if spec.activation.is_gated() { 2 * spec.ffn } else { 0 },
            copies: kept.max(step_tokens).max(rows),
        })?;
        let (_, inner) = weights.merger.products.split_last().unzip();
        let inner: &[MergeProduct<D::Weight>] = inner.unwrap_or_default();
        let inner = inner.iter().map(|product| dev.tensor(tokens, product.outputs));
        let inner = inner.collect::<Result<_>>()?;
        let buffers = TowerBuffers {
            patches: dev.tensor(rows, patch)?,
            residual: dev.tensor(rows, spec.width)?,
            delta: dev.tensor(rows, spec.width)?,
            normed: dev.tensor(rows, spec.width)?,
            qkv: dev.tensor(rows, 3 * spec.width)?,
            attn: dev.tensor(rows, spec.width)?,
            ffn: dev.tensor(rows, spec.ffn)?,
            merged: dev.tensor(tokens, merged)?,
            squared: dev.tensor(tokens, merged)?,
            inner,
            output: several(dev, 1 + spec.deep.len(), tokens, hidden)?,
            kept: several(dev, 1 + spec.deep.len(), kept, hidden)?,
            added: several(dev, spec.deep.len(), step_tokens, hidden)?,
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
            fed: Vec::new(),
        })
    }

    /// Vectors of images in the place of their tokens' rows in `x`, the step's lookup.
    ///
    /// # Errors
    /// Those of the device; it is lost then. Internal: an image is larger than the buffers.
    pub fn place(&mut self, dev: &mut D, plan: &StepPlan, x: &mut D::Tensor) -> Result<()> {
        self.follow(plan);
        self.fed.clear();
        let mut waiting = Waiting::default();
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
                    let copies = copies(span, &fed, first_row);
                    self.put(dev, &span.patches, copies, &mut waiting, x)?;
                }
            }
            first_row += tokens;
        }
        self.encode_waiting(dev, &mut waiting, x)
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

    /// Copy an image's vectors to the rows of `x` that `copies` say, from the image's first one:
    /// now if they are kept, else behind the others that wait to be encoded.
    fn put(
        &mut self,
        dev: &mut D,
        patches: &Arc<PatchRows>,
        copies: Vec<RowCopy>,
        waiting: &mut Waiting,
        x: &mut D::Tensor,
    ) -> Result<()> {
        if let Some(first) = self.encoded.find(&patches.hash) {
            return self.place_kept(dev, first, &copies, x);
        }
        if let Some((_, waits)) = waiting.images.iter_mut().find(|(p, _)| p.hash == patches.hash) {
            waits.extend(copies);
            return Ok(());
        }

        let class = self.spec.class_rows();
        let most = self.spec.max_patches() + class;
        let rows = patches.count() + class;
        if rows > most || rows == class {
            return Err(internal!("an image of {rows} rows, at most {most}"));
        }
        if waiting.rows + rows > most {
            self.encode_waiting(dev, waiting, x)?;
        }
        waiting.rows += rows;
        waiting.images.push((Arc::clone(patches), copies));
        Ok(())
    }

    /// Copy the vectors that lie from row `first` on: the first to `x`, those of the decoder's
    /// first layers to where `deepen` finds them.
    fn place_kept(
        &mut self,
        dev: &mut D,
        first: usize,
        copies: &[RowCopy],
        x: &mut D::Tensor,
    ) -> Result<()> {
        let copies = behind(first, copies);
        let TowerBuffers { kept, added, .. } = &mut self.buffers;
        let mut kept = kept.iter();
        if let Some(kept) = kept.next() {
            dev.copy_rows(kept, &copies, x)?;
        }
        for (kept, added) in kept.zip(added) {
            dev.copy_rows(kept, &copies, added)?;
        }
        self.fed.extend(copies.iter().map(|copy| RowCopy { from: copy.to, to: copy.to }));
        Ok(())
    }

    /// A layer of the decoder adds to rows of images, in steps that have some.
    pub fn deepens(&self, layer: usize) -> bool {
        layer < self.buffers.added.len()
    }

    /// Add what a layer of the decoder adds to rows of images in this step to its output.
    ///
    /// # Errors
    /// Those of the device.
    pub fn deepen(&self, dev: &mut D, layer: usize, out: &mut D::Tensor) -> Result<()> {
        match self.buffers.added.get(layer) {
            Some(added) if !self.fed.is_empty() => dev.add_rows(added, &self.fed, out),
            _ => Ok(()),
        }
    }

    /// Encode the images that wait, all together; keep their vectors and put them into `x`.
    fn encode_waiting(
        &mut self,
        dev: &mut D,
        waiting: &mut Waiting,
        x: &mut D::Tensor,
    ) -> Result<()> {
        let images = std::mem::take(waiting).images;
        if images.is_empty() {
            return Ok(());
        }
        let patches: Vec<Arc<PatchRows>> = images.iter().map(|(p, _)| Arc::clone(p)).collect();
        let layout = Layout::of(&self.spec, &patches);
        let encoded = self.encode(dev, patches, &layout);
        dev.end_rows();
        encoded?;

        let mut row = 0;
        for (patches, copies) in images {
            let tokens = patches.count() / self.spec.square();
            let first = self.encoded.add(patches.hash, tokens);
            let order = layout.tokens[row..row + tokens].iter().enumerate();
            let keep: Vec<RowCopy> =
                order.map(|(r, &token)| RowCopy { from: row + r, to: first + token }).collect();
            let TowerBuffers { output, kept, .. } = &mut self.buffers;
            for (output, kept) in output.iter().zip(kept) {
                dev.copy_rows(output, &keep, kept)?;
            }
            // Before a later one may come to lie over it.
            self.place_kept(dev, first, &copies, x)?;
            row += tokens;
        }
        Ok(())
    }

    /// Vectors of the images' tokens to the front of `output`, in the order of `layout`.
    fn encode(&mut self, dev: &mut D, images: Vec<Arc<PatchRows>>, layout: &Layout) -> Result<()> {
        let (w, b) = (&self.weights, &mut self.buffers);
        let square = self.spec.square();
        let of_row = |&(image, patch): &(usize, usize)| PatchOf { image, patch };
        dev.begin_tower(TowerRows {
            angles: angles(&self.spec, &images, &layout.patches),
            corners: corners(&self.spec, &images, &layout.patches),
            images,
            patches: layout.patches.iter().map(of_row).collect(),
            window_ends: layout.window_ends.clone(),
            image_ends: layout.image_ends.clone(),
        })?;
        dev.put_patches(&mut b.patches)?;
        dev.linear(&w.patches.weight, w.patches.bias.as_ref(), &b.patches, &mut b.residual)?;
        if let Some(table) = &w.places {
            dev.add_places(table, &mut b.residual)?;
        }
        b.norm(dev, w.first.as_ref())?;

        let rows = layout.patches.len();
        let mut deep = self.spec.deep.iter().zip(&w.deep).zip(1..).peekable();
        for (index, (layer, &whole)) in w.layers.iter().zip(&self.spec.whole).enumerate() {
            b.layer(dev, &self.spec, &self.attn, layer, whole)?;
            if let Some(((_, merger), nth)) = deep.next_if(|((at, _), _)| **at == index) {
                b.merge(dev, square, rows, merger, nth)?;
                dev.begin_rows(rows)?;
            }
        }

        b.norm(dev, w.last.as_ref())?;
        let mut left = rows;
        if self.spec.class_rows() > 0 {
            let keep = layout.patch_rows(&self.spec);
            dev.copy_rows(&b.residual, &keep, &mut b.normed)?;
            std::mem::swap(&mut b.residual, &mut b.normed);
            left = keep.len();
            dev.begin_rows(left)?;
        }
        b.merge(dev, square, left, &w.merger, 0)
    }
}

impl<T> TowerBuffers<T> {
    /// The residual becomes what the norm makes of it, if there is one.
    fn norm<D: Device<Tensor = T>>(
        &mut self,
        dev: &mut D,
        norm: Option<&Norm<D::Weight>>,
    ) -> Result<()> {
        if let Some(norm) = norm {
            dev.norm(norm, &self.residual, &mut self.normed)?;
            std::mem::swap(&mut self.residual, &mut self.normed);
        }
        Ok(())
    }

    /// A layer, from residual to residual.
    fn layer<D: Device<Tensor = T>>(
        &mut self,
        dev: &mut D,
        spec: &VisionSpec,
        attn: &AttnSpec,
        layer: &TowerLayer<D::Weight>,
        whole: bool,
    ) -> Result<()> {
        let TowerLayer { norms, qkv, out, mlp } = layer;
        let span = if whole { Span::Image } else { Span::Window };
        dev.norm(&norms[0], &self.residual, &mut self.normed)?;
        dev.linear(&qkv.weight, qkv.bias.as_ref(), &self.normed, &mut self.qkv)?;
        if spec.tower.turns != Turns::None {
            dev.turn_rows(attn, &mut self.qkv)?;
        }
        dev.attend_spans(attn, span, &self.qkv, &mut self.attn)?;
        dev.linear(&out.weight, out.bias.as_ref(), &self.attn, &mut self.delta)?;
        dev.add_norm(&norms[1], &self.delta, &mut self.residual, &mut self.normed)?;

        let (up, act) = (&mlp.up, spec.activation);
        dev.linear_act(&up.weight, up.bias.as_ref(), act, &self.normed, &mut self.ffn)?;
        dev.linear(&mlp.down.weight, mlp.down.bias.as_ref(), &self.ffn, &mut self.delta)?;
        dev.add(&self.delta, &mut self.residual)
    }

    /// The residual's `rows` patches to the n-th vectors; ops run over squares then.
    fn merge<D: Device<Tensor = T>>(
        &mut self,
        dev: &mut D,
        square: usize,
        rows: usize,
        merger: &Merger<D::Weight>,
        nth: usize,
    ) -> Result<()> {
        let (over_patches, over_squares) = match &merger.norm {
            Some(MergeNorm { norm, joined: false }) => (Some(norm), None),
            Some(MergeNorm { norm, joined: true }) => (None, Some(norm)),
            None => (None, None),
        };
        let mut patches = &self.residual;
        if let Some(norm) = over_patches {
            dev.norm(norm, patches, &mut self.normed)?;
            patches = &self.normed;
        }
        match merger.joined {
            Joined::Mean => dev.mean_rows(square, patches, &mut self.merged)?,
            Joined::SideBySide | Joined::ChannelsFirst => {
                dev.join_rows(square, patches, &mut self.merged)?;
            }
        }
        dev.begin_rows(rows / square)?;
        let mut from = &self.merged;
        if let Some(norm) = over_squares {
            dev.norm(norm, from, &mut self.squared)?;
            from = &self.squared;
        }

        // The last one's is the vector.
        let TowerBuffers { inner, output, .. } = self;
        let mut targets = inner.iter_mut().chain(output.get_mut(nth));
        for MergeProduct { linear, activation, .. } in &merger.products {
            let to = targets.next().ok_or_else(|| internal!("a product of a merger too many"))?;
            let (weight, bias) = (&linear.weight, linear.bias.as_ref());
            match activation {
                Some(act) => dev.linear_act(weight, bias, *act, from, to)?,
                None => dev.linear(weight, bias, from, to)?,
            }
            from = to;
        }
        Ok(())
    }
}

/// Tensors of one size.
fn several<D: Device>(
    dev: &mut D,
    count: usize,
    rows: usize,
    width: usize,
) -> Result<Vec<D::Tensor>> {
    (0..count).map(|_| dev.tensor(rows, width)).collect()
}

/// The rows of one image that a chunk feeds: `fed` of its sequence, from token row `first_row` on.
fn copies(span: &ImageSpan, fed: &Range<usize>, first_row: usize) -> Vec<RowCopy> {
    let from = span.start.max(fed.start);
    let to = (span.start + span.tokens()).min(fed.end);
    let copy = |token: usize| RowCopy {
        from: span.first + token - span.start,
        to: first_row + token - fed.start,
    };
    (from..to).map(copy).collect()
}

/// The same from an image's vectors that begin at row `first`.
fn behind(first: usize, copies: &[RowCopy]) -> Vec<RowCopy> {
    copies.iter().map(|copy| RowCopy { from: first + copy.from, ..*copy }).collect()
}

/// Images of a step that are to be encoded, and what becomes of their vectors.
#[derive(Default)]
struct Waiting {
    /// Of the tower.
    rows: usize,
    images: Vec<(Arc<PatchRows>, Vec<RowCopy>)>,
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
