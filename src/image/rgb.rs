//! The picture that decoders make and processors take, the limit on its size, and how other colours
//! become RGB: as Pillow's `convert("RGB")`, which drops alpha and knows no profile.

use crate::error::{Error, Result};
use crate::invalid;

/// Pixels that an image may have: where Pillow begins to warn of a decompression bomb.
pub const MAX_PIXELS: u64 = 89_478_485;

/// Asked every few milliseconds while a picture is made: its error ends that.
pub type GoOn<'a> = &'a dyn Fn() -> Result<()>;

/// Eight bits of red, green and blue a pixel, row by row from the top.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rgb {
    width: usize,
    height: usize,
    bytes: Vec<u8>,
}

impl Rgb {
    /// A black picture.
    ///
    /// # Errors
    /// InvalidArgument: it has no pixel, or more than [`MAX_PIXELS`]. Unavailable: no memory.
    pub fn new(width: usize, height: usize) -> Result<Rgb> {
        let pixels = check_size(width as u64, height as u64)?;
        Ok(Rgb { width, height, bytes: zeroed(3 * pixels)? })
    }

    /// From the bytes of all pixels.
    ///
    /// # Errors
    /// Those of [`Rgb::new`]; InvalidArgument: there are not as many bytes as pixels need.
    pub fn from_bytes(width: usize, height: usize, bytes: Vec<u8>) -> Result<Rgb> {
        let pixels = check_size(width as u64, height as u64)?;
        if bytes.len() != 3 * pixels {
            return Err(damaged("it has fewer pixels than its header says"));
        }
        Ok(Rgb { width, height, bytes })
    }

    /// A part of it, inside: its top and left, its height and width.
    ///
    /// # Errors
    /// Those of [`Rgb::new`].
    pub(super) fn part(&self, [top, left]: [usize; 2], [height, width]: [usize; 2]) -> Result<Rgb> {
        let mut out = Rgb::new(width, height)?;
        for r in 0..height {
            let row = &self.row(top + r)[3 * left..3 * (left + width)];
            out.row_mut(r).copy_from_slice(row);
        }
        Ok(out)
    }

    /// From samples of another kind, `size` a pixel, each pixel by `convert`.
    ///
    /// # Errors
    /// As [`Rgb::from_bytes`].
    pub(super) fn convert<T>(
        width: usize,
        height: usize,
        samples: &[T],
        size: usize,
        convert: impl Fn(&[T]) -> [u8; 3],
    ) -> Result<Rgb> {
        let mut rgb = Rgb::new(width, height)?;
        if samples.len() < width * height * size {
            return Err(damaged("it has fewer pixels than its header says"));
        }
        let pixels = rgb.bytes.chunks_exact_mut(3).zip(samples.chunks_exact(size));
        pixels.for_each(|(out, pixel)| out.copy_from_slice(&convert(pixel)));
        Ok(rgb)
    }

    /// Pixels of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// `[height][width][3]`
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The r-th row, to write.
    pub(super) fn row_mut(&mut self, r: usize) -> &mut [u8] {
        &mut self.bytes[3 * r * self.width..3 * (r + 1) * self.width]
    }

    /// The r-th row.
    pub fn row(&self, r: usize) -> &[u8] {
        &self.bytes[3 * r * self.width..3 * (r + 1) * self.width]
    }
}

/// The number of pixels, before memory is taken for them.
///
/// # Errors
/// InvalidArgument: none, or too many.
pub(super) fn check_size(width: u64, height: u64) -> Result<usize> {
    let pixels = width.saturating_mul(height);
    if pixels == 0 {
        return Err(damaged("it is empty"));
    }
    if pixels > MAX_PIXELS {
        return Err(invalid!(
            "Image size ({pixels} pixels) exceeds limit of {MAX_PIXELS} pixels, could be \
             decompression bomb DOS attack."
        ));
    }
    Ok(pixels as usize)
}

/// # Errors
/// Unavailable: the operating system does not give so much.
pub(super) fn zeroed<T: bytemuck::Zeroable>(count: usize) -> Result<Vec<T>> {
    bytemuck::allocation::try_zeroed_vec(count).map_err(|_| {
        let mib = (count * std::mem::size_of::<T>()) >> 20;
        Error::Unavailable(format!("no memory for an image of {mib} MiB: send a smaller one."))
    })
}

/// The error for a file that is cut off or wrong inside.
pub(super) fn damaged(why: impl std::fmt::Display) -> Error {
    invalid!("image file is truncated or damaged: {why}").on_one_line()
}

/// A shade of grey.
pub(super) fn grey(v: u8) -> [u8; 3] {
    [v; 3]
}

/// A shade of grey of 16 bits: all above 255 is white.
pub(super) fn clipped(v: u16) -> [u8; 3] {
    [v.min(255) as u8; 3]
}

/// Amounts of ink, 255 is all of it.
pub(super) fn cmyk([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let light = 255 - k;
    [c, m, y].map(|ink| {
        let product = u32::from(ink) * u32::from(light) + 128;
        let dark = ((product >> 8) + product) >> 8;
        light.saturating_sub(dark as u8)
    })
}
