//! The sum over ranks of a sublayer's output, the residual that it goes to and its norm in one
//! launch (kernels/ranks_norm.cu): where that is taken, and how. `dense` and `experts` end with it;
//! it knows no product.

use super::abi;
use super::coded_scratch::padded_inputs;
use super::dense::norm_threads;
use super::device_ptr::DevicePtr;
use super::memory::Memory;
use super::ranks::Member;
use super::weights::Weight;
use super::{Cuda, Tensor};
use crate::device::{DType, Join, Norm, NormKind, Seam};
use crate::error::Result;

/// Pieces of a row of so many columns; None: the kernel has no such rows.
pub(super) fn pieces_of_row(width: usize, dtype: DType) -> Option<usize> {
    const COLUMNS: usize = 8;
    const VECTOR_BYTES: usize = 16;
    if !width.is_multiple_of(COLUMNS) || width == 0 || width > abi::NORMED_COLUMNS as usize {
        return None;
    }
    let groups = width.div_ceil(COLUMNS * abi::EXCHANGE_THREADS as usize);
    Some(groups * (COLUMNS * dtype.bytes() / VECTOR_BYTES))
}

impl Cuda {
    /// Blocks of the one launch for the sum over ranks of a weight's products and what follows it;
    /// None: they are launches of their own.
    pub(super) fn blocks_of_joined_norm(
        &self,
        weight: &Weight,
        norm: &Norm<Weight>,
        rows: usize,
        width: usize,
    ) -> Option<usize> {
        let member: &Member = self.member.as_ref().filter(|_| weight.join == Join::Sum)?;
        let pieces = pieces_of_row(width, self.dtype).filter(|_| norm.kind != NormKind::Layer)?;
        member.blocks_of_rows(rows, pieces)
    }

    /// The launch, by as many blocks as `blocks_of_joined_norm` says.
    pub(super) fn sum_add_norm(
        &self,
        of: &str,
        blocks: usize,
        seam: Seam<'_, Weight, Tensor>,
    ) -> Result<()> {
        let norm = self.add_norm_of(seam.norm, seam.delta, seam.residual, seam.normed);
        self.launch_sum_add_norm(of, blocks, self.rows(), norm)
    }

    fn launch_sum_add_norm(
        &self,
        of: &str,
        blocks: usize,
        rows: usize,
        norm: abi::AddNorm,
    ) -> Result<()> {
        let member = self.member(of)?;
        member.meet()?;
        let all = member.parameters();
        let ahead = u32::from(member.leaves_ahead());
        let parameters = abi::SumAddNorm { all, norm, rows: rows as u32, ahead };
        let (grid, threads) = ([blocks, 1], abi::EXCHANGE_THREADS);
        self.kernels.sum_add_norm.launch(&self.context, grid, threads, &parameters)?;
        member.meet()
    }
}

/// How the sum over ranks, the residual and its norm are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeamWay {
    /// One launch behind the other.
    Apart,
    /// By one launch, all rows by all ranks.
    Joined,
    /// By one launch, each rank for its share of the rows; of the norm codes alone.
    Shares,
}

/// Measurements.
impl Cuda {
    /// Microseconds that a sum over ranks, the residual and its RMS norm, rounded, take on this
    /// GPU, for so many rows of so many columns; else as [`Cuda::time_all_reduce`]. None: that way
    /// does not take them.
    ///
    /// # Errors
    /// As there.
    pub fn time_sum_add_norm(
        &mut self,
        [rows, width]: [usize; 2],
        way: SeamWay,
        in_graph: usize,
        replays: usize,
    ) -> Result<Option<f64>> {
        const OF: &str = "measured";
        let Some(pieces) = pieces_of_row(width, self.dtype) else { return Ok(None) };
        let member = self.member(OF)?;
        let tensor = rows * width * self.dtype.bytes();
        let blocks = match way {
            SeamWay::Apart => Some(0),
            SeamWay::Joined => member.blocks_of_rows(rows, pieces),
            SeamWay::Shares => member.blocks_of_shares(rows, tensor),
        };
        let Some(blocks) = blocks else { return Ok(None) };
        self.context.bind()?;
        let zeros = |bytes: usize| {
            let memory = Memory::new(&self.context, bytes, "what is measured")?;
            memory.fill(0).map(|()| memory)
        };
        let [delta, residual, out] = [zeros(tensor)?, zeros(tensor)?, zeros(tensor)?];
        let weight = zeros(width * DType::F32.bytes())?;
        let (bytes, steps) = (zeros(rows * padded_inputs(width))?, zeros(rows * 4)?);

        let norm = abi::AddNorm {
            delta: delta.address,
            residual: residual.address,
            weight: weight.address,
            bias: DevicePtr::NULL,
            out: if way == SeamWay::Shares { DevicePtr::NULL } else { out.address },
            codes: DevicePtr::NULL,
            bytes: bytes.address,
            steps: steps.address,
            width: width as u32,
            padded_width: padded_inputs(width) as u32,
            eps: 1e-5,
            kind: abi::NormKind::Rms,
            delta_bias: DevicePtr::NULL,
        };
        let launch = || match way {
            SeamWay::Joined => self.launch_sum_add_norm(OF, blocks, rows, norm),
            SeamWay::Shares => self.launch_row_shares(OF, blocks, rows, false, norm),
            SeamWay::Apart => {
                self.all_reduce(OF, rows * width, delta.address)?;
                let kernel = &self.kernels.add_norm;
                kernel.launch(&self.context, [rows, 1], norm_threads(width), &norm)
            }
        };
        self.time_in_graph(in_graph, replays, launch).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block of the kernel has whole rows, so a row's pieces divide those of a block.
    #[test]
    fn rows_take_whole_pieces() {
        for (width, halves, singles) in [
            (8, Some(1), Some(2)),
            (2880, Some(1), Some(2)),
            (4096, Some(1), Some(2)),
            (4104, Some(2), Some(4)),
            (8192, Some(2), Some(4)),
            (8200, None, None),
            (63, None, None),
            (0, None, None),
        ] {
            assert_eq!(pieces_of_row(width, DType::BF16), halves, "{width}");
            assert_eq!(pieces_of_row(width, DType::F32), singles, "{width}");
        }
    }
}
