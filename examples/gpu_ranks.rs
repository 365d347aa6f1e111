//! What ranks exchange, timed: `gpu_ranks [RANKS]` (default: every GPU) prints a Markdown table of
//! all-reduce times inside a recorded graph, by size, in microseconds; the slowest rank's: as it is
//! done, and through mailboxes alone.
//! ci/gpu/all_reduce.py makes the same table by NCCL.

use std::thread;

use triton_vllm::device::cuda::Cuda;
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

fn run(ranks: usize) -> Result<()> {
    let ordinals: Vec<usize> = (0..ranks).collect();
    let (mut devices, _group) = Cuda::open_ranks(&ordinals, DType::BF16, "measured")?;
    println!("| bytes | us, {ranks} ranks | pushed |\n|---|---|---|");
    for (bytes, replays) in SIZES {
        let [usual, pushed] =
            [false, true].map(|pushed| slowest(&mut devices, bytes, pushed, replays));
        println!("| {bytes} | {:.2} | {:.2} |", usual?, pushed?);
    }
    Ok(())
}

fn slowest(devices: &mut [Cuda], bytes: usize, pushed: bool, replays: usize) -> Result<f64> {
    let times = thread::scope(|scope| {
        let time =
            move |device: &mut Cuda| device.time_all_reduce(bytes, pushed, IN_GRAPH, replays);
        let start = |device| scope.spawn(move || time(device));
        let running: Vec<_> = devices.iter_mut().map(start).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Result<f64>>| {
            thread.join().expect("a rank's thread")
        };
        running.into_iter().map(join).collect::<Result<Vec<f64>>>()
    })?;
    Ok(times.into_iter().fold(0.0, f64::max))
}

fn main() {
    let ranks = std::env::args().nth(1).map(|text| text.parse().expect("RANKS is a number"));
    let outcome = Cuda::count().and_then(|gpus| run(ranks.unwrap_or(gpus)));
    if let Err(error) = outcome {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
