//! Which format a file has, by its first bytes, and its decoder. Called for each image of a
//! request.

use super::rgb::{GoOn, Rgb};
use super::{bmp, gif, jpeg, png, tiff, webp};
use crate::error::Result;
use crate::invalid;

/// The first frame of an image file in RGB, as Pillow's `Image.open(..).convert("RGB")`. The file's
/// notes on orientation, gamma and colour profiles are not heeded, alpha is dropped.
///
/// # Errors
/// InvalidArgument: it is none of the formats, it is damaged or cut off, it uses something of its
/// format that is not read, or it has more than [`MAX_PIXELS`](super::MAX_PIXELS). Unavailable: no
/// memory.
pub fn decode(bytes: &[u8]) -> Result<Rgb> {
    decode_while(bytes, &|| Ok(()))
}

/// [`decode`] that `go_on` may end: within a JPEG, before a file of any other format.
///
/// # Errors
/// As [`decode`], and those of `go_on`.
pub fn decode_while(bytes: &[u8], go_on: GoOn) -> Result<Rgb> {
    go_on()?;
    match bytes {
        [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, ..] => png::decode(bytes),
        [0xff, 0xd8, 0xff, ..] => jpeg::decode(bytes, go_on),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => gif::decode(bytes),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => webp::decode(bytes),
        [b'B', b'M', ..] => bmp::decode(bytes),
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => tiff::decode(bytes),
        _ => Err(invalid!(
            "cannot identify image file: it is none of PNG, JPEG, WebP, GIF, BMP and TIFF."
        )),
    }
}
