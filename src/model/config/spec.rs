//! [`ModelSpec`]: all that `load` and `decoder` need to know of a model; and what it is read by.
//! Plain data: `config` reads it from files, nothing here does.

use std::path::Path;

use serde_json::{Map, Value};

use super::adapter_options::AdapterOptions;
use super::draft_head::DraftHead;
use super::factors::Factors;
use super::latent::LatentShape;
use super::layer_shapes::KeysFrom;
use super::layers::LayerAttention;
use super::mixture::MixtureSpec;
use super::pooler_options::PoolerOptions;
use super::pooling::PoolingRule;
use super::recurrent::RecurrentSpec;
use super::side_files::SideFiles;
use super::sublayers::Sublayers;
use super::vision::VisionSpec;
use crate::device::{Activation, DType, KvRow, KvShape, KvType, Rope};
use crate::error::{Error, Result};
use crate::ids::TokenId;
use crate::invalid;
use crate::model::architectures::Family;
use crate::model::head_order::HeadOrder;
use crate::model::quant::QuantScheme;

/// Which of the files that may describe a model is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ConfigFormat {
    /// params.json where the model is in Mistral's own format, else config.json.
    #[default]
    Auto,
    /// config.json.
    HuggingFace,
    /// params.json.
    Mistral,
}

/// What the user asked for, and what the device can do.
#[derive(Debug, Clone, Default)]
pub struct SpecOptions<'a> {
    /// Deep-merged into config.json before anything is read.
    pub hf_overrides: Option<&'a Map<String, Value>>,
    /// The name of the file that they stand in; empty means model.json.
    pub overrides_file: &'a str,
    /// Merged into config.json under that: what the file of the weights knows better.
    pub over_config: Option<&'a Map<String, Value>>,
    /// `auto`, `half`, `float16`, `bfloat16`, `float`, `float32`. Empty means auto.
    pub dtype: &'a str,
    /// Which file is read.
    pub config_format: ConfigFormat,
    /// The element type of the stored weights, for a config.json that does not say.
    pub stored_dtype: Option<DType>,
    /// Supported by the device, best first. A float32 checkpoint under `auto` gets the first.
    pub supported: &'a [DType],
    /// None and -1 mean the derived length.
    pub max_model_len: Option<i64>,
    /// Every layer sees all; the length is at most the window, within which that is the same.
    pub disable_sliding_window: bool,
    /// The folder of generation_config.json; None: the model's, if it has one.
    pub generation_config: Option<&'a Path>,
    /// A vision tower is not wanted.
    pub text_only: bool,
    /// Over the keys of preprocessor_config.json.
    pub image_sizes: Option<&'a Map<String, Value>>,
    /// How a model that embeds is to pool.
    pub pooler: PoolerOptions,
    /// [`ModelSpec::read`] reads them itself.
    pub files: SideFiles,
    /// `quantization`, in small letters; empty: what the checkpoint says.
    pub quantization: &'a str,
    /// The model's, for files that are read only where config.json says nothing;
    /// [`ModelSpec::read`] sets it.
    pub folder: Option<&'a Path>,
    /// The row of a head that drafts, in place of the one that `architectures` names.
    pub head: Option<&'static Family>,
}

/// Where a layer's norms stand. Norms of a sublayer's output come on top, by the row's
/// names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormOrder {
    /// In front of each sublayer, and one in front of the head.
    Before,
    /// Over the residual, after a sublayer was added.
    After,
    /// Sublayers read the residual as it is; one norm in front of the head.
    HeadOnly,
}

/// A model that can be served. Built by [`ModelSpec::read`] only.
#[derive(Debug, Clone)]
pub struct ModelSpec {
    /// The row of its architecture.
    pub family: &'static Family,
    /// Tokens of the token table; may exceed the tokenizer's size.
    pub vocab_size: usize,
    /// Width of the residual.
    pub hidden: usize,
    /// Number of layers.
    pub layers: usize,
    /// Heads of q.
    pub heads: usize,
    /// Heads of k and v; `heads` is a multiple. One where attention is over latent vectors. Layers
    /// may have their own: [`AttnSpec`](crate::device::AttnSpec).
    pub kv_heads: usize,
    /// Width of a head, or of a latent vector. Layers may have their own.
    pub head_dim: usize,
    /// Attention is over latent vectors.
    pub latent: Option<LatentShape>,
    /// Width of each layer's plain MLP; 0: it has none.
    pub ffns: Vec<usize>,
    /// Experts in place of it, in some layers or all.
    pub mixture: Option<MixtureSpec>,
    /// Layers that keep a state, if some do.
    pub recurrent: Option<RecurrentSpec>,
    /// What each layer has.
    pub sublayers: Vec<Sublayers>,
    /// Width of an input of each layer's own, if there is one.
    pub layer_input: Option<usize>,
    /// Width of the token table; `hidden` but for OPT-350m.
    pub embed_width: usize,
    /// Epsilon of norms over the residual.
    pub norm_eps: f32,
    /// Epsilon of norms over what sublayers make: heads of q and k, and what is to be added.
    pub inner_eps: f32,
    /// Of the MLP and the experts.
    pub activation: Activation,
    /// Attention of each layer.
    pub attention: Vec<LayerAttention>,
    /// What [`LayerAttention::rope`] counts; none with learned positions.
    pub ropes: Vec<Rope>,
    /// Multiply products' outputs; folded into weights.
    pub factors: Factors,
    /// Multiplies the rows of the token table.
    pub embed_scale: f32,
    /// Multiplies the final norm, hence the logits.
    pub logit_scale: f32,
    /// cap * tanh(l / cap) on logits.
    pub logit_softcap: Option<f32>,
    /// Positions the model was made for; rows of a learned table, less its offset.
    pub derived_len: usize,
    /// The token table is the head too.
    pub tied: bool,
    /// The head has a bias.
    pub head_bias: bool,
    /// The product in front of attention has a bias.
    pub qkv_bias: bool,
    /// Attention's output product has one.
    pub out_bias: bool,
    /// Both products of the MLP have one.
    pub mlp_bias: bool,
    /// There are norms of q and k, where the row names some.
    pub qk_norms: bool,
    /// q, k and v are limited to plus and minus this.
    pub clip_qkv: Option<f32>,
    /// Norms have learned weights.
    pub norm_affine: bool,
    /// Where they stand.
    pub norms: NormOrder,
    /// Attention and MLP read the same residual.
    pub parallel: bool,
    /// Element type of matrices on the device.
    pub dtype: DType,
    /// Tokens of the longest sequence, prompt and output.
    pub max_model_len: usize,
    /// Adapter slots behind its linears; `engine` sets it.
    pub adapters: Option<AdapterOptions>,
    /// generation_config.json's, else config.json's; the tokenizer's own come on top.
    pub eos_token_ids: Vec<TokenId>,
    /// Rows of the table of token types, if there is one.
    pub token_types: usize,
    /// Each matrix is stored with adapters of several tasks; the last one times this is added.
    pub merged_adapter: Option<f32>,
    /// The model embeds or classifies, and generates nothing.
    pub pooling: Option<PoolingRule>,
    /// Linears are quantised.
    pub quant: Option<QuantScheme>,
    /// The vision tower, if images are taken.
    pub vision: Option<VisionSpec>,
    /// It is no model by itself: it drafts for another one.
    pub draft_head: Option<DraftHead>,
}

impl ModelSpec {
    /// Token types that the token table knows: it has a row for each token in each of them. One but
    /// in classifiers of pairs, where only a token's row can tell a device its type.
    pub fn segments(&self) -> usize {
        let classifies = self.pooling.as_ref().is_some_and(|rule| rule.scores().is_some());
        if classifies && self.family.classifier.pair_types {
            self.token_types.max(1)
        } else {
            1
        }
    }

    /// Rows of the token table: all tokens of type 0, then those of type 1, and so on.
    pub fn token_rows(&self) -> usize {
        self.vocab_size * self.segments()
    }

    /// Experts of a layer, if it has some.
    pub fn mixture_of(&self, layer: usize) -> Option<&MixtureSpec> {
        self.mixture.as_ref().filter(|m| m.layers.get(layer).is_some_and(|&experts| experts))
    }

    /// The layers with a state, if this is one of them.
    pub fn recurrent_of(&self, layer: usize) -> Option<&RecurrentSpec> {
        self.recurrent.as_ref().filter(|r| r.layers.get(layer).is_some_and(|&keeps| keeps))
    }

    /// The layer whose K and V a layer stores or uses; None: it has no attention.
    pub fn keys_of(&self, layer: usize) -> Option<usize> {
        let attends = self.sublayers.get(layer).is_some_and(|parts| parts.attention);
        attends.then(|| match self.attention[layer].keys {
            KeysFrom::Own | KeysFrom::OneProduct | KeysFrom::Nowhere => layer,
            KeysFrom::Layer(source) => source,
        })
    }

    /// Of each layer its number among those that keep the same: K and V, or a state; that of
    /// another layer if it uses what that one keeps. One that keeps both is among layers that all
    /// do.
    pub fn places(&self) -> Vec<usize> {
        let mut places = Vec::with_capacity(self.layers);
        let mut pages = 0;
        let mut states = 0;
        for (layer, parts) in self.sublayers.iter().enumerate() {
            let source = self.keys_of(layer).filter(|&source| source < layer);
            let place = source.map_or(if parts.state { states } else { pages }, |at| places[at]);
            places.push(place);
            pages += usize::from(parts.attention && source.is_none());
            states += usize::from(parts.state);
        }
        places
    }

    /// Width of what a layer's q, k and v are made of.
    pub fn attention_inputs(&self, layer: usize) -> usize {
        let wide = self.draft_head.as_ref().is_some_and(|head| head.kind.is_wide());
        if wide && layer == 0 {
            2 * self.hidden
        } else {
            self.hidden
        }
    }

    /// Whether a layer rotates q and k.
    pub fn turns(&self, layer: usize) -> bool {
        let rope = self.attention[layer].rope.and_then(|rope| self.ropes.get(rope));
        rope.is_some_and(|rope| rope.rotary_dim > 0)
    }

    /// Whether a layer has attention, or a state in its place.
    pub fn attends(&self, layer: usize) -> bool {
        self.sublayers.get(layer).is_some_and(|parts| parts.attention || parts.state)
    }

    /// Whether a layer has an MLP or experts.
    pub fn feeds_forward(&self, layer: usize) -> bool {
        self.sublayers.get(layer).is_some_and(|parts| parts.feed_forward)
    }

    /// Whether a layer has a plain MLP: in place of experts, or beside them.
    pub fn has_mlp(&self, layer: usize) -> bool {
        let beside = self.family.mixture.as_ref().is_some_and(|row| row.beside.is_some());
        self.feeds_forward(layer)
            && self.ffns[layer] > 0
            && (beside || self.mixture_of(layer).is_none())
    }

    /// What order rows of q and k are put in, if the family's is not the devices'.
    pub fn head_order(&self) -> Option<HeadOrder> {
        self.neighbours_apart().filter(|_| self.family.interleaved)
    }

    /// The order that a checkpoint is put in whose rope turns neighbours. All ropes rotate as many
    /// dimensions.
    pub fn neighbours_apart(&self) -> Option<HeadOrder> {
        let rope = self.ropes.first()?;
        Some(HeadOrder { head_dim: self.head_dim, first: 0, rotary_dim: rope.rotary_dim })
    }

    /// The widest MLP that is not one of the experts; 0 if there is none.
    pub fn mlp_width(&self) -> usize {
        let width = |layer| {
            let shared = self.mixture_of(layer).and_then(|mixture| mixture.shared_ffn);
            let own = if self.has_mlp(layer) { self.ffns[layer] } else { 0 };
            shared.unwrap_or(0).max(own)
        };
        (0..self.layers).map(width).max().unwrap_or(0)
    }

    /// Width of what a layer's attention gives its output product, of all heads.
    pub fn attn_width(&self, layer: usize) -> usize {
        let of_head = || self.attention[layer].attn.head_dim;
        self.heads * self.latent.as_ref().map_or_else(of_head, |latent| latent.value)
    }

    /// Shape of the KV pool. `kv_cache_dtype`: None is `auto`, what the checkpoint is quantised
    /// for, else as the activations.
    ///
    /// # Errors
    /// A `kv_cache_dtype` that the checkpoint contradicts; latent vectors of eight bits.
    pub fn kv_shape(&self, kv_cache_dtype: Option<KvType>) -> Result<KvShape> {
        let scheme = self.quant.as_ref().map(|quant| quant.kv).unwrap_or_default();
        let dtype = match kv_cache_dtype {
            Some(KvType::E5m2) if scheme.no_e5m2 => {
                return Err(invalid!("fp8_e5m2 kv-cache is not supported with fp8 checkpoints."));
            }
            Some(dtype) => dtype,
            None if scheme.fp8 => KvType::E4m3,
            None => self.dtype.into(),
        };
        let row = |layer: usize| match &self.latent {
            Some(latent) => KvRow::Latent { width: latent.width() },
            None => {
                let attn = &self.attention[layer].attn;
                KvRow::Heads { kv_heads: attn.kv_heads, head_dim: attn.head_dim }
            }
        };
        if self.latent.is_some() && dtype.plain().is_none() {
            return Err(Error::Unsupported(format!(
                "kv_cache_dtype {} is not supported for {}, which caches latent vectors; use \
                 bfloat16.",
                dtype.name(),
                self.family.architecture
            )));
        }
        // An encoder keeps nothing.
        let layers = if self.family.encoder { 0 } else { self.layers };
        let keeps = |&layer: &usize| self.keys_of(layer) == Some(layer);
        Ok(KvShape { rows: (0..layers).filter(keeps).map(row).collect(), dtype })
    }

    /// The widest input of a product, of a token's experts all together.
    pub fn product_width(&self) -> usize {
        let experts = self.mixture.as_ref().map_or(0, |m| m.routing.top_k * m.ffn.max(self.hidden));
        let latent = self.latent.as_ref().and_then(|latent| latent.q_rank).unwrap_or(0);
        let values = self.recurrent.as_ref().map_or(0, |r| r.kind.out_width());
        let attn = (0..self.layers).map(|layer| self.attn_width(layer)).max().unwrap_or(0);
        [self.hidden, attn, latent, values, self.mlp_width(), experts]
            .into_iter()
            .max()
            .unwrap_or(0)
    }

    /// Every prompt must come in one step, and nothing of it can be taken from another's pages.
    pub fn whole_prompts(&self) -> bool {
        self.family.encoder || self.pooling.as_ref().is_some_and(PoolingRule::whole)
    }
}
