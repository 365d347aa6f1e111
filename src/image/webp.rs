//! WebP: the first frame on the canvas, by the crate.

use std::io::Cursor;

use image_webp::WebPDecoder;

use super::rgb::{check_size, damaged, zeroed, Rgb};
use crate::error::Result;

/// Of one frame's planes.
const SCRATCH_BYTES: usize = 1 << 30;

pub(super) fn decode(bytes: &[u8]) -> Result<Rgb> {
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    check_size(width.into(), height.into())?;
    decoder.set_memory_limit(SCRATCH_BYTES);

    let channels = if decoder.has_alpha() { 4 } else { 3 };
    let size = decoder.output_buffer_size().ok_or_else(|| damaged("its rows are too long"))?;
    let mut samples: Vec<u8> = zeroed(size)?;
    if decoder.is_animated() {
        decoder.set_background_color([0; 4]).map_err(damaged)?;
        decoder.read_frame(&mut samples).map_err(damaged)?;
    } else {
        decoder.read_image(&mut samples).map_err(damaged)?;
    }
    let (width, height) = (width as usize, height as usize);
    Rgb::convert(width, height, &samples, channels, |pixel| [pixel[0], pixel[1], pixel[2]])
}
