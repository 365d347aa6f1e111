//! GIF: the first frame on the canvas, by the crate's LZW and the file's palette.

use std::io::Cursor;
use std::num::NonZeroU64;

use ::gif::{ColorOutput, DecodeOptions, MemoryLimit};

use super::png::of_palette;
use super::rgb::{check_size, damaged, grey, zeroed, Rgb, MAX_PIXELS};
use crate::error::Result;

pub(super) fn decode(bytes: &[u8]) -> Result<Rgb> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.set_memory_limit(MemoryLimit::Bytes(
        NonZeroU64::new(MAX_PIXELS).unwrap_or(NonZeroU64::MIN),
    ));
    let mut decoder = options.read_info(Cursor::new(bytes)).map_err(damaged)?;

    let canvas = (usize::from(decoder.width()), usize::from(decoder.height()));
    let global = decoder.global_palette().map(<[u8]>::to_vec);
    let frame = decoder.next_frame_info().map_err(damaged)?;
    let frame = frame.ok_or_else(|| damaged("it has no frame"))?;
    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    let (columns, rows) = (usize::from(frame.width), usize::from(frame.height));
    let palette = frame.palette.clone().or(global);
    // What the frame does not cover.
    let rest = frame.transparent.unwrap_or(0);

    // A frame may be larger than what the file says of itself.
    let (width, height) = (canvas.0.max(left + columns), canvas.1.max(top + rows));
    check_size(width as u64, height as u64)?;
    check_size(columns as u64, rows as u64)?;
    let size = decoder.buffer_size();
    let mut samples: Vec<u8> = zeroed(size)?;
    decoder.read_into_buffer(&mut samples).map_err(damaged)?;
    if size < columns * rows {
        return Err(damaged("it has fewer pixels than its header says"));
    }

    let colour = |n: u8| match &palette {
        Some(palette) => of_palette(palette, n),
        None => grey(n),
    };
    let mut rgb = Rgb::new(width, height)?;
    for r in 0..height {
        let inside = (top..top + rows).contains(&r);
        for (x, out) in rgb.row_mut(r).chunks_exact_mut(3).enumerate() {
            let covered = inside && (left..left + columns).contains(&x);
            let n = if covered { samples[(r - top) * columns + x - left] } else { rest };
            out.copy_from_slice(&colour(n));
        }
    }
    Ok(rgb)
}
