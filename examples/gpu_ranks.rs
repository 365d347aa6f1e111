//! What ranks exchange, timed: `gpu_ranks [RANKS]` (default: every GPU) prints a Markdown table of
//! all-reduce times inside a recorded graph, by size, in microseconds; the slowest rank's: as it is
//! done, and through mailboxes alone. Then the same with the residual and its norm behind it, by
//! rows and columns: by one launch, by one of which each rank makes a share of the rows, by two.
//! ci/gpu/all_reduce.py makes the first table by NCCL.

use std::thread;

use triton_vllm::device::cuda::{Cuda, SeamWay};
use triton_vllm::device::DType;
use triton_vllm::error::Result;

const IN_GRAPH: usize = 20;

/// Bytes, and how often the graph is replayed.
const SIZES: [(usize, usize); 13] = [
    (8 << 10, 50),
    (16 << 10, 50),
    (64 << 10, 50),
    (128 << 10, 50),
    (256 << 10, 50),
    (512 << 10, 50),
    (1 << 20, 50),
    (2 << 20, 30),
    (4 << 20, 20),
    (8 << 20, 10),
    (16 << 20, 10),
    (32 << 20, 5),
    (64 << 20, 5),
];

/// Rows and columns of what a norm follows.
const SHAPES: [[usize; 2]; 16] = [
    [1, 2880],
    [1, 4096],
    [1, 8192],
    [2, 4096],
    [8, 4096],
    [8, 8192],
    [16, 4096],
    [16, 8192],
    [64, 4096],
    [64, 8192],
    [128, 8192],
    [256, 4096],
    [256, 8192],
    [1024, 8192],
    [4096, 4096],
    [4096, 8192],
];

fn run(ranks: usize) -> Result<()> {
    let ordinals: Vec<usize> = (0..ranks).collect();
    let (mut devices, _group) = Cuda::open_ranks(&ordinals, DType::BF16, "measured")?;
    println!("| bytes | us, {ranks} ranks | pushed |\n|---|---|---|");
    for (bytes, replays) in SIZES {
        let [usual, pushed] = [false, true].map(|pushed| {
            let time =
                |rank: &mut Cuda| rank.time_all_reduce(bytes, pushed, IN_GRAPH, replays).map(Some);
            slowest(&mut devices, time)
        });
        println!("| {bytes} | {:.2} | {:.2} |", usual?.unwrap_or(0.0), pushed?.unwrap_or(0.0));
    }

    println!("\n| rows x columns | us with residual and norm, one launch | of shares | two |");
    println!("|---|---|---|---|");
    for shape in SHAPES {
        let times = [SeamWay::Joined, SeamWay::Shares, SeamWay::Apart].map(|way| {
            let replays = if shape[0] > 256 { 5 } else { 50 };
            let time = |rank: &mut Cuda| rank.time_sum_add_norm(shape, way, IN_GRAPH, replays);
            let time = slowest(&mut devices, time);
            time.map(|us| us.map_or_else(|| "-".into(), |us| format!("{us:.2}")))
        });
        let [joined, shares, apart] = times;
        println!("| {} x {} | {} | {} | {} |", shape[0], shape[1], joined?, shares?, apart?);
    }
    Ok(())
}

/// What the slowest rank's GPU takes; None where a rank measures nothing.
fn slowest(
    devices: &mut [Cuda],
    time: impl Fn(&mut Cuda) -> Result<Option<f64>> + Copy + Send,
) -> Result<Option<f64>> {
    let times = thread::scope(|scope| {
        let start = |device| scope.spawn(move || time(device));
        let running: Vec<_> = devices.iter_mut().map(start).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Result<Option<f64>>>| {
            thread.join().expect("a rank's thread")
        };
        running.into_iter().map(join).collect::<Result<Option<Vec<f64>>>>()
    })?;
    Ok(times.map(|times| times.into_iter().fold(0.0, f64::max)))
}

fn main() {
    let ranks = std::env::args().nth(1).map(|text| text.parse().expect("RANKS is a number"));
    let outcome = Cuda::count().and_then(|gpus| run(ranks.unwrap_or(gpus)));
    if let Err(error) = outcome {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
