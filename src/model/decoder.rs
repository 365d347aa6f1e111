//! The forward pass, written once over [`Device`]. `engine` loads a [`Decoder`] and drives it step
//! by step. Families differ in data ([`ModelSpec`], [`Weights`]), never in code. It knows no
//! tokens' values, no pages, no graphs and no streams. (docs/architecture.md, Laws: one forward
//! pass.)

use super::checkpoint::WeightSource;
use super::config::{LayerAttention, ModelSpec, NormOrder};
use super::latent::LatentBuffers;
use super::load;
use super::lora::{self, Adapter};
use super::recurrent_layer::RecurrentBuffers;
use super::shard::{Cut, Shard};
use super::vision::VisionTower;
use super::weights::{
    Experts, FeedForward, HeadAttention, Mixer, Mlp, PositionTable, QkNorms, Weights,
};
use crate::device::{Activation, AttnSpec, Device, DeviceLimits, Norm, Pooling, Rope};
use crate::error::Result;
use crate::ids::AdapterSlotId;
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
    /// Which linears of a layer have adapter slots.
    adapted: [bool; lora::PROJECTIONS],
    /// What adapters are cut by as they are installed.
    shard: Shard,
    cuts: [Cut; lora::PROJECTIONS],
    adapted_embed: bool,
    adapted_head: bool,
    tower: Option<VisionTower<D>>,
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
    ffn: T,
    mixture: Option<MixtureBuffers<T>>,
    /// Residuals of the logits rows.
    gathered: T,
    projected: Option<T>,
    /// Or pooled vectors.
    logits: T,
}

/// Of what comes before attention's output, `[step_tokens, _]`.
enum AttentionBuffers<T> {
    /// q, k and v.
    Heads(T),
    Latent(LatentBuffers<T>),
}

impl<T> AttentionBuffers<T> {
    fn new<D: Device<Tensor = T>>(
        dev: &mut D,
        spec: &ModelSpec,
        shard: &Shard,
        tokens: usize,
    ) -> Result<AttentionBuffers<T>> {
        if let Some(shape) = &spec.latent {
            let buffers = LatentBuffers::new(dev, shape, shard.heads, tokens)?;
            return Ok(AttentionBuffers::Latent(buffers));
        }
        let heads = shard.heads + 2 * shard.kv_heads;
        Ok(AttentionBuffers::Heads(dev.tensor(tokens, heads * spec.head_dim)?))
    }
}

/// Of layers with experts; all but the last are `[step_tokens * top_k, _]` or for the device alone.
struct MixtureBuffers<T> {
    routes: T,
    ffn: T,
    parts: T,
    shared: Option<SharedBuffers<T>>,
}

/// Of the expert that all tokens share, `[step_tokens, _]`.
struct SharedBuffers<T> {
    ffn: T,
    output: T,
}

impl<T> MixtureBuffers<T> {
    fn new<D: Device<Tensor = T>>(
        dev: &mut D,
        spec: &ModelSpec,
        shard: &Shard,
        tokens: usize,
    ) -> Result<Option<MixtureBuffers<T>>> {
        let Some(mixture) = &spec.mixture else { return Ok(None) };
        let choices = tokens * mixture.routing.top_k;
        let hidden = spec.hidden;
        Ok(Some(MixtureBuffers {
            routes: dev.routes_tensor(tokens, &mixture.routing)?,
            ffn: dev.tensor(choices, shard.expert_ffn)?,
            parts: dev.tensor(choices, hidden)?,
            shared: match shard.shared_ffn {
                Some(ffn) => Some(SharedBuffers {
                    ffn: dev.tensor(tokens, ffn)?,
                    output: dev.tensor(tokens, hidden)?,
                }),
                None => None,
            },
        }))
    }

    /// The experts that each row of `input` chooses and the one that all share, into `output`.
    fn run<D: Device<Tensor = T>>(
        &mut self,
        dev: &mut D,
        experts: &Experts<D::Weight>,
        act: Activation,
        input: &T,
        output: &mut T,
    ) -> Result<()> {
        let Experts { router, up, down, .. } = experts;
        let chosen = experts.activation.unwrap_or(act);
        let biases = (router.bias.as_ref(), experts.choice_bias.as_ref());
        let routing = &experts.routing;
        dev.route(&router.weight, biases.0, biases.1, routing, input, &mut self.routes)?;
        dev.experts_act(&up.weight, up.bias.as_ref(), chosen, &self.routes, input, &mut self.ffn)?;
        dev.experts(&down.weight, down.bias.as_ref(), &self.routes, &self.ffn, &mut self.parts)?;
        dev.combine(&down.weight, &self.routes, &self.parts, output)?;

        let Some((expert, b)) = experts.shared.as_ref().zip(self.shared.as_mut()) else {
            return Ok(());
        };
        let Mlp { up, down, .. } = &expert.mlp;
        dev.linear_act(&up.weight, up.bias.as_ref(), act, input, &mut b.ffn)?;
        dev.linear(&down.weight, down.bias.as_ref(), &b.ffn, &mut b.output)?;
        match &expert.gate {
            Some(gate) => dev.add_gated(gate, input, &b.output, output),
            None => dev.add(&b.output, output),
        }
    }
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
        let shard = Shard::new(spec, dev.rank())?;
        let weights = load::load(spec, &shard, format, dev)?;
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
        let rows = limits.logits_rows;
        let attn = shard.attn_out(spec).inputs(spec.attn_width());
        let answer = if spec.pooling.is_some() { spec.hidden } else { spec.vocab_size };
        let optional = |dev: &mut D, on: bool, rows| {
            on.then(|| dev.tensor(rows, spec.embed_width)).transpose()
        };
        let plain = (0..spec.layers).any(|layer| spec.has_mlp(layer));
        let mut buffers = Buffers {
            embedded: optional(dev, weights.project_in.is_some(), tokens)?,
            residual: dev.tensor(tokens, spec.hidden)?,
            delta: dev.tensor(tokens, spec.hidden)?,
            normed: dev.tensor(tokens, spec.hidden)?,
            attention: AttentionBuffers::new(dev, spec, &shard, tokens)?,
            attn: dev.tensor(tokens, attn)?,
            gate: spec.family.output_gate.then(|| dev.tensor(tokens, attn)).transpose()?,
            recurrent: RecurrentBuffers::new(dev, spec, &shard, tokens)?,
            // A column where all layers have experts.
            ffn: dev.tensor(tokens, if plain { shard.ffn } else { 1 })?,
            mixture: MixtureBuffers::new(dev, spec, &shard, tokens)?,
            gathered: dev.tensor(rows, spec.hidden)?,
            projected: optional(dev, weights.project_out.is_some(), rows)?,
            logits: dev.logits_tensor(rows, answer)?,
        };
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
            adapted: lora::projections(spec)
                .map(|p| spec.adapters.as_ref().is_some_and(|o| o.reaches(&p))),
            adapted_embed: lora::reaches_embed(spec),
            adapted_head: lora::reaches_head(spec),
            cuts: lora::cuts(spec, &shard),
            shard,
            tower,
            buffers,
        })
    }

    /// Put an adapter into an adapter slot, for the steps begun from now on.
    ///
    /// # Errors
    /// Those of the device; it is lost then.
    pub fn install(
        &mut self,
        dev: &mut D,
        adapter_slot: AdapterSlotId,
        adapter: &Adapter,
    ) -> Result<()> {
        for (i, layer) in self.weights.layers.iter_mut().enumerate() {
            for (p, linear) in layer.linears_mut().into_iter().enumerate() {
                if let Some(linear) = linear.filter(|_| self.adapted[p]) {
                    let parts = adapter.parts(i, p, &self.cuts[p])?;
                    dev.install(&mut linear.weight, adapter_slot, &parts)?;
                }
            }
        }
        if self.adapted_embed {
            let part = adapter.embed(&self.shard)?;
            dev.install_table(&mut self.weights.embed, adapter_slot, part)?;
        }
        if self.adapted_head {
            let head = self.weights.head.as_mut().unwrap_or(&mut self.weights.embed);
            dev.install(head, adapter_slot, &[adapter.head(&self.shard)?])?;
        }
        Ok(())
    }

    /// Begin a step and enqueue its forward pass, up to its logits rows.
    ///
    /// # Errors
    /// Internal: the plan has a token that the embedding table has no row for; the device has not
    /// seen it then. Requests with such tokens are refused long before: on a GPU they would be rows
    /// of zeros.
    pub fn step(&mut self, dev: &mut D, plan: &StepPlan) -> Result<()> {
        if let Some(token) = plan.chunk_tokens.iter().find(|t| t.index() >= self.token_rows) {
            return Err(internal!("token {token} in a table of {} rows", self.token_rows));
        }
        dev.begin(plan)?;
        self.embed(dev, plan)?;
        for layer in 0..self.weights.layers.len() {
            self.layer(dev, layer)?;
        }
        self.head(dev)?;
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
        self.embed(dev, plan)?;
        for layer in self.layers_of_each_kind() {
            self.layer(dev, layer)?;
        }
        self.head(dev)?;
        dev.forwarded()?;
        self.sample(dev, &TokenMasks::default())
    }

    /// The first layer of each kind: others call the same ops with the same shapes.
    fn layers_of_each_kind(&self) -> Vec<usize> {
        let kind = |index: &usize| {
            let attention = &self.attention[*index];
            let layer = &self.weights.layers[*index];
            let mixer = layer.mixer.as_ref().map(std::mem::discriminant);
            let feed_forward = layer.feed_forward.as_ref().map(std::mem::discriminant);
            (attention.attn.window, attention.rope, mixer, feed_forward)
        };
        let mut kinds = Vec::new();
        let is_new = |index: &usize| {
            let new = !kinds.contains(&kind(index));
            kinds.extend(new.then(|| kind(index)));
            new
        };
        (0..self.weights.layers.len()).filter(is_new).collect()
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

    fn embed(&mut self, dev: &mut D, plan: &StepPlan) -> Result<()> {
        let (w, b) = (&self.weights, &mut self.buffers);
        // The layers take it up normed.
        let embedding = if w.embed_norm.is_some() { &mut b.delta } else { &mut b.residual };
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
        match &w.first {
            Some(norm) => dev.norm(norm, &b.residual, &mut b.normed),
            None => Ok(()),
        }
    }

    fn layer(&mut self, dev: &mut D, index: usize) -> Result<()> {
        match &self.weights.layers[index].mixer {
            Some(Mixer::Heads(_) | Mixer::Latent(_)) => self.attention(dev, index)?,
            Some(Mixer::Beside(..)) => {
                self.attention(dev, index)?;
                self.recurrent(dev, index)?;
            }
            Some(_) => self.recurrent(dev, index)?,
            None => {}
        }

        let b = &mut self.buffers;
        let norms = self.norms;
        let layer = &self.weights.layers[index];
        if layer.mixer.is_some() {
            b.norm_output(dev, layer.attn_post.as_ref())?;
        }
        if let Some(feed_forward) = &layer.feed_forward {
            match (self.parallel, &layer.after_attn) {
                _ if layer.mixer.is_none() => {}
                (false, norm) => b.add_output(dev, norm.as_ref(), norms)?,
                (true, Some(norm)) => dev.norm(norm, &b.residual, &mut b.normed)?,
                (true, None) => {}
            }
            b.feed_forward(dev, feed_forward, self.activation, norms, self.parallel)?;
            b.norm_output(dev, layer.mlp_post.as_ref())?;
        }
        b.add_output(dev, layer.after_mlp.as_ref(), norms)
    }

    /// A layer's attention, from its input to `delta`.
    fn attention(&mut self, dev: &mut D, index: usize) -> Result<()> {
        let b = &mut self.buffers;
        let place = self.places[index];
        let LayerAttention { attn, rope } = &self.attention[index];
        let input = if self.norms == NormOrder::Before { &b.normed } else { &b.residual };
        let rope = rope.and_then(|i| self.ropes.get(i));

        let out = match (&self.weights.layers[index].mixer, &mut b.attention) {
            (Some(Mixer::Heads(heads) | Mixer::Beside(heads, _)), AttentionBuffers::Heads(qkv)) => {
                let rules = HeadRules {
                    attn,
                    rope,
                    clip_qkv: self.clip_qkv,
                    norms_after_rope: self.norms_after_rope,
                    encoder: self.encoder,
                };
                if let (Some(gate), Some(gates)) = (&heads.gate, &mut b.gate) {
                    dev.linear(&gate.weight, gate.bias.as_ref(), input, gates)?;
                }
                rules.run(dev, place, heads, input, qkv, &mut b.attn)?;
                if let Some(gates) = &b.gate {
                    dev.gate_output(gates, &mut b.attn)?;
                }
                &heads.out
            }
            (Some(Mixer::Latent(latent)), AttentionBuffers::Latent(buffers)) => {
                buffers.run(dev, place, latent, attn.scale, rope, input, &mut b.attn)?;
                &latent.out
            }
            _ => return Err(internal!("layer {index} has no attention, or not its buffers")),
        };
        dev.linear(&out.weight, out.bias.as_ref(), &b.attn, &mut b.delta)
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

    fn head(&mut self, dev: &mut D) -> Result<()> {
        let (w, b) = (&self.weights, &mut self.buffers);
        let last = if self.norms == NormOrder::After { &b.residual } else { &b.normed };
        if let Some(kind) = self.pooling {
            return dev.pool(kind, last, &mut b.logits);
        }
        dev.gather(last, &mut b.gathered)?;
        let head = w.head.as_ref().unwrap_or(&w.embed);
        let cap = self.logit_softcap;
        match (&w.project_out, &mut b.projected) {
            (Some(project), Some(projected)) => {
                dev.linear_gathered(project, &b.gathered, projected)?;
                dev.logits(head, cap, projected, &mut b.logits)?;
            }
            _ => dev.logits(head, cap, &b.gathered, &mut b.logits)?,
        }
        match &w.head_bias {
            Some(bias) => dev.bias_logits(bias, &mut b.logits),
            None => Ok(()),
        }
    }
}

/// What attention over K and V of heads goes by.
struct HeadRules<'a> {
    attn: &'a AttnSpec,
    rope: Option<&'a Rope>,
    clip_qkv: Option<f32>,
    norms_after_rope: bool,
    encoder: bool,
}

impl HeadRules<'_> {
    /// Attention of `input` into `out`, before the output product.
    fn run<D: Device>(
        mut self,
        dev: &mut D,
        place: usize,
        weights: &HeadAttention<D::Weight>,
        input: &D::Tensor,
        qkv: &mut D::Tensor,
        out: &mut D::Tensor,
    ) -> Result<()> {
        let HeadAttention { qkv: product, qk_norms, sinks, .. } = weights;
        dev.linear(&product.weight, product.bias.as_ref(), input, qkv)?;
        if let Some(limit) = self.clip_qkv {
            dev.clamp(limit, qkv)?;
        }
        if self.norms_after_rope {
            // What is stored here the store behind the norms overwrites.
            dev.rope_store(place, self.attn, self.rope.take(), qkv)?;
        }
        if let Some(QkNorms { q, k }) = qk_norms {
            dev.norm_heads(self.attn, q, k, qkv)?;
        }

        if self.encoder {
            if let Some(rope) = self.rope {
                dev.rotate(self.attn, rope, qkv)?;
            }
            return dev.attend_all(self.attn, qkv, out);
        }
        dev.rope_store(place, self.attn, self.rope, qkv)?;
        dev.attend(place, self.attn, sinks.as_ref(), qkv, out)
    }
}

impl<T> Buffers<T> {
    /// The MLP or the experts, into `delta`, whose old content is added to the residual in between
    /// if attention and MLP read the same (`parallel`; no family has experts there).
    fn feed_forward<D: Device<Tensor = T>>(
        &mut self,
        dev: &mut D,
        feed_forward: &FeedForward<D::Weight>,
        act: Activation,
        norms: NormOrder,
        parallel: bool,
    ) -> Result<()> {
        let input = if norms == NormOrder::Before { &self.normed } else { &self.residual };

        match feed_forward {
            FeedForward::Mlp(Mlp { up, down, activation }) => {
                let act = activation.unwrap_or(act);
                dev.linear_act(&up.weight, up.bias.as_ref(), act, input, &mut self.ffn)?;
                if parallel {
                    dev.add(&self.delta, &mut self.residual)?;
                }
                dev.linear(&down.weight, down.bias.as_ref(), &self.ffn, &mut self.delta)
            }
            FeedForward::Experts(experts) => {
                let Some(buffers) = &mut self.mixture else {
                    return Err(internal!("experts without their buffers"));
                };
                buffers.run(dev, experts, act, input, &mut self.delta)
            }
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
