//! preprocessor_config.json: what a checkpoint says of its processor of images. Defaults are those
//! of the processor that the family's row names.

use serde_json::{Map, Value};

use super::any_resolution::AnyResolution;
use super::crops::Crops;
use super::normalise::Normalise;
use super::resize::{Filter, Rounding};
use crate::error::Result;
use crate::invalid;
use crate::json::Object;

/// Sides and patches of more pixels than this are a mistake in the file.
const SIDE_MAX: usize = 1 << 14;
/// Pixels of an image at most, as a file may say.
const AREA_MAX: usize = super::MAX_PIXELS as usize;
/// Squares that a picture is cut into at most, as a file may say.
const TILES_MAX: usize = 256;
/// Sizes that a picture is brought to at most, as a file may say.
const SIZES_MAX: usize = 256;
/// Key of these.
pub(super) const SIZES: &str = "image_grid_pinpoints";
/// Key of how many vectors are kept of an image.
pub(super) const KEPT: &str = "vision_aspect_ratio";
/// No picture's edge is longer before it is cut into squares, whatever the file says, as in
/// transformers.
pub(super) const LONGEST_EDGE_MAX: usize = 4096;
/// Keys that switch a step off, which no checkpoint that is served does.
const STEPS: [&str; 4] = ["do_resize", "do_rescale", NORMALISE, "do_convert_rgb"];
const NORMALISE: &str = "do_normalize";
/// Tokens that an image of Gemma 4 may have at most.
const SOFT_TOKENS: [usize; 5] = [70, 140, 280, 560, 1120];

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
    /// LLaVA-NeXT, LLaVA-OneVision: the whole picture as a square, and squares that it is cut into
    /// in one of some sizes.
    AnyResolution,
    /// InternVL in its own format: the same by Pillow.
    OwnTiles,
    /// Idefics3, SmolVLM: the longest edge to one length, both sides up to whole squares, which
    /// follow each other row by row, and behind several of them the whole as one.
    Squares,
    /// Pixtral, Mistral 3: the picture's own shape, made smaller if its longest edge is longer.
    Pixtral,
    /// Gemma 4: the picture's own shape, in whole tokens, as large as a number of them allows.
    Gemma4,
}

impl Kind {
    /// The picture becomes squares of one size.
    pub fn is_tiled(self) -> bool {
        matches!(self, Kind::Tiles | Kind::OwnTiles | Kind::Squares)
    }

    /// Key of how many patches of a side become one token.
    pub fn merge_key(self) -> &'static str {
        match self {
            Kind::Gemma4 => "pooling_kernel_size",
            _ => "merge_size",
        }
    }
}

/// Judged.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which rules.
    pub kind: Kind,
    /// How it is resized.
    pub filter: Filter,
    /// By whose bits.
    pub rounding: Rounding,
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
    /// Of a picture that is far from square.
    pub crops: Option<Crops>,
    /// Sizes in squares.
    pub any_resolution: Option<AnyResolution>,
    /// The whole picture follows its squares.
    pub whole: bool,
    /// What the longest edge becomes before a picture is cut into squares.
    pub longest: usize,
}

impl Settings {
    /// Tokens that an image becomes at most, but for those that mark its rows.
    pub fn most_tokens(&self) -> usize {
        let unit = self.patch * self.merge;
        match self.kind {
            Kind::Qwen | Kind::Gemma4 => self.area.1 / (unit * unit),
            Kind::Square
            | Kind::CentreCrop
            | Kind::Tiles
            | Kind::OwnTiles
            | Kind::Squares
            | Kind::AnyResolution => {
                let row = self.side / unit;
                let all = self.any_resolution.as_ref();
                all.map_or(row * row, |sizes| sizes.most_tokens(self.side, row))
            }
            Kind::Pixtral => self.side.div_ceil(unit).pow(2),
        }
    }

    /// Squares of an image that go through the tower together at most; 1: an image is one.
    pub fn most_tiles(&self) -> usize {
        self.any_resolution.as_ref().map_or(1, |sizes| sizes.most_tiles(self.side))
    }

    /// Squares side by side that Idefics3's processor cuts a picture into at most.
    pub fn most_a_side(&self) -> usize {
        if self.tiles.1 > 1 {
            most_a_side(self.longest, self.side)
        } else {
            1
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
            // Gemma 4's tower does that itself.
            let wanted = kind != Kind::Gemma4 || step != NORMALISE;
            if config.flag(step)? == Some(!wanted) {
                return Err(invalid!(
                    "{} {} is not served: remove it.",
                    config.name(step),
                    !wanted
                ));
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
        let merge = config.count(kind.merge_key(), 16)?.unwrap_or(merge);
        let copies = config.count("temporal_patch_size", 8)?.unwrap_or(2);
        let (area, side) = match kind {
            Kind::Gemma4 => ((1, soft_tokens(&config, patch * merge)?), 0),
            _ => sizes(&config, kind)?,
        };
        let any_resolution = match kind {
            Kind::AnyResolution if side < patch => {
                return Err(config.wrong("size", "a square of one patch or more"));
            }
            Kind::AnyResolution => Some(any_resolution(&config, side)?),
            _ => None,
        };
        let (tiles, longest) = match kind {
            Kind::Tiles | Kind::OwnTiles => (tiles(&config, kind)?, 0),
            Kind::Squares => squares(&config, side)?,
            _ => ((1, 1), 0),
        };
        Ok(Settings {
            kind,
            filter: filter(&config, kind)?,
            rounding: if kind == Kind::OwnTiles { Rounding::Pillow } else { Rounding::Torch },
            normalise: normalise(&config, kind)?,
            patch,
            merge,
            copies: if kind == Kind::Qwen { copies } else { 1 },
            area,
            side,
            tiles,
            whole: kind != Kind::OwnTiles || config.flag("use_thumbnail")?.unwrap_or(false),
            longest,
            crops: if kind == Kind::Square { crops(&config)? } else { None },
            any_resolution,
        })
    }
}

/// Pixels of an image at most, by its tokens, which have sides of `unit` pixels.
fn soft_tokens(config: &Object, unit: usize) -> Result<usize> {
    let tokens = config.count("max_soft_tokens", SIDE_MAX)?.unwrap_or(280);
    if !SOFT_TOKENS.contains(&tokens) {
        return Err(config.wrong("max_soft_tokens", "70, 140, 280, 560 or 1120"));
    }
    let pixels = tokens.saturating_mul(unit.saturating_mul(unit));
    if pixels > AREA_MAX {
        let name = config.name("max_soft_tokens");
        return Err(invalid!("{name}: images of {pixels} pixels, at most {AREA_MAX}."));
    }
    Ok(pixels)
}

/// Squares of a grid at least and at most.
fn tiles(config: &Object, kind: Kind) -> Result<(usize, usize)> {
    let ([least_key, most_key], default) = match kind {
        Kind::OwnTiles => (["min_dynamic_patch", "max_dynamic_patch"], 6),
        _ => (["min_patches", "max_patches"], 12),
    };
    let least = config.count(least_key, TILES_MAX)?.unwrap_or(1);
    let most = config.count(most_key, TILES_MAX)?.unwrap_or(default);
    if least > most {
        return Err(config.wrong(least_key, &format!("at most {most}, as '{most_key}' is")));
    }
    let dynamic = config.flag("dynamic_image_size")?.unwrap_or(false);
    Ok(if kind == Kind::OwnTiles && !dynamic { (1, 1) } else { (least, most) })
}

fn most_a_side(longest: usize, side: usize) -> usize {
    // An odd edge is made even.
    (longest.min(LONGEST_EDGE_MAX) + 1).div_ceil(side)
}

/// Squares of Idefics3's at least and at most, and what the longest edge becomes.
fn squares(config: &Object, side: usize) -> Result<((usize, usize), usize)> {
    let size = config.object("size")?;
    let longest = match &size {
        Some(size) => size.count("longest_edge", SIDE_MAX)?,
        None => None,
    };
    let longest = longest.unwrap_or(4 * 364);
    let a_side = most_a_side(longest, side);
    if a_side * a_side > TILES_MAX {
        return Err(invalid!(
            "{} makes an edge {longest} pixels long, which is {a_side} squares of {side} pixels: \
             at most {TILES_MAX} squares are served.",
            config.name("size")
        ));
    }
    // Off: the picture becomes one square, whatever its shape.
    let most = match config.flag("do_image_splitting")? {
        Some(false) => 1,
        _ => TILES_MAX,
    };
    Ok(((1, most), longest))
}

/// Parts of a picture, if there are some.
fn crops(config: &Object) -> Result<Option<Crops>> {
    if !config.flag("do_pan_and_scan")?.unwrap_or(false) {
        return Ok(None);
    }
    Ok(Some(Crops {
        least_side: config.count("pan_and_scan_min_crop_size", SIDE_MAX)?.unwrap_or(256),
        most: config.count("pan_and_scan_max_num_crops", TILES_MAX)?.unwrap_or(4),
        least_aspect: config.positive("pan_and_scan_min_ratio_to_activate")?.unwrap_or(1.2),
    }))
}

/// Sizes in whole squares of `side` pixels, and as many squares as which vectors are kept.
fn any_resolution(config: &Object, side: usize) -> Result<AnyResolution> {
    let wrong = || {
        let expected = format!(
            "1 to {SIZES_MAX} pairs of height and width, multiples of {side} of at most \
             {TILES_MAX} squares"
        );
        config.wrong(SIZES, &expected)
    };
    let length = |n: &Value| {
        let n = usize::try_from(n.as_u64()?).ok()?;
        (n > 0 && n.is_multiple_of(side) && n <= SIDE_MAX * 4).then_some(n)
    };
    let pair = |pair: &Value| match pair.as_array().map(Vec::as_slice) {
        Some([height, width]) => Some([length(height)?, length(width)?]),
        _ => None,
    };
    let list = config.list(SIZES)?.unwrap_or_default();
    let sizes: Option<Vec<[usize; 2]>> = list.iter().map(pair).collect();
    let sizes = sizes.filter(|sizes| {
        (1..=SIZES_MAX).contains(&sizes.len())
            && sizes.iter().all(|[rows, columns]| rows / side * (columns / side) <= TILES_MAX)
    });

    let most_squares = match config.text(KEPT)? {
        None => None,
        Some(text) => {
            let most = text.strip_prefix("anyres_max_").and_then(|most| most.parse().ok());
            let most = most.filter(|most| (1..=TILES_MAX).contains(most));
            let expected = format!("\"anyres_max_\" and a number up to {TILES_MAX}");
            Some(most.ok_or_else(|| config.wrong(KEPT, &expected))?)
        }
    };
    Ok(AnyResolution { sizes: sizes.ok_or_else(wrong)?.into(), most_squares })
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

    if kind == Kind::Squares {
        let square = config.object("max_image_size")?;
        let side = match &square {
            Some(square) => square.count("longest_edge", SIDE_MAX)?,
            None => None,
        };
        return Ok(((1, AREA_MAX), side.unwrap_or(364)));
    }

    let (key, default) = match kind {
        Kind::Pixtral => ("longest_edge", 1024),
        Kind::CentreCrop => ("shortest_edge", 224),
        Kind::Tiles => ("height", 384),
        Kind::OwnTiles => ("height", 448),
        Kind::AnyResolution if of_size("shortest_edge", SIDE_MAX)?.is_some() => {
            ("shortest_edge", 0)
        }
        Kind::AnyResolution => ("height", 384),
        Kind::Square | Kind::Squares | Kind::Qwen | Kind::Gemma4 => ("height", 224),
    };
    let side = of_size(key, SIDE_MAX)?.unwrap_or(default);
    let square = matches!(kind, Kind::Square | Kind::Tiles | Kind::OwnTiles | Kind::AnyResolution);
    if square && of_size("width", SIDE_MAX)?.is_some_and(|width| width != side) {
        return Err(invalid!("{} is not a square, which is not served.", config.name("size")));
    }
    if matches!(kind, Kind::CentreCrop | Kind::AnyResolution) {
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
    let default = match kind {
        Kind::Squares => 1,
        Kind::Square => 2,
        _ => 3,
    };
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
    const IMAGENET_MEAN: [f64; 3] = [0.485, 0.456, 0.406];
    const IMAGENET_STD: [f64; 3] = [0.229, 0.224, 0.225];
    let (mean, std) = match kind {
        Kind::Square | Kind::Squares => ([0.5; 3], [0.5; 3]),
        Kind::OwnTiles => (IMAGENET_MEAN, IMAGENET_STD),
        _ => (CLIP_MEAN, CLIP_STD),
    };
    let three = |key: &str, default: [f64; 3]| -> Result<[f32; 3]> {
        let given = config.positives(key, 3)?;
        Ok(std::array::from_fn(|c| given.as_ref().map_or(default[c], |list| list[c]) as f32))
    };
    let factor = config.positive("rescale_factor")?.unwrap_or(1.0 / 255.0);
    if kind == Kind::Gemma4 {
        return Ok(Normalise::around_half(factor));
    }
    let (mean, std) = (three("image_mean", mean)?, three("image_std", std)?);
    if kind == Kind::OwnTiles {
        return Ok(Normalise::in_two_steps(mean, std));
    }
    Ok(Normalise::new(mean, std, factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: Kind, json: &str) -> std::result::Result<Settings, String> {
        let keys: Map<String, Value> = serde_json::from_str(json).unwrap();
        Settings::read("file", &keys, kind, 14, 1).map_err(|error| error.message().to_string())
    }

    #[test]
    fn sizes_of_whole_squares() {
        let of = |sizes: &str, kept: &str| {
            let size = r#""size": {"shortest_edge": 28}"#;
            let kept = format!(r#""vision_aspect_ratio": {kept}"#);
            read(
                Kind::AnyResolution,
                &format!(r#"{{{size}, "image_grid_pinpoints": {sizes}, {kept}}}"#),
            )
        };
        let settings = of("[[28, 56], [84, 28]]", "\"anyres_max_9\"").unwrap();
        assert_eq!((settings.side, settings.most_tiles(), settings.most_tokens()), (28, 4, 22));
        let sizes = settings.any_resolution.unwrap();
        assert_eq!((&sizes.sizes[..], sizes.most_squares), (&[[28, 56], [84, 28]][..], Some(9)));
        assert_eq!(of("[[28, 56]]", "null").unwrap().any_resolution.unwrap().most_squares, None);

        let wrong = ["[]", "null", "[[28, 57]]", "[[0, 28]]", "[[28]]", "3", "[[28, 28, 28]]"];
        let wrong = wrong.into_iter().chain(["[[28, 7196]]", "[[-28, 28]]", "[[448, 476]]"]);
        for sizes in wrong {
            let error = of(sizes, "null").expect_err(sizes);
            assert!(error.contains("image_grid_pinpoints") && !error.contains('\n'), "{error}");
        }
        // 256 squares, and one less than a row more.
        assert_eq!(of("[[448, 448]]", "null").unwrap().most_tiles(), 257);
        for kept in ["\"pad\"", "\"anyres_max_0\"", "\"anyres_max_257\"", "9"] {
            let error = of("[[28, 28]]", kept).expect_err(kept);
            assert!(error.contains("vision_aspect_ratio"), "{error}");
        }
        let small = r#"{"size": {"height": 13}, "image_grid_pinpoints": [[13, 13]]}"#;
        assert!(read(Kind::AnyResolution, small).unwrap_err().contains("'size'"));
    }

    #[test]
    fn parts_are_cut_where_the_file_says_so() {
        assert_eq!(read(Kind::Square, "{}").unwrap().crops, None);
        let off = r#"{"do_pan_and_scan": false, "pan_and_scan_max_num_crops": 2}"#;
        assert_eq!(read(Kind::Square, off).unwrap().crops, None);
        let usual = Crops { least_side: 256, most: 4, least_aspect: 1.2 };
        let on = r#"{"do_pan_and_scan": true, "pan_and_scan_min_crop_size": null}"#;
        assert_eq!(read(Kind::Square, on).unwrap().crops, Some(usual));
        for key in ["min_crop_size", "max_num_crops", "min_ratio_to_activate"] {
            let key = format!("pan_and_scan_{key}");
            let json = format!(r#"{{"do_pan_and_scan": true, "{key}": 0}}"#);
            assert!(read(Kind::Square, &json).unwrap_err().contains(&key));
        }
    }
}
