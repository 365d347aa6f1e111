//! config.json (and generation_config.json) -> [`ModelSpec`]: every shape and rule of a model,
//! checked, so that `decoder` never meets a bad one. Called by `engine` at load. It knows no tensor
//! and no device beyond the element types that are supported.

mod adapter_options;
mod channel_scan;
mod classifier;
mod dense_modules;
mod draft_head;
mod eagle;
mod dtype;
mod factors;
mod keys;
mod latent;
mod image_settings;
mod layer_shapes;
mod layers;
mod length;
mod mixture;
mod pooler_options;
mod pooling;
mod recurrent;
mod rope;
mod side_files;
mod scan;
mod source;
mod spec;
mod vision;
mod sublayers;

use std::path::Path;

use serde_json::{Map, Value};

use super::architectures::{self, Family, Flag, Fused, LayerShapes, Positions, QUARTERS};
use super::quant::{self, QuantScheme, Said};
use crate::device::Rope;
use crate::error::{Error, Result};
use crate::json::object::KeysRead;
use crate::json::{self, Object};
use crate::{internal, invalid};
pub use adapter_options::AdapterOptions;
pub use channel_scan::ChannelScanShape;
pub use classifier::{ClassifierRule, ClassifierWeights, ScoreActivation};
pub use dense_modules::{DenseActivation, DenseModule};
pub use draft_head::{DraftHead, EagleVersion, HeadKind};
pub use factors::Factors;
pub use keys::parse_dtype;
use keys::{architecture, dimension, flag, is_on};
pub use latent::LatentShape;
use layer_shapes::Shape;
pub use layer_shapes::{KeysFrom, LayerShape};
pub use layers::LayerAttention;
pub use mixture::MixtureSpec;
pub use pooler_options::{Convert, PoolerOptions, RunnerKind};
pub use pooling::{Dimensions, PooledAnswer, PoolingRule, VectorRule};
pub use recurrent::{RecurrentKind, RecurrentSpec};
pub use scan::ScanShape;
pub use side_files::SideFiles;
use source::Source;
pub use spec::{ConfigFormat, ModelSpec, NormOrder, SpecOptions};
pub use sublayers::Sublayers;
pub use vision::{FrameSpec, ImageTokens, PlacesSpec, VisionSpec};

/// Where architectures are listed.
const LISTED: &str = "docs/models.md";
/// More is a mistake in a file: the largest published models have 1e12 and some.
const MAX_PARAMETERS: f64 = 1e14;

impl ModelSpec {
    /// Read `<dir>/config.json`, or params.json of Mistral's own format, and
    /// `<dir>/generation_config.json`.
    ///
    /// # Errors
    /// One line naming the file and key: missing or broken file, unknown architecture, a shape that
    /// does not fit, an option the forward pass lacks.
    pub fn read(dir: &Path, options: &SpecOptions) -> Result<ModelSpec> {
        let source = Source::read(dir, options)?;
        let files = SideFiles::read(dir)?;
        let options = SpecOptions { files, folder: Some(dir), ..options.clone() };
        Self::of(&source, &options).map_err(Error::on_one_line)
    }

    /// The same where another file than config.json holds its keys.
    ///
    /// # Errors
    /// As `read`.
    pub fn from_keys(
        path: &Path,
        keys: Map<String, Value>,
        options: &SpecOptions,
    ) -> Result<ModelSpec> {
        let source = Source::of(path.display().to_string(), keys, options)?;
        let source = source.with_generation_of(None, options)?;
        Self::of(&source, options).map_err(Error::on_one_line)
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
        let keys_read = KeysRead::default();
        let config = source.config(&keys_read);
        let family = options.head.map_or_else(|| family_of(&config), Ok)?;
        let defaults: Map<String, Value> = serde_json::from_str(family.defaults)
            .map_err(|e| internal!("defaults of {}: {e}", family.architecture))?;

        let config = config.with(family.spellings, &defaults);
        refuse_unsupported(&config, family)?;
        let quant = quant::scheme(
            &config,
            Said {
                argument: options.quantization,
                file: source.overrides_file(),
                folder: options.folder,
                nested: source.text_is_quantised(),
                prefixes: family.prefixes,
            },
        )?;
        let mut spec = Self::build(&config, source.generation().as_ref(), family, quant, options)?;
        spec.judge_size(&config)?;
        spec.vision = spec.tower(&config, options)?;
        if let Some(vision) = &spec.vision {
            spec.ropes.iter_mut().for_each(|rope| rope.axes = vision.axes.clone());
        }
        source.warn_of_unread(&keys_read);
        Ok(spec)
    }

    fn build(
        config: &Object,
        generation: Option<&Object>,
        family: &'static Family,
        quant: Option<QuantScheme>,
        options: &SpecOptions,
    ) -> Result<ModelSpec> {
        let latent = latent::shape(config, family)?;
        let shape = shape(config, family, latent.as_ref())?;
        let Shape { hidden, heads, kv_heads, head_dim, layers } = shape;
        let (recurrent, mut sublayers) = recurrent::recurrent(config, family, &shape)?;
        let mixture = mixture::mixture(config, family, layers)?;
        let pooling = PoolingRule::of(config, family, &options.pooler, &options.files, hidden)?;
        let pools = pooling.is_some();
        let (ffns, mut attention) = own_layers(config, family, &shape)?;
        drop_missing(&mut sublayers, &attention, &ffns, mixture.as_ref());
        let (derived_len, max_model_len) = lengths(config, family, options, pools, &mut attention)?;

        let dtype = dtype::choose(config, family, quant.as_ref(), pools, options)?;
        let scales = layers::scales(config, family, &shape, dtype)?;
        let eps = keys::norm_eps(config, family.eps)?;
        let ropes = ropes(config, family, &shape, latent.as_ref(), &mut attention, max_model_len)?;
        let vocab_size = dimension(config, "vocab_size")?;
        Ok(ModelSpec {
            family,
            vocab_size,
            hidden,
            layers,
            heads,
            kv_heads,
            head_dim,
            latent,
            ffns,
            mixture,
            sublayers,
            recurrent,
            layer_input: layer_input(config, family, vocab_size)?,
            embed_width: embed_width(config, family, hidden)?,
            norm_eps: eps * scales.eps,
            inner_eps: eps,
            activation: keys::activation(config, family)?,
            attention,
            ropes,
            factors: factors::factors(config, family)?,
            embed_scale: scales.embed,
            logit_scale: if pools { 1.0 } else { scales.logits },
            logit_softcap: layers::softcap(config, family, "final_logit_softcapping")?,
            derived_len,
            tied: !pools && flag(config, Flag::Key("tie_word_embeddings"))?,
            head_bias: !pools && flag(config, family.head_bias)?,
            qkv_bias: flag(config, family.qkv_bias)?,
            out_bias: flag(config, family.out_bias)?,
            mlp_bias: flag(config, family.mlp_bias)?,
            qk_norms: flag(config, family.qk_norms)?,
            clip_qkv: layers::clip_qkv(config, family)?,
            norm_affine: flag(config, family.norm_affine)?,
            norms: norm_order(config, family)?,
            parallel: flag(config, family.parallel)?,
            dtype,
            max_model_len,
            adapters: None,
            eos_token_ids: keys::eos_token_ids(config, generation, vocab_size)?,
            token_types: token_types(config, family)?,
            merged_adapter: merged_adapter(config, family)?,
            pooling,
            quant,
            vision: None,
            draft_head: None,
        })
    }

    /// The tower that belongs to it, if images are wanted.
    fn tower(&self, config: &Object, options: &SpecOptions) -> Result<Option<VisionSpec>> {
        if options.text_only {
            return Ok(None);
        }
        let fit = vision::Fit {
            hidden: self.hidden,
            layers: self.layers,
            vocab_size: self.vocab_size,
            rotary_dim: self.ropes.first().map_or(0, |rope| rope.rotary_dim),
            max_model_len: self.max_model_len,
            folder: options.folder,
            sizes: options.image_sizes,
        };
        vision::vision(config, self.family, &fit)
    }

    /// Every size by itself is in range; all of them together must be too.
    fn judge_size(&self, config: &Object) -> Result<()> {
        let ffn = self.mixture.as_ref().map_or(0.0, |m| m.ffn as f64 * m.routing.experts as f64);
        let ffn = ffn.max(self.mlp_width() as f64);
        let of_layer = |layer: &LayerAttention| {
            2.0 * (self.heads + layer.attn.kv_heads) as f64 * layer.attn.head_dim as f64
        };
        let attention = self.attention.iter().map(of_layer).fold(0.0, f64::max);
        let layer = (attention + 3.0 * ffn) * self.hidden as f64;
        let inputs = self.layer_input.unwrap_or(0) as f64 * self.layers as f64;
        let table = self.token_rows() as f64 * (self.embed_width as f64 + inputs);
        let parameters = self.layers as f64 * layer + 2.0 * table;
        if parameters > MAX_PARAMETERS {
            return Err(invalid!(
                "{} and the other sizes make a model of {parameters:.1e} parameters, at most \
                 {MAX_PARAMETERS:.0e} can be described.",
                config.name(self.family.keys.hidden)
            ));
        }
        Ok(())
    }
}

fn family_of(config: &Object) -> Result<&'static Family> {
    let Some(name) = architecture(config)? else {
        return Err(invalid!(
            "{} must name a model architecture, of those in {LISTED}; if the checkpoint is one of \
             these, name it in hf_overrides, {{\"architectures\": [\"...\"]}}.",
            config.name("architectures"),
        ));
    };
    if let Some(family) = architectures::find(name) {
        return Ok(variant_of(config, family));
    }

    let at = config.name("architectures");
    let shown = json::cut(name);
    if let Some(version) = architectures::gone(name) {
        return Err(Error::Unsupported(format!(
            "{at}: Model architecture {shown} was supported in vLLM until v{version}, and is not \
             supported anymore. Please use an older version of vLLM if you want to use this model \
             architecture."
        )));
    }
    let own = match config.value("auto_map") {
        Some(_) => " (code of a checkpoint's own, 'auto_map', is never run)",
        None => "",
    };
    let nearest = architectures::nearest(name, config.text("model_type").unwrap_or_default());
    let nearest = nearest.map(|known| format!("; the nearest that is: {known}"));
    Err(Error::Unsupported(format!(
        "{at}: model architecture '{shown}' is not supported{own}{}. All that are: {LISTED}.",
        nearest.unwrap_or_default()
    )))
}

/// The row that keys choose in place of the one of a name.
fn variant_of(config: &Object, family: &'static Family) -> &'static Family {
    let fits = |key: &str, value: &str| {
        let value: Option<Value> = serde_json::from_str(value).ok();
        value.as_ref().is_some_and(|value| config.given(key) == Some(value))
    };
    let variant = family.variants.iter().find(|(key, value, _)| fits(key, value));
    variant.map_or(family, |&(.., variant)| variant)
}

fn shape(config: &Object, family: &Family, latent: Option<&LatentShape>) -> Result<Shape> {
    let keys = &family.keys;
    let hidden = keys::needed_width(config, keys.hidden)?;
    let heads = keys::needed_width(config, keys.heads)?;
    let kv_heads = match (latent, keys.kv_heads) {
        (Some(_), _) => 1,
        _ if keys.one_kv_head => 1,
        (None, Some(key)) => keys::width(config, key)?.unwrap_or(heads),
        (None, None) => heads,
    };
    let head_dim = match latent {
        Some(latent) => latent.width(),
        None => head_dim(config, family, hidden, heads)?,
    };

    if !heads.is_multiple_of(kv_heads) {
        return Err(invalid!(
            "{} is {heads}, which is not a multiple of num_key_value_heads {kv_heads}.",
            config.name(keys.heads)
        ));
    }
    if family.fused == Fused::Quarters && !heads.is_multiple_of(QUARTERS) {
        return Err(invalid!(
            "{} is {heads}, which is not a multiple of {QUARTERS}.",
            config.name(keys.heads)
        ));
    }
    let widest = latent.map_or(0, |latent| latent.q_dim().max(latent.value)).max(head_dim);
    let all = heads.saturating_mul(widest);
    if all > keys::MAX_WIDTH {
        return Err(invalid!(
            "{} is {heads} and head_dim {widest}: together {all} wide, at most {}.",
            config.name(keys.heads),
            keys::MAX_WIDTH
        ));
    }

    let layers = match sublayers::count(config, family)? {
        Some(layers) => layers,
        None => {
            let layers = config.count(keys.layers, keys::MAX_LAYERS)?;
            config.needed(keys.layers, "an integer", layers)?
        }
    };
    Ok(Shape { hidden, heads, kv_heads, head_dim, layers })
}

/// Of each layer the width of its MLP, and its attention.
fn own_layers(
    config: &Object,
    family: &Family,
    shape: &Shape,
) -> Result<(Vec<usize>, Vec<LayerAttention>)> {
    let windowed = layers::windowed(config, family, shape.layers)?;
    let ffn = ffn(config, family, shape.hidden)?;
    let shapes = layer_shapes::of(config, family, shape, &windowed, ffn)?;
    let attention = layers::attention(config, family, shape.heads, &windowed, &shapes)?;
    Ok((shapes.iter().map(|layer| layer.ffn).collect(), attention))
}

/// Sublayers that a layer lacks by its shape.
fn drop_missing(
    sublayers: &mut [Sublayers],
    attention: &[LayerAttention],
    ffns: &[usize],
    mixture: Option<&MixtureSpec>,
) {
    for (i, parts) in sublayers.iter_mut().enumerate() {
        parts.attention &= attention[i].keys != KeysFrom::Nowhere;
        parts.feed_forward &= ffns[i] > 0 || mixture.is_some_and(|mixture| mixture.layers[i]);
    }
}

/// The length that config.json gives, and the one to serve. Windows go where they are not wanted.
fn lengths(
    config: &Object,
    family: &Family,
    options: &SpecOptions,
    pools: bool,
    attention: &mut [LayerAttention],
) -> Result<(usize, usize)> {
    let (mut length, derived_len) = length::of(config, family, pools.then_some(&options.files))?;
    if options.disable_sliding_window {
        length.within(layers::without_windows(attention));
    }
    let learned = matches!(family.positions, Positions::Learned { .. });
    Ok((derived_len, length.choose(options.max_model_len, learned)?))
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
        if is_on(config.value(key)) {
            return Err(lacks(key, "false"));
        }
    }
    for &(key, only) in family.must_be {
        let is = |value: &Value| serde_json::from_str::<Value>(only).is_ok_and(|v| v == *value);
        if !config.given(key).is_none_or(is) {
            return Err(lacks(key, only));
        }
    }
    Ok(())
}

fn ffn(config: &Object, family: &Family, hidden: usize) -> Result<usize> {
    if family.shapes == LayerShapes::ByBlock {
        return Ok(0);
    }
    let key = family.keys.ffn;
    let width = match keys::width(config, key)? {
        None if family.keys.ffn_null_4x => return Ok(4 * hidden),
        ffn => config.needed(key, "an integer", ffn)?,
    };
    const SWITCH: &str = "block_auto_adjust_ff_dim";
    if !family.keys.ffn_adjusted || !flag(config, Flag::Key(SWITCH))? {
        return Ok(width);
    }

    // Two thirds, as a gate makes three matrices of two, times a factor, in whole blocks.
    let factor = config.positive("block_ffn_dim_multiplier")?.unwrap_or(1.0);
    let block = keys::needed_width(config, "block_multiple_of")?;
    let adjusted = (((2 * width / 3) as f64 * factor) as usize).next_multiple_of(block);
    if !(1..=keys::MAX_WIDTH).contains(&adjusted) {
        return Err(invalid!(
            "{} is {width}, of which 'block_ffn_dim_multiplier' and 'block_multiple_of' make a \
             width of {adjusted}, at most {}.",
            config.name(key),
            keys::MAX_WIDTH
        ));
    }
    Ok(adjusted)
}

/// What layers rotate by; their scale where the rope changes it. Runs of positions that hold all of
/// them are none.
fn ropes(
    config: &Object,
    family: &Family,
    shape: &Shape,
    latent: Option<&LatentShape>,
    attention: &mut [LayerAttention],
    max_model_len: usize,
) -> Result<Vec<Rope>> {
    for layer in attention.iter_mut() {
        layer.attn.chunk = layer.attn.chunk.filter(|&chunk| chunk < max_model_len);
    }
    match latent {
        Some(latent) => Ok(vec![latent::rope(config, latent, attention, max_model_len)?]),
        None => layers::ropes(config, family, shape.head_dim, attention, max_model_len),
    }
}

/// Width of an input of each layer's own.
fn layer_input(config: &Object, family: &Family, vocab_size: usize) -> Result<Option<usize>> {
    let Some(row) = &family.layer_inputs else { return Ok(None) };
    if config.given(row.width).is_none_or(|width| *width == 0) {
        return Ok(None);
    }
    let rows = dimension(config, row.rows)?;
    if rows != vocab_size {
        return Err(Error::Unsupported(format!(
            "{} is {rows}, and the vocabulary {vocab_size}: they must be the same.",
            config.name(row.rows)
        )));
    }
    keys::width(config, row.width)
}

fn embed_width(config: &Object, family: &Family, hidden: usize) -> Result<usize> {
    match family.keys.embed_width {
        Some(key) => Ok(keys::width(config, key)?.unwrap_or(hidden)),
        None => Ok(hidden),
    }
}

fn token_types(config: &Object, family: &Family) -> Result<usize> {
    match family.names.token_types {
        Some(_) => {
            const KEY: &str = "type_vocab_size";
            let none = config.given(KEY).is_some_and(|count| *count == 0);
            let rotated = family.positions == Positions::Rope;
            if none && rotated {
                return Ok(0);
            }
            dimension(config, KEY)
        }
        None => Ok(0),
    }
}

/// What the product of a merged adapter's matrices is multiplied with.
fn merged_adapter(config: &Object, family: &Family) -> Result<Option<f32>> {
    let Some([alpha, rank]) = family.merged_adapter else { return Ok(None) };
    let scale = keys::positive(config, alpha)? / keys::positive(config, rank)?;
    Ok(Some(scale as f32))
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
mod quant_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod values_tests;
#[cfg(test)]
mod vision_tests;
