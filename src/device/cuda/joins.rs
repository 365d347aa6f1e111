//! What becomes of a rank's share of an op: sums over ranks, rows side by side (kernels/ranks.cu).
//! Ops of weights that are shared out end here; a device that shares with none does nothing.

use super::abi;
use super::context::Event;
use super::device_ptr::DevicePtr;
use super::graphs::{Graphs, Key};
use super::launch::Kernel;
use super::memory::Memory;
use super::ranks::{Member, Way};
use super::weights::Weight;
use super::Cuda;
use crate::device::{DType, Join};
use crate::error::Result;
use crate::internal;

impl Cuda {
    pub(super) fn member(&self, of: &str) -> Result<&Member> {
        self.member.as_ref().ok_or_else(|| internal!("{of} is a rank's, and there is one device"))
    }

    /// Have the driver load the kernels of exchanges. It may do so as late as a kernel's first
    /// launch, and then waits for the GPU, on which another rank may already wait for this one.
    pub(super) fn load_exchanges(&self) -> Result<()> {
        let kernels = &self.kernels;
        let sums = [&kernels.sum_ranks, &kernels.sum_ranks_f32, &kernels.sum_ranks_direct];
        for kernel in sums {
            kernel.resident_blocks(&self.context, abi::EXCHANGE_THREADS, 0)?;
        }
        for kernel in [&kernels.gather_ranks, &kernels.gather_ranks_direct] {
            kernel.resident_blocks(&self.context, abi::EXCHANGE_THREADS, 0)?;
        }
        kernels.sum_add_norm.resident_blocks(&self.context, abi::EXCHANGE_THREADS, 0)?;
        kernels.sum_pushed_row.resident_blocks(&self.context, abi::PUSHED_THREADS, 0)?;
        kernels.sum_add_norm_rows.resident_blocks(&self.context, abi::EXCHANGE_THREADS, 0)?;
        Ok(())
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
        let way = self.member(of)?.way(count * self.dtype.bytes());
        self.all_reduce_by(way, of, count, x)
    }

    fn all_reduce_by(&self, way: Way, of: &str, count: usize, x: DevicePtr) -> Result<()> {
        let kernel = match way {
            Way::Direct => &self.kernels.sum_ranks_direct,
            Way::Pushed { .. } => &self.kernels.sum_ranks,
        };
        self.sum_in_parts(kernel, way, of, count, self.dtype, x)
    }

    /// x, so many numbers of a type, = its sum over ranks, by the kernel of a way.
    fn sum_in_parts(
        &self,
        kernel: &Kernel<abi::SumRanks>,
        way: Way,
        of: &str,
        count: usize,
        dtype: DType,
        x: DevicePtr,
    ) -> Result<()> {
        let member = self.member(of)?;
        member.meet()?;

        let bytes = count * dtype.bytes();
        let mut begin = 0;
        while begin < bytes {
            let part = way.most_bytes().min(bytes - begin);
            let parameters = abi::SumRanks {
                all: member.parameters(),
                x: x.offset_bytes(begin),
                count: (part / dtype.bytes()) as u64,
            };
            let grid = [member.blocks(way, part), 1];
            kernel.launch(&self.context, grid, abi::EXCHANGE_THREADS, &parameters)?;
            begin += part;
        }
        member.meet()
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
        const VECTOR_BYTES: usize = 16;
        let [width, all_width] = widths;
        let member = self.member(of)?;
        member.meet()?;
        let bytes = rows * width * 4;
        let way = member.way(bytes);
        let kernel = match way {
            Way::Direct => &self.kernels.gather_ranks_direct,
            Way::Pushed { .. } => &self.kernels.gather_ranks,
        };

        let mut begin = 0;
        while begin < bytes {
            let now = way.most_bytes().min(bytes - begin);
            let parameters = abi::GatherRanks {
                all: member.parameters(),
                part,
                whole,
                first: (begin / VECTOR_BYTES) as u64,
                vectors: now.div_ceil(VECTOR_BYTES) as u64,
                rows: rows as u32,
                width: width as u32,
                all_width: all_width as u32,
                unused: 0,
            };
            let grid = [member.blocks(way, now), 1];
            kernel.launch(&self.context, grid, abi::EXCHANGE_THREADS, &parameters)?;
            begin += now;
        }
        member.meet()
    }

    /// Sums of squares of q and of k over all ranks, `[rows, 2]` of f32.
    pub(super) fn squares_of_ranks(
        &mut self,
        of: &str,
        rows: usize,
        x: DevicePtr,
        stride: usize,
        widths: [usize; 2],
    ) -> Result<DevicePtr> {
        const THREADS: u32 = 256;
        let squares = self.scratch(rows * 2 * DType::F32.bytes())?;
        let parameters = abi::SquareParts {
            x,
            squares,
            stride: stride as u32,
            q_width: widths[0] as u32,
            k_width: widths[1] as u32,
            unused: 0,
        };
        self.kernels.square_parts.launch(&self.context, [rows, 2], THREADS, &parameters)?;

        // A few numbers a row: through mailboxes, in f32.
        let way = Way::Pushed { most_bytes: self.member(of)?.pushed() };
        let kernel = &self.kernels.sum_ranks_f32;
        self.sum_in_parts(kernel, way, of, 2 * rows, DType::F32, squares)?;
        Ok(squares)
    }
}

/// Measurements.
impl Cuda {
    /// Microseconds that a sum over ranks of so many bytes takes on this GPU inside a recorded
    /// graph: `in_graph` of them one behind the other, `replays` times. `pushed`: through the
    /// mailboxes, else the way that is taken for so many. All ranks call it at once, each on a
    /// thread of its own, outside of steps.
    ///
    /// # Errors
    /// A device without ranks, no room, what goes wrong on the GPU.
    pub fn time_all_reduce(
        &mut self,
        bytes: usize,
        pushed: bool,
        in_graph: usize,
        replays: usize,
    ) -> Result<f64> {
        const OF: &str = "measured";
        self.context.bind()?;
        let x = Memory::new(&self.context, bytes, "what is summed")?;
        x.fill(0)?;
        let member = self.member(OF)?;
        let way =
            if pushed { Way::Pushed { most_bytes: member.pushed() } } else { member.way(bytes) };
        let count = bytes / self.dtype.bytes();
        self.time_in_graph(in_graph, replays, || self.all_reduce_by(way, OF, count, x.address))
    }

    /// Microseconds that one call's launches take of so many in a recorded graph, which is replayed
    /// so often; of a rank's launches on all ranks at once.
    pub(super) fn time_in_graph(
        &self,
        in_graph: usize,
        replays: usize,
        launch: impl Fn() -> Result<()>,
    ) -> Result<f64> {
        let began = Event::new(&self.context, true)?;
        let ended = Event::new(&self.context, true)?;
        let mut graphs = Graphs::new(&self.context);
        graphs.steady = true;

        // The first launches one by one, the second records.
        const WARM: usize = 3;
        for replay in 0..replays + WARM {
            if replay == WARM {
                began.record()?;
            }
            let key = Key {
                rows: 1,
                adapters: false,
                several_rows: false,
                gathers: false,
                shares_keys: false,
                ahead: false,
            };
            graphs.begin(Some(key))?;
            (0..in_graph).try_for_each(|_| launch())?;
            graphs.end()?;
        }
        ended.record()?;
        ended.wait()?;
        self.member("measured")?.failure()?;
        Ok(f64::from(ended.since_ms(&began)?) * 1e3 / (in_graph * replays) as f64)
    }
}
