//! LLaVA-NeXT and LLaVA-OneVision: the whole picture as a square, and behind it the picture in the
//! one of some sizes that fits it best, cut into such squares. Of their vectors those over padding
//! are left out, some become fewer, and each row ends with one of its own.

use std::sync::Arc;

use super::resize::{resize_while, Filter, Rounding};
use super::rgb::{GoOn, Rgb};
use crate::error::Result;
use crate::plan::Arranged;

/// Vectors become fewer where they are so many times too many, along each side.
const SHRINKS_FROM: f64 = 1.1;

/// Sizes that a picture is brought to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnyResolution {
    /// Height and width in pixels, whole numbers of squares.
    pub sizes: Arc<[[usize; 2]]>,
    /// Squares as many vectors as which are kept of a picture, as good as; None: all are.
    pub most_squares: Option<usize>,
}

impl AnyResolution {
    /// The size that leaves most of a picture, of equal ones that with the least padding.
    fn best(&self, height: usize, width: usize) -> [usize; 2] {
        let (mut best, mut most, mut least_waste) = ([0, 0], 0, usize::MAX);
        for &[rows, columns] in self.sizes.iter() {
            let scale = (columns as f64 / width as f64).min(rows as f64 / height as f64);
            let [scaled_width, scaled_height] =
                [width, height].map(|side| (side as f64 * scale) as usize);
            let left = (scaled_width * scaled_height).min(width * height);
            let waste = rows * columns - left;
            if left > most || (left == most && waste < least_waste) {
                (best, most, least_waste) = ([rows, columns], left, waste);
            }
        }
        best
    }

    /// Squares of a picture at most, with the one of the whole.
    pub fn most_tiles(&self, side: usize) -> usize {
        let squares = self.sizes.iter().map(|[rows, columns]| rows / side * (columns / side));
        1 + squares.max().unwrap_or(0)
    }

    /// No picture has more vectors, of squares of `side` pixels that have `row` times as many.
    pub fn most_tokens(&self, side: usize, row: usize) -> usize {
        let of_size = |[rows, columns]: &[usize; 2]| {
            let (rows, columns) = (rows / side * row, columns / side * row);
            let kept = self.most_squares.map_or(usize::MAX, |most| {
                (SHRINKS_FROM * SHRINKS_FROM * (most * row * row) as f64) as usize
            });
            (rows * columns).min(kept) + rows
        };
        row * row + self.sizes.iter().map(of_size).max().unwrap_or(0)
    }

    /// Rows and columns of vectors that are kept of so many.
    fn kept(&self, rows: usize, columns: usize, row: usize) -> [usize; 2] {
        let Some(most) = self.most_squares else { return [rows, columns] };
        let ratio = ((rows * columns) as f64 / (most * row * row) as f64).sqrt();
        if ratio <= SHRINKS_FROM {
            return [rows, columns];
        }
        // Python's division of floats to a whole number, which is not that of the quotient.
        let of = |side: usize| ((side as f64 - side as f64 % ratio) / ratio).round() as usize;
        [of(rows).max(1), of(columns).max(1)]
    }
}

/// A picture as a tower takes it.
pub(super) struct Squares {
    /// All of them, one above the other, the whole picture first.
    pub image: Rgb,
    /// How many there are.
    pub count: usize,
    /// What becomes of their vectors.
    pub arranged: Vec<Arranged>,
}

impl AnyResolution {
    /// The squares of `side` pixels of a picture, whose vectors are of patches of `patch`.
    ///
    /// # Errors
    /// Unavailable: no memory.
    pub(super) fn squares(
        &self,
        image: &Rgb,
        side: usize,
        patch: usize,
        filter: Filter,
        go_on: GoOn,
    ) -> Result<Squares> {
        let [height, width] = self.best(image.height(), image.width());
        let padded = fitted(image, [height, width], filter, go_on)?;

        let squares = [height / side, width / side];
        let count = 1 + squares[0] * squares[1];
        // Without the rest that no patch sees: patches of all squares follow each other.
        let seen = side / patch * patch;
        let mut all = Rgb::new(side, count * seen)?;
        let whole = resize_while(image, side, side, filter, Rounding::Torch, go_on)?;
        (0..seen).for_each(|r| all.row_mut(r).copy_from_slice(whole.row(r)));
        for n in 0..count - 1 {
            let (top, left) = (n / squares[1] * side, 3 * side * (n % squares[1]));
            for r in 0..seen {
                let row = &padded.row(top + r)[left..left + 3 * side];
                all.row_mut((1 + n) * seen + r).copy_from_slice(row);
            }
        }

        let grid = Grid { squares, row: side / patch };
        let arranged = grid.arranged(self, [image.height(), image.width()]);
        Ok(Squares { image: all, count, arranged })
    }
}

/// The picture as large as fits into this height and width, with black around it.
fn fitted(image: &Rgb, [height, width]: [usize; 2], filter: Filter, go_on: GoOn) -> Result<Rgb> {
    let by_width = width as f64 / image.width() as f64;
    let by_height = height as f64 / image.height() as f64;
    let scaled = |side: usize, by: f64, most: usize| ((side as f64 * by).ceil() as usize).min(most);
    let [rows, columns] = if by_width < by_height {
        [scaled(image.height(), by_width, height), width]
    } else {
        [height, scaled(image.width(), by_height, width)]
    };
    let small = resize_while(image, columns, rows, filter, Rounding::Torch, go_on)?;

    let mut out = Rgb::new(width, height)?;
    let (top, left) = ((height - rows) / 2, 3 * ((width - columns) / 2));
    for r in 0..rows {
        out.row_mut(top + r)[left..left + 3 * columns].copy_from_slice(small.row(r));
    }
    Ok(out)
}

/// Squares of vectors behind the one of the whole picture.
struct Grid {
    /// Rows and columns of squares.
    squares: [usize; 2],
    /// Vectors of a square's side.
    row: usize,
}

impl Grid {
    /// What the vectors of a picture of this height and width are.
    fn arranged(&self, sizes: &AnyResolution, original: [usize; 2]) -> Vec<Arranged> {
        let [[top, bottom], [left, right]] = self.unpadded(original);
        let [rows, columns] = [bottom - top, right - left];
        let [kept_rows, kept_columns] = sizes.kept(rows, columns, self.row);
        let square = |row: usize, column: usize| self.square(top + row, left + column);

        let whole = 0..(self.row * self.row) as u32;
        let mut all: Vec<Arranged> = whole.map(Arranged::Square).collect();
        for r in 0..kept_rows {
            for c in 0..kept_columns {
                if [kept_rows, kept_columns] == [rows, columns] {
                    all.push(Arranged::Square(square(r, c)));
                    continue;
                }
                let [(above, a), (below, b)] = between(r, rows, kept_rows);
                let [(before, c), (behind, d)] = between(c, columns, kept_columns);
                all.push(Arranged::Between([
                    (square(above, before), a * c),
                    (square(above, behind), a * d),
                    (square(below, before), b * c),
                    (square(below, behind), b * d),
                ]));
            }
            all.push(Arranged::RowEnd);
        }
        all
    }

    /// Which vector stands in this row and column of all squares together.
    fn square(&self, row: usize, column: usize) -> u32 {
        let side = self.row;
        let tile = 1 + row / side * self.squares[1] + column / side;
        (tile * side * side + row % side * side + column % side) as u32
    }

    /// First and end of the rows and of the columns that are not all padding.
    fn unpadded(&self, [height, width]: [usize; 2]) -> [[usize; 2]; 2] {
        let [rows, columns] = self.squares.map(|count| count * self.row);
        // As Python rounds to seven digits, and cuts the rest.
        let length = |side: usize, to: usize, of: usize| {
            let exact = side as f64 * (to as f64 / of as f64);
            ((exact * 1e7).round_ties_even() / 1e7) as usize
        };
        let cut = |all: usize, used: usize| {
            let padding = all.saturating_sub(used) / 2;
            [padding, all - padding]
        };
        if width as f64 / height as f64 > columns as f64 / rows as f64 {
            [cut(rows, length(height, columns, width)), [0, columns]]
        } else {
            [[0, rows], cut(columns, length(width, rows, height))]
        }
    }
}

/// The two of `count` places that the n-th of `kept` lies between, and their shares: centres on
/// centres, in single precision, as PyTorch interpolates.
fn between(n: usize, count: usize, kept: usize) -> [(usize, f32); 2] {
    let place = (count as f32 / kept as f32 * (n as f32 + 0.5) - 0.5).max(0.0);
    let first = (place as usize).min(count - 1);
    let share = place - first as f32;
    [(first, 1.0 - share), ((first + 1).min(count - 1), share)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(sizes: &[[usize; 2]], most_squares: Option<usize>) -> AnyResolution {
        AnyResolution { sizes: sizes.into(), most_squares }
    }

    #[test]
    fn the_size_that_leaves_most_with_the_least_padding() {
        let next = sizes(&[[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]], None);
        // Small enough to be left whole by all: the smallest, of equal ones the first.
        assert_eq!(next.best(100, 200), [336, 672]);
        assert_eq!(next.best(200, 100), [336, 672]);
        assert_eq!(next.best(700, 300), [1008, 336]);
        assert_eq!(next.best(900, 1000), [672, 672]);
        assert_eq!(next.best(200, 1200), [336, 1008]);
        // Of a strip nothing is left.
        assert_eq!(next.best(1, 5000), [336, 672]);
        assert_eq!((next.most_tiles(336), next.most_tokens(336, 24)), (5, 576 + 48 * 48 + 48));
    }

    #[test]
    fn rows_and_columns_of_padding_are_left_out() {
        let grid = Grid { squares: [1, 2], row: 4 };
        assert_eq!(grid.unpadded([100, 200]), [[0, 4], [0, 8]]);
        assert_eq!(grid.unpadded([100, 400]), [[1, 3], [0, 8]]);
        assert_eq!(grid.unpadded([100, 100]), [[0, 4], [2, 6]]);
        // An odd rest stays on one side; of a strip nothing may be left.
        assert_eq!(grid.unpadded([75, 200]), [[0, 4], [0, 8]]);
        assert_eq!(grid.unpadded([1, 2000]), [[2, 2], [0, 8]]);

        let all = grid.arranged(&sizes(&[], None), [100, 400]);
        let squares: Vec<Arranged> = [20, 21, 22, 23, 36, 37, 38, 39].map(Arranged::Square).into();
        assert_eq!(all.len(), 16 + 2 * (8 + 1));
        assert_eq!(all[16..24], squares);
        assert_eq!(all[24], Arranged::RowEnd);
        assert_eq!(all[25], Arranged::Square(24));
    }

    #[test]
    fn too_many_vectors_become_fewer() {
        let one = sizes(&[[8, 16]], Some(1));
        // 1.1 times: stays. 1.41 times: fewer.
        assert_eq!(one.kept(4, 4, 4), [4, 4]);
        assert_eq!(one.kept(4, 8, 4), [2, 5]);
        // Three times as many on each side, to the vector.
        assert_eq!(one.kept(12, 12, 4), [4, 4]);
        assert_eq!(between(0, 8, 4), [(0, 0.5), (1, 0.5)]);
        assert_eq!(between(3, 8, 4), [(6, 0.5), (7, 0.5)]);
        assert_eq!(between(1, 3, 1 + 1)[1], (2, 0.75));

        let grid = Grid { squares: [1, 2], row: 4 };
        let all = grid.arranged(&one, [100, 200]);
        assert_eq!(all.len(), 16 + 2 * (5 + 1));
        assert!(all.len() <= one.most_tokens(8, 4));
        let Arranged::Between(first) = all[16] else { panic!("{:?}", all[16]) };
        assert_eq!(first.map(|(square, _)| square), [16, 17, 20, 21]);
        assert!((first.iter().map(|(_, share)| share).sum::<f32>() - 1.0).abs() < 1e-6);
    }
}
