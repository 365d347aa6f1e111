//! PNG: samples by the crate, colours as Pillow takes them.

use std::io::Cursor;

use ::png::{BitDepth, ColorType, DecodeOptions, Decoder, DecodingError, Limits, Transformations};

use super::rgb::{check_size, clipped, damaged, grey, zeroed, Rgb};
use crate::error::Result;

/// Of a palette and a text, beside a row.
const SCRATCH_BYTES: usize = 64 << 20;

pub(super) fn decode(bytes: &[u8]) -> Result<Rgb> {
    let mut options = DecodeOptions::default();
    options.set_ignore_text_chunk(true);
    options.set_ignore_iccp_chunk(true);
    let mut decoder = Decoder::new_with_options(Cursor::new(bytes), options);
    decoder.set_limits(Limits { bytes: SCRATCH_BYTES });
    decoder.set_transformations(Transformations::IDENTITY);

    let info = decoder.read_header_info().map_err(wrong)?;
    let ((width, height), pixel_bytes) = (info.size(), info.bytes_per_pixel());
    check_size(width.into(), height.into())?;
    let (width, height) = (width as usize, height as usize);
    decoder.set_limits(Limits { bytes: SCRATCH_BYTES + width * pixel_bytes });
    let mut reader = decoder.read_info().map_err(wrong)?;
    let size = reader.output_buffer_size();
    let size = size.ok_or_else(|| damaged("its rows are too long"))?;
    let mut samples: Vec<u8> = zeroed(size)?;
    let frame = reader.next_frame(&mut samples).map_err(wrong)?;

    let info = reader.info();
    let (colour, depth) = (info.color_type, info.bit_depth);
    if depth == BitDepth::Sixteen {
        let channels = colour.samples();
        return Rgb::convert(width, height, &samples, 2 * channels, |pixel| match channels {
            1 => clipped(u16::from_be_bytes([pixel[0], pixel[1]])),
            2 => grey(pixel[0]),
            _ => [pixel[0], pixel[2], pixel[4]],
        });
    }
    if matches!(colour, ColorType::Grayscale | ColorType::Indexed) {
        let bits = depth as usize;
        let palette = info.palette.as_deref().unwrap_or_default();
        let most = (1u16 << bits) - 1;
        let shade = |v: u8| match colour {
            ColorType::Grayscale => grey((u16::from(v) * 255 / most) as u8),
            _ => of_palette(palette, v),
        };
        return packed(width, height, &samples, frame.line_size, bits, shade);
    }
    Rgb::convert(width, height, &samples, colour.samples(), |pixel| match *pixel {
        [v, _] => grey(v),
        [r, g, b, ..] => [r, g, b],
        _ => [0; 3],
    })
}

/// Rows of `stride` bytes, samples of 1, 2, 4 or 8 bits from the highest down.
pub(super) fn packed(
    width: usize,
    height: usize,
    samples: &[u8],
    stride: usize,
    bits: usize,
    colour: impl Fn(u8) -> [u8; 3],
) -> Result<Rgb> {
    let mut rgb = Rgb::new(width, height)?;
    if stride < (width * bits).div_ceil(8) || samples.len() < stride * height {
        return Err(damaged("it has fewer pixels than its header says"));
    }
    let mask = (0xff >> (8 - bits)) as u8;
    for r in 0..height {
        let row = &samples[r * stride..(r + 1) * stride];
        for (x, out) in rgb.row_mut(r).chunks_exact_mut(3).enumerate() {
            let at = x * bits;
            let sample = row[at / 8] >> (8 - bits - at % 8) & mask;
            out.copy_from_slice(&colour(sample));
        }
    }
    Ok(rgb)
}

/// The n-th colour; what a palette does not have is black.
pub(super) fn of_palette(palette: &[u8], n: u8) -> [u8; 3] {
    let at = 3 * usize::from(n);
    palette.get(at..at + 3).and_then(|c| c.try_into().ok()).unwrap_or([0; 3])
}

fn wrong(error: DecodingError) -> crate::error::Error {
    damaged(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Its row takes more than all else may.
    #[test]
    fn a_picture_may_be_one_row() {
        let width = 80_000_000;
        let mut file = Vec::new();
        let mut encoder = ::png::Encoder::new(&mut file, width, 1);
        encoder.set_color(ColorType::Grayscale);
        encoder.set_compression(::png::Compression::Fastest);
        encoder.write_header().unwrap().write_image_data(&vec![7; width as usize]).unwrap();
        let rgb = decode(&file).unwrap();
        assert_eq!([rgb.width(), rgb.height()], [width as usize, 1]);
        assert_eq!(rgb.row(0)[3 * (width as usize - 1)..], [7; 3]);
    }
}
