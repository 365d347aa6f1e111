//! A single row that is summed over ranks: its product pushes it to all ranks as it makes it
//! (kernels/row_push.cuh), and one launch sums what was pushed, adds it to the residual and norms
//! that (kernels/ranks_pushed.cu). Where that is done, and how. `dense` ends with it; it knows no
//! layer.

use super::abi;
use super::device_ptr::DevicePtr;
use super::gemm_small_m::Goes;
use super::ranks::Member;
use super::tensor::Input;
use super::weights::Weight;
use super::{Cuda, Tensor};
use crate::device::Seam;
use crate::error::Result;

impl Cuda {
    /// Where the product of so many rows with this weight pushes its row, given that one launch
    /// makes the sum over ranks and what follows it (`blocks_of_joined_norm`); None: it does not.
    /// All ranks say the same: their parts of the weight have one size and are held alike, and
    /// `Member` knows the oldest GPU.
    pub(super) fn row_push(&self, rows: usize, weight: &Weight) -> Option<abi::RowPush> {
        let member: &Member = self.member.as_ref()?;
        self.takes_row_product(rows, weight).then(|| member.row_push(weight.outputs))?
    }

    /// The product of a single row, its sum over ranks, the residual and its norm.
    pub(super) fn push_row(
        &mut self,
        weight: &Weight,
        bias: DevicePtr,
        x: Input,
        push: abi::RowPush,
        seam: Seam<'_, Weight, Tensor>,
    ) -> Result<()> {
        self.row_product(weight, bias, x, Goes::Push(push))?;

        let norm = self.add_norm_of(seam.norm, seam.delta, seam.residual, seam.normed);
        let norm = abi::AddNorm { delta: DevicePtr::NULL, ..norm };
        let member = self.member(&weight.name)?;
        member.meet()?;
        let (words, taken) = member.pushed_rows();
        let ahead = u32::from(member.leaves_ahead());
        let all = member.parameters();
        let parameters = abi::SumPushedRow { all, words, taken, norm, ahead, unused: 0 };
        const COLUMNS: usize = 8 * abi::PUSHED_THREADS as usize;
        let (threads, blocks) = (abi::PUSHED_THREADS, weight.outputs.div_ceil(COLUMNS));
        let kernel = &self.kernels.sum_pushed_row;
        kernel.launch_clusters(&self.context, [blocks, 1], blocks, threads, 0, &parameters)?;
        member.meet()
    }
}
