//! A picture as squares of one size: in a grid of nearly its shape (InternVL), or of all that its
//! longest edge is long enough for (Idefics3); and behind several of them the whole as one.

use super::process::{Processed, Processor};
use super::resize::resize_while;
use super::rgb::{GoOn, Rgb};
use super::settings::{Kind, Settings, LONGEST_EDGE_MAX};
use crate::error::Result;

impl Processor {
    /// The squares of a picture, row by row, and the whole if that belongs to them.
    pub(super) fn tiles(&self, image: &Rgb, go_on: GoOn) -> Result<Vec<Processed>> {
        let Settings { kind, side, filter, rounding, patch, whole, .. } = self.settings;
        let (rows, columns) = self.squares(image.height(), image.width());
        let lengthened = match kind {
            Kind::Squares => {
                let [height, width] = self.lengthened(image.height(), image.width());
                Some(resize_while(image, width, height, filter, rounding, go_on)?)
            }
            _ => None,
        };
        let image = lengthened.as_ref().unwrap_or(image);
        let [width, height] = [columns * side, rows * side];
        let resized = resize_while(image, width, height, filter, rounding, go_on)?;

        let patches = side / patch;
        let part =
            |image| Processed { image, rows: patches, columns: patches, tiles: 1, arranged: None };
        let mut parts = Vec::new();
        for row in 0..rows {
            for column in 0..columns {
                parts.push(part(resized.part([row * side, column * side], [side, side])?));
            }
        }
        if parts.len() > 1 && whole {
            // Idefics3 makes it of what it has cut.
            let from = if kind == Kind::Squares { &resized } else { image };
            parts.push(part(resize_while(from, side, side, filter, rounding, go_on)?));
        }
        Ok(parts)
    }

    /// Rows and columns of the squares of a picture of this height and width; (1, 1) where it is
    /// not cut.
    pub fn squares(&self, height: usize, width: usize) -> (usize, usize) {
        match self.settings.kind {
            Kind::Tiles | Kind::OwnTiles => self.nearest_grid(height, width),
            Kind::Squares if self.settings.tiles.1 > 1 => self.filled_grid(height, width),
            _ => (1, 1),
        }
    }

    /// Of all grids the one whose shape is nearest, of equal ones the smallest, or a larger one of
    /// which the picture would fill more than half.
    fn nearest_grid(&self, height: usize, width: usize) -> (usize, usize) {
        let Settings { side, tiles: (least, most), .. } = self.settings;
        let aspect = width as f64 / height as f64;
        let all = (1..=most).flat_map(|columns| (1..=most).map(move |rows| (rows, columns)));
        let mut grids: Vec<(usize, usize)> =
            all.filter(|(rows, columns)| (least..=most).contains(&(rows * columns))).collect();
        grids.sort_by_key(|(rows, columns)| rows * columns);

        let (mut best, mut least_off) = ((1, 1), f64::INFINITY);
        for (rows, columns) in grids {
            let off = (aspect - columns as f64 / rows as f64).abs();
            let half = 0.5 * (side * side * rows * columns) as f64;
            if off < least_off || (off == least_off && (width * height) as f64 > half) {
                (best, least_off) = ((rows, columns), off);
            }
        }
        best
    }

    /// The longest edge made `longest` pixels long, then up to whole squares: first the longest,
    /// and the other one by the shape.
    fn filled_grid(&self, height: usize, width: usize) -> (usize, usize) {
        let side = self.settings.side;
        let [height, width] = self.lengthened(height, width);
        let aspect = width as f64 / height as f64;
        if width >= height {
            let columns = width.div_ceil(side);
            let height = ((columns * side) as f64 / aspect) as usize;
            (height.div_ceil(side).max(1), columns)
        } else {
            let rows = height.div_ceil(side);
            let width = ((rows * side) as f64 * aspect) as usize;
            (rows, width.div_ceil(side).max(1))
        }
    }

    /// Height and width of a picture whose longest edge is made `longest` pixels long; the other
    /// one becomes even.
    fn lengthened(&self, height: usize, width: usize) -> [usize; 2] {
        let longest = self.settings.longest;
        let [height, width] = with_longest(height, width, longest);
        let [height, width] = match width >= height {
            true => [height.next_multiple_of(2).max(1), width],
            false => [height, width.next_multiple_of(2).max(1)],
        };
        if longest > LONGEST_EDGE_MAX {
            return with_longest(height, width, LONGEST_EDGE_MAX).map(|side| side.max(1));
        }
        [height, width]
    }
}

/// Height and width of the same shape whose longest edge is `longest` pixels long.
fn with_longest(height: usize, width: usize, longest: usize) -> [usize; 2] {
    let aspect = width as f64 / height as f64;
    if width >= height {
        [(longest as f64 / aspect) as usize, longest]
    } else {
        [longest, (longest as f64 * aspect) as usize]
    }
}
