//! What becomes of a rank's share of an op: sums over ranks, rows side by side (kernels/ranks.cu).
//! Ops of weights that are shared out end here; a device that shares with none does nothing.

use super::abi;
use super::context::Event;
use super::device_ptr::DevicePtr;
use super::graphs::{Graphs, Key};
use super::memory::Memory;
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
        member.meet()?;
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
        member.meet()?;
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
        member.meet()?;
        let all = member.parameters();
        let parameters = abi::SumRanks { all, x: squares, count: count as u64 };
        let grid = [member.blocks(count * 4), 1];
        let kernel = &self.kernels.sum_ranks_f32;
        kernel.launch(&self.context, grid, abi::EXCHANGE_THREADS, &parameters)?;
        Ok(squares)
    }
}

/// Measurements.
impl Cuda {
    /// Microseconds that a sum over ranks of so many bytes takes on this GPU inside a recorded
    /// graph: `in_graph` of them one behind the other, `replays` times. All ranks call it at once,
    /// each on a thread of its own; after `reserve` it must not be called.
    ///
    /// # Errors
    /// A device without ranks, no room, what goes wrong on the GPU.
    pub fn time_all_reduce(
        &mut self,
        bytes: usize,
        in_graph: usize,
        replays: usize,
    ) -> Result<f64> {
        self.context.bind()?;
        let x = Memory::new(&self.context, bytes, "what is summed")?;
        x.fill(0)?;
        let (began, ended) = (Event::new(&self.context, true)?, Event::new(&self.context, true)?);
        let mut graphs = Graphs::new(&self.context);
        graphs.steady = true;

        // The first launches one by one, the second records.
        for replay in 0..replays + 3 {
            if replay == 3 {
                began.record()?;
            }
            graphs.begin(Some(Key { rows: 1, adapters: false }))?;
            for _ in 0..in_graph {
                self.all_reduce("measured", bytes / self.dtype.bytes(), x.address)?;
            }
            graphs.end()?;
        }
        ended.record()?;
        ended.wait()?;
        self.member("measured")?.failure()?;
        Ok(f64::from(ended.since_ms(&began)?) * 1e3 / (in_graph * replays) as f64)
    }
}
