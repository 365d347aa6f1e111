//! What becomes of a rank's share of an op: sums over ranks, rows side by side (kernels/ranks.cu).
//! Ops of weights that are shared out end here; a device that shares with none does nothing.

use super::abi;
use super::device_ptr::DevicePtr;
use super::ranks::Member;
use super::weights::Weight;
use super::Cuda;
use crate::device::{AttnSpec, DType, Join};
use crate::error::Result;
use crate::internal;

impl Cuda {
    fn member(&self, of: &str) -> Result<&Member> {
        self.member.as_ref().ok_or_else(|| internal!("{of} is a rank's, and there is one device"))
    }

    /// The sum over ranks of what was made of their shares of a weight, if it is shared so:
    /// `[rows, width]` of the device's type.
    pub(super) fn join_sums(
        &self,
        weight: &Weight,
        rows: usize,
        width: usize,
        x: DevicePtr,
    ) -> Result<()> {
        match weight.join {
            Join::Sum => self.all_reduce(&weight.name, rows * width, x),
            Join::None => Ok(()),
            Join::Rows { .. } => Err(internal!("{}: a sum over ranks of rows", weight.name)),
        }
    }

    /// x = its sum over ranks.
    pub(super) fn all_reduce(&self, of: &str, count: usize, x: DevicePtr) -> Result<()> {
        let member = self.member(of)?;
        let grid = [member.blocks(count * self.dtype.bytes()), 1];
        let parameters = abi::SumRanks { all: member.parameters(), x, count: count as u64 };
        let kernel = &self.kernels.sum_ranks;
        kernel.launch(&self.context, grid, abi::EXCHANGE_THREADS, &parameters)
    }

    /// All ranks' `[rows, width]` of f32 side by side, in a row of `all_width`.
    pub(super) fn all_gather(
        &self,
        of: &str,
        rows: usize,
        widths: [usize; 2],
        part: DevicePtr,
        whole: DevicePtr,
    ) -> Result<()> {
        let [width, all_width] = widths;
        let member = self.member(of)?;
        let parameters = abi::GatherRanks {
            all: member.parameters(),
            part,
            whole,
            rows: rows as u32,
            width: width as u32,
            all_width: all_width as u32,
            unused: 0,
        };
        let grid = [member.blocks(rows * width * 4), 1];
        let kernel = &self.kernels.gather_ranks;
        kernel.launch(&self.context, grid, abi::EXCHANGE_THREADS, &parameters)
    }

    /// Sums of squares of q and of k over all ranks, `[rows, 2]` of f32.
    pub(super) fn squares_of_ranks(
        &mut self,
        of: &str,
        spec: &AttnSpec,
        rows: usize,
        qkv: DevicePtr,
    ) -> Result<DevicePtr> {
        const THREADS: u32 = 256;
        let squares = self.scratch(rows * 2 * DType::F32.bytes())?;
        let (q_width, k_width) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let parameters = abi::SquareParts {
            x: qkv,
            squares,
            stride: (q_width + 2 * k_width) as u32,
            q_width: q_width as u32,
            k_width: k_width as u32,
            unused: 0,
        };
        self.kernels.square_parts.launch(&self.context, [rows, 2], THREADS, &parameters)?;

        let count = 2 * rows;
        let member = self.member(of)?;
        let all = member.parameters();
        let parameters = abi::SumRanks { all, x: squares, count: count as u64 };
        let grid = [member.blocks(count * 4), 1];
        let kernel = &self.kernels.sum_ranks_f32;
        kernel.launch(&self.context, grid, abi::EXCHANGE_THREADS, &parameters)?;
        Ok(squares)
    }
}
