//! preprocessor_config.json: what a checkpoint says of its processor of images. Defaults are those
//! of the processor that the family's row names.

use serde_json::{Map, Value};

use super::normalise::Normalise;
use super::resize::Filter;
use crate::error::Result;
use crate::invalid;
use crate::json::Object;

/// Sides and patches of more pixels than this are a mistake in the file.
const SIDE_MAX: usize = 1 << 14;
/// Pixels of an image at most, as a file may say.
const AREA_MAX: usize = super::MAX_PIXELS as usize;
/// Squares that a picture is cut into at most, as a file may say.
const TILES_MAX: usize = 256;
/// Keys that switch a step off, which no checkpoint that is served does.
const STEPS: [&str; 4] = ["do_resize", "do_rescale", "do_normalize", "do_convert_rgb"];

/// Whose rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Qwen-VL: the picture's own shape, in whole tokens, between a least and a largest area.
    Qwen,
    /// SigLIP, Gemma 3, PaliGemma: one square, whatever the shape was.
    Square,
    /// CLIP, LLaVA 1.5: the shortest edge to the side, and the middle of the rest.
    CentreCrop,
    /// InternVL: squares side by side, in a grid of nearly the picture's shape, and behind several
    /// of them the whole picture as one.
    Tiles,
    /// Pixtral, Mistral 3: the picture's own shape, made smaller if its longest edge is longer.
    Pixtral,
}

/// Judged.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which rules.
    pub kind: Kind,
    /// How it is resized.
    pub filter: Filter,
    /// Bytes to numbers.
    pub normalise: Normalise,
    /// Pixels of a patch's side.
    pub patch: usize,
    /// Patches of a side that become one token.
    pub merge: usize,
    /// Equal copies of a patch, of towers that also take videos.
    pub copies: usize,
    /// Pixels that a processed image has at least and at most.
    pub area: (usize, usize),
    /// Side of the processed image: of all, or of the longest.
    pub side: usize,
    /// Squares of a grid at least and at most.
    pub tiles: (usize, usize),
}

impl Settings {
    /// Tokens that an image becomes at most, but for those that mark its rows.
    pub fn most_tokens(&self) -> usize {
        let unit = self.patch * self.merge;
        match self.kind {
            Kind::Qwen => self.area.1 / (unit * unit),
            Kind::Square | Kind::CentreCrop | Kind::Tiles => (self.side / unit).pow(2),
            Kind::Pixtral => self.side.div_ceil(unit).pow(2),
        }
    }

    /// From the file's object; `patch` and `merge` are the tower's, where the file has none.
    ///
    /// # Errors
    /// InvalidArgument: a value of another kind, or one that is not served.
    pub fn read(
        file: &str,
        keys: &Map<String, Value>,
        kind: Kind,
        patch: usize,
        merge: usize,
    ) -> Result<Settings> {
        let config = Object::new(file, keys);
        for step in STEPS {
            if config.flag(step)? == Some(false) {
                return Err(invalid!("{} false is not served: remove it.", config.name(step)));
            }
        }
        let own_patch = match config.given("patch_size") {
            Some(Value::Object(_)) => match config.object("patch_size")? {
                Some(sides) => sides.count("height", SIDE_MAX)?,
                None => None,
            },
            _ => config.count("patch_size", SIDE_MAX)?,
        };

        let patch = own_patch.unwrap_or(patch);
        let merge = config.count("merge_size", 16)?.unwrap_or(merge);
        let copies = config.count("temporal_patch_size", 8)?.unwrap_or(2);
        let (area, side) = sizes(&config, kind)?;
        Ok(Settings {
            kind,
            filter: filter(&config, kind)?,
            normalise: normalise(&config, kind)?,
            patch,
            merge,
            copies: if kind == Kind::Qwen { copies } else { 1 },
            area,
            side,
            tiles: if kind == Kind::Tiles { tiles(&config)? } else { (1, 1) },
        })
    }
}

/// Squares of a grid at least and at most.
fn tiles(config: &Object) -> Result<(usize, usize)> {
    let least = config.count("min_patches", TILES_MAX)?.unwrap_or(1);
    let most = config.count("max_patches", TILES_MAX)?.unwrap_or(12);
    if least > most {
        return Err(config.wrong("min_patches", &format!("at most {most}, as 'max_patches' is")));
    }
    Ok((least, most))
}

/// Pixels, and the side.
fn sizes(config: &Object, kind: Kind) -> Result<((usize, usize), usize)> {
    let size = config.object("size")?;
    let of_size = |key: &str, most| match &size {
        Some(size) => size.count(key, most),
        None => Ok(None),
    };
    if kind == Kind::Qwen {
        let least = match config.count("min_pixels", AREA_MAX)? {
            Some(pixels) => pixels,
            None => of_size("shortest_edge", AREA_MAX)?.unwrap_or(56 * 56),
        };
        let most = match config.count("max_pixels", AREA_MAX)? {
            Some(pixels) => pixels,
            None => of_size("longest_edge", AREA_MAX)?.unwrap_or(28 * 28 * 1280),
        };
        if least > most {
            return Err(invalid!(
                "{}: an image of at least {least} and at most {most} pixels.",
                config.name("size")
            ));
        }
        return Ok(((least, most), 0));
    }

    let (key, default) = match kind {
        Kind::Pixtral => ("longest_edge", 1024),
        Kind::CentreCrop => ("shortest_edge", 224),
        Kind::Tiles => ("height", 384),
        Kind::Square | Kind::Qwen => ("height", 224),
    };
    let side = of_size(key, SIDE_MAX)?.unwrap_or(default);
    let square = matches!(kind, Kind::Square | Kind::Tiles);
    if square && of_size("width", SIDE_MAX)?.is_some_and(|width| width != side) {
        return Err(invalid!("{} is not a square, which is not served.", config.name("size")));
    }
    if kind == Kind::CentreCrop {
        let crop = match config.given("crop_size") {
            Some(Value::Object(_)) => match config.object("crop_size")? {
                Some(sides) => sides.count("height", SIDE_MAX)?,
                None => None,
            },
            _ => config.count("crop_size", SIDE_MAX)?,
        };
        if crop.is_some_and(|crop| crop != side) {
            return Err(invalid!(
                "{} is not the shortest edge of 'size', {side}, which is not served.",
                config.name("crop_size")
            ));
        }
    }
    Ok(((1, AREA_MAX), side))
}

/// By Pillow's numbers.
fn filter(config: &Object, kind: Kind) -> Result<Filter> {
    let default = if kind == Kind::Square { 2 } else { 3 };
    match config.integer("resample", 0, 5)?.unwrap_or(default) {
        1 => Ok(Filter::Lanczos),
        2 => Ok(Filter::Bilinear),
        3 => Ok(Filter::Bicubic),
        _ => Err(config.wrong("resample", "1, 2 or 3 (lanczos, bilinear, bicubic)")),
    }
}

fn normalise(config: &Object, kind: Kind) -> Result<Normalise> {
    const CLIP_MEAN: [f64; 3] = [0.48145466, 0.4578275, 0.40821073];
    const CLIP_STD: [f64; 3] = [0.26862954, 0.26130258, 0.27577711];
    let (mean, std) = match kind {
        Kind::Square => ([0.5; 3], [0.5; 3]),
        _ => (CLIP_MEAN, CLIP_STD),
    };
    let three = |key: &str, default: [f64; 3]| -> Result<[f32; 3]> {
        let given = config.positives(key, 3)?;
        Ok(std::array::from_fn(|c| given.as_ref().map_or(default[c], |list| list[c]) as f32))
    };
    let factor = config.positive("rescale_factor")?.unwrap_or(1.0 / 255.0);
    Ok(Normalise::new(three("image_mean", mean)?, three("image_std", std)?, factor))
}
