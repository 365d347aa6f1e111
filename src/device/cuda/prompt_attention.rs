//! Prompts over pages that tensor maps copy (kernels/attention_prefill_sm90.cu): the tile of a head
//! size, and what its kernel is given. `paged_attention` chooses the kernel and launches it.

use super::abi::{self, PagedAttention, PromptAttention};
use super::tensor_map::Matrix;
use crate::device::DType;
use crate::error::Result;
use crate::internal;

/// Keys of a page that a tensor map copies at once are a multiple: rows of a swizzled panel repeat
/// after so many.
const SWIZZLE_ROWS: usize = 8;

/// What a block takes at once.
pub struct MappedTile {
    /// Packed rows.
    pub rows: usize,
    /// Items whose Q is in shared memory at once.
    pub queries: usize,
    pub keys: usize,
    /// Of K, and of V.
    pub stages: usize,
    pub threads: u32,
}

impl MappedTile {
    /// For heads of `dim`.
    pub fn of(dim: usize) -> MappedTile {
        let (groups, keys, stages) = match dim {
            64 => (abi::MAPPED_GROUPS_OF_64, abi::MAPPED_KEYS, abi::MAPPED_STAGES_OF_64),
            256 => (abi::MAPPED_GROUPS, abi::MAPPED_KEYS_OF_256, abi::MAPPED_STAGES),
            _ => (abi::MAPPED_GROUPS, abi::MAPPED_KEYS, abi::MAPPED_STAGES),
        };
        MappedTile {
            rows: (groups * abi::MAPPED_ROWS_OF_GROUP) as usize,
            queries: if dim == 256 { abi::MAPPED_QUERIES_OF_256 } else { abi::MAPPED_QUERIES }
                as usize,
            keys: keys as usize,
            stages: stages as usize,
            threads: (groups + 1) * abi::MAPPED_THREADS_OF_GROUP,
        }
    }

    /// Keys that lie one behind the other in a page and in a tile, which are copied at once; None:
    /// pages of this size cannot be copied so.
    pub fn piece(&self, page_size: usize) -> Option<usize> {
        let (mut a, mut b) = (page_size, self.keys);
        while b > 0 {
            (a, b) = (b, a % b);
        }
        Some(a).filter(|piece| piece.is_multiple_of(SWIZZLE_ROWS))
    }
}

/// `items` items of all KV heads over the pages of a layer, which `rows` are: K or V of a head.
///
/// # Errors
/// The driver makes no tensor map; internal: pages that cannot be copied so.
pub fn parameters(
    rows: &Matrix,
    dtype: DType,
    pages: PagedAttention,
    items: usize,
) -> Result<PromptAttention> {
    let page_size = pages.page_size as usize;
    let piece = MappedTile::of(rows.columns).piece(page_size);
    let piece = piece.ok_or_else(|| internal!("pages of {page_size} keys"))?;
    let map = rows.eights_of_panels(dtype, piece)?;
    Ok(PromptAttention { map, pages, items: items as u32, piece: piece as u32 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_divide_pages_and_tiles() {
        let pieces = |dim| move |page_size| MappedTile::of(dim).piece(page_size);
        let sizes = [8, 16, 24, 32, 48, 64, 128, 256];
        let some = |pieces: [usize; 8]| pieces.map(Some);
        assert_eq!(sizes.map(pieces(128)), some([8, 16, 8, 32, 16, 64, 128, 128]));
        assert_eq!(sizes.map(pieces(256)), some([8, 16, 8, 16, 16, 16, 16, 16]));
        assert_eq!([1, 4, 12, 20].map(pieces(64)), [None; 4]);
    }
}
