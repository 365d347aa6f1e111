//! config.json (and generation_config.json) -> [`ModelSpec`]: every shape and rule of a model,
//! checked, so that `decoder` never meets a bad one. Called by `engine` at load. It knows no tensor
//! and no device beyond the element types it is told are supported.

use std::path::Path;

use serde_json::{Map, Value};

use super::blocks::{self, Block, Shape};
use super::families::{self, Eps, Family, Flag, Positions};
use super::length;
use super::lora::AdapterOptions;
use super::mixture::{self, MixtureSpec};
use super::pooling::{PoolerOptions, PoolingRule, SideFiles};
use super::rows::{self, FAMILIES};
use crate::device::{Activation, DType, KvShape, Rope};
use crate::error::{Error, Result};
use crate::files::{self, Kind};
use crate::ids::TokenId;
use crate::{internal, invalid};

/// Shapes above this are a mistake in the file, not a model; it keeps products inside a `usize`.
pub(super) const MAX_DIMENSION: u64 = 1 << 24;

/// Each has weights and pages of its own: published models stay below 200.
const MAX_LAYERS: usize = 4096;

/// What the user asked for, and what the device can do.
#[derive(Debug, Clone, Default)]
pub struct SpecOptions<'a> {
    /// Deep-merged into config.json before anything is read.
    pub hf_overrides: Option<&'a Map<String, Value>>,
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
    pub blocks: Vec<Block>,
    /// What [`Block::rope`] counts; none with learned positions.
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
        let mut config = read_object(&dir.join("config.json"))?;
        let generation = options.generation_config.unwrap_or(dir).join("generation_config.json");
        let generation = match options.generation_config {
            Some(_) => Some(read_object(&generation)?),
            None => files::optional(read_object(&generation))?,
        };
        if let Some(overrides) = options.hf_overrides {
            merge(&mut config, overrides);
        }
        if let Some(Value::Object(mut text)) = config.remove("text_config") {
            // The architecture is the whole checkpoint's.
            text.remove("architectures");
            merge(&mut config, &text);
        }
        let options = SpecOptions { files: SideFiles::read(dir)?, ..options.clone() };
        Self::from_config(&config, generation.as_ref(), &options).map_err(Error::on_one_line)
    }

    /// The same from parsed files.
    pub fn from_config(
        config: &Map<String, Value>,
        generation: Option<&Map<String, Value>>,
        options: &SpecOptions,
    ) -> Result<ModelSpec> {
        let family = family_of(config)?;
        let config = &with_defaults(config, family)?;
        refuse_unsupported(config, family)?;
        let keys = &family.keys;
        let shape = shape(config, family)?;
        let Shape { hidden, heads, kv_heads, head_dim, layers } = shape;
        let ffn = match optional_dimension(config, keys.ffn)? {
            Some(ffn) => ffn,
            None if keys.ffn_default_4x => 4 * hidden,
            None => return Err(missing(keys.ffn)),
        };
        let embed_width = match keys.embed_width {
            Some(key) => optional_dimension(config, key)?.unwrap_or(hidden),
            None => hidden,
        };
        let pooling = PoolingRule::of(config, family, options, hidden)?;
        let pools = pooling.is_some();
        let files = pools.then_some(&options.files);
        let (mut length, derived_len) = length::of(config, family, files)?;
        let mut blocks = blocks::blocks(config, family, &shape)?;
        if options.disable_sliding_window {
            length.within(blocks.iter().filter_map(|block| block.attn.window).min());
            blocks.iter_mut().for_each(|block| block.attn.window = None);
        }
        let max_model_len =
            length.choose(options.max_model_len, family.positions != Positions::Rope)?;
        let dtype = choose_dtype(config, family, pools, options)?;
        let scales = blocks::scales(config, family, hidden, dtype)?;
        Ok(ModelSpec {
            family,
            vocab_size: dimension(config, "vocab_size")?,
            hidden,
            layers,
            heads,
            kv_heads,
            head_dim,
            ffn,
            mixture: mixture::mixture(config, family, layers)?,
            embed_width,
            norm_eps: norm_eps(config, family.eps) * scales.eps,
            activation: activation(config, family)?,
            blocks,
            ropes: blocks::ropes(config, family, head_dim, max_model_len)?,
            embed_scale: scales.embed,
            logit_scale: if pools { 1.0 } else { scales.logits },
            logit_softcap: blocks::softcap(config, family, "final_logit_softcapping")?,
            derived_len,
            tied: !pools && flag(config, Flag::Key("tie_word_embeddings", family.tied)),
            qkv_bias: flag(config, family.qkv_bias),
            out_bias: flag(config, family.out_bias),
            mlp_bias: flag(config, family.mlp_bias),
            norm_affine: flag(config, family.norm_affine),
            norms: norm_order(config, family),
            parallel: flag(config, family.parallel),
            dtype,
            max_model_len,
            adapters: None,
            eos_token_ids: eos_token_ids(config, generation)?,
            token_types: optional_dimension(config, "type_vocab_size")?.unwrap_or(0),
            pooling,
        })
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
            name => parse_dtype(name).ok_or_else(|| {
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

pub(super) fn read_object(path: &Path) -> Result<Map<String, Value>> {
    match serde_json::from_slice(&files::read(path, Kind::Config)?) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(invalid!("{}: is not a JSON object.", path.display())),
        Err(e) => Err(invalid!("{}: is not valid JSON: {e}.", path.display())),
    }
}

/// Objects are merged key by key, anything else is replaced.
fn merge(base: &mut Map<String, Value>, over: &Map<String, Value>) {
    for (key, value) in over {
        match (base.get_mut(key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => merge(old, new),
            _ => {
                base.insert(key.clone(), value.clone());
            }
        }
    }
}

pub(super) fn architecture(config: &Map<String, Value>) -> Option<&str> {
    config.get("architectures")?.get(0)?.as_str()
}

fn family_of(config: &Map<String, Value>) -> Result<&'static Family> {
    let names = || FAMILIES.iter().map(|f| f.architecture).collect::<Vec<_>>().join(", ");
    match architecture(config) {
        Some(name) => rows::find(name).ok_or_else(|| {
            let own = match config.contains_key("auto_map") {
                true => " (code of a checkpoint's own, 'auto_map', is never run)",
                false => "",
            };
            Error::Unsupported(format!(
                "config.json: model architecture '{name}' is not supported{own}; supported: {}.",
                names()
            ))
        }),
        None => {
            Err(invalid!("config.json: 'architectures' must be a list with one of: {}.", names()))
        }
    }
}

/// Keys that the family lets a config.json leave out.
fn with_defaults(config: &Map<String, Value>, family: &Family) -> Result<Map<String, Value>> {
    let mut full: Map<String, Value> = serde_json::from_str(family.defaults)
        .map_err(|e| internal!("defaults of {}: {e}", family.architecture))?;
    full.extend(config.clone());
    Ok(full)
}

fn shape(config: &Map<String, Value>, family: &Family) -> Result<Shape> {
    let keys = &family.keys;
    let hidden = dimension(config, keys.hidden)?;
    let heads = dimension(config, keys.heads)?;
    let kv_heads = match keys.kv_heads {
        Some(key) => optional_dimension(config, key)?.unwrap_or(heads),
        None => heads,
    };
    let head_dim = head_dim(config, hidden, heads)?;
    if !heads.is_multiple_of(kv_heads) {
        return Err(invalid!(
            "config.json: {} {heads} is not a multiple of num_key_value_heads {kv_heads}.",
            keys.heads
        ));
    }
    let layers = dimension(config, keys.layers)?;
    if layers > MAX_LAYERS {
        return Err(invalid!("config.json: '{}' is {layers}, at most {MAX_LAYERS}.", keys.layers));
    }
    Ok(Shape { hidden, heads, kv_heads, head_dim, layers })
}

fn refuse_unsupported(config: &Map<String, Value>, family: &Family) -> Result<()> {
    for &key in family.must_be_off {
        if truthy(config.get(key)) {
            return Err(Error::Unsupported(format!(
                "config.json: '{key}' is set, which {} does not support here.",
                family.architecture
            )));
        }
    }
    for &(key, only) in family.must_be {
        let value = config.get(key).unwrap_or(&Value::Null);
        let is = |text| serde_json::from_str::<Value>(text).is_ok_and(|v| v == *value);
        if !value.is_null() && !is(only) {
            return Err(Error::Unsupported(format!(
                "config.json: '{key}' is {value}; {} supports {only} only.",
                family.architecture
            )));
        }
    }
    if truthy(config.get("quantization_config")) {
        let method = config.get("quantization_config").and_then(|q| q.get("quant_method"));
        return Err(Error::Unsupported(format!(
            "config.json: quantization_config (quant_method {}) is not supported; use a checkpoint \
             in float32, float16 or bfloat16.",
            method.unwrap_or(&Value::Null)
        )));
    }
    Ok(())
}

pub(super) fn truthy(value: Option<&Value>) -> bool {
    !matches!(value, None | Some(Value::Null | Value::Bool(false)))
}

fn missing(key: &str) -> Error {
    invalid!("config.json: '{key}' is missing.")
}

pub(super) fn optional_dimension(config: &Map<String, Value>, key: &str) -> Result<Option<usize>> {
    match config.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(x) if (1..=MAX_DIMENSION).contains(&x) => Ok(Some(x as usize)),
            _ => Err(invalid!(
                "config.json: '{key}' must be an integer in 1..={MAX_DIMENSION}, got {value}."
            )),
        },
    }
}

pub(super) fn dimension(config: &Map<String, Value>, key: &str) -> Result<usize> {
    optional_dimension(config, key)?.ok_or_else(|| missing(key))
}

fn head_dim(config: &Map<String, Value>, hidden: usize, heads: usize) -> Result<usize> {
    match optional_dimension(config, "head_dim")? {
        Some(d) => Ok(d),
        None if hidden.is_multiple_of(heads) => Ok(hidden / heads),
        None => Err(invalid!(
            "config.json: hidden size {hidden} is not a multiple of the {heads} attention heads \
             and 'head_dim' is missing."
        )),
    }
}

fn norm_order(config: &Map<String, Value>, family: &Family) -> NormOrder {
    match (family.names.attn_norm, flag(config, family.pre_norm)) {
        (None, _) => NormOrder::HeadOnly,
        (_, true) => NormOrder::Before,
        (_, false) => NormOrder::After,
    }
}

fn norm_eps(config: &Map<String, Value>, eps: Eps) -> f32 {
    match eps {
        Eps::Fixed(x) => x,
        Eps::Key(key, default) => {
            config.get(key).and_then(Value::as_f64).map_or(default, |x| x as f32)
        }
    }
}

fn activation(config: &Map<String, Value>, family: &Family) -> Result<Activation> {
    let key = family.keys.activation;
    let name = config.get(key).and_then(Value::as_str).or(family.keys.activation_default);
    let name = name.ok_or_else(|| missing(key))?;
    families::activation(name, family.gated)
        .ok_or_else(|| Error::Unsupported(format!("config.json: {key} '{name}' is not supported.")))
}

pub(super) fn flag(config: &Map<String, Value>, flag: Flag) -> bool {
    match flag {
        Flag::Always => true,
        Flag::Never => false,
        Flag::Key(key, default) => config.get(key).and_then(Value::as_bool).unwrap_or(default),
    }
}

/// An element type by any name that configs and users write.
pub fn parse_dtype(name: &str) -> Option<DType> {
    match name.strip_prefix("torch.").unwrap_or(name) {
        "float32" | "float" => Some(DType::F32),
        "float16" | "half" => Some(DType::F16),
        "bfloat16" => Some(DType::BF16),
        _ => None,
    }
}

/// `auto` keeps 16-bit types; float32 becomes the device's first choice (float32 on CPU, bfloat16
/// on GPUs; float16 where a model embeds), as does a type that the device or the family lacks.
fn choose_dtype(
    config: &Map<String, Value>,
    family: &Family,
    pools: bool,
    options: &SpecOptions,
) -> Result<DType> {
    let fits = |d: &DType| !(family.no_float16 && *d == DType::F16);
    if !matches!(options.dtype, "" | "auto") {
        return match parse_dtype(options.dtype) {
            Some(d) if !fits(&d) => Err(invalid!(
                "The model type '{}' does not support float16. Reason: Numerical instability. \
                 Please use bfloat16 or float32 instead.",
                config.get("model_type").and_then(Value::as_str).unwrap_or(family.architecture)
            )),
            Some(d) if options.supported.is_empty() || options.supported.contains(&d) => Ok(d),
            Some(_) => Err(invalid!("dtype '{}' is not supported by the device.", options.dtype)),
            None => Err(invalid!(
                "dtype must be one of auto, half, float16, bfloat16, float, float32, got '{}'.",
                options.dtype
            )),
        };
    }
    let stored = config.get("dtype").or_else(|| config.get("torch_dtype"));
    let stored = stored.and_then(Value::as_str).and_then(parse_dtype).or(options.stored_dtype);
    Ok(match stored {
        Some(d @ (DType::F16 | DType::BF16)) if options.supported.contains(&d) && fits(&d) => d,
        _ if pools && options.supported.contains(&DType::F16) && fits(&DType::F16) => DType::F16,
        _ => options.supported.iter().copied().find(fits).unwrap_or(DType::F32),
    })
}

fn eos_token_ids(
    config: &Map<String, Value>,
    generation: Option<&Map<String, Value>>,
) -> Result<Vec<TokenId>> {
    let (file, object) = match generation {
        Some(object) => ("generation_config.json", object),
        None => ("config.json", config),
    };
    let id = |value: &Value| match value.as_u64().and_then(|x| u32::try_from(x).ok()) {
        Some(x) => Ok(TokenId(x)),
        None => Err(invalid!("{file}: 'eos_token_id' must hold token ids, got {value}.")),
    };
    match object.get("eos_token_id") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(ids)) => ids.iter().map(id).collect(),
        Some(value) => Ok(vec![id(value)?]),
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
