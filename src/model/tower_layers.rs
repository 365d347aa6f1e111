//! Layers of a vision tower, and what makes vectors of their rows: ops on the activations of images
//! that run together. Called by `vision`, which knows whose images these are.

use super::architectures::{Joined, Turns};
use super::config::VisionSpec;
use super::weights::{Linear, MergeNorm, MergeProduct, Merger, Standard, TowerLayer};
use crate::device::{AttnSpec, Device, Norm, Seam, Span};
use crate::error::Result;
use crate::internal;

/// Activations of images that run together, `[rows, _]`, and of its tokens from `merged` on.
pub(super) struct TowerBuffers<T> {
    pub(super) patches: T,
    pub(super) residual: T,
    pub(super) delta: T,
    pub(super) normed: T,
    pub(super) qkv: T,
    pub(super) attn: T,
    pub(super) ffn: T,
    pub(super) merged: T,
    /// `merged` behind a norm.
    pub(super) squared: T,
    /// Between products.
    pub(super) inner: Vec<T>,
    /// Vectors: the decoder's input, then what its first layers add.
    pub(super) output: Vec<T>,
    /// Those of the newest images.
    pub(super) kept: Vec<T>,
    /// What the decoder's first layers add, of a step's token rows.
    pub(super) added: Vec<T>,
}

impl<T> TowerBuffers<T> {
    /// The residual becomes what the norm makes of it, if there is one.
    pub(super) fn norm<D: Device<Tensor = T>>(
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

    /// A layer, from residual to residual. `normed`: the layer before has made its first norm;
    /// `next`: of the layer behind, which this one makes.
    pub(super) fn layer<D: Device<Tensor = T>>(
        &mut self,
        dev: &mut D,
        spec: &VisionSpec,
        attn: &AttnSpec,
        layer: &TowerLayer<D::Weight>,
        whole: bool,
        (normed, next): (bool, Option<&Norm<D::Weight>>),
    ) -> Result<()> {
        let TowerLayer { norms, post_norms, qkv, qk_norms, head_norms, out, mlp } = layer;
        let post_norms =
            post_norms.as_ref().map_or([None; 2], |[attn, mlp]| [Some(attn), Some(mlp)]);
        let span = if whole { Span::Image } else { Span::Window };
        if !normed {
            dev.norm(&norms[0], &self.residual, &mut self.normed)?;
        }
        let bias = qkv.bias.as_ref();
        let turns = spec.tower.turns != Turns::None;
        let with_turns = turns && qk_norms.is_none() && head_norms.is_none();
        let own = bias.filter(|_| !with_turns);
        dev.linear(&qkv.weight, own, &self.normed, &mut self.qkv)?;
        if let Some([q, k]) = qk_norms {
            dev.norm_heads(attn, q, k, &mut self.qkv)?;
        }
        for (nth, norm) in head_norms.iter().flatten().enumerate() {
            dev.norm_parts(norm, nth * spec.width..(nth + 1) * spec.width, &mut self.qkv)?;
        }
        if turns {
            dev.turn_rows(attn, bias.filter(|_| with_turns), &mut self.qkv)?;
        }
        dev.attend_spans(attn, span, &self.qkv, &mut self.attn)?;
        self.add_output(dev, out, false, post_norms[0], Some(&norms[1]))?;

        let (up, act) = (&mlp.up, spec.activation);
        dev.linear_act(&up.weight, up.bias.as_ref(), act, &self.normed, &mut self.ffn)?;
        self.add_output(dev, &mlp.down, true, post_norms[1], next)
    }

    /// Add a product of attention's output, or of the MLP's, behind a norm if it has one; and make
    /// the norm of what follows, if that is known.
    fn add_output<D: Device<Tensor = T>>(
        &mut self,
        dev: &mut D,
        linear: &Linear<D::Weight>,
        of_mlp: bool,
        post: Option<&Norm<D::Weight>>,
        next: Option<&Norm<D::Weight>>,
    ) -> Result<()> {
        let TowerBuffers { delta, residual, normed, attn, ffn, .. } = self;
        let (weight, bias) = (&linear.weight, linear.bias.as_ref());
        let from = if of_mlp { &*ffn } else { &*attn };
        if let (None, Some(norm)) = (post, next) {
            let seam = Seam { norm, delta, residual, normed, next: None };
            return dev.linear_add_norm(weight, bias, from, seam);
        }

        dev.linear(weight, bias, from, delta)?;
        if let Some(post) = post {
            dev.norm(post, delta, normed)?;
            std::mem::swap(delta, normed);
        }
        match next {
            Some(norm) => dev.add_norm(norm, delta, residual, normed),
            None => dev.add(delta, residual),
        }
    }

    /// The residual's `rows` patches to the n-th vectors; ops run over squares then.
    pub(super) fn merge<D: Device<Tensor = T>>(
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
        if let Some(Standard { factor, bias, scale }) = &merger.standard {
            dev.standardise(*factor, bias, scale, &mut self.merged)?;
        }
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
