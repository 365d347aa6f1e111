//! Pan and scan of Gemma 3: behind a picture that is far from square, parts of it.

use super::rgb::Rgb;
use crate::error::Result;

/// When a picture is cut, and into what.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Crops {
    /// Pixels of a part's shorter side at least.
    pub least_side: usize,
    /// Parts at most.
    pub most: usize,
    /// Longer side by shorter side from which on there are some.
    pub least_aspect: f64,
}

impl Crops {
    /// Parts along the longer side, and how long each is; None: there are none.
    fn of(&self, long: usize, short: usize) -> Option<(usize, usize)> {
        let aspect = long as f64 / short as f64;
        if aspect < self.least_aspect {
            return None;
        }
        let nearest = (aspect + 0.5).floor() as usize;
        let count = nearest.min(long / self.least_side).max(2).min(self.most);
        let length = long.div_ceil(count);
        (length.min(short) >= self.least_side).then_some((count, length))
    }

    /// The parts, from left to right or from top to bottom; the last one may be smaller.
    ///
    /// # Errors
    /// Unavailable: no memory.
    pub(super) fn cut(&self, image: &Rgb) -> Result<Vec<Rgb>> {
        let (height, width) = (image.height(), image.width());
        let wide = width >= height;
        let long = width.max(height);
        let Some((count, length)) = self.of(long, width.min(height)) else {
            return Ok(Vec::new());
        };
        let starts = (0..count).map(|n| n * length).filter(|&start| start < long);
        let part = |start: usize| {
            let length = length.min(long - start);
            match wide {
                true => image.part([0, start], [height, length]),
                false => image.part([start, 0], [length, width]),
            }
        };
        starts.map(part).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_that_are_nearly_square_or_small_are_left_whole() {
        let crops = Crops { least_side: 256, most: 4, least_aspect: 1.2 };
        assert_eq!(crops.of(1199, 1000), None);
        assert_eq!(crops.of(1200, 1000), Some((2, 600)));
        assert_eq!(crops.of(2500, 1000), Some((3, 834)));
        assert_eq!(crops.of(9000, 1000), Some((4, 2250)));
        // As many as leave them large enough, but two at least.
        assert_eq!(crops.of(1000, 256), Some((3, 334)));
        assert_eq!(crops.of(500, 300), None);
        assert_eq!(crops.of(2000, 255), None);
    }

    #[test]
    fn parts_follow_each_other_and_cover_all() {
        let crops = Crops { least_side: 1, most: 4, least_aspect: 1.0 };
        let mut image = Rgb::new(7, 2).unwrap();
        image.row_mut(1)[3 * 6] = 9;
        let parts = crops.cut(&image).unwrap();
        let widths: Vec<usize> = parts.iter().map(Rgb::width).collect();
        assert_eq!(widths, [2, 2, 2, 1]);
        assert_eq!(parts[3].row(1)[0], 9);
        // Of five pixels three parts of two have none left for a fourth.
        assert_eq!(crops.cut(&Rgb::new(1, 5).unwrap()).unwrap().len(), 3);
    }
}
