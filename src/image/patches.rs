//! A processed picture as rows of patches, in the order in which a tower takes them: row by row,
//! or, where patches are merged, square by square of those that become one token.

use ring::digest::{Context, SHA256};

use super::process::Processed;
use super::rgb::zeroed;
use super::settings::Settings;
use crate::error::Result;
use crate::plan::{Arranged, PatchRows};

impl Processed {
    /// Elements of a patch: `[3][copies][patch][patch]`.
    pub fn patch_width(settings: &Settings) -> usize {
        3 * settings.copies * settings.patch * settings.patch
    }

    /// Where the n-th patch stands in the grid: row and column.
    pub fn place(&self, settings: &Settings, n: usize) -> (usize, usize) {
        let merge = settings.merge;
        let (square, inside) = (n / (merge * merge), n % (merge * merge));
        let columns = self.columns / merge;
        let row = square / columns * merge + inside / merge;
        let column = square % columns * merge + inside % merge;
        (row, column)
    }

    /// All patches.
    ///
    /// # Errors
    /// Unavailable: no memory.
    pub fn patches(&self, settings: &Settings) -> Result<PatchRows> {
        let side = settings.patch;
        let width = Processed::patch_width(settings);
        let mut bytes: Vec<u8> = zeroed(self.rows * self.columns * width)?;
        for (n, patch) in bytes.chunks_exact_mut(width).enumerate() {
            let (row, column) = self.place(settings, n);
            let mut at = patch.iter_mut();
            for colour in 0..3 {
                for r in (0..settings.copies).flat_map(|_| row * side..(row + 1) * side) {
                    let from = 3 * column * side;
                    let pixels = &self.image.row(r)[from..from + 3 * side];
                    let samples = pixels.iter().skip(colour).step_by(3);
                    at.by_ref().zip(samples).for_each(|(out, &sample)| *out = sample);
                }
            }
        }

        let mut hash = Context::new(&SHA256);
        for size in [self.rows, self.columns, width] {
            hash.update(&(size as u64).to_le_bytes());
        }
        hash.update(self.image.bytes());
        let arranged = self.arranged.iter().flat_map(|all| all.iter());
        arranged.for_each(|one| hash.update(&bytes_of(one)));
        Ok(PatchRows {
            rows: self.rows,
            columns: self.columns,
            tiles: self.tiles,
            tokens: self.tokens(settings),
            arranged: self.arranged.clone(),
            width,
            bytes,
            numbers: settings.normalise.table(),
            hash: hash.finish().as_ref().try_into().unwrap_or([0; 32]),
        })
    }
}

/// What tells one from another: squares are cut out of pictures of several shapes.
fn bytes_of(arranged: &Arranged) -> [u8; 8] {
    let [first, last] = match arranged {
        Arranged::Square(n) => [*n; 2],
        Arranged::Between(four) => [four[0].0, four[3].0],
        Arranged::RowEnd => [u32::MAX; 2],
    };
    (u64::from(first) << 32 | u64::from(last)).to_le_bytes()
}
