//! BMP: what Pillow reads of it, from OS/2's header to masks of colours and run lengths.

use super::png::{of_palette, packed};
use super::rgb::{check_size, damaged, Rgb};
use crate::error::Result;
use crate::invalid;

const FILE_HEADER_BYTES: usize = 14;
/// OS/2's header, with sides of 16 bits and colours of three bytes.
const CORE_HEADER_BYTES: usize = 12;
const PLAIN: u32 = 0;
const RUNS_8: u32 = 1;
const RUNS_4: u32 = 2;
const MASKS: u32 = 3;

/// What the headers say.
struct Header {
    width: usize,
    height: usize,
    /// Rows are stored from the top down.
    top_down: bool,
    /// Of a pixel.
    bits: usize,
    compression: u32,
    /// Red, green and blue in a pixel of 16 or 32 bits.
    masks: [u32; 3],
    /// Red, green, blue.
    palette: Vec<u8>,
    /// Where the pixels begin.
    offset: usize,
}

pub(super) fn decode(bytes: &[u8]) -> Result<Rgb> {
    let header = Header::read(bytes)?;
    let Header { width, height, bits, .. } = header;
    check_size(width as u64, height as u64)?;
    let data = bytes.get(header.offset..).ok_or_else(|| damaged("it has no pixels"))?;

    let stride = (width * bits).div_ceil(32) * 4;
    let colour = |n: u8| of_palette(&header.palette, n);
    let mut rgb = match (header.compression, bits) {
        (RUNS_8, 8) | (RUNS_4, 4) => {
            let indices = runs(&header, data)?;
            Rgb::convert(width, height, &indices, 1, |pixel| colour(pixel[0]))?
        }
        (PLAIN, 1 | 4 | 8) => packed(width, height, data, stride, bits, colour)?,
        (PLAIN | MASKS, 16 | 24 | 32) => masked(&header, data, stride)?,
        (compression, _) => {
            return Err(invalid!(
                "Unsupported BMP: {bits} bits a pixel with compression {compression}."
            ))
        }
    };

    if !header.top_down {
        for r in 0..height / 2 {
            let low = rgb.row(height - 1 - r).to_vec();
            let high = rgb.row(r).to_vec();
            rgb.row_mut(r).copy_from_slice(&low);
            rgb.row_mut(height - 1 - r).copy_from_slice(&high);
        }
    }
    Ok(rgb)
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Header> {
        let offset = u32_at(bytes, 10)? as usize;
        let size = u32_at(bytes, FILE_HEADER_BYTES)? as usize;
        let core = size == CORE_HEADER_BYTES;
        if !core && !(40..=128).contains(&size) {
            return Err(invalid!("Unsupported BMP header of {size} bytes."));
        }

        let at = FILE_HEADER_BYTES + 4;
        let side = |n: usize| -> Result<i32> {
            if core {
                return Ok(u16_at(bytes, at + 2 * n)?.into());
            }
            u32_at(bytes, at + 4 * n).map(|side| side as i32)
        };
        let width = side(0)?;
        let height = side(1)?;
        let rest = at + if core { 4 } else { 8 };
        let bits = usize::from(u16_at(bytes, rest + 2)?);
        let compression = if core { PLAIN } else { u32_at(bytes, rest + 4)? };
        let colours = if core { 0 } else { u32_at(bytes, rest + 20)? as usize };

        let mut palette_at = FILE_HEADER_BYTES + size;
        let mut masks = if bits == 16 { [0x7c00, 0x3e0, 0x1f] } else { [0xff0000, 0xff00, 0xff] };
        if compression == MASKS {
            // Behind the first 40 bytes of the header, or in it.
            let at = FILE_HEADER_BYTES + 40;
            let given = [u32_at(bytes, at)?, u32_at(bytes, at + 4)?, u32_at(bytes, at + 8)?];
            if given != [0; 3] {
                masks = given;
            }
            palette_at += if size == 40 { 12 } else { 0 };
        }

        let mut palette = Vec::new();
        if bits <= 8 {
            let entry = if core { 3 } else { 4 };
            let count = if colours == 0 { 1 << bits } else { colours.min(256) };
            let entries = bytes.get(palette_at..).unwrap_or_default().chunks_exact(entry);
            palette.extend(entries.take(count).flat_map(|c| [c[2], c[1], c[0]]));
        }
        Ok(Header {
            width: width.unsigned_abs() as usize,
            height: height.unsigned_abs() as usize,
            top_down: height < 0,
            bits,
            compression,
            masks,
            palette,
            offset,
        })
    }
}

/// Pixels of 16, 24 or 32 bits, little-endian.
fn masked(header: &Header, data: &[u8], stride: usize) -> Result<Rgb> {
    let Header { width, height, bits, .. } = *header;
    let size = bits / 8;
    let mut rgb = Rgb::new(width, height)?;
    if data.len() < stride * height {
        return Err(damaged("it has fewer pixels than its header says"));
    }

    let part = |pixel: u32, mask: u32| {
        let most = mask >> mask.trailing_zeros().min(31);
        let value = (pixel & mask) >> mask.trailing_zeros().min(31);
        (u64::from(value) * 255).checked_div(most.into()).unwrap_or(0) as u8
    };
    for r in 0..height {
        let row = data[r * stride..].chunks_exact(size);
        for (out, pixel) in rgb.row_mut(r).chunks_exact_mut(3).zip(row) {
            let pixel = pixel.iter().rev().fold(0, |all, &byte| all << 8 | u32::from(byte));
            out.copy_from_slice(&header.masks.map(|mask| part(pixel, mask)));
        }
    }
    Ok(rgb)
}

/// Indices of all pixels from run lengths.
fn runs(header: &Header, data: &[u8]) -> Result<Vec<u8>> {
    let Header { width, height, .. } = *header;
    let halves = header.compression == RUNS_4;
    let size = width * height;
    let mut out: Vec<u8> = Vec::new();
    let mut at = 0;
    let mut x = 0;
    while out.len() < size {
        let Some(&[count, byte]) = data.get(at..at + 2) else { break };
        at += 2;
        let values = if halves { [byte >> 4, byte & 15] } else { [byte; 2] };
        match (count, byte) {
            (0, 0) => {
                out.resize(out.len().next_multiple_of(width), 0);
                x = 0;
            }
            (0, 1) => break,
            (0, 2) => {
                let Some(&[right, up]) = data.get(at..at + 2) else { break };
                at += 2;
                let skipped = usize::from(right) + usize::from(up) * width;
                out.resize((out.len() + skipped).min(size), 0);
                x = out.len() % width;
            }
            (0, count) => {
                let count = usize::from(count).min(size - out.len());
                let bytes = if halves { count.div_ceil(2) } else { count };
                let Some(literal) = data.get(at..at + bytes) else { break };
                if halves {
                    out.extend(literal.iter().flat_map(|b| [b >> 4, b & 15]).take(count));
                } else {
                    out.extend_from_slice(literal);
                }
                // Padded to two bytes from the beginning of the file.
                at += bytes;
                at += (header.offset + at) % 2;
                x += count;
            }
            (count, _) => {
                let count = usize::from(count).min(width.saturating_sub(x));
                out.extend((0..count).map(|i| values[i % 2]));
                x += count;
            }
        }
    }
    if out.len() < size {
        return Err(damaged("not enough image data"));
    }
    Ok(out)
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    match bytes.get(at..at + 2) {
        Some(&[a, b]) => Ok(u16::from_le_bytes([a, b])),
        _ => Err(damaged("its header is cut off")),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    match bytes.get(at..at + 4) {
        Some(&[a, b, c, d]) => Ok(u32::from_le_bytes([a, b, c, d])),
        _ => Err(damaged("its header is cut off")),
    }
}
