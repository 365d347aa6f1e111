//! The vision tower of an image-and-text checkpoint: `vision_config` of config.json, and
//! preprocessor_config.json beside it.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::image_settings::{settings, sides};
use super::keys;
use crate::device::Activation;
use crate::error::{Error, Result};
use crate::ids::TokenId;
use crate::image::Settings;
use crate::json::Object;
use crate::model::architectures::{
    DeepNames, Eps, Family, Frame, Places, Tower, TowerEps, TowerFfn, Turns, Written,
};
use crate::{internal, invalid};

const DEPTH_MAX: usize = 512;

/// A tower that can be served.
#[derive(Debug, Clone)]
pub struct VisionSpec {
    /// Its row.
    pub tower: &'static Tower,
    /// Layers that run.
    pub depth: usize,
    /// Width of its residual.
    pub width: usize,
    /// Heads of attention.
    pub heads: usize,
    /// Width of its MLP.
    pub ffn: usize,
    /// Of the MLP.
    pub activation: Activation,
    /// What its norms add to a variance.
    pub eps: f32,
    /// Tokens of a window's side; None: there are no windows.
    pub window: Option<usize>,
    /// Of each layer whether it sees the whole image.
    pub whole: Vec<bool>,
    /// Vectors of places.
    pub places: PlacesSpec,
    /// Of the angles that heads are turned by; 0: they are not.
    pub theta: f32,
    /// q, k and v have biases.
    pub qkv_bias: bool,
    /// Layers behind which there are vectors for the decoder's first layers.
    pub deep: Vec<usize>,
    /// How images are processed.
    pub settings: Settings,
    /// Tokens that what goes through the tower as one becomes at most.
    pub max_tokens: usize,
    /// What stands for images.
    pub tokens: ImageTokens,
    /// What stands around them.
    pub frame: Option<FrameSpec>,
    /// Of each frequency of the decoder's rope which position it goes by; None: all by the token's.
    pub axes: Option<Arc<[u8]>>,
}

/// What stands for an image in a prompt, and for each of its vectors in the model's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageTokens {
    /// Tokens that config.json names.
    Ids {
        /// In a prompt.
        placeholder: TokenId,
        /// For each vector.
        part: TokenId,
    },
    /// A text, and a token that the tokenizer names.
    Written(Written),
}

/// What stands around the tokens of an image: text, a token, and the same behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameSpec {
    /// The text on both sides.
    pub text: &'static str,
    /// Where parts of the image stand behind it: in front of it, in front of the first part, and
    /// between parts, outside of `text`.
    pub parts: [&'static str; 3],
    /// The token in front.
    pub open: TokenId,
    /// The token behind.
    pub close: TokenId,
}

/// Vectors of places that a tower has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlacesSpec {
    /// None.
    None,
    /// A square of this side, stretched over an image.
    Stretched(usize),
    /// So many of columns, and behind them as many of rows.
    OfColumnAndRow(usize),
    /// One for each patch of a square of this side, and perhaps one in front for a row of the
    /// class.
    Each {
        /// Patches of a side.
        side: usize,
        /// There is a row of the class.
        class: bool,
    },
}

impl VisionSpec {
    /// Patches of an image at most.
    pub fn max_patches(&self) -> usize {
        match self.settings.most_tiles() {
            1 => self.max_tokens * self.square(),
            tiles => tiles * (self.settings.side / self.settings.patch).pow(2),
        }
    }

    /// Vectors that the tower makes of an image at most.
    pub fn max_vectors(&self) -> usize {
        self.max_patches() / self.square()
    }

    /// Its rows of an image at most.
    pub fn max_rows(&self) -> usize {
        self.max_patches() + self.settings.most_tiles() * self.class_rows()
    }

    /// Patches that become a token.
    pub fn square(&self) -> usize {
        self.settings.merge * self.settings.merge
    }

    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.width / self.heads
    }

    /// Rows of what is encoded for itself that are no patches.
    pub fn class_rows(&self) -> usize {
        usize::from(matches!(self.places, PlacesSpec::Each { class: true, .. }))
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
    let Some(own) = config.object("vision_config")? else { return Ok(None) };
    let model_type = own.text("model_type")?.unwrap_or_default();
    let takes = |tower: &&&Tower| {
        let named = tower.model_types.is_empty() || tower.model_types.contains(&model_type);
        named && tower.only_with.iter().all(|&(key, value)| is_given(&own, key, value))
    };
    let Some(tower) = family.towers.iter().find(takes) else { return Ok(None) };
    let named =
        |keys: &[&str]| keys.is_empty() || keys.iter().any(|key| config.given(key).is_some());
    if !tower.placeholders.iter().all(|keys| named(keys)) {
        // A text model under the name of the whole: nothing can stand for an image.
        return Ok(None);
    }
    let defaults: Map<String, Value> = serde_json::from_str(tower.defaults)
        .map_err(|e| internal!("defaults of the tower of {}: {e}", family.architecture))?;
    let own = own.with(&[], &defaults);
    if !tower.only_if.iter().all(|&(key, only)| has(config, &own, key, only)) {
        return Ok(None);
    }
    refuse_others(config, tower.must_be)?;
    refuse_others(&own, tower.own_must_be)?;

    let keys = &tower.keys;
    let width = keys::needed_width(&own, keys.width)?;
    let heads = keys::needed_width(&own, keys.heads)?;
    let parts = if tower.turns == Turns::None { 1 } else { 4 };
    if !width.is_multiple_of(parts * heads) {
        return Err(invalid!(
            "{} is {width}, which is not a multiple of {parts} times the {heads} heads.",
            own.name(keys.width)
        ));
    }
    judge_heads(&own, width, heads)?;
    judge_output(&own, tower, fit)?;
    let depth = own.needed(keys.depth, "an integer", own.count(keys.depth, DEPTH_MAX)?)?;
    let depth = layers_that_run(config, tower, depth)?;
    let window = own.count("window_size", 1 << 14)?;
    let whole = match window {
        Some(_) => whole_layers(&own, depth)?,
        None => vec![true; depth],
    };

    let settings = settings(config, &own, tower, fit.folder, fit.sizes)?;
    let unit = settings.patch * settings.merge;
    Ok(Some(VisionSpec {
        tower,
        depth,
        width,
        heads,
        ffn: ffn(&own, tower, width)?,
        activation: activation(&own, tower)?,
        eps: eps(&own, tower)?,
        window: window.map(|window| (window / unit).max(1)),
        whole,
        places: places(&own, tower, &settings)?,
        theta: theta(&own, tower)?,
        qkv_bias: match tower.qkv_bias_key {
            Some(key) => own.flag(key)?.unwrap_or(tower.qkv_bias),
            None => tower.qkv_bias,
        },
        deep: deep_layers(&own, tower, depth, fit.layers)?,
        max_tokens: settings.most_tokens().clamp(1, fit.max_model_len),
        settings,
        tokens: placeholders(config, tower, fit.vocab_size)?,
        frame: frame(config, tower, fit.vocab_size)?,
        axes: axes(config, tower, fit.rotary_dim)?,
    }))
}

/// Whether a key has this value, in JSON.
fn is_given(config: &Object, key: &str, value: &str) -> bool {
    let value: Option<Value> = serde_json::from_str(value).ok();
    config.given(key).is_some_and(|given| Some(given) == value.as_ref())
}

/// A key of the tower or, if that has none, of the checkpoint as a whole has this value.
fn has(config: &Object, own: &Object, key: &str, only: &str) -> bool {
    is_given(if own.given(key).is_some() { own } else { config }, key, only)
}

/// Heads of q, k and v are as many and as wide as the residual says.
fn judge_heads(own: &Object, width: usize, heads: usize) -> Result<()> {
    for (key, wanted) in [("num_key_value_heads", heads), ("head_dim", width / heads)] {
        if own.count(key, 1 << 16)?.is_some_and(|count| count != wanted) {
            let wrong = own.wrong(key, &wanted.to_string());
            return Err(Error::Unsupported(wrong.message().into()));
        }
    }
    Ok(())
}

/// Keys that may have one value only.
fn refuse_others(config: &Object, keys: &[(&str, &str)]) -> Result<()> {
    for &(key, only) in keys {
        if config.given(key).is_some() && !is_given(config, key, only) {
            return Err(Error::Unsupported(config.wrong(key, only).message().into()));
        }
    }
    Ok(())
}

/// Its vectors are as wide as the decoder.
fn judge_output(own: &Object, tower: &Tower, fit: &Fit) -> Result<()> {
    let Some(key) = tower.keys.out else { return Ok(()) };
    let out = keys::needed_width(own, key)?;
    if out != fit.hidden {
        return Err(invalid!(
            "{} is {out}, and the decoder is {} wide.",
            own.name(key),
            fit.hidden
        ));
    }
    Ok(())
}

/// Of `depth` layers those whose output counts, or goes into one that does.
fn layers_that_run(config: &Object, tower: &Tower, depth: usize) -> Result<usize> {
    let Some((key, default)) = tower.keys.picked else { return Ok(depth) };
    let depth = depth as i64;
    let picked = config.integer(key, -depth - 1, depth)?.unwrap_or(default);
    let run = if picked < 0 { depth + 1 + picked } else { picked };
    usize::try_from(run).map_err(|_| config.wrong(key, "a layer of the tower"))
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

/// Vectors of places, which fit to what is made of images.
fn places(own: &Object, tower: &Tower, settings: &Settings) -> Result<PlacesSpec> {
    match tower.places {
        Places::None => Ok(PlacesSpec::None),
        Places::Stretched { count: key, .. } => {
            let count = own.needed(key, "an integer", own.count(key, 1 << 20)?)?;
            let side = count.isqrt();
            if side == 0 || side * side != count {
                return Err(own.wrong(key, "the square of an integer"));
            }
            Ok(PlacesSpec::Stretched(side))
        }

        Places::OfColumnAndRow { count: key, .. } => {
            let count = own.needed(key, "an integer", own.count(key, 1 << 20)?)?;
            let longest = settings.most_tokens() * settings.merge;
            if count < longest {
                let expected = format!("at least {longest}, as many patches as a side may have");
                return Err(own.wrong(key, &expected));
            }
            Ok(PlacesSpec::OfColumnAndRow(count))
        }
        Places::Each { class, .. } => {
            let side = sides(own, "image_size", 1 << 14)? / settings.patch;
            if side != settings.side / settings.patch {
                return Err(invalid!(
                    "{} is {} pixels, and images are made {} pixels wide.",
                    own.name("image_size"),
                    side * settings.patch,
                    settings.side
                ));
            }

            if !side.is_multiple_of(settings.merge) {
                return Err(invalid!(
                    "{} makes {side} patches a side, which are no squares of {} x {}.",
                    own.name("image_size"),
                    settings.merge,
                    settings.merge
                ));
            }
            Ok(PlacesSpec::Each { side, class: class.is_some() })
        }
    }
}

fn eps(own: &Object, tower: &Tower) -> Result<f32> {
    match tower.eps {
        TowerEps::Fixed(eps) => Ok(eps),
        TowerEps::Key(key) => keys::norm_eps(own, Eps::Key(key)),
    }
}

fn theta(own: &Object, tower: &Tower) -> Result<f32> {
    match tower.turns {
        Turns::None => Ok(0.0),
        Turns::SameOfBoth(theta) => Ok(theta),
        Turns::EvenAndOdd(key) | Turns::HalfEach(key) => match own.object("rope_parameters")? {
            Some(rope) if rope.given(key).is_some() => Ok(keys::positive(&rope, key)? as f32),
            _ => Ok(keys::positive(own, key)? as f32),
        },
    }
}

fn ffn(own: &Object, tower: &Tower, width: usize) -> Result<usize> {
    match tower.keys.ffn {
        TowerFfn::Width(key) => keys::needed_width(own, key),
        TowerFfn::Times(key) => Ok(width * own.needed(key, "an integer", own.count(key, 1 << 8)?)?),
    }
}

fn activation(own: &Object, tower: &Tower) -> Result<Activation> {
    let key = if own.given("hidden_act").is_some() { "hidden_act" } else { "hidden_activation" };
    let act = match (own.text(key)?, tower.up.len()) {
        (Some("silu"), 2) => Activation::SiluGated,
        (Some("gelu"), 2) => Activation::GeluGated,
        (Some("gelu_pytorch_tanh"), 2) => Activation::GeluTanhGated,
        (Some("silu"), 1) => Activation::Silu,
        (Some("quick_gelu"), 1) => Activation::QuickGelu,
        (Some("gelu"), 1) => Activation::Gelu,
        (Some("gelu_pytorch_tanh"), 1) => Activation::GeluTanh,
        _ => {
            let expected = match tower.up.len() {
                2 => "\"silu\", \"gelu\" or \"gelu_pytorch_tanh\"",
                _ => "\"silu\", \"quick_gelu\", \"gelu\" or \"gelu_pytorch_tanh\"",
            };
            return Err(Error::Unsupported(own.wrong(key, expected).message().into()));
        }
    };
    Ok(act)
}

/// What an image is in a prompt, and a part of it.
fn placeholders(config: &Object, tower: &Tower, vocab_size: usize) -> Result<ImageTokens> {
    if let Some(written) = tower.written {
        return Ok(ImageTokens::Written(written));
    }
    let read = |keys: &[&str]| {
        let given = keys.iter().find(|key| config.given(key).is_some());
        token(config, given.or(keys.first()).copied().unwrap_or_default(), vocab_size)
    };
    let [prompt, part] = tower.placeholders;
    Ok(ImageTokens::Ids { placeholder: read(prompt)?, part: read(part)? })
}

fn token(config: &Object, key: &str, vocab_size: usize) -> Result<TokenId> {
    let id = config.integer(key, 0, vocab_size as i64 - 1)?;
    Ok(TokenId(config.needed(key, "a token", id)? as u32))
}

fn frame(config: &Object, tower: &Tower, vocab_size: usize) -> Result<Option<FrameSpec>> {
    let Some(Frame { text, open, close, parts }) = tower.frame else { return Ok(None) };
    let token = |key: &str| token(config, key, vocab_size);
    Ok(Some(FrameSpec { text, parts, open: token(open)?, close: token(close)? }))
}

/// Sections of frequencies that go by time, row and column: one behind the other, or every third
/// one by rows and by columns as long as these have some.
fn axes(config: &Object, tower: &Tower, rotary_dim: usize) -> Result<Option<Arc<[u8]>>> {
    const SECTIONS: &str = "mrope_section";
    if !tower.axes {
        return Ok(None);
    }
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
        return Ok(Some((0..sum).map(axis).collect()));
    }
    let section = |(axis, &length): (usize, &usize)| std::iter::repeat_n(axis as u8, length);
    Ok(Some(lengths.iter().enumerate().flat_map(section).collect()))
}
