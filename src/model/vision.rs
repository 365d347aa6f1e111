//! The vision tower in a step: it makes vectors of the images whose tokens the step feeds, keeps
//! the newest, and puts them in the place of the table's rows. Called by `decoder` between the
//! lookup of tokens and the first layer. Of a sequence it knows its images and how much of it was
//! fed.

use std::ops::Range;
use std::sync::Arc;

use super::architectures::{Joined, Turns};
use super::config::{PlacesSpec, VisionSpec};
use super::tower_layers::TowerBuffers;
use super::tower_layout::{angles, corners, Layout};
use super::weights::{MergeProduct, TowerWeights};
use crate::device::{
    AttnSpec, Corners, Device, KvScales, PatchOf, RowBlend, RowCopy, TowerLimits, TowerRows,
};
use crate::error::Result;
use crate::image::Processed;
use crate::internal;
use crate::plan::{Arranged, ImageCache, ImageSpan, PatchRows, PromptImages, SlotChange, StepPlan};

/// A tower on a device.
pub(crate) struct VisionTower<D: Device> {
    spec: VisionSpec,
    weights: TowerWeights<D::Weight>,
    attn: AttnSpec,
    buffers: TowerBuffers<D::Tensor>,
    cache: ImageCache,
    slots: Vec<SlotImages>,
    /// Images whose last token the last step fed.
    ended: Vec<[u8; 32]>,
    /// Token rows of this step that have vectors of images.
    fed: Vec<RowCopy>,
}

/// What of a slot matters here.
#[derive(Clone, Default)]
struct SlotImages {
    fed: usize,
    images: Option<Arc<PromptImages>>,
    /// Which of them are kept for it.
    entered: Range<usize>,
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
        let (rows, tokens) = (spec.max_rows(), spec.max_vectors());
        let merged = match weights.merger.joined {
            Joined::Mean => spec.width,
            Joined::SideBySide | Joined::ChannelsFirst => spec.square() * spec.width,
        };
        let patch = Processed::patch_width(&spec.settings);
        let kept = spec.max_tokens.max(step_tokens);
        // All layers have one.
        let ffn = weights.layers.first().map_or(spec.ffn, |layer| layer.mlp.width);
        dev.reserve_tower(&TowerLimits {
            rows,
            patch_width: patch,
            angles: if spec.tower.turns == Turns::None { 0 } else { spec.head_dim() / 2 },
            places: spec.places != PlacesSpec::None,
            gate_up: if spec.activation.is_gated() { 2 * ffn } else { 0 },
            copies: kept.max(step_tokens).max(rows),
            blends: weights.row_end.as_ref().map_or(0, |_| spec.max_tokens),
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
            ffn: dev.tensor(rows, ffn)?,
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
            scale: if spec.tower.unscaled { 1.0 } else { (head_dim as f32).sqrt().recip() },
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
            cache: ImageCache::new(kept),
            slots: Vec::new(),
            ended: Vec::new(),
            fed: Vec::new(),
        })
    }

    /// Patches of images that run together at most.
    pub fn most_patches(&self) -> usize {
        self.spec.max_patches()
    }

    /// Encode an image that nobody sees, of `patches` patches or a few less, a square as nearly as
    /// may be. Behind a step.
    ///
    /// # Errors
    /// Those of the device.
    pub fn rehearse(&mut self, dev: &mut D, patches: usize) -> Result<()> {
        let merge = self.spec.settings.merge;
        let whole = self.spec.max_vectors() / self.spec.settings.most_tiles();
        let tokens = patches / self.spec.square();
        let tiles = (tokens / whole).clamp(1, self.spec.settings.most_tiles());
        let tokens = (tokens / tiles).clamp(1, whole);
        let rows = tokens.isqrt();
        // Not longer than an image may be whose places are a square.
        let columns = (tokens / rows).min(whole.isqrt());
        let width = Processed::patch_width(&self.spec.settings);
        let rows = tiles * rows;
        let image = Arc::new(PatchRows {
            rows: rows * merge,
            columns: columns * merge,
            tiles,
            tokens: rows * columns,
            arranged: None,
            width,
            bytes: vec![0; rows * columns * self.spec.square() * width],
            numbers: Arc::new([[0.0; 256]; 3]),
            hash: [0; 32],
        });

        let layout = Layout::of(&self.spec, std::slice::from_ref(&image));
        let encoded = self.encode(dev, vec![image], &layout);
        dev.end_rows();
        encoded
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
                let entered = slot.enter(&images, &fed, &mut self.ended);
                for n in images.touching(fed.clone()) {
                    let span = &images.spans[n];
                    let copies = copies(span, &fed, first_row);
                    self.put(dev, span, entered.contains(&n), copies, &mut waiting, x)?;
                }
            }
            first_row += tokens;
        }
        self.encode_waiting(dev, &mut waiting, x)
    }

    /// Which slots have images now, and how far they are.
    fn follow(&mut self, plan: &StepPlan) {
        self.ended.drain(..).for_each(|hash| self.cache.leave(&hash));
        for change in &plan.changes {
            let (slot, fed) = match change {
                SlotChange::Open(open) => (open.slot, open.cached_tokens as usize),
                SlotChange::Close { slot } => (*slot, 0),
                _ => continue,
            };
            let at = slot.index();
            if at >= self.slots.len() {
                self.slots.resize(at + 1, SlotImages::default());
            }
            let opened = SlotImages { fed, ..SlotImages::default() };
            let closed = std::mem::replace(&mut self.slots[at], opened);
            if let Some(images) = closed.images {
                let hashes = images.spans[closed.entered].iter().map(|span| span.patches.hash);
                hashes.for_each(|hash| self.cache.leave(&hash));
            }
        }
        for (slot, images) in &plan.images {
            if let Some(held) = self.slots.get_mut(slot.index()) {
                held.images = Some(Arc::clone(images));
            }
        }
    }

    /// Copy an image's vectors to the rows of `x` that `copies` say, from the image's first one:
    /// now if they are kept, else behind the others that wait to be encoded. `new`: the sequence
    /// needs it from now on.
    fn put(
        &mut self,
        dev: &mut D,
        span: &ImageSpan,
        new: bool,
        copies: Vec<RowCopy>,
        waiting: &mut Waiting,
        x: &mut D::Tensor,
    ) -> Result<()> {
        let patches = &span.patches;
        let kept = if new {
            self.cache.enter(&patches.hash)
        } else {
            self.cache.rows(&patches.hash).is_some()
        };
        if kept {
            return self.place_kept(dev, &patches.hash, &copies, x);
        }
        if let Some(waits) = waiting.images.iter_mut().find(|w| w.patches.hash == patches.hash) {
            waits.copies.extend(copies);
            waits.users += 1;
            return Ok(());
        }

        let most = self.spec.max_rows();
        let rows = patches.count() + patches.tiles * self.spec.class_rows();
        if rows > most || patches.count() == 0 {
            return Err(internal!("an image of {rows} rows, at most {most}"));
        }
        if waiting.rows + rows > most {
            self.encode_waiting(dev, waiting, x)?;
        }
        waiting.rows += rows;
        let patches = Arc::clone(patches);
        waiting.images.push(WaitingImage { patches, copies, users: 1 });
        Ok(())
    }

    /// Copy the vectors of an image that is kept: the first to `x`, those of the decoder's first
    /// layers to where `deepen` finds them.
    fn place_kept(
        &mut self,
        dev: &mut D,
        hash: &[u8; 32],
        copies: &[RowCopy],
        x: &mut D::Tensor,
    ) -> Result<()> {
        let rows = self.cache.rows(hash).unwrap_or_default();
        let kept = |copy: &RowCopy| Some(RowCopy { from: *rows.get(copy.from)?, to: copy.to });
        let copies: Option<Vec<RowCopy>> = copies.iter().map(kept).collect();
        let copies = copies.ok_or_else(|| internal!("vectors of an image that are not kept"))?;
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
        let patches: Vec<Arc<PatchRows>> =
            images.iter().map(|waiting| Arc::clone(&waiting.patches)).collect();
        let layout = Layout::of(&self.spec, &patches);
        let encoded = self.encode(dev, patches, &layout);
        dev.end_rows();
        encoded?;

        let mut row = 0;
        for WaitingImage { patches, copies, users } in images {
            let hash = patches.hash;
            self.cache.add(hash, patches.tokens, users);
            let vectors = patches.count() / self.spec.square();
            self.keep(dev, &patches, row, &layout.tokens[row..row + vectors])?;
            // Before a later one may come to lie over it.
            self.place_kept(dev, &hash, &copies, x)?;
            row += vectors;
        }
        Ok(())
    }

    /// Keep the vectors of an image, which stand from a row of the output on in this order.
    fn keep(
        &mut self,
        dev: &mut D,
        patches: &PatchRows,
        first: usize,
        order: &[usize],
    ) -> Result<()> {
        let rows = self.cache.rows(&patches.hash).unwrap_or_default();
        let TowerBuffers { output, kept, .. } = &mut self.buffers;
        let mut pairs = output.iter().zip(kept);
        if let Some(arranged) = &patches.arranged {
            let (Some((output, kept)), Some(row_end)) = (pairs.next(), &self.weights.row_end)
            else {
                return Err(internal!("vectors to arrange, and none that ends rows"));
            };
            // Such a tower has no windows: vectors stand in the order of squares.
            let end = first + order.len();
            let blend =
                |(one, &to): (&Arranged, &usize)| RowBlend { of: shares(one, first, end), to };
            let blends: Vec<RowBlend> = arranged.iter().zip(rows).map(blend).collect();
            return dev.blend_rows(output, end, row_end, &blends, kept);
        }
        let order = order.iter().enumerate();
        let keep: Vec<RowCopy> =
            order.map(|(r, &token)| RowCopy { from: first + r, to: rows[token] }).collect();
        for (output, kept) in pairs {
            dev.copy_rows(output, &keep, kept)?;
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
        let mut normed = false;
        for (index, (layer, &whole)) in w.layers.iter().zip(&self.spec.whole).enumerate() {
            // A merger between layers has a norm of its own.
            let merges = deep.peek().is_some_and(|((at, _), _)| **at == index);
            let next = w.layers.get(index + 1).filter(|_| !merges).map(|next| &next.norms[0]);
            b.layer(dev, &self.spec, &self.attn, layer, whole, (normed, next))?;
            normed = next.is_some();
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

/// What a vector is made of: rows of the output, where the image's begin at `first`, and at `end`
/// the one that ends rows.
fn shares(one: &Arranged, first: usize, end: usize) -> Corners {
    let nothing = (first, 0.0);
    match *one {
        Arranged::Square(n) => [(first + n as usize, 1.0), nothing, nothing, nothing],
        Arranged::Between(four) => four.map(|(n, share)| (first + n as usize, share)),
        Arranged::RowEnd => [(end, 1.0), nothing, nothing, nothing],
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

/// Images of a step that are to be encoded, and what becomes of their vectors.
#[derive(Default)]
struct Waiting {
    /// Of the tower.
    rows: usize,
    images: Vec<WaitingImage>,
}

struct WaitingImage {
    patches: Arc<PatchRows>,
    copies: Vec<RowCopy>,
    /// Sequences that need it.
    users: usize,
}

impl SlotImages {
    /// The tokens `fed` are fed: which images the sequence needs from now on. `ended`: those that
    /// it needs no longer when the step has run.
    fn enter(
        &mut self,
        images: &PromptImages,
        fed: &Range<usize>,
        ended: &mut Vec<[u8; 32]>,
    ) -> Range<usize> {
        let touched = images.touching(fed.clone());
        // The last token of a prompt may be fed once more.
        let again = touched.start < self.entered.start || self.entered.is_empty();
        let new = if again { touched.clone() } else { self.entered.end..touched.end };
        let from = if again { touched.start } else { self.entered.start };
        let first = (from..touched.end).find(|&n| images.image_end(n) > fed.end);
        let first = first.unwrap_or(touched.end);
        ended.extend(images.spans[from..first].iter().map(|span| span.patches.hash));
        self.entered = first..touched.end;
        new
    }
}
