//! The forward pass, written once over [`Device`]. `engine` loads a [`Decoder`] and drives it step
//! by step. Families differ in data ([`ModelSpec`], [`Weights`]), never in code. It knows no
//! tokens' values, no pages, no graphs and no streams. (docs/architecture.md, Laws: one forward
//! pass.)

mod between_steps;
mod feed_forward;
mod few_rows;
mod head;

use super::checkpoint::WeightSource;
use super::config::{LayerAttention, ModelSpec, NormOrder};
use super::draft_head::DraftHeadPass;
use super::head_attention::{HeadBuffers, HeadRules};
use super::hidden::HiddenRows;
use super::latent::LatentBuffers;
use super::layer_input::LayerInputBuffers;
use super::layer_kinds;
use super::load;
use super::lora;
use super::mixture_layer::MixtureBuffers;
use super::recurrent_layer::RecurrentBuffers;
use super::seam::{self, Behind};
use super::shard::{Cut, Shard};
use super::vision::VisionTower;
use super::weights::{Layer, Mixer, PositionTable, SharedEnds, Weights};
use crate::device::{Activation, Device, DeviceLimits, LogitsRows, Norm, Pooling, Rope};
use crate::error::Result;
use crate::internal;
use crate::plan::{StepPlan, TokenMasks};

/// A decoder on a device: weights and the buffers of a step.
pub struct Decoder<D: Device> {
    weights: Weights<D::Weight>,
    attention: Vec<LayerAttention>,
    /// Of each layer its number among those that keep the same: K and V, or a state.
    places: Vec<usize>,
    ropes: Vec<Rope>,
    activation: Activation,
    norms: NormOrder,
    parallel: bool,
    token_rows: usize,
    embed_scale: f32,
    logit_softcap: Option<f32>,
    clip_qkv: Option<f32>,
    /// Norms of q and k follow their rotation.
    norms_after_rope: bool,
    /// Tokens see those behind them too, and nothing is kept in pages.
    encoder: bool,
    /// The model embeds or classifies.
    pooling: Option<Pooling>,
    /// Which linears of each layer have adapter slots.
    adapted: Vec<[bool; lora::PROJECTIONS]>,
    /// What adapters are cut by as they are installed.
    shard: Shard,
    cuts: Vec<[Cut; lora::PROJECTIONS]>,
    adapted_embed: bool,
    adapted_head: bool,
    tower: Option<VisionTower<D>>,
    /// It is a head that drafts.
    draft_head: Option<DraftHeadPass<D>>,
    /// A head drafts from its hidden states.
    hidden_rows: Option<HiddenRows<D>>,
    /// Of the current step.
    logits_rows: LogitsRows,
    buffers: Buffers<D::Tensor>,
}

/// Activations, `[step_tokens, _]` up to `attn` and `[logits_rows, _]` from `gathered` on. Made
/// once, so that their addresses never change.
struct Buffers<T> {
    /// Token vectors as wide as the table; only where a projection follows.
    embedded: Option<T>,
    residual: T,
    /// A sublayer's output, before it is added.
    delta: T,
    normed: T,
    attention: AttentionBuffers<T>,
    attn: T,
    /// Gates of attention's output.
    gate: Option<T>,
    recurrent: Option<RecurrentBuffers<T>>,
    layer_inputs: Option<LayerInputBuffers<T>>,
    ffn: T,
    mixture: Option<MixtureBuffers<T>>,
    few: Option<FewRows<T>>,
    /// Residuals of the logits rows.
    gathered: T,
    projected: Option<T>,
    /// Or pooled vectors.
    logits: T,
}

/// The rows that have logits, `[logits_rows, _]`: in place of the buffers of all rows from the last
/// layer's attention to the head.
struct FewRows<T> {
    attn: T,
    residual: T,
}

/// Of what comes before attention's output, `[step_tokens, _]`.
enum AttentionBuffers<T> {
    Heads(HeadBuffers<T>),
    Latent(LatentBuffers<T>),
}

impl<D: Device> Decoder<D> {
    /// Upload what the device's rank holds of the weights, make the buffers, reserve pages (of the
    /// rank's KV heads) and slots: all memory is taken here.
    ///
    /// # Errors
    /// Those of [`Shard::new`], [`load::load`] and [`load::kv_scales`]; out of memory on the
    /// device.
    pub fn load(
        spec: &ModelSpec,
        format: &WeightSource,
        dev: &mut D,
        limits: &DeviceLimits,
    ) -> Result<Decoder<D>> {
        Decoder::load_sharing(spec, format, dev, limits, SharedEnds::default())
    }

    /// The same of a head, whose model `shared` was taken of.
    ///
    /// # Errors
    /// As `load`.
    pub fn load_sharing(
        spec: &ModelSpec,
        format: &WeightSource,
        dev: &mut D,
        limits: &DeviceLimits,
        shared: SharedEnds<D::Weight>,
    ) -> Result<Decoder<D>> {
        let shard = Shard::new(spec, dev.rank())?;
        let weights = load::load(spec, &shard, format, dev, shared)?;
        let scales = load::kv_scales(spec, format, limits.kv.dtype)?;
        let mut decoder = Decoder::around(weights, spec, shard, dev, limits)?;
        for (layer, scales) in decoder.attention.iter_mut().zip(scales) {
            layer.attn.kv_scales = scales;
        }
        Ok(decoder)
    }

    /// The same for a device that only counts: no tensor's values are read.
    ///
    /// # Errors
    /// Those of [`Shard::new`] and [`load::load_shapes`].
    pub fn load_shapes(
        spec: &ModelSpec,
        format: &WeightSource,
        dev: &mut D,
        limits: &DeviceLimits,
    ) -> Result<Decoder<D>> {
        let shard = Shard::new(spec, dev.rank())?;
        let weights = load::load_shapes(spec, &shard, format, dev)?;
        Decoder::around(weights, spec, shard, dev, limits)
    }

    fn around(
        mut weights: Weights<D::Weight>,
        spec: &ModelSpec,
        shard: Shard,
        dev: &mut D,
        limits: &DeviceLimits,
    ) -> Result<Decoder<D>> {
        let tokens = limits.step_tokens;
        let mut buffers = Buffers::new(dev, spec, &shard, &weights, limits)?;
        let first = weights.layers.iter().find_map(|layer| layer.mixer.as_ref());
        if let Some(mixer) = first.filter(|_| spec.norms == NormOrder::Before) {
            dev.feeds(&mut buffers.normed, mixer.first())?;
        }
        let tower = match (&spec.vision, weights.tower.take()) {
            (Some(vision), Some(tower)) => {
                Some(VisionTower::new(dev, vision, tower, spec.hidden, tokens)?)
            }
            _ => None,
        };
        let draft_head = weights.draft_head.take();
        let draft_head =
            draft_head.map(|head| DraftHeadPass::new(dev, spec, head, limits)).transpose()?;
        dev.reserve(limits)?;
        dev.steady();

        Ok(Decoder {
            weights,
            attention: shard.attention(spec),
            places: spec.places(),
            ropes: spec.ropes.clone(),
            activation: spec.activation,
            norms: spec.norms,
            parallel: spec.parallel,
            token_rows: spec.token_rows(),
            embed_scale: spec.embed_scale,
            logit_softcap: spec.logit_softcap,
            clip_qkv: spec.clip_qkv,
            norms_after_rope: spec.family.norms_after_rope,
            encoder: spec.family.encoder,
            pooling: spec.pooling.as_ref().map(|rule| rule.kind),
            adapted: (0..spec.layers).map(|i| lora::reached(spec, i)).collect(),
            adapted_embed: lora::reaches_embed(spec),
            adapted_head: lora::reaches_head(spec),
            cuts: (0..spec.layers).map(|i| lora::cuts(spec, &shard, i)).collect(),
            shard,
            tower,
            draft_head,
            hidden_rows: None,
            logits_rows: LogitsRows::Gathered,
            buffers,
        })
    }

    /// Keep hidden states from the first step on, for a head that drafts.
    pub fn keep_hidden(&mut self, rows: HiddenRows<D>) {
        self.hidden_rows = Some(rows);
    }

    /// Those that are kept, if a head drafts.
    pub fn hidden_rows(&mut self) -> Option<&mut HiddenRows<D>> {
        self.hidden_rows.as_mut()
    }

    /// Begin a step and enqueue its forward pass, up to its logits rows.
    ///
    /// # Errors
    /// Internal: the plan has a token that the embedding table has no row for; the device has not
    /// seen it then. Requests with such tokens are refused long before: on a GPU they would be rows
    /// of zeros.
    pub fn step(&mut self, dev: &mut D, plan: &StepPlan) -> Result<()> {
        self.step_beside(dev, plan, None)
    }

    /// The same of a head that drafts: it reads the rows that the model's decoder keeps of a
    /// token's hidden state, and leaves there what it says of the next one's.
    ///
    /// # Errors
    /// As `step`.
    pub fn step_beside(
        &mut self,
        dev: &mut D,
        plan: &StepPlan,
        kept: Option<&mut D::Tensor>,
    ) -> Result<()> {
        if let Some(token) = plan.chunk_tokens.iter().find(|t| t.index() >= self.token_rows) {
            return Err(internal!("token {token} in a table of {} rows", self.token_rows));
        }
        if let Some(rows) = &mut self.hidden_rows {
            rows.begin(dev, plan)?;
        }
        dev.begin(plan)?;
        self.logits_rows = self.rows_of_logits(dev);
        self.embed(dev, plan, kept.as_deref())?;
        for layer in 0..self.weights.layers.len() {
            self.tap(dev, layer)?;
            self.layer(dev, layer, Some(layer + 1))?;
        }
        self.tap(dev, self.weights.layers.len())?;
        self.head(dev, kept)?;
        self.end_few(dev);
        dev.forwarded()
    }

    /// A step whose tokens nobody wants, over the first layer of each kind: what a device does at
    /// its first step of a size is done then. Before the first real step; no size that one plan had
    /// may come again.
    ///
    /// # Errors
    /// As [`Decoder::step`] and [`Decoder::sample`].
    pub fn rehearse(&mut self, dev: &mut D, plan: &StepPlan) -> Result<()> {
        dev.begin(plan)?;
        self.logits_rows = LogitsRows::Gathered;
        self.embed(dev, plan, None)?;
        for layer in layer_kinds::first_of_each(&self.attention, &self.weights.layers) {
            self.layer(dev, layer, None)?;
        }
        self.head(dev, None)?;
        dev.forwarded()?;
        self.sample(dev, &TokenMasks::default())
    }

    /// What makes vectors of images, if it takes some.
    pub(crate) fn tower(&mut self) -> Option<&mut VisionTower<D>> {
        self.tower.as_mut()
    }

    /// Enqueue the choice of tokens, or the vectors' way back: the second half of the step begun
    /// last.
    pub fn sample(&mut self, dev: &mut D, masks: &TokenMasks) -> Result<()> {
        if self.pooling.is_some() {
            return dev.hand_over(&self.buffers.logits);
        }
        dev.sample(&mut self.buffers.logits, masks)
    }

    /// The first `rows` rows of the last step's logits, `[rows, vocab]`, or pooled vectors, in the
    /// order of its logits rows. Waits. A device may change them while it samples, so read
    /// before.
    pub fn logits(&self, dev: &mut D, rows: usize) -> Result<Vec<f32>> {
        dev.read(&self.buffers.logits, rows)
    }

    fn embed(&mut self, dev: &mut D, plan: &StepPlan, kept: Option<&D::Tensor>) -> Result<()> {
        let (w, b) = (&self.weights, &mut self.buffers);
        // The layers take it up normed, or beside a hidden state.
        let apart = w.embed_norm.is_some() || self.draft_head.is_some();
        let embedding = if apart { &mut b.delta } else { &mut b.residual };
        match (&w.project_in, &mut b.embedded) {
            (Some(project), Some(embedded)) => {
                dev.embed(&w.embed, self.embed_scale, embedded)?;
                dev.linear(project, None, embedded, embedding)?;
            }
            _ => dev.embed(&w.embed, self.embed_scale, embedding)?,
        }
        if let Some(tower) = &mut self.tower {
            tower.place(dev, plan, embedding)?;
        }
        if let Some(PositionTable { table, offset }) = &w.positions {
            dev.add_positions(table, *offset, embedding)?;
        }

        if let Some(norm) = &w.embed_norm {
            dev.norm(norm, &b.delta, &mut b.residual)?;
            if w.first.is_none() && self.norms == NormOrder::Before {
                dev.norm(norm, &b.delta, &mut b.normed)?;
            }
        }
        if let Some(head) = &mut self.draft_head {
            head.enter(dev, kept, &b.delta, &mut b.residual, &mut b.normed)?;
        }
        if let (Some(table), Some(inputs)) = (&w.layer_table, &mut b.layer_inputs) {
            inputs.look_up(dev, table, &b.residual)?;
        }
        match &w.first {
            Some(norm) => dev.norm(norm, &b.residual, &mut b.normed),
            None => Ok(()),
        }
    }

    /// A layer; `next` is the number of the one behind it, if there is one and it is what follows.
    fn layer(&mut self, dev: &mut D, index: usize, next: Option<usize>) -> Result<()> {
        let mut added = false;
        match &self.weights.layers[index].mixer {
            Some(Mixer::Heads(_) | Mixer::Latent(_)) => {
                self.attention(dev, index)?;
                if !self.leave_few(dev, index)? {
                    return Ok(());
                }
                added = self.attention_output(dev, index)?;
            }
            Some(Mixer::Beside(..)) => {
                self.attention(dev, index)?;
                self.attention_output(dev, index)?;
                self.recurrent(dev, index)?;
            }
            Some(_) => self.recurrent(dev, index)?,
            None => {}
        }

        let b = &mut self.buffers;
        let norms = self.norms;
        let layer = &self.weights.layers[index];
        if layer.mixer.is_none() && layer.feed_forward.is_none() {
            return Ok(());
        }
        if layer.mixer.is_some() {
            b.norm_output(dev, layer.attn_post.as_ref())?;
        }
        if let Some(feed_forward) = &layer.feed_forward {
            match (self.parallel, &layer.after_attn) {
                _ if layer.mixer.is_none() || added => {}
                (false, norm) => b.add_output(dev, norm.as_ref(), norms)?,
                (true, Some(norm)) => dev.norm(norm, &b.residual, &mut b.normed)?,
                (true, None) => {}
            }
            let deepens = self.tower.as_ref().is_some_and(|tower| tower.deepens(index));
            let straight = norms == NormOrder::Before && !deepens;
            let norm = layer.norm_behind_feed_forward().filter(|_| straight);
            let taken = |next: usize| self.hidden_rows.as_ref().is_some_and(|r| r.takes(next));
            let next = next.filter(|&next| !self.parallel && !taken(next));
            // Of a residual that is gathered each rank needs all rows.
            let few = matches!(self.logits_rows, LogitsRows::Few(_)) && dev.rank().of > 1;
            let next = next.filter(|&next| !few || next + 1 < self.weights.layers.len());
            let next = next.and_then(|next| seam::attention(self.weights.layers.get(next)?));
            let behind = norm.map(|norm| Behind { norm, next });
            b.feed_forward(dev, feed_forward, self.activation, norms, self.parallel, behind)?;
            if norm.is_some() {
                return Ok(());
            }
            b.norm_output(dev, layer.mlp_post.as_ref())?;
        }
        if let Some(tower) = &self.tower {
            tower.deepen(dev, index, &mut b.delta)?;
        }
        b.end_layer(dev, layer, index, self.activation.ungated(), norms)
    }

    /// A layer's attention, from its input to `attn`.
    fn attention(&mut self, dev: &mut D, index: usize) -> Result<()> {
        let b = &mut self.buffers;
        let place = self.places[index];
        let LayerAttention { attn, rope, keys } = &self.attention[index];
        let input = if self.norms == NormOrder::Before { &b.normed } else { &b.residual };
        let wide = self.draft_head.as_ref().filter(|_| index == 0).and_then(|head| head.wide());
        let input = wide.unwrap_or(input);
        let rope = rope.and_then(|i| self.ropes.get(i));

        match (&self.weights.layers[index].mixer, &mut b.attention) {
            (
                Some(Mixer::Heads(heads) | Mixer::Beside(heads, _)),
                AttentionBuffers::Heads(buffers),
            ) => {
                let rules = HeadRules {
                    attn,
                    keys: *keys,
                    rope,
                    clip_qkv: self.clip_qkv,
                    norms_after_rope: self.norms_after_rope,
                    encoder: self.encoder,
                };
                if let (Some(gate), Some(gates)) = (&heads.gate, &mut b.gate) {
                    dev.linear(&gate.weight, gate.bias.as_ref(), input, gates)?;
                }
                rules.run(dev, place, heads, input, buffers, &mut b.attn)?;
                match &b.gate {
                    Some(gates) => dev.gate_output(gates, &mut b.attn),
                    None => Ok(()),
                }
            }
            (Some(Mixer::Latent(latent)), AttentionBuffers::Latent(buffers)) => {
                buffers.run(dev, place, latent, attn.scale, rope, input, &mut b.attn)
            }
            _ => Err(internal!("layer {index} has no attention, or not its buffers")),
        }
    }

    /// The end of a layer's attention, from `attn` to `delta`; or, where a norm is all that
    /// follows, to that (true).
    fn attention_output(&mut self, dev: &mut D, index: usize) -> Result<bool> {
        let b = &mut self.buffers;
        let out = match &self.weights.layers[index].mixer {
            Some(Mixer::Heads(heads) | Mixer::Beside(heads, _)) => &heads.out,
            Some(Mixer::Latent(latent)) => &latent.out,
            _ => return Err(internal!("layer {index} has no attention to end")),
        };
        let straight = self.norms == NormOrder::Before && !self.parallel;
        let layer = &self.weights.layers[index];
        let norm = layer.norm_behind_attention().filter(|_| straight);
        let deepens = self.tower.as_ref().is_some_and(|tower| tower.deepens(index));
        let next = seam::mlp(layer).filter(|_| !deepens);
        let behind = norm.map(|norm| Behind { norm, next });
        seam::output(dev, out, &b.attn, behind, &mut b.delta, &mut b.residual, &mut b.normed)?;
        Ok(norm.is_some())
    }

    /// What keeps a layer's state, from its input to `delta`; beside attention it is added there.
    fn recurrent(&mut self, dev: &mut D, index: usize) -> Result<()> {
        let b = &mut self.buffers;
        let mixer = self.weights.layers[index].mixer.as_ref();
        let Some((buffers, mixer)) = b.recurrent.as_mut().zip(mixer) else {
            return Err(internal!("layer {index} keeps a state and has no buffers"));
        };
        let input = if self.norms == NormOrder::Before { &b.normed } else { &b.residual };
        buffers.run(dev, self.places[index], mixer, input, &mut b.delta)
    }

    /// The residual enters a layer, or leaves the last.
    fn tap(&mut self, dev: &mut D, layer: usize) -> Result<()> {
        let Some(rows) = &mut self.hidden_rows else { return Ok(()) };
        rows.enters(dev, layer, &self.buffers.residual)
    }
}

impl<T> Buffers<T> {
    fn new<D: Device<Tensor = T>>(
        dev: &mut D,
        spec: &ModelSpec,
        shard: &Shard,
        weights: &Weights<D::Weight>,
        limits: &DeviceLimits,
    ) -> Result<Buffers<T>> {
        let tokens = limits.step_tokens;
        let rows = limits.logits_rows;
        let attention = shard.attention(spec).into_iter().zip(&spec.sublayers);
        let attention: Vec<LayerAttention> =
            attention.filter(|(_, parts)| parts.attention).map(|(layer, _)| layer).collect();
        let attn = (0..spec.layers)
            .filter(|&i| spec.sublayers[i].attention)
            .map(|i| shard.attn_out(spec, i).inputs(spec.attn_width(i)));
        // A column where no layer has attention.
        let attn = attn.max().unwrap_or(1);
        let answer = if spec.pooling.is_some() { spec.hidden } else { spec.vocab_size };
        let optional = |dev: &mut D, on: bool, rows| {
            on.then(|| dev.tensor(rows, spec.embed_width)).transpose()
        };
        Ok(Buffers {
            embedded: optional(dev, weights.project_in.is_some(), tokens)?,
            residual: dev.tensor(tokens, spec.hidden)?,
            delta: dev.tensor(tokens, spec.hidden)?,
            normed: dev.tensor(tokens, spec.hidden)?,
            attention: match &spec.latent {
                Some(shape) => {
                    AttentionBuffers::Latent(LatentBuffers::new(dev, shape, shard.heads, tokens)?)
                }
                None => AttentionBuffers::Heads(HeadBuffers::new(dev, &attention, tokens)?),
            },
            attn: dev.tensor(tokens, attn)?,
            gate: spec.family.output_gate.then(|| dev.tensor(tokens, attn)).transpose()?,
            recurrent: RecurrentBuffers::new(dev, spec, shard, tokens)?,
            layer_inputs: LayerInputBuffers::new(dev, spec, tokens)?,
            // A column where all layers have experts.
            ffn: dev.tensor(tokens, shard.ffn.max(1))?,
            mixture: MixtureBuffers::new(dev, spec, shard, tokens)?,
            few: FewRows::new(dev, spec, shard, weights, rows)?,
            gathered: dev.tensor(rows, spec.hidden)?,
            projected: optional(dev, weights.project_out.is_some(), rows)?,
            logits: dev.logits_tensor(rows, answer)?,
        })
    }

    /// The end of a layer: its output is added, then what it makes of its own input; the residual
    /// is scaled, and normed for what follows.
    fn end_layer<D: Device<Tensor = T>>(
        &mut self,
        dev: &mut D,
        layer: &Layer<D::Weight>,
        index: usize,
        act: Activation,
        norms: NormOrder,
    ) -> Result<()> {
        if layer.input.is_none() && layer.scalar.is_none() {
            return self.add_output(dev, layer.after_mlp.as_ref(), norms);
        }

        let Buffers { residual, delta, normed, layer_inputs, .. } = self;
        dev.add(delta, residual)?;
        if let (Some(weights), Some(inputs)) = (&layer.input, layer_inputs) {
            inputs.run(dev, weights, index, act, residual, delta)?;
            dev.norm(&weights.post, delta, normed)?;
            dev.add(normed, residual)?;
        }

        if let Some(scalar) = layer.scalar {
            dev.scale(scalar, residual)?;
        }
        match &layer.after_mlp {
            Some(norm) => dev.norm(norm, residual, normed),
            None => Ok(()),
        }
    }

    /// Norm a sublayer's output. The normed input is not needed any more, so the two buffers change
    /// roles; twice per layer, if at all.
    fn norm_output<D: Device<Tensor = T>>(
        &mut self,
        dev: &mut D,
        norm: Option<&Norm<D::Weight>>,
    ) -> Result<()> {
        if let Some(norm) = norm {
            dev.norm(norm, &self.delta, &mut self.normed)?;
            std::mem::swap(&mut self.delta, &mut self.normed);
        }
        Ok(())
    }

    /// Between two sublayers: add the output, norm. In norm-after models the normed vectors
    /// are the residual that goes on, so the two buffers change roles; an even number of times per
    /// layer.
    fn add_output<D: Device<Tensor = T>>(
        &mut self,
        dev: &mut D,
        norm: Option<&Norm<D::Weight>>,
        norms: NormOrder,
    ) -> Result<()> {
        let Some(norm) = norm else { return dev.add(&self.delta, &mut self.residual) };
        dev.add_norm(norm, &self.delta, &mut self.residual, &mut self.normed)?;
        if norms == NormOrder::After {
            std::mem::swap(&mut self.residual, &mut self.normed);
        }
        Ok(())
    }
}
