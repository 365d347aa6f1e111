//! config.json (and generation_config.json) -> [`ModelSpec`]: every shape and rule of a model,
//! checked, so that `decoder` never meets a bad one. Called by `engine` at load. It knows no tensor
//! and no device beyond the element types it is told are supported.

use std::path::Path;

use serde_json::{Map, Value};

use super::architectures::{self, FAMILIES};
use super::families::{Family, Flag, Positions};
pub use super::keys::parse_dtype;
use super::keys::{self, dimension, flag};
use super::layers::{self, LayerAttention, Shape};
use super::length;
use super::lora::AdapterOptions;
use super::mixture::{self, MixtureSpec};
use super::pooling::{PoolerOptions, PoolingRule, SideFiles};
use super::source::Source;
use crate::device::{Activation, DType, KvShape, Rope};
use crate::error::{Error, Result};
use crate::ids::TokenId;
use crate::json::object::Asked;
use crate::json::{self, Object};
use crate::{internal, invalid};

/// Each has weights and pages of its own: published models stay below 200.
const MAX_LAYERS: usize = 4096;
/// More is a mistake in a file: the largest published models have 1e12 and some.
const MAX_PARAMETERS: f64 = 1e14;

/// What the user asked for, and what the device can do.
#[derive(Debug, Clone, Default)]
pub struct SpecOptions<'a> {
    /// Deep-merged into config.json before anything is read.
    pub hf_overrides: Option<&'a Map<String, Value>>,
    /// The name of the file that they stand in; empty means model.json.
    pub overrides_file: &'a str,
    /// `auto`, `half`, `float16`, `bfloat16`, `float`, `float32`. Empty means auto.
    pub dtype: &'a str,
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
    pub pooler: PoolerOptions,
    /// [`ModelSpec::read`] reads them itself.
    pub files: SideFiles,
}

/// Where a layer's norms stand. Norms of a block's output come on top, by the family's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormOrder {
    /// In front of each block, and one in front of the head.
    Before,
    /// Over the residual, after a block was added.
    After,
    /// Blocks read the residual as it is; one norm in front of the head.
    HeadOnly,
}

/// A model that can be served. Built by [`ModelSpec::read`] only.
#[derive(Debug, Clone)]
pub struct ModelSpec {
    pub family: &'static Family,
    /// Rows of the token table; may exceed the tokenizer's size.
    pub vocab_size: usize,
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Width of a plain MLP.
    pub ffn: usize,
    /// Experts in place of it, in some layers or all.
    pub mixture: Option<MixtureSpec>,
    /// Width of the token table; `hidden` but for OPT-350m.
    pub embed_width: usize,
    pub norm_eps: f32,
    pub activation: Activation,
    /// Attention of each layer.
    pub attention: Vec<LayerAttention>,
    /// What [`LayerAttention::rope`] counts; none with learned positions.
    pub ropes: Vec<Rope>,
    /// Multiplies the rows of the token table.
    pub embed_scale: f32,
    /// Multiplies the final norm, hence the logits.
    pub logit_scale: f32,
    /// cap * tanh(l / cap) on logits.
    pub logit_softcap: Option<f32>,
    /// Positions the model was made for; rows of a learned table, less its offset.
    pub derived_len: usize,
    pub tied: bool,
    pub qkv_bias: bool,
    pub out_bias: bool,
    pub mlp_bias: bool,
    pub norm_affine: bool,
    pub norms: NormOrder,
    /// Both blocks read the same residual.
    pub parallel: bool,
    /// Element type of matrices on the device.
    pub dtype: DType,
    pub max_model_len: usize,
    /// Room for LoRA adapters behind its linears; `engine` sets it.
    pub adapters: Option<AdapterOptions>,
    /// generation_config.json's, else config.json's; the tokenizer's own come on top.
    pub eos_token_ids: Vec<TokenId>,
    /// Rows of the table of token types, if there is one.
    pub token_types: usize,
    /// The model embeds, and generates nothing.
    pub pooling: Option<PoolingRule>,
}

impl ModelSpec {
    /// Read `<dir>/config.json` and `<dir>/generation_config.json`.
    ///
    /// # Errors
    /// One line naming the file and key: missing or broken file, unknown architecture, a shape that
    /// does not fit, an option the forward pass lacks.
    pub fn read(dir: &Path, options: &SpecOptions) -> Result<ModelSpec> {
        let source = Source::read(dir, options)?;
        let options = SpecOptions { files: SideFiles::read(dir)?, ..options.clone() };
        Self::of(&source, &options).map_err(Error::on_one_line)
    }

    /// The same from parsed files.
    ///
    /// # Errors
    /// As `read`.
    pub fn from_config(
        config: &Map<String, Value>,
        generation: Option<&Map<String, Value>>,
        options: &SpecOptions,
    ) -> Result<ModelSpec> {
        let source = Source::of("config.json".into(), config.clone(), options)?;
        Self::of(&source.with_generation("generation_config.json", generation), options)
    }

    fn of(source: &Source, options: &SpecOptions) -> Result<ModelSpec> {
        let asked = Asked::default();
        let config = source.config(&asked);
        let family = family_of(&config)?;
        let defaults: Map<String, Value> = serde_json::from_str(family.defaults)
            .map_err(|e| internal!("defaults of {}: {e}", family.architecture))?;

        let config = config.with(family.spellings, &defaults);
        let spec = Self::build(&config, source.generation().as_ref(), family, options)?;
        source.warn_of_unread(&asked);
        Ok(spec)
    }

    fn build(
        config: &Object,
        generation: Option<&Object>,
        family: &'static Family,
        options: &SpecOptions,
    ) -> Result<ModelSpec> {
        refuse_unsupported(config, family)?;
        let shape = shape(config, family)?;
        let Shape { hidden, heads, kv_heads, head_dim, layers } = shape;
        let embed_width = match family.keys.embed_width {
            Some(key) => keys::width(config, key)?.unwrap_or(hidden),
            None => hidden,
        };

        let pooling = PoolingRule::of(config, family, options, hidden)?;
        let pools = pooling.is_some();
        let files = pools.then_some(&options.files);
        let (mut length, derived_len) = length::of(config, family, files)?;
        let mut attention = layers::attention(config, family, &shape)?;
        if options.disable_sliding_window {
            length.within(attention.iter().filter_map(|layer| layer.attn.window).min());
            attention.iter_mut().for_each(|layer| layer.attn.window = None);
        }
        let max_model_len =
            length.choose(options.max_model_len, family.positions != Positions::Rope)?;

        let dtype = keys::choose_dtype(config, family, pools, options)?;
        let scales = layers::scales(config, family, hidden, dtype)?;
        let vocab_size = dimension(config, "vocab_size")?;
        let spec = ModelSpec {
            family,
            vocab_size,
            hidden,
            layers,
            heads,
            kv_heads,
            head_dim,
            ffn: ffn(config, family, hidden)?,
            mixture: mixture::mixture(config, family, layers)?,
            embed_width,
            norm_eps: keys::norm_eps(config, family.eps)? * scales.eps,
            activation: keys::activation(config, family)?,
            attention,
            ropes: layers::ropes(config, family, head_dim, max_model_len)?,
            embed_scale: scales.embed,
            logit_scale: if pools { 1.0 } else { scales.logits },
            logit_softcap: layers::softcap(config, family, "final_logit_softcapping")?,
            derived_len,
            tied: !pools && flag(config, Flag::Key("tie_word_embeddings"))?,
            qkv_bias: flag(config, family.qkv_bias)?,
            out_bias: flag(config, family.out_bias)?,
            mlp_bias: flag(config, family.mlp_bias)?,
            norm_affine: flag(config, family.norm_affine)?,
            norms: norm_order(config, family)?,
            parallel: flag(config, family.parallel)?,
            dtype,
            max_model_len,
            adapters: None,
            eos_token_ids: keys::eos_token_ids(config, generation, vocab_size)?,
            token_types: match family.names.token_types {
                Some(_) => dimension(config, "type_vocab_size")?,
                None => 0,
            },
            pooling,
        };
        spec.judge_size(config)?;
        Ok(spec)
    }

    /// Every size by itself is in range; all of them together must be too.
    fn judge_size(&self, config: &Object) -> Result<()> {
        let ffn = self.mixture.as_ref().map_or(0.0, |m| m.ffn as f64 * m.routing.experts as f64);
        let ffn = ffn.max(self.mlp_width() as f64);
        let attention = 2.0 * (self.heads + self.kv_heads) as f64 * self.head_dim as f64;
        let layer = (attention + 3.0 * ffn) * self.hidden as f64;
        let table = self.vocab_size as f64 * self.embed_width as f64;
        let parameters = self.layers as f64 * layer + 2.0 * table;
        match parameters <= MAX_PARAMETERS {
            true => Ok(()),
            false => Err(invalid!(
                "{} and the other sizes make a model of {parameters:.1e} parameters, at most \
                 {MAX_PARAMETERS:.0e} can be described.",
                config.name(self.family.keys.hidden)
            )),
        }
    }

    /// Experts of a layer, if it has some.
    pub fn mixture_of(&self, layer: usize) -> Option<&MixtureSpec> {
        self.mixture.as_ref().filter(|m| m.layers.get(layer).is_some_and(|&experts| experts))
    }

    /// The widest MLP that is not one of the experts; 0 if there is none.
    pub fn mlp_width(&self) -> usize {
        let width = |layer| match self.mixture_of(layer) {
            Some(mixture) => mixture.shared_ffn.unwrap_or(0),
            None => self.ffn,
        };
        (0..self.layers).map(width).max().unwrap_or(0)
    }

    /// Shape of the KV pool. `kv_cache_dtype` is `auto` (as the weights) or an element type's name.
    ///
    /// # Errors
    /// A `kv_cache_dtype` that is none of these.
    pub fn kv_shape(&self, kv_cache_dtype: &str) -> Result<KvShape> {
        let dtype = match kv_cache_dtype {
            "" | "auto" => self.dtype,
            name => keys::parse_dtype(name).ok_or_else(|| {
                Error::Unsupported(format!(
                    "kv_cache_dtype '{name}' is not supported; supported: auto, float16, bfloat16, \
                     float32."
                ))
            })?,
        };
        // An encoder keeps nothing.
        let layers = if self.family.encoder { 0 } else { self.layers };
        Ok(KvShape { layers, kv_heads: self.kv_heads, head_dim: self.head_dim, dtype })
    }

    /// Every prompt must come in one step, and nothing of it can be taken from another's pages.
    pub fn whole_prompts(&self) -> bool {
        self.family.encoder || self.pooling.as_ref().is_some_and(PoolingRule::whole)
    }
}

pub(super) fn architecture<'a>(config: &Object<'a>) -> Result<Option<&'a str>> {
    let expected = "a list of names";
    let Some(list) = config.list("architectures")? else { return Ok(None) };
    let name =
        |value: &'a Value| value.as_str().ok_or_else(|| config.wrong("architectures", expected));
    list.first().map(name).transpose()
}

fn family_of(config: &Object) -> Result<&'static Family> {
    let names = || FAMILIES.iter().map(|f| f.architecture).collect::<Vec<_>>().join(", ");
    let Some(name) = architecture(config)? else {
        return Err(invalid!(
            "{} must name one of: {}; if the checkpoint is one of these, name it in \
             hf_overrides, {{\"architectures\": [\"...\"]}}.",
            config.name("architectures"),
            names()
        ));
    };
    architectures::find(name).ok_or_else(|| {
        let own = match config.value("auto_map") {
            Some(_) => " (code of a checkpoint's own, 'auto_map', is never run)",
            None => "",
        };
        Error::Unsupported(format!(
            "{}: model architecture '{}' is not supported{own}; supported: {}.",
            config.name("architectures"),
            json::cut(name),
            names()
        ))
    })
}

fn shape(config: &Object, family: &Family) -> Result<Shape> {
    let keys = &family.keys;
    let hidden = keys::needed_width(config, keys.hidden)?;
    let heads = keys::needed_width(config, keys.heads)?;
    let kv_heads = match keys.kv_heads {
        Some(key) => keys::width(config, key)?.unwrap_or(heads),
        None => heads,
    };
    let head_dim = head_dim(config, family, hidden, heads)?;
    if !heads.is_multiple_of(kv_heads) {
        return Err(invalid!(
            "{} is {heads}, which is not a multiple of num_key_value_heads {kv_heads}.",
            config.name(keys.heads)
        ));
    }
    let all = heads.saturating_mul(head_dim);
    if all > keys::MAX_WIDTH {
        return Err(invalid!(
            "{} is {heads} and head_dim {head_dim}: together {all} wide, at most {}.",
            config.name(keys.heads),
            keys::MAX_WIDTH
        ));
    }
    let layers = config.count(keys.layers, MAX_LAYERS)?;
    let layers = config.needed(keys.layers, "an integer", layers)?;
    Ok(Shape { hidden, heads, kv_heads, head_dim, layers })
}

fn refuse_unsupported(config: &Object, family: &Family) -> Result<()> {
    let lacks = |key: &str, supported: &str| {
        let value = config.value(key).map(json::shown).unwrap_or_default();
        Error::Unsupported(format!(
            "{} is {value}, which {} does not support here; supported: {supported}.",
            config.name(key),
            family.architecture
        ))
    };
    for &key in family.must_be_off {
        if truthy(config.value(key)) {
            return Err(lacks(key, "false"));
        }
    }
    for &(key, only) in family.must_be {
        let is = |value: &Value| serde_json::from_str::<Value>(only).is_ok_and(|v| v == *value);
        if !config.given(key).is_none_or(is) {
            return Err(lacks(key, only));
        }
    }
    if truthy(config.value("quantization_config")) {
        let config_of = config.object("quantization_config")?;
        let method = config_of.and_then(|q| q.given("quant_method"));
        return Err(Error::Unsupported(format!(
            "{} (quant_method {}) is not supported; use a checkpoint in float32, float16 or \
             bfloat16.",
            config.name("quantization_config"),
            json::shown(method.unwrap_or(&Value::Null))
        )));
    }
    Ok(())
}

pub(super) fn truthy(value: Option<&Value>) -> bool {
    !matches!(value, None | Some(Value::Null | Value::Bool(false)))
}

fn ffn(config: &Object, family: &Family, hidden: usize) -> Result<usize> {
    let key = family.keys.ffn;
    match keys::width(config, key)? {
        None if family.keys.ffn_null_4x => Ok(4 * hidden),
        ffn => config.needed(key, "an integer", ffn),
    }
}

fn head_dim(config: &Object, family: &Family, hidden: usize, heads: usize) -> Result<usize> {
    match keys::width(config, "head_dim")? {
        Some(d) => Ok(d),
        None if hidden.is_multiple_of(heads) => Ok(hidden / heads),
        None => Err(invalid!(
            "{} is {hidden}, which is not a multiple of the {heads} attention heads, and \
             'head_dim' is missing.",
            config.name(family.keys.hidden)
        )),
    }
}

fn norm_order(config: &Object, family: &Family) -> Result<NormOrder> {
    Ok(match (family.names.attn_norm, flag(config, family.pre_norm)?) {
        (None, _) => NormOrder::HeadOnly,
        (_, true) => NormOrder::Before,
        (_, false) => NormOrder::After,
    })
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
#[cfg(test)]
#[path = "config_values_tests.rs"]
mod values_tests;
