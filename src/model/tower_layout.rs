//! In which order a vision tower takes the patches of images, and what it is told of each: angles
//! of row and column, learned places. Pure arithmetic, called by `vision`.

use std::sync::Arc;

use super::architectures::Turns;
use super::config::{PlacesSpec, VisionSpec};
use crate::device::{Corners, RowCopy};
use crate::plan::PatchRows;

/// By what each row's heads are turned: half of the frequencies by its patch's row, half by its
/// column. Rows are an image and its patch.
pub(super) fn angles(
    spec: &VisionSpec,
    images: &[Arc<PatchRows>],
    rows: &[(usize, usize)],
) -> Vec<f32> {
    let quarter = spec.head_dim() / 4;
    // theta to the power of minus a part of the head's half.
    let frequency = |i: usize| spec.theta.powf(-(i as f32) / (2 * quarter) as f32);
    let [of_rows, of_columns]: [Vec<f32>; 2] = match spec.tower.turns {
        Turns::None => return Vec::new(),
        Turns::SameOfBoth(_) | Turns::HalfEach(_) => {
            let same: Vec<f32> = (0..quarter).map(|i| frequency(2 * i)).collect();
            [same.clone(), same]
        }
        Turns::EvenAndOdd(_) => {
            [0, 1].map(|odd| (0..quarter).map(|i| frequency(2 * i + odd)).collect())
        }
    };
    let mut angles = Vec::with_capacity(rows.len() * 2 * quarter);
    for &(image, patch) in rows {
        let [row, column] = place(spec, &images[image], patch);
        let [first, second] = match spec.tower.turns {
            Turns::HalfEach(_) => [column, row],
            _ => [row, column],
        };
        angles.extend(of_rows.iter().map(|f| first as f32 * f));
        angles.extend(of_columns.iter().map(|f| second as f32 * f));
    }
    angles
}

/// Row and column of a patch.
fn place(spec: &VisionSpec, image: &PatchRows, patch: usize) -> [usize; 2] {
    let merge = spec.settings.merge;
    let columns = image.columns / merge;
    let patch = patch % (image.count() / image.tiles);
    let (token, inside) = (patch / spec.square(), patch % spec.square());
    let row = token / columns * merge + inside / merge;
    let column = token % columns * merge + inside % merge;
    [row, column]
}

/// Of each row which rows of the table of places are added to it, and how much of each.
pub(super) fn corners(
    spec: &VisionSpec,
    images: &[Arc<PatchRows>],
    rows: &[(usize, usize)],
) -> Vec<Corners> {
    match spec.places {
        PlacesSpec::None => Vec::new(),
        PlacesSpec::Stretched(side) => stretched(spec, side, images, rows),
        PlacesSpec::OfColumnAndRow(count) => {
            let of_row = |&(image, patch): &(usize, usize)| {
                let [row, column] = place(spec, &images[image], patch);
                [(column, 1.0), (count + row, 1.0), (0, 0.0), (0, 0.0)]
            };
            rows.iter().map(of_row).collect()
        }
        PlacesSpec::Each { side, class } => {
            let (nothing, ahead) = ((0, 0.0), 2 * usize::from(class));
            // Of patches: the row behind all places.
            let has_bias = class && spec.tower.patch_bias;
            let bias = if has_bias { (ahead + side * side, 1.0) } else { nothing };
            let of_row = |&(image, patch): &(usize, usize)| {
                let image = &images[image];
                if patch == image.count() {
                    // What it is, and its place.
                    return [(0, 1.0), (1, 1.0), nothing, nothing];
                }
                let [row, column] = place(spec, image, patch);
                [(ahead + row * side + column, 1.0), bias, nothing, nothing]
            };
            rows.iter().map(of_row).collect()
        }
    }
}

/// Between which learned places each row lies: the square of them is stretched over the image,
/// corners on corners.
fn stretched(
    spec: &VisionSpec,
    side: usize,
    images: &[Arc<PatchRows>],
    rows: &[(usize, usize)],
) -> Vec<Corners> {
    let last = side - 1;
    // The lower of two neighbours, and how far behind it: as torch.linspace(0, last, count) has it,
    // from both ends to the middle.
    let between = |at: usize, count: usize| -> (usize, f32) {
        let step = if count > 1 { last as f32 / (count - 1) as f32 } else { 0.0 };
        let place = if at < count / 2 || count == 1 {
            step * at as f32
        } else {
            last as f32 - step * (count - 1 - at) as f32
        };
        (place as usize, place - place.floor())
    };

    let of_row = |&(image, patch): &(usize, usize)| {
        let image = &images[image];
        let [row, column] = place(spec, image, patch);
        let (top, down) = between(row, image.rows);
        let (left, right) = between(column, image.columns);
        let (below, beside) = ((top + 1).min(last), (left + 1).min(last));
        [
            (top * side + left, (1.0 - down) * (1.0 - right)),
            (top * side + beside, (1.0 - down) * right),
            (below * side + left, down * (1.0 - right)),
            (below * side + beside, down * right),
        ]
    };
    rows.iter().map(of_row).collect()
}

/// In which order a tower takes the patches of images.
pub(super) struct Layout {
    /// Of each row the image and its patch; behind its last one: the row of a class.
    pub patches: Vec<(usize, usize)>,
    /// Of each token's row, which of its image's tokens it is.
    pub tokens: Vec<usize>,
    /// Where windows and images, or their equal parts, end, in rows of patches.
    pub window_ends: Vec<usize>,
    pub image_ends: Vec<usize>,
}

impl Layout {
    /// Image by image, window by window.
    pub fn of(spec: &VisionSpec, images: &[Arc<PatchRows>]) -> Layout {
        let merge = spec.settings.merge;
        let square = spec.square();
        let mut layout = Layout {
            patches: Vec::new(),
            tokens: Vec::new(),
            window_ends: Vec::new(),
            image_ends: Vec::new(),
        };
        for (n, image) in images.iter().enumerate() {
            let (rows, columns) = (image.rows / image.tiles / merge, image.columns / merge);
            let side = spec.window.unwrap_or(rows.max(columns));
            let windows = Windows::of(rows, columns, side);
            let of_token = |token: &usize| token * square..(token + 1) * square;
            for tile in 0..image.tiles {
                let (first, ahead) = (layout.patches.len(), tile * rows * columns);
                let patches = windows.order.iter().flat_map(of_token);
                layout.patches.extend(patches.map(|patch| (n, ahead * square + patch)));
                layout.patches.extend((0..spec.class_rows()).map(|_| (n, image.count())));
                layout.window_ends.extend(windows.ends.iter().map(|end| first + end * square));
                // Towers with a class have no windows.
                layout.window_ends.pop();
                layout.window_ends.push(layout.patches.len());
                layout.image_ends.push(layout.patches.len());
                layout.tokens.extend(windows.order.iter().map(|token| ahead + token));
            }
        }
        layout
    }

    /// The rows of patches, brought together.
    pub fn patch_rows(&self, spec: &VisionSpec) -> Vec<RowCopy> {
        let ends = self.image_ends.iter();
        let classes: Vec<usize> = ends.map(|end| end - spec.class_rows()).collect();
        let rows = (0..self.patches.len()).filter(|row| classes.binary_search(row).is_err());
        rows.enumerate().map(|(to, from)| RowCopy { from, to }).collect()
    }
}

/// The tokens of an image window by window.
struct Windows {
    order: Vec<usize>,
    /// Where each window ends.
    ends: Vec<usize>,
}

impl Windows {
    /// Squares of `side` tokens from the top left, smaller ones at the other edges.
    fn of(rows: usize, columns: usize, side: usize) -> Windows {
        let mut windows = Windows { order: Vec::new(), ends: Vec::new() };
        for top in (0..rows).step_by(side) {
            for left in (0..columns).step_by(side) {
                for row in top..(top + side).min(rows) {
                    let right = (left + side).min(columns);
                    windows.order.extend((left..right).map(|column| row * columns + column));
                }
                windows.ends.push(windows.order.len());
            }
        }
        windows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_ragged_at_the_edges() {
        let windows = Windows::of(3, 5, 2);
        assert_eq!(windows.order, [0, 1, 5, 6, 2, 3, 7, 8, 4, 9, 10, 11, 12, 13, 14]);
        assert_eq!(windows.ends, [4, 8, 10, 12, 14, 15]);
    }
}
