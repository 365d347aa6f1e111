//! Attention of vision towers on tensor cores (kernels/attention_spans.cu): which kernel, and how
//! spans are cut into its tiles. `vision` launches it, `tower_inputs` sends the tiles.

use std::ops::Range;

use super::abi::{self, SpanTile};
use super::launch::Kernel;
use super::module::Kernels;
use crate::device::{DType, Span, TowerRows};
use crate::error::Result;

/// Let the tiles that need it have their shared memory.
pub fn prepare(kernels: &Kernels) -> Result<()> {
    for dim in [64, 80, 96, 128] {
        for span in [Span::Window, Span::Image] {
            if let Some(tile) = Tile::of(kernels, span, dim) {
                tile.kernel.allow_shared(tile.shared_bytes)?;
            }
        }
    }
    Ok(())
}

/// A kernel of attention_spans.cu.
pub struct Tile<'a> {
    pub kernel: &'a Kernel<abi::AttendSpans>,
    pub threads: u32,
    pub shared_bytes: usize,
}

impl Tile<'_> {
    /// For heads of `dim`; None: they have none.
    pub fn of(k: &Kernels, span: Span, dim: usize) -> Option<Tile<'_>> {
        if !dim.is_multiple_of(8) {
            return None;
        }
        let (size, [short, long]) = match dim {
            1..=64 => (64, [&k.spans_short_64, &k.spans_long_64]),
            65..=80 => (80, [&k.spans_short_80, &k.spans_long_80]),
            81..=96 => (96, [&k.spans_short_96, &k.spans_long_96]),
            97..=128 => (128, [&k.spans_short_128, &k.spans_long_128]),
            _ => return None,
        };
        let kernel = match span {
            Span::Window => short,
            Span::Image => long,
        };
        let row_bytes = (size + abi::TILE_PADDING as usize) * DType::BF16.bytes();
        let keys = 2 * (abi::SPAN_STAGES * abi::TILE_KEYS) as usize;
        Some(Tile { kernel, threads: 2 * tile_rows(span) as u32, shared_bytes: keys * row_bytes })
    }
}

/// Rows of a tile.
fn tile_rows(span: Span) -> usize {
    match span {
        Span::Window => abi::SHORT_SPAN_ROWS as usize,
        Span::Image => abi::LONG_SPAN_ROWS as usize,
    }
}

/// Spans in tiles of rows.
pub fn tiles(rows: &TowerRows, span: Span) -> Vec<SpanTile> {
    let size = tile_rows(span);
    let of_span = |Range { start, end }: Range<usize>| {
        (start..end).step_by(size).map(move |first| SpanTile {
            first: first as u32,
            count: size.min(end - first) as u32,
            begin: start as u32,
            end: end as u32,
        })
    };
    rows.spans(span).flat_map(of_span).collect()
}
