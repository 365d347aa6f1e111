//! How many multiprocessors a step's prompts have for attention, where single tokens attend at the
//! same time on the others: prompts multiply while those read memory. `paged_attention` asks it;
//! it knows no kernel, only what they take on an H200 (ci/runs/2026-11-30-h200-fifth.md).

use super::prompt_attention::MappedTile;
use super::worklist::{Tiling, WorkList};
use crate::device::DType;

/// Microseconds of a multiprocessor for an item of prompts, and for a tile of 128 packed rows, 128
/// keys and heads of 128.
const ITEM_US: f64 = 4.0;
const TILE_US: f64 = 1.7;
/// Microseconds from the end of one kernel to where the next one has filled its ring.
const LAUNCH_US: f64 = 6.0;
/// Bytes of keys and values in a microsecond: of a few multiprocessors each, and what more and more
/// of them come near to.
const BYTES_PER_PLACE: f64 = 75e3;
const BYTES_OF_CARD: f64 = 4.6e6;
/// One part in so many of the card is left to single tokens at least: how little fewer
/// multiprocessors read is not known.
const LEAST_LEFT: usize = 8;
/// How many more items a block of prompts may have than it has with the whole card.
const MOST_TURNS: usize = 32;

/// What is dealt.
pub struct Heads {
    pub kv_heads: usize,
    pub dim: usize,
    /// Multiprocessors.
    pub card: usize,
}

impl Heads {
    /// Multiprocessors for the prompts of a list beside `single_tiles` tiles of keys for each KV
    /// head. None: one kind has no work, or one after the other is faster.
    pub fn places_of_prompts(&self, list: &WorkList, single_tiles: usize) -> Option<usize> {
        let &Heads { kv_heads, dim, card } = self;
        let together = list.prompt_blocks.max(1);
        let blocks = list.prompt_tiles * kv_heads * together;
        if list.prompt_tiles == 0 || single_tiles == 0 || card == 0 {
            return None;
        }

        let tile = MappedTile::of(dim);
        let tile_us = TILE_US * (tile.rows * tile.keys * dim) as f64 / f64::from(1 << 21);
        let keys = list.items.iter().map(|item| (item.keys_to - item.keys_from) as usize);
        let items_us: f64 =
            keys.map(|keys| ITEM_US + tile_us * keys.div_ceil(tile.keys) as f64).sum();
        let prompts_us = items_us * (kv_heads * together) as f64;
        let row_bytes = 2 * kv_heads * dim * DType::BF16.bytes();
        let bytes = (single_tiles * Tiling::HEADS.keys * row_bytes) as f64;

        let singles_us = |places: usize| {
            let asked = places as f64 * BYTES_PER_PLACE / BYTES_OF_CARD;
            bytes / (BYTES_OF_CARD * (1.0 - (-asked).exp()))
        };

        // Blocks of prompts have so many items each, one behind the other.
        let item_us = prompts_us / blocks as f64;
        let beside = |turns: usize| {
            let places = blocks.div_ceil(turns).next_multiple_of(together);
            let left = card.saturating_sub(places);
            (singles_us(left).max(turns as f64 * item_us), places)
        };
        let first = blocks.div_ceil(card);
        let ways = (first..first + MOST_TURNS).map(beside);
        let (us, places) = ways.min_by(|(a, _), (b, _)| a.total_cmp(b))?;
        let apart_us = first as f64 * item_us + singles_us(card) + LAUNCH_US;
        let left = card.saturating_sub(places);
        (us < apart_us && left * LEAST_LEFT >= card).then_some(places)
    }
}

#[cfg(test)]
mod tests {
    use super::super::worklist::causal;
    use super::*;
    use crate::device::batch::BatchChunk;
    use crate::ids::SlotId;

    const LLAMA_8B: Heads = Heads { kv_heads: 8, dim: 128, card: 132 };

    fn places(prompts: &[[usize; 2]], singles: usize, context: usize) -> Option<usize> {
        let prompts = prompts.iter().map(|&[tokens, length]| (tokens, length));
        let singles = std::iter::repeat_n((1, context), singles);
        let mut chunks = Vec::new();
        for (n, (tokens, length)) in prompts.chain(singles).enumerate() {
            let first = chunks.last().map_or(0, |chunk: &BatchChunk| chunk.first + chunk.tokens);
            let slot = SlotId(n as u32);
            let (known, first_logits, logits) = (None, n, 1);
            chunks.push(BatchChunk { slot, first, tokens, length, known, first_logits, logits });
        }

        let mut list = WorkList::default();
        let tiling = Tiling { prompt_rows: 128, ..Tiling::HEADS };
        let singles = list.make_prompts(tiling, &chunks, 4, &causal);
        LLAMA_8B.places_of_prompts(&list, singles)
    }

    #[test]
    fn prompts_take_what_they_need() {
        // 112 items of some 8 us beside 35 us of reading.
        assert_eq!(places(&[[448, 448]], 64, 512), Some(23));
        assert_eq!(places(&[[112, 112]], 64, 512), Some(5));
        assert_eq!(places(&[[448, 448]], 1, 20), Some(112));
        // 128 items of 31 us, two for a block, beside 33 us.
        assert_eq!(places(&[[504, 2048]], 8, 4096), Some(64));
    }

    #[test]
    fn one_kind_has_the_card() {
        assert_eq!(places(&[], 64, 512), None);
        assert_eq!(places(&[[448, 448]], 0, 0), None);
        // Items of 430 us for four multiprocessors less than all.
        assert_eq!(places(&[[100, 32_000]; 4], 1, 32_000), None);
        // Items of 58 us: two turns take longer than one and the reading.
        assert_eq!(places(&[[504, 4096]], 8, 4096), None);
    }
}
