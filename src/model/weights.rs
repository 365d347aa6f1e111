//! The weights of a decoder on a device, as the forward pass takes them. Made by `load`, used by
//! `decoder`. `W` is the device's own type of a weight; how it is stored is not known here.

use std::sync::Arc;

use super::architectures::Joined;
use super::lora::{self, Place};
use crate::device::{Activation, Norm, Routing};

/// All weights of a decoder.
pub struct Weights<W> {
    /// The token table, `[vocab, embed_width]`.
    pub embed: Arc<W>,
    /// None: `embed` is the head, or there is none.
    pub head: Option<Arc<W>>,
    /// Added to the logits.
    pub head_bias: Option<W>,
    /// From the width of the token table to that of the residual, where they differ.
    pub project_in: Option<W>,
    /// The way back, in front of the head.
    pub project_out: Option<W>,
    /// None: positions are rotated.
    pub positions: Option<PositionTable<W>>,
    /// Over the embedding, before the first layer.
    pub embed_norm: Option<Norm<W>>,
    /// What makes an input of each layer's own.
    pub layer_table: Option<LayerTable<W>>,
    /// In front of the first layer's first sublayer. None, with norms before sublayers: it reads
    /// the embedding as its norm left it.
    pub first: Option<Norm<W>>,
    /// In the order in which they run.
    pub layers: Vec<Layer<W>>,
    /// The vision tower, which the decoder takes out.
    pub tower: Option<TowerWeights<W>>,
    /// What a head that drafts has beside, which the decoder takes out.
    pub draft_head: Option<DraftHeadWeights<W>>,
}

/// What a head that drafts may have in common with its model, on the same device.
pub struct SharedEnds<W> {
    /// The token table.
    pub table: Option<Arc<W>>,
    /// The matrix of logits.
    pub head: Option<Arc<W>>,
}

impl<W> Default for SharedEnds<W> {
    fn default() -> Self {
        SharedEnds { table: None, head: None }
    }
}

impl<W> Clone for SharedEnds<W> {
    fn clone(&self) -> Self {
        SharedEnds { table: self.table.clone(), head: self.head.clone() }
    }
}

/// What a head that drafts has in front of its layer and behind its product of logits.
pub struct DraftHeadWeights<W> {
    /// Over the embedding, and over the hidden state.
    pub norms: Option<[Norm<W>; 2]>,
    /// Of both beside each other, to the residual.
    pub project: Option<Linear<W>>,
    /// Of each token its place among the logits, or -1; None: there is one for each.
    pub places: Option<W>,
}

/// A vision tower.
pub struct TowerWeights<W> {
    /// Of a patch's numbers.
    pub patches: Linear<W>,
    /// `[rows, width]`, of places. Where images have a class, behind a row that it begins with, and
    /// in front of the bias of patches, if they have one.
    pub places: Option<W>,
    /// In front of the first layer.
    pub first: Option<Norm<W>>,
    /// In the order in which they run.
    pub layers: Vec<TowerLayer<W>>,
    /// Behind the last layer.
    pub last: Option<Norm<W>>,
    /// `[1, hidden]`, the vector that ends rows of images.
    pub row_end: Option<W>,
    /// What makes tokens.
    pub merger: Merger<W>,
    /// The same behind some layers.
    pub deep: Vec<Merger<W>>,
}

/// What makes a token of the patches of a square.
pub struct Merger<W> {
    /// How they become one row.
    pub joined: Joined,
    /// What becomes of the rows first.
    pub standard: Option<Standard<W>>,
    /// Over patches, or over rows of squares.
    pub norm: Option<MergeNorm<W>>,
    /// From such a row to the decoder's width.
    pub products: Vec<MergeProduct<W>>,
}

/// Rows times a factor, less a vector, times another one.
pub struct Standard<W> {
    /// The factor.
    pub factor: f32,
    /// What is taken away.
    pub bias: W,
    /// What the rest is multiplied by.
    pub scale: W,
}

/// A norm of a merger.
pub struct MergeNorm<W> {
    /// What it is.
    pub norm: Norm<W>,
    /// It is over rows of squares.
    pub joined: bool,
}

/// A product of a merger.
pub struct MergeProduct<W> {
    /// What it is.
    pub linear: Linear<W>,
    /// Columns of what comes out.
    pub outputs: usize,
    /// Behind it.
    pub activation: Option<Activation>,
}

/// A layer of it.
pub struct TowerLayer<W> {
    /// In front of attention, and of the MLP.
    pub norms: [Norm<W>; 2],
    /// Of attention's output and the MLP's.
    pub post_norms: Option<[Norm<W>; 2]>,
    /// q, k and v.
    pub qkv: Linear<W>,
    /// Of q and of k, over all heads together.
    pub qk_norms: Option<[Norm<W>; 2]>,
    /// Of each head of q, k and v.
    pub head_norms: Option<[Norm<W>; 3]>,
    /// Attention's output product.
    pub out: Linear<W>,
    /// The MLP.
    pub mlp: Mlp<W>,
}

/// What makes an input of each layer's own, for all layers side by side.
pub struct LayerTable<W> {
    /// `[vocab, layers * width]`.
    pub table: W,
    /// Multiplies its rows.
    pub scale: f32,
    /// Over the embedding.
    pub projection: Linear<W>,
    /// Over each layer's part of what that gives, before the table's is added.
    pub norm: Norm<W>,
}

/// What a layer does with its own input: residual += post(out(act(gate residual) * input)).
pub struct LayerInput<W> {
    /// From the width of the residual to that of the input.
    pub gate: Linear<W>,
    /// Back.
    pub out: Linear<W>,
    /// Over what is to be added.
    pub post: Norm<W>,
}

/// Learned positions: position p uses row p + `offset`.
pub struct PositionTable<W> {
    /// `[positions + offset, hidden]`.
    pub table: W,
    /// Rows in front of position 0.
    pub offset: usize,
}

/// A matrix with its optional bias.
pub struct Linear<W> {
    /// `[outputs, inputs]`.
    pub weight: W,
    /// `[outputs]`.
    pub bias: Option<W>,
}

/// The first sublayer of a layer: what lets a token see those before it.
pub enum Mixer<W> {
    /// By their keys and values.
    Heads(HeadAttention<W>),
    /// By one latent vector of each for all heads.
    Latent(LatentAttention<W>),
    /// By a state that they left.
    GatedDelta(GatedDelta<W>),
    /// By what they gave to a convolution.
    ShortConv(ShortConv<W>),
    /// By a state that a selective scan keeps of them.
    SelectiveScan(SelectiveScan<W>),
    /// By one of Mamba 1.
    ChannelScan(ChannelScan<W>),
    /// By both of these, whose outputs are added up.
    Beside(HeadAttention<W>, SelectiveScan<W>),
}

impl<W> Mixer<W> {
    /// What the layer's input is multiplied by first.
    pub fn first(&self) -> &W {
        match self {
            Mixer::Heads(heads) | Mixer::Beside(heads, _) => &heads.qkv.weight,
            Mixer::Latent(LatentAttention { q: LatentQuery::Whole(q), .. }) => &q.weight,
            Mixer::Latent(LatentAttention { q: LatentQuery::LowRank { down, .. }, .. }) => {
                &down.weight
            }
            Mixer::GatedDelta(delta) => &delta.mixed.weight,
            Mixer::ShortConv(conv) => &conv.input.weight,
            Mixer::SelectiveScan(scan) => &scan.input.weight,
            Mixer::ChannelScan(scan) => &scan.input.weight,
        }
    }
}

/// A short convolution and the gated delta rule.
pub struct GatedDelta<W> {
    /// q, k, v and the gate of the output, stacked along the outputs.
    pub mixed: Linear<W>,
    /// Beta and rate of each value head.
    pub rates: Linear<W>,
    /// Over q, k and v, a vector of `[channels, taps]`.
    pub convolution: W,
    /// ln of the rate of decay, of each value head.
    pub log_decay: W,
    /// Added to the rate.
    pub rate_bias: W,
    /// Over each value head's output.
    pub norm: Norm<W>,
    /// The output product.
    pub out: Linear<W>,
}

/// A short convolution between two gates.
pub struct ShortConv<W> {
    /// What gates its input, what gates its output, and the input, stacked along the outputs.
    pub input: Linear<W>,
    /// A vector of `[channels, taps]`.
    pub convolution: W,
    /// The output product.
    pub out: Linear<W>,
}

/// The selective scan of Mamba 2, behind a short convolution.
pub struct SelectiveScan<W> {
    /// x, B and C, the gate of the output, and a rate of each head, stacked along the outputs.
    pub input: Linear<W>,
    /// Over x, B and C, a vector of `[channels, taps]`.
    pub convolution: W,
    /// Behind it, `[channels]`.
    pub convolution_bias: Option<W>,
    /// ln of the rate of decay, of each head.
    pub log_decay: W,
    /// Added to the rate.
    pub rate_bias: W,
    /// What of x goes to the output, of each head.
    pub skip: W,
    /// Over the gated output.
    pub norm: Option<Norm<W>>,
    /// The output product.
    pub out: Linear<W>,
}

/// The selective scan of Mamba 1, behind a short convolution.
pub struct ChannelScan<W> {
    /// x, and the gate of the output, stacked along the outputs.
    pub input: Linear<W>,
    /// Over x, a vector of `[channels, taps]`.
    pub convolution: W,
    /// Behind it, `[channels]`.
    pub convolution_bias: Option<W>,
    /// What rates are made of.
    pub low_rates: Linear<W>,
    /// B and C, stacked along the outputs.
    pub bc: Linear<W>,
    /// Of what rates are made of, of B and of C.
    pub norms: Option<[Norm<W>; 3]>,
    /// Rates of all channels.
    pub rates: Linear<W>,
    /// ln of rates of decay, a vector of `[channels, state]`.
    pub log_decay: W,
    /// Added to rates.
    pub rate_bias: W,
    /// What of x goes to the output, of each channel.
    pub skip: W,
    /// The output product.
    pub out: Linear<W>,
}

/// One layer. Its norms are named by what they follow, so that norm-before and norm-after models
/// run the same code: before a sublayer means after the previous one that there is.
pub struct Layer<W> {
    /// The first sublayer; None: there is only the second.
    pub mixer: Option<Mixer<W>>,
    /// Over its output, before it is added.
    pub attn_post: Option<Norm<W>>,
    /// None: the MLP reads what the first sublayer read.
    pub after_attn: Option<Norm<W>>,
    /// The second sublayer; None: there is only the first.
    pub feed_forward: Option<FeedForward<W>>,
    /// Over its output, before it is added.
    pub mlp_post: Option<Norm<W>>,
    /// What is added behind it, of an input of the layer's own.
    pub input: Option<LayerInput<W>>,
    /// Multiplies the residual in the end.
    pub scalar: Option<f32>,
    /// None: the next layer reads the residual as it is.
    pub after_mlp: Option<Norm<W>>,
}

/// Attention over K and V of heads.
pub struct HeadAttention<W> {
    /// q, k and v, stacked along the outputs; or those of them that the layer makes.
    pub qkv: Linear<W>,
    /// A gate of its output, as wide as q.
    pub gate: Option<Linear<W>>,
    /// Of q and k, before they are rotated.
    pub qk_norms: Option<QkNorms<W>>,
    /// Of v, by head.
    pub value_norm: Option<Norm<W>>,
    /// A score of each head that takes its share of attention and has no value.
    pub sinks: Option<W>,
    /// By what each head lowers scores, times the distance of keys.
    pub slopes: Option<W>,
    /// The output product.
    pub out: Linear<W>,
}

/// Attention over latent vectors.
pub struct LatentAttention<W> {
    /// What makes q.
    pub q: LatentQuery<W>,
    /// What makes latent vectors, with their rotated ends.
    pub latent: Linear<W>,
    /// Over their fronts.
    pub latent_norm: Norm<W>,
    /// The matrices of K, of each head `[rank, nope]`: they are multiplied into q.
    pub keys: W,
    /// The matrices of V, of each head `[value, rank]`.
    pub values: W,
    /// The output product.
    pub out: Linear<W>,
}

/// What makes q of attention over latent vectors.
pub enum LatentQuery<W> {
    /// One product.
    Whole(Linear<W>),
    /// Two with a norm between, of few elements.
    LowRank {
        /// The first.
        down: Linear<W>,
        /// Behind it.
        norm: Norm<W>,
        /// The second.
        up: Linear<W>,
    },
}

/// Norms of q and k, over each head or over all of them.
pub struct QkNorms<W> {
    /// `[head_dim]`, or all heads of q.
    pub q: Norm<W>,
    /// `[head_dim]`, or all KV heads. None: the layer makes no k.
    pub k: Option<Norm<W>>,
}

/// What follows attention in a layer.
pub enum FeedForward<W> {
    /// One for all tokens.
    Mlp(Mlp<W>),
    /// Some of many, chosen for each token.
    Experts(Experts<W>),
    /// Both, side by side.
    Both(Box<Both<W>>),
}

/// An MLP and experts that read the same residual, and are added up:
/// mlp_post(mlp(normed)) + experts_post(experts(experts_norm(residual))).
pub struct Both<W> {
    /// It reads what other MLPs read.
    pub mlp: Mlp<W>,
    /// Behind a norm of their own.
    pub experts: Experts<W>,
    /// Over what the router reads of the residual.
    pub router_norm: Norm<W>,
    /// Over what the experts read of it.
    pub experts_norm: Norm<W>,
    /// Over the MLP's output.
    pub mlp_post: Norm<W>,
    /// Over that of the experts.
    pub experts_post: Norm<W>,
}

/// Two linears with an activation between.
pub struct Mlp<W> {
    /// Gate and up, if gated.
    pub up: Linear<W>,
    /// From the width of the MLP to that of the residual.
    pub down: Linear<W>,
    /// Its own, if it is not the model's.
    pub activation: Option<Activation>,
    /// What the rank holds of that width.
    pub width: usize,
}

/// A mixture of experts.
pub struct Experts<W> {
    /// How tokens choose.
    pub routing: Routing,
    /// `[experts, hidden]`.
    pub router: Linear<W>,
    /// Added to shares where experts are chosen, `[experts]`.
    pub choice_bias: Option<W>,
    /// Multiply the chosen weights, `[experts]`.
    pub scales: Option<W>,
    /// The chosen weights multiply inputs, not outputs.
    pub weighs_inputs: bool,
    /// Products in front of all experts and behind them; what the shared one reads is in front.
    pub narrowed: Option<[Linear<W>; 2]>,
    /// Gate and up of all experts, with the biases of one expert behind those of the other.
    pub up: Linear<W>,
    /// Down of all experts.
    pub down: Linear<W>,
    /// Theirs, if it is not the model's.
    pub activation: Option<Activation>,
    /// One that all tokens share.
    pub shared: Option<SharedExpert<W>>,
}

/// The expert that all tokens share.
pub struct SharedExpert<W> {
    /// An MLP like any other.
    pub mlp: Mlp<W>,
    /// What scales it, `[hidden]`; None: it is added as it is.
    pub gate: Option<W>,
}

impl<W> Layer<W> {
    /// The norm over the residual where attention's output goes straight into it: no norm of its
    /// own, nothing beside it.
    pub fn norm_behind_attention(&self) -> Option<&Norm<W>> {
        match (&self.mixer, &self.attn_post, &self.feed_forward) {
            (Some(Mixer::Heads(_) | Mixer::Latent(_)), None, Some(_)) => self.after_attn.as_ref(),
            _ => None,
        }
    }

    /// The same of the second sublayer, whose output its last op gives.
    pub fn norm_behind_feed_forward(&self) -> Option<&Norm<W>> {
        let straight = self.mlp_post.is_none() && self.input.is_none() && self.scalar.is_none();
        match &self.feed_forward {
            Some(FeedForward::Mlp(_)) if straight => self.after_mlp.as_ref(),
            Some(FeedForward::Experts(experts)) if straight => {
                let last = experts.shared.is_none() && !experts.weighs_inputs;
                let last = last && experts.narrowed.is_none();
                self.after_mlp.as_ref().filter(|_| last)
            }
            _ => None,
        }
    }

    /// What adapters may change, in the order of [`lora::Place`]; no experts.
    pub fn linears_mut(&mut self) -> [Option<&mut Linear<W>>; lora::PROJECTIONS] {
        let mut all: [Option<&mut Linear<W>>; lora::PROJECTIONS] = Default::default();
        let mut put = |place: Place, linear| all[place as usize] = Some(linear);
        match &mut self.feed_forward {
            Some(FeedForward::Mlp(mlp)) => mlp.linears(&mut put),
            Some(FeedForward::Both(both)) => both.mlp.linears(&mut put),
            Some(FeedForward::Experts(_)) | None => {}
        }

        match &mut self.mixer {
            Some(Mixer::Heads(heads)) => heads.linears(&mut put),
            Some(Mixer::Beside(heads, scan)) => {
                heads.linears(&mut put);
                put(Place::Input, &mut scan.input);
                put(Place::StateOut, &mut scan.out);
            }
            Some(Mixer::Latent(latent)) => {
                match &mut latent.q {
                    LatentQuery::Whole(q) => put(Place::Query, q),
                    LatentQuery::LowRank { down, up, .. } => {
                        put(Place::Query, down);
                        put(Place::Gate, up);
                    }
                }
                put(Place::Input, &mut latent.latent);
                put(Place::Out, &mut latent.out);
            }
            Some(mixer) => mixer.linears_of_state(&mut put),
            None => {}
        }
        all
    }
}

impl<W> HeadAttention<W> {
    fn linears<'a>(&'a mut self, put: &mut impl FnMut(Place, &'a mut Linear<W>)) {
        put(Place::Query, &mut self.qkv);
        put(Place::Out, &mut self.out);
        if let Some(gate) = &mut self.gate {
            put(Place::Gate, gate);
        }
    }
}

impl<W> Mlp<W> {
    fn linears<'a>(&'a mut self, put: &mut impl FnMut(Place, &'a mut Linear<W>)) {
        put(Place::Up, &mut self.up);
        put(Place::Down, &mut self.down);
    }
}

impl<W> Mixer<W> {
    /// Of a layer that keeps a state and has no attention.
    fn linears_of_state<'a>(&'a mut self, put: &mut impl FnMut(Place, &'a mut Linear<W>)) {
        let (input, out) = match self {
            Mixer::GatedDelta(delta) => {
                put(Place::Rates, &mut delta.rates);
                (&mut delta.mixed, &mut delta.out)
            }
            Mixer::ShortConv(conv) => (&mut conv.input, &mut conv.out),
            Mixer::SelectiveScan(scan) => (&mut scan.input, &mut scan.out),
            Mixer::ChannelScan(scan) => {
                put(Place::Rates, &mut scan.low_rates);
                put(Place::Columns, &mut scan.bc);
                put(Place::ChannelRates, &mut scan.rates);
                (&mut scan.input, &mut scan.out)
            }
            Mixer::Heads(_) | Mixer::Latent(_) | Mixer::Beside(..) => return,
        };
        put(Place::Input, input);
        put(Place::StateOut, out);
    }
}
