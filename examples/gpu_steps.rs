//! Steps of a model on a GPU, or on several that share it, timed: `gpu_steps FOLDER [ranks=N]
//! [WORK...]`. The folder holds a config.json; weights are made up. WORK is `prefill:TOKENS` or
//! `decode:SEQUENCESxCONTEXT`; without any, a usual set. Prints the host's share of a step,
//! milliseconds per decode step at several batch sizes, and prompt tokens per second. Greedy, depth
//! 2, as the engine runs it but without engine, text and server.

mod gpu;

use std::path::Path;
use std::thread;
use std::time::Instant;

use gpu::{median, read_spec, Bench, Work};
use triton_vllm::device::cuda::Cuda;
use triton_vllm::device::ops::*;
use triton_vllm::error::Result;
use triton_vllm::model::ModelSpec;

const PAGES: usize = 20_000;
const WARM_STEPS: usize = 8;
const STEPS: usize = 40;

fn usual() -> Vec<Work> {
    let prefills = [128, 512, 2048, 4096].map(Work::Prefill).into_iter();
    let decodes = [(1, 512), (1, 4096), (16, 512), (64, 512), (256, 512)];
    prefills.chain(decodes.map(|(b, c)| Work::Decode(b, c))).collect()
}

/// What was measured, in a line.
fn time_prefill(bench: &mut Bench<Cuda>, tokens: usize) -> Result<String> {
    // The first one chooses algorithms.
    bench.prefill(&[0], tokens)?;
    let mut times_ms = Vec::new();
    for _ in 0..3 {
        let start = Instant::now();
        bench.prefill(&[0], tokens)?;
        times_ms.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let ms = median(times_ms);
    Ok(format!("prefill {tokens}: {ms:.2} ms, {:.0} tokens/s", tokens as f64 / ms * 1e3))
}

fn time_decode(bench: &mut Bench<Cuda>, slots: &[u32], context: usize) -> Result<String> {
    let batch = slots.len();
    bench.prefill(slots, context)?;
    bench.decode(slots, WARM_STEPS)?;
    let pace = bench.decode(slots, STEPS)?;
    let ms = pace.steps_ms.iter().sum::<f64>() / STEPS as f64;
    Ok(format!(
        "decode {batch} x {context}: {ms:.3} ms a step (host {:.3}), {:.0} tokens/s",
        pace.host_ms,
        batch as f64 / ms * 1e3
    ))
}

fn run(folder: &Path, ranks: usize, works: &[Work]) -> Result<()> {
    let spec = read_spec(folder)?;
    let start = Instant::now();
    if ranks == 1 {
        return measure(folder, &spec, Cuda::open(0, spec.dtype)?, works, start);
    }
    let ordinals: Vec<usize> = (0..ranks).collect();
    let (devices, group) = Cuda::open_ranks(&ordinals, spec.dtype, "measured")?;
    thread::scope(|scope| {
        let (spec, group) = (&spec, &group);
        let start_one = |device| {
            scope.spawn(move || {
                let done = measure(folder, spec, device, works, start);
                // Nobody waits for a rank that is gone.
                if let Err(error) = &done {
                    group.fail(error.clone());
                }
                done
            })
        };
        let running: Vec<_> = devices.into_iter().map(start_one).collect();
        running.into_iter().try_for_each(|rank| rank.join().expect("a rank's thread"))
    })
}

/// All work on a device or on one of several ranks, of which the first prints.
fn measure(
    folder: &Path,
    spec: &ModelSpec,
    dev: Cuda,
    works: &[Work],
    start: Instant,
) -> Result<()> {
    let rank = dev.rank();
    let say = |line: &str| {
        if rank.index == 0 {
            println!("{line}");
        }
    };
    let opened = start.elapsed().as_secs_f64();
    let mut bench = Bench::load(spec, dev, PAGES)?;
    bench.dev.wait()?;
    let loaded = start.elapsed().as_secs_f64();
    let name = bench.dev.info().name;
    let of = rank.of;
    say(&format!("{} on {of} x {name}: open {opened:.2} s, load {loaded:.2} s", folder.display()));

    let longest = bench.limits.max_model_len;
    for &work in works.iter().filter(|w| w.length(WARM_STEPS + STEPS) < longest) {
        let line = match work {
            Work::Prefill(tokens) => time_prefill(&mut bench, tokens)?,
            Work::Decode(_, context) => time_decode(&mut bench, &work.slots(), context)?,
        };
        say(&line);
    }
    Ok(())
}

fn main() {
    const USAGE: &str = "usage: gpu_steps FOLDER [ranks=N] [prefill:N] [decode:BxC]";
    let mut args = std::env::args().skip(1);
    let folder = args.next().expect(USAGE);
    let mut ranks = 1;
    let mut work = Vec::new();
    for arg in args {
        match arg.strip_prefix("ranks=") {
            Some(number) => ranks = number.parse().expect(USAGE),
            None => work.push(Work::parse(&arg).expect(USAGE)),
        }
    }
    if work.is_empty() {
        work = usual();
    }
    if let Err(error) = run(Path::new(&folder), ranks, &work) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
