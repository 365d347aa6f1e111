//! A picture to what the tower of a family takes, by the rules of the processors of transformers:
//! how large it becomes, and into how many patches and tokens it is cut.

use std::sync::Arc;

use super::any_resolution::Squares;
use super::resize::resize_while;
use super::rgb::{GoOn, Rgb};
use super::settings::{Kind, Settings};
use crate::error::Result;
use crate::invalid;
use crate::plan::Arranged;

/// Longest edge to shortest of Qwen's images.
const ASPECT_MAX: f64 = 200.0;

/// One family's rules with a checkpoint's numbers.
#[derive(Debug, Clone)]
pub struct Processor {
    /// The numbers.
    pub settings: Settings,
}

/// A picture as a tower takes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Processed {
    /// Resized, and cropped.
    pub image: Rgb,
    /// Patches from top to bottom.
    pub rows: usize,
    /// Patches from left to right.
    pub columns: usize,
    /// Equal parts, one above the other, that are encoded each for itself.
    pub tiles: usize,
    /// What becomes of the vectors of patches, if they are not the tokens'.
    pub arranged: Option<Arc<[Arranged]>>,
}

impl Processor {
    /// Resize, crop and count.
    ///
    /// # Errors
    /// InvalidArgument: a shape that the family does not take. Unavailable: no memory.
    pub fn process(&self, image: &Rgb) -> Result<Processed> {
        self.process_while(image, &|| Ok(()))
    }

    fn process_while(&self, image: &Rgb, go_on: GoOn) -> Result<Processed> {
        let settings = &self.settings;
        let (height, width) = self.size(image.height(), image.width())?;
        let (filter, rounding) = (settings.filter, settings.rounding);
        let resized = resize_while(image, width, height, filter, rounding, go_on)?;
        let image = match settings.kind {
            Kind::CentreCrop => centre(&resized, settings.side)?,
            _ => resized,
        };
        let (rows, columns) = (image.height() / settings.patch, image.width() / settings.patch);
        Ok(Processed { image, rows, columns, tiles: 1, arranged: None })
    }

    /// What goes through the tower of a picture, in the order of its tokens: the picture, or the
    /// squares that it is cut into, row by row, and the whole as one, or the picture and parts.
    ///
    /// # Errors
    /// InvalidArgument: a shape that the family does not take. Unavailable: no memory.
    pub fn parts(&self, image: &Rgb) -> Result<Vec<Processed>> {
        self.parts_while(image, &|| Ok(()))
    }

    /// [`Processor::parts`] that `go_on` may end.
    ///
    /// # Errors
    /// As [`Processor::parts`], and those of `go_on`.
    pub fn parts_while(&self, image: &Rgb, go_on: GoOn) -> Result<Vec<Processed>> {
        let Settings { kind, side, filter, patch, .. } = self.settings;
        if let Some(sizes) = &self.settings.any_resolution {
            let Squares { image, count, arranged } =
                sizes.squares(image, side, patch, filter, go_on)?;
            let columns = side / patch;
            return Ok(vec![Processed {
                image,
                rows: count * columns,
                columns,
                tiles: count,
                arranged: Some(arranged.into()),
            }]);
        }
        if kind.is_tiled() {
            return self.tiles(image, go_on);
        }
        let crops = self.settings.crops.map_or(Ok(Vec::new()), |crops| crops.cut(image))?;
        let all = std::iter::once(image).chain(&crops);
        all.map(|part| self.process_while(part, go_on)).collect()
    }

    /// Height and width of the resized picture.
    ///
    /// # Errors
    /// InvalidArgument: a shape that the family does not take.
    pub fn size(&self, height: usize, width: usize) -> Result<(usize, usize)> {
        let settings = &self.settings;
        match settings.kind {
            Kind::Qwen => self.qwen(height, width),
            Kind::Square | Kind::Tiles | Kind::OwnTiles | Kind::Squares | Kind::AnyResolution => {
                Ok((settings.side, settings.side))
            }
            Kind::CentreCrop => Ok(self.shortest_edge(height, width)),
            Kind::Pixtral => Ok(self.pixtral(height, width)),
            Kind::Gemma4 => Ok(self.gemma4(height, width)),
        }
    }

    fn shortest_edge(&self, height: usize, width: usize) -> (usize, usize) {
        let side = self.settings.side;
        let other = |long: usize, short: usize| (side as f64 * long as f64 / short as f64) as usize;
        if width <= height {
            (other(height, width), side)
        } else {
            (side, other(width, height))
        }
    }

    fn pixtral(&self, height: usize, width: usize) -> (usize, usize) {
        let Settings { patch, merge, side: longest, .. } = self.settings;
        let ratio = height.max(width) as f64 / longest as f64;
        let length = |side: usize| {
            let side = if ratio > 1.0 { (side as f64 / ratio) as usize } else { side };
            side.max(1).next_multiple_of(patch * merge)
        };
        (length(height), length(width))
    }

    /// Of a strip that would be less than a token thick, as many tokens in a row as it is times as
    /// long.
    fn gemma4(&self, height: usize, width: usize) -> (usize, usize) {
        let Settings { patch, merge, area: (_, most), .. } = self.settings;
        let unit = patch * merge;
        let longest = most / (unit * unit);
        let factor = (most as f64 / (height * width) as f64).sqrt();
        let tokens = |side: usize| (factor * side as f64 / unit as f64).floor() as usize;
        let (rows, columns) = match (tokens(height), tokens(width)) {
            (0, _) => (1, (width / height).min(longest)),
            (_, 0) => ((height / width).min(longest), 1),
            both => both,
        };
        (rows * unit, columns * unit)
    }

    fn qwen(&self, height: usize, width: usize) -> Result<(usize, usize)> {
        let Settings { patch, merge, area: (least, most), .. } = self.settings;
        let unit = (patch * merge) as f64;
        let (h, w) = (height as f64, width as f64);
        let aspect = h.max(w) / h.min(w);
        if aspect > ASPECT_MAX {
            return Err(invalid!(
                "absolute aspect ratio must be smaller than {ASPECT_MAX}, got {aspect}"
            ));
        }

        let nearest = |side: f64| (side / unit).round_ties_even() * unit;
        let area = nearest(h) * nearest(w);
        let sides = if area > most as f64 {
            let beta = (h * w / most as f64).sqrt();
            [h, w].map(|side| unit.max((side / beta / unit).floor() * unit))
        } else if area < least as f64 {
            let beta = (least as f64 / (h * w)).sqrt();
            [h, w].map(|side| (side * beta / unit).ceil() * unit)
        } else {
            [nearest(h), nearest(w)]
        };
        Ok((sides[0] as usize, sides[1] as usize))
    }
}

impl Processed {
    /// Tokens that the picture becomes in the prompt, but for those that mark its rows.
    pub fn tokens(&self, settings: &Settings) -> usize {
        let (rows, columns) = self.token_rows(settings);
        rows * columns
    }

    /// Rows of these tokens, and how many a row has; all in one where rows differ.
    pub fn token_rows(&self, settings: &Settings) -> (usize, usize) {
        match &self.arranged {
            Some(arranged) => (1, arranged.len()),
            None => (self.rows / settings.merge, self.columns / settings.merge),
        }
    }
}

/// The middle square of a picture one of whose sides is `side`.
fn centre(image: &Rgb, side: usize) -> Result<Rgb> {
    let offset = |length: usize| ((length - side) as f64 / 2.0).round_ties_even() as usize;
    image.part([offset(image.height()), offset(image.width())], [side, side])
}
