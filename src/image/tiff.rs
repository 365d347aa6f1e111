//! TIFF: the first page, uncompressed, PackBits, LZW or Deflate, by the crate; turned as the file
//! says, which Pillow does for this format alone.

use std::io::Cursor;

use ::tiff::decoder::{Decoder, DecodingResult, Limits};
use ::tiff::tags::Tag;
use ::tiff::ColorType;

use super::rgb::{check_size, clipped, cmyk, damaged, grey, Rgb, MAX_PIXELS};
use crate::error::Result;
use crate::invalid;

/// Of a page: four samples of 16 bits a pixel at most.
const PAGE_BYTES: usize = 8 * MAX_PIXELS as usize;

/// Bytes of a page that a byte of the file may become: more than LZW's best.
const RATIO_MAX: usize = 4096;

pub(super) fn decode(bytes: &[u8]) -> Result<Rgb> {
    let mut limits = Limits::default();
    let most = PAGE_BYTES.min(bytes.len().saturating_mul(RATIO_MAX));
    limits.decoding_buffer_size = most;
    limits.intermediate_buffer_size = most;
    let decoder = Decoder::new(Cursor::new(bytes)).map_err(damaged)?;
    let mut decoder = decoder.with_limits(limits);

    let (width, height) = decoder.dimensions().map_err(damaged)?;
    check_size(width.into(), height.into())?;
    let (width, height) = (width as usize, height as usize);
    let colour = decoder.colortype().map_err(damaged)?;
    let orientation = decoder.find_tag_unsigned::<u16>(Tag::Orientation).map_err(damaged)?;

    let page = decoder.read_image().map_err(damaged)?;
    let rgb = match (page, colour) {
        (DecodingResult::U8(samples), colour) => of_bytes(width, height, &samples, colour),
        (DecodingResult::U16(samples), ColorType::Gray(16)) => {
            Rgb::convert(width, height, &samples, 1, |pixel| clipped(pixel[0]))
        }
        (DecodingResult::U16(samples), ColorType::RGB(16) | ColorType::RGBA(16)) => {
            let channels = usize::from(colour.num_samples());
            Rgb::convert(width, height, &samples, channels, |pixel| {
                [pixel[0], pixel[1], pixel[2]].map(|v| (v >> 8) as u8)
            })
        }
        _ => Err(unsupported(colour)),
    }?;
    turned(rgb, orientation.unwrap_or(1))
}

fn of_bytes(width: usize, height: usize, samples: &[u8], colour: ColorType) -> Result<Rgb> {
    let convert =
        |size, colour: fn(&[u8]) -> [u8; 3]| Rgb::convert(width, height, samples, size, colour);
    match colour {
        ColorType::Gray(8) => convert(1, |pixel| grey(pixel[0])),
        ColorType::GrayA(8) => convert(2, |pixel| grey(pixel[0])),
        ColorType::RGB(8) => convert(3, |pixel| [pixel[0], pixel[1], pixel[2]]),
        ColorType::RGBA(8) => convert(4, |pixel| [pixel[0], pixel[1], pixel[2]]),
        ColorType::CMYK(8) => convert(4, |pixel| cmyk([pixel[0], pixel[1], pixel[2], pixel[3]])),
        ColorType::Gray(1) => {
            let shade = |bit: u8| grey(255 * bit);
            super::png::packed(width, height, samples, width.div_ceil(8), 1, shade)
        }
        _ => Err(unsupported(colour)),
    }
}

fn unsupported(colour: ColorType) -> crate::error::Error {
    invalid!("Unsupported TIFF: pixels are {colour:?}; read are grey, RGB and CMYK.")
}

/// Upright, by the file's orientation 1..=8.
fn turned(rgb: Rgb, orientation: u16) -> Result<Rgb> {
    if !(2..=8).contains(&orientation) {
        return Ok(rgb);
    }
    let (width, height) = (rgb.width(), rgb.height());
    let (right, bottom) = (width - 1, height - 1);
    let mut out = if orientation < 5 { Rgb::new(width, height) } else { Rgb::new(height, width) }?;
    for r in 0..out.height() {
        for (c, pixel) in out.row_mut(r).chunks_exact_mut(3).enumerate() {
            let (y, x) = match orientation {
                2 => (r, right - c),
                3 => (bottom - r, right - c),
                4 => (bottom - r, c),
                5 => (c, r),
                6 => (bottom - c, r),
                7 => (bottom - c, right - r),
                _ => (c, right - r),
            };
            pixel.copy_from_slice(&rgb.row(y)[3 * x..3 * x + 3]);
        }
    }
    Ok(out)
}
