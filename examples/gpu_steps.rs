//! Steps of a model on a GPU, or on several that share it, timed: `gpu_steps FOLDER [ranks=N]
//! [apart] [WORK...]`. The folder holds a config.json; weights are made up. WORK is
//! `prefill:TOKENS`, `decode:SEQUENCESxCONTEXT`, `mixed:SEQUENCESxCONTEXT+TOKENS`, where each step
//! also reads so many tokens of a prompt, or `shared:SEQUENCESxCONTEXT+POSITIONS`, where so many
//! positions lie on pages that all sequences have (`apart`: each reads them for itself, as the
//! floor counts them); without any, a usual set. Prints the host's share of a step, milliseconds
//! per decode step at several batch sizes, and prompt tokens per second, beside the floor: what the
//! trace device counts of a rank's step. Greedy, depth 2, as the engine runs it but without engine,
//! text and server.

#[path = "gpu_shares/floor.rs"]
mod floor;
mod gpu;

use std::path::Path;
use std::thread;
use std::time::Instant;

use floor::Floor;
use gpu::{median, read_spec, Bench, Streams, Work, PAGE};
use triton_vllm::device::cuda::Cuda;
use triton_vllm::device::ops::*;
use triton_vllm::device::trace::Trace;
use triton_vllm::device::Rank;
use triton_vllm::error::Result;
use triton_vllm::model::ModelSpec;

const WARM_STEPS: usize = 8;
const STEPS: usize = 40;

fn usual() -> Vec<Work> {
    let prefills = [128, 512, 2048, 4096].map(Work::Prefill).into_iter();
    let decodes = [(1, 512), (1, 4096), (16, 512), (64, 512), (256, 512)];
    prefills.chain(decodes.map(|(b, c)| Work::Decode(Streams::new(b, c)))).collect()
}

/// Pages that the sequences of `work` take, and one that nobody has.
fn pages(work: Work) -> usize {
    1 + work.slots() * work.length(WARM_STEPS + STEPS).div_ceil(PAGE)
}

/// Of one step of a rank: its bytes or its FLOPs, of all ops together.
fn floor(spec: &ModelSpec, work: Work, rank: Rank) -> Result<Floor> {
    let mut bench = Bench::load(spec, Trace::of_rank(spec.dtype, rank), pages(work))?;
    bench.step(work)?;
    let launches = bench.dev.take_launches();
    let bytes = launches.iter().map(|launch| launch.read_bytes + launch.written_bytes).sum();
    let flops = launches.iter().map(|launch| launch.flops).sum();
    Ok(Floor::new(bytes, flops, spec.dtype))
}

/// How near milliseconds are to it.
fn beside(floor: &Floor, ms: f64) -> String {
    let (near, floor_ms, bound) = (floor.percent(ms * 1e3), floor.us() / 1e3, floor.bound());
    format!("{near:.0} % of the floor of {floor_ms:.3} ms ({bound})")
}

/// What was measured, in a line.
fn time_prefill(bench: &mut Bench<Cuda>, tokens: usize, floor: &Floor) -> Result<String> {
    // The first one chooses algorithms.
    bench.prefill(&[0], tokens)?;
    let mut times_ms = Vec::new();
    for _ in 0..3 {
        let start = Instant::now();
        bench.prefill(&[0], tokens)?;
        times_ms.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let ms = median(times_ms);
    let (rate, near) = (tokens as f64 / ms * 1e3, beside(floor, ms));
    Ok(format!("prefill {tokens}: {ms:.2} ms, {rate:.0} tokens/s, {near}"))
}

fn time_decode(bench: &mut Bench<Cuda>, streams: Streams, floor: &Floor) -> Result<String> {
    let Streams { batch, context, prompt, shared } = streams;
    bench.start(streams)?;
    bench.decode(streams, WARM_STEPS)?;
    let pace = bench.decode(streams, STEPS)?;
    let ms = pace.steps_ms.iter().sum::<f64>() / STEPS as f64;
    let mut tokens = if prompt > 0 { format!(" + {prompt}") } else { String::new() };
    if shared > 0 {
        tokens = format!(", {shared} shared");
    }
    Ok(format!(
        "decode {batch} x {context}{tokens}: {ms:.3} ms a step (host {:.3}), {:.0} tokens/s, {}",
        pace.host_ms,
        batch as f64 / ms * 1e3,
        beside(floor, ms)
    ))
}

fn run(folder: &Path, ranks: usize, apart: bool, works: &[Work]) -> Result<()> {
    let spec = read_spec(folder)?;
    let start = Instant::now();
    let prepare = |mut device: Cuda| {
        if apart {
            device.share_keys_from(usize::MAX);
        }
        device
    };
    if ranks == 1 {
        let device = prepare(Cuda::open(0, spec.dtype)?);
        return measure(folder, &spec, device, works, start);
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
        let running: Vec<_> = devices.into_iter().map(prepare).map(start_one).collect();
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
    let most = works.iter().map(|&work| pages(work)).max().unwrap_or(1);
    let mut bench = Bench::load(spec, dev, most)?;
    bench.dev.wait()?;
    let loaded = start.elapsed().as_secs_f64();
    let name = bench.dev.info().name;
    let of = rank.of;
    say(&format!("{} on {of} x {name}: open {opened:.2} s, load {loaded:.2} s", folder.display()));

    let longest = bench.limits.max_model_len;
    for &work in works {
        let length = work.length(WARM_STEPS + STEPS);
        if length >= longest {
            say(&format!("{work:?}: left out, {length} positions of {longest} at most"));
            continue;
        }
        let floor = floor(spec, work, rank)?;
        let line = match work {
            Work::Prefill(tokens) => time_prefill(&mut bench, tokens, &floor)?,
            Work::Decode(streams) => time_decode(&mut bench, streams, &floor)?,
        };
        say(&line);
    }
    Ok(())
}

fn main() {
    const USAGE: &str = "usage: gpu_steps FOLDER [ranks=N] [apart] [prefill:N] [decode:BxC] \
                         [mixed:BxC+N] [shared:BxC+N]";
    let mut args = std::env::args().skip(1);
    let folder = args.next().expect(USAGE);
    let (mut ranks, mut apart) = (1, false);
    let mut work = Vec::new();
    for arg in args {
        if arg == "apart" {
            apart = true;
            continue;
        }
        match arg.strip_prefix("ranks=") {
            Some(number) => ranks = number.parse().expect(USAGE),
            None => work.push(Work::parse(&arg).expect(USAGE)),
        }
    }
    if work.is_empty() {
        work = usual();
    }
    if let Err(error) = run(Path::new(&folder), ranks, apart, &work) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A step of one reads the matrices once, also of a model whose layers keep a state, and each
    /// of two ranks about half of them.
    #[test]
    fn floors_are_a_ranks_bytes() {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
        for name in ["llama", "granite-hybrid-mamba", "gemma4", "gpt-oss"] {
            let spec = read_spec(&models.join(name)).unwrap();
            let of = |work, rank| floor(&spec, work, rank).unwrap().us();
            let one = of(Work::Decode(Streams::new(1, 40)), Rank::ALONE);
            let many = of(Work::Decode(Streams::new(16, 40)), Rank::ALONE);
            assert!(0.0 < one && one < many && many < 16.0 * one, "{name}: {one} us, {many} us");
            let half = of(Work::Decode(Streams::new(1, 40)), Rank { index: 1, of: 2 });
            assert!((0.4..0.8).contains(&(half / one)), "{name}: {half} us of {one} us");
            assert!(of(Work::Prefill(40), Rank::ALONE) > one, "{name}");
        }
    }
}
