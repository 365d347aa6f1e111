//! The vision tower of an image-and-text checkpoint: `vision_config` of config.json, and
//! preprocessor_config.json beside it.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::keys;
use crate::device::Activation;
use crate::error::{Error, Result};
use crate::files::{self, Kind};
use crate::ids::TokenId;
use crate::image::Settings;
use crate::json::{self, Object};
use crate::model::architectures::{DeepNames, Family, Tower, TowerFfn};
use crate::{internal, invalid};

const PROCESSOR: &str = "preprocessor_config.json";
const DEPTH_MAX: usize = 512;

/// A tower that can be served.
#[derive(Debug, Clone)]
pub struct VisionSpec {
    /// Its row.
    pub tower: &'static Tower,
    /// Layers.
    pub depth: usize,
    /// Width of its residual.
    pub width: usize,
    /// Heads of attention.
    pub heads: usize,
    /// Width of its MLP.
    pub ffn: usize,
    /// Of the MLP.
    pub activation: Activation,
    /// Tokens of a window's side; None: there are no windows.
    pub window: Option<usize>,
    /// Of each layer whether it sees the whole image.
    pub whole: Vec<bool>,
    /// Side of the square of learned places.
    pub places: Option<usize>,
    /// Layers behind which there are vectors for the decoder's first layers.
    pub deep: Vec<usize>,
    /// How images are processed.
    pub settings: Settings,
    /// Tokens that an image becomes at most.
    pub max_tokens: usize,
    /// Stands in a prompt for each of them.
    pub placeholder: TokenId,
    /// Of each frequency of the decoder's rope which position it goes by.
    pub axes: Arc<[u8]>,
}

impl VisionSpec {
    /// Patches of an image at most.
    pub fn max_patches(&self) -> usize {
        self.max_tokens * self.square()
    }

    /// Patches that become a token.
    pub fn square(&self) -> usize {
        self.settings.merge * self.settings.merge
    }

    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.width / self.heads
    }
}

/// What of the decoder the tower must fit to, and where its processor is described.
pub(super) struct Fit<'a> {
    pub hidden: usize,
    pub layers: usize,
    pub vocab_size: usize,
    pub rotary_dim: usize,
    pub max_model_len: usize,
    pub folder: Option<&'a Path>,
    /// Over the keys of preprocessor_config.json.
    pub sizes: Option<&'a Map<String, Value>>,
}

/// The tower, if the family has one and the checkpoint too.
///
/// # Errors
/// A shape that does not fit; an option that the tower's forward pass lacks; a broken file.
pub(super) fn vision(config: &Object, family: &Family, fit: &Fit) -> Result<Option<VisionSpec>> {
    let Some(tower) = family.tower else { return Ok(None) };
    let Some(own) = config.object("vision_config")? else { return Ok(None) };
    let defaults: Map<String, Value> = serde_json::from_str(tower.defaults)
        .map_err(|e| internal!("defaults of the tower of {}: {e}", family.architecture))?;
    let own = own.with(&[], &defaults);

    let [width_key, out_key] = tower.widths;
    let width = keys::needed_width(&own, width_key)?;
    let heads = keys::needed_width(&own, "num_heads")?;
    if !width.is_multiple_of(4 * heads) {
        return Err(invalid!(
            "{} is {width}, which is not a multiple of 4 times the {heads} heads.",
            own.name(width_key)
        ));
    }
    let out = keys::needed_width(&own, out_key)?;
    if out != fit.hidden {
        return Err(invalid!(
            "{} is {out}, and the decoder is {} wide.",
            own.name(out_key),
            fit.hidden
        ));
    }
    let depth = own.needed("depth", "an integer", own.count("depth", DEPTH_MAX)?)?;
    let window = own.count("window_size", 1 << 14)?;
    let whole = match window {
        Some(_) => whole_layers(&own, depth)?,
        None => vec![true; depth],
    };

    let settings = settings(&own, tower, fit)?;
    let unit = settings.patch * settings.merge;
    let most = (settings.area.1 / (unit * unit)).clamp(1, fit.max_model_len);
    Ok(Some(VisionSpec {
        tower,
        depth,
        width,
        heads,
        ffn: ffn(&own, tower, width)?,
        activation: activation(&own, tower)?,
        window: window.map(|window| (window / unit).max(1)),
        whole,
        places: tower.places.map(|_| places(&own)).transpose()?,
        deep: deep_layers(&own, tower, depth, fit.layers)?,
        max_tokens: most,
        settings,
        placeholder: placeholder(config, tower, fit.vocab_size)?,
        axes: axes(config, fit.rotary_dim)?,
    }))
}

fn whole_layers(own: &Object, depth: usize) -> Result<Vec<bool>> {
    let mut whole = vec![false; depth];
    for index in layers(own, "fullatt_block_indexes", depth)? {
        whole[index] = true;
    }
    Ok(whole)
}

/// A list of layers, of which there are `depth`.
fn layers(own: &Object, key: &str, depth: usize) -> Result<Vec<usize>> {
    let index = |n: &Value| usize::try_from(n.as_u64()?).ok().filter(|&n| n < depth);
    let list = own.list(key)?.unwrap_or_default();
    let list: Option<Vec<usize>> = list.iter().map(index).collect();
    list.ok_or_else(|| own.wrong(key, "a list of layers"))
}

/// Behind which there are further vectors, one for each of the decoder's first layers.
fn deep_layers(own: &Object, tower: &Tower, depth: usize, most: usize) -> Result<Vec<usize>> {
    let Some(DeepNames { layers: key, .. }) = tower.deep else { return Ok(Vec::new()) };
    let list = layers(own, key, depth)?;
    if list.len() > most || !list.is_sorted_by(|a, b| a < b) {
        let expected = format!("a rising list of at most {most} layers, as the decoder has");
        return Err(own.wrong(key, &expected));
    }
    Ok(list)
}

/// Side of the square of learned places.
fn places(own: &Object) -> Result<usize> {
    const KEY: &str = "num_position_embeddings";
    let count = own.needed(KEY, "an integer", own.count(KEY, 1 << 20)?)?;
    let side = count.isqrt();
    if side == 0 || side * side != count {
        return Err(own.wrong(KEY, "the square of an integer"));
    }
    Ok(side)
}

fn ffn(own: &Object, tower: &Tower, width: usize) -> Result<usize> {
    match tower.ffn {
        TowerFfn::Width(key) => keys::needed_width(own, key),
        TowerFfn::Times(key) => Ok(width * own.needed(key, "an integer", own.count(key, 1 << 8)?)?),
    }
}

/// preprocessor_config.json, or what its absence means.
fn settings(own: &Object, tower: &Tower, fit: &Fit) -> Result<Settings> {
    let side = |key: &str| own.needed(key, "an integer", own.count(key, 1 << 10)?);
    let patch = side("patch_size")?;
    let merge = side("spatial_merge_size")?;
    let copies = side("temporal_patch_size")?;
    let path = fit.folder.map(|folder| folder.join(PROCESSOR));
    let mut keys = match &path {
        Some(path) => files::optional(json::read_object(path, Kind::Config))?.unwrap_or_default(),
        None => Map::new(),
    };
    let file = path.map_or_else(|| PROCESSOR.into(), |path| path.display().to_string());

    if let Some(over) = fit.sizes {
        if over.contains_key("size") {
            // In the file they would stand over it.
            keys.remove("min_pixels");
            keys.remove("max_pixels");
        }
        keys.extend(over.clone());
    }
    let settings = Settings::read(&file, &keys, tower.images, patch, merge)?;
    let tower_has = [("patch_size", patch, settings.patch), ("merge_size", merge, settings.merge)];
    let copied = ("temporal_patch_size", copies, settings.copies);
    for (key, wanted, got) in tower_has.into_iter().chain([copied]) {
        if wanted != got {
            return Err(invalid!("{file}: '{key}' is {got}, and the tower takes {wanted}."));
        }
    }
    Ok(settings)
}

fn activation(own: &Object, tower: &Tower) -> Result<Activation> {
    let act = match (own.text("hidden_act")?, tower.up.len()) {
        (Some("silu"), 2) => Activation::SiluGated,
        (Some("silu"), 1) => Activation::Silu,
        (Some("quick_gelu"), 1) => Activation::QuickGelu,
        (Some("gelu"), 1) => Activation::Gelu,
        (Some("gelu_pytorch_tanh"), 1) => Activation::GeluTanh,
        _ => {
            let expected = match tower.up.len() {
                2 => "\"silu\"",
                _ => "\"silu\", \"quick_gelu\", \"gelu\" or \"gelu_pytorch_tanh\"",
            };
            return Err(Error::Unsupported(own.wrong("hidden_act", expected).message().into()));
        }
    };
    Ok(act)
}

fn placeholder(config: &Object, tower: &Tower, vocab_size: usize) -> Result<TokenId> {
    let key = tower.placeholder;
    let id = config.integer(key, 0, vocab_size as i64 - 1)?;
    Ok(TokenId(config.needed(key, "a token", id)? as u32))
}

/// Sections of frequencies that go by time, row and column: one behind the other, or every third
/// one by rows and by columns as long as these have some.
fn axes(config: &Object, rotary_dim: usize) -> Result<Arc<[u8]>> {
    const SECTIONS: &str = "mrope_section";
    let scaling = match config.object("rope_parameters")? {
        Some(parameters) => Some(parameters),
        None => config.object("rope_scaling")?,
    };
    let Some(scaling) = scaling.filter(|scaling| scaling.given(SECTIONS).is_some()) else {
        return Err(config.wrong("rope_scaling", "an object with 'mrope_section'"));
    };

    let expected = format!("three lengths whose sum is {}", rotary_dim / 2);
    let wrong = || scaling.wrong(SECTIONS, &expected);
    let list = scaling.list(SECTIONS)?.unwrap_or_default();
    let lengths: Option<Vec<usize>> =
        list.iter().map(|n| usize::try_from(n.as_u64()?).ok()).collect();
    let lengths = lengths.filter(|lengths| lengths.len() == 3).ok_or_else(wrong)?;
    let sum = lengths.iter().fold(0usize, |sum, &n| sum.saturating_add(n));
    if sum != rotary_dim / 2 {
        return Err(wrong());
    }

    if scaling.flag("mrope_interleaved")?.unwrap_or(false) {
        let axis = |i: usize| match i % 3 {
            axis @ 1..=2 if i < 3 * lengths[axis] => axis as u8,
            _ => 0,
        };
        return Ok((0..sum).map(axis).collect());
    }
    let section = |(axis, &length): (usize, &usize)| std::iter::repeat_n(axis as u8, length);
    Ok(lengths.iter().enumerate().flat_map(section).collect())
}
