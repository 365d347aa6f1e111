//! What each kind of kernel costs in a step of a model, beside its floor. Its cost is the step's
//! time less that of the step without its calls, so what it hides behind its neighbours is not
//! counted, and all costs need not sum up to the step. Calls and floors are the trace device's
//! (`device::trace`): bytes that a perfect kernel moves, or FLOPs. Without a kind buffers keep what
//! they held: times do not depend on numbers.

use std::path::Path;
use std::time::Instant;

use triton_vllm::device::cuda::Cuda;
use triton_vllm::device::ops::*;
use triton_vllm::device::trace::{Launch, Trace};
use triton_vllm::device::DType;
use triton_vllm::error::Result;
use triton_vllm::model::ModelSpec;

use crate::floor::{Floor, STREAM, TENSOR};
use crate::gpu::{median, read_spec, Bench, Streams, Work, PAGE};
use crate::without::Without;

/// Enough to meet the size, record it and replay it.
const WARM_STEPS: usize = 4;
const STEPS: usize = 21;
const PREFILLS: usize = 3;

/// Calls of one op with one shape.
struct Kind {
    name: String,
    /// Their numbers in the step.
    calls: Vec<usize>,
    floor: Floor,
}

impl Kind {
    fn name(launch: &Launch) -> String {
        let Launch { op, inputs, outputs, .. } = launch;
        match *op {
            "linear" | "linear_act" | "linear_gathered" | "logits" | "route" | "experts"
            | "experts_act" => format!("{op} {inputs} to {outputs}"),
            op => op.to_string(),
        }
    }
}

/// The kinds of a step, in the order of their first calls. The last launch is the sampler's.
fn kinds(launches: &[Launch], dtype: DType) -> Vec<Kind> {
    let mut kinds: Vec<(String, Vec<usize>, u64, u64)> = Vec::new();
    for (call, launch) in launches.iter().enumerate() {
        let name = Kind::name(launch);
        let n = kinds.iter().position(|kind| kind.0 == name).unwrap_or_else(|| {
            kinds.push((name, Vec::new(), 0, 0));
            kinds.len() - 1
        });
        let (_, calls, bytes, flops) = &mut kinds[n];
        calls.push(call);
        *bytes += launch.read_bytes + launch.written_bytes;
        *flops += launch.flops;
    }
    let kind = |(name, calls, bytes, flops)| {
        let floor = Floor::new(bytes, flops, dtype);
        Kind { name, calls, floor }
    };
    kinds.into_iter().map(kind).collect()
}

/// Pages that all sequences of `work` take.
fn pages(work: Work) -> usize {
    work.slots() * work.length(WARM_STEPS + STEPS).div_ceil(PAGE)
}

/// What one step of `work` launches.
fn launches(spec: &ModelSpec, work: Work) -> Result<Vec<Launch>> {
    let mut bench = Bench::load(spec, Trace::new(spec.dtype), 1 + pages(work))?;
    bench.step(work)?;
    Ok(bench.dev.take_launches())
}

/// Milliseconds of a step without these calls, and the host's part of it.
fn step_ms(bench: &mut Bench<Without<Cuda>>, work: Work, left_out: &[usize]) -> Result<[f64; 2]> {
    bench.dev.leave_out(left_out);
    bench.dev.device.forget_steps();
    match work {
        Work::Prefill(tokens) => {
            bench.prefill(&[0], tokens)?;
            let mut times_ms = Vec::new();
            for _ in 0..PREFILLS {
                let start = Instant::now();
                bench.prefill(&[0], tokens)?;
                times_ms.push(start.elapsed().as_secs_f64() * 1e3);
            }
            Ok([median(times_ms), 0.0])
        }
        Work::Decode(streams) => {
            bench.open_streams(streams);
            bench.decode(streams, WARM_STEPS)?;
            let pace = bench.decode(streams, STEPS)?;
            Ok([median(pace.steps_ms), pace.host_ms])
        }
    }
}

fn title(work: Work) -> String {
    match work {
        Work::Prefill(tokens) => format!("prefill of {tokens}"),
        Work::Decode(Streams { batch, context, prompt: 0, .. }) => {
            format!("decode {batch} x {context}")
        }
        Work::Decode(Streams { batch, context, prompt, .. }) => {
            format!("decode {batch} x {context} and a prompt of {prompt}")
        }
    }
}

/// Times `work` and prints its table.
fn table(bench: &mut Bench<Without<Cuda>>, spec: &ModelSpec, work: Work) -> Result<()> {
    let mut kinds = kinds(&launches(spec, work)?, spec.dtype);
    let sampler = kinds.pop();
    if let Work::Decode(streams) = work {
        bench.dev.leave_out(&[]);
        bench.start(streams)?;
    }
    // Chooses algorithms.
    step_ms(bench, work, &[])?;
    let (mut wholes_ms, mut hosts_ms, mut costs_us) = (Vec::new(), Vec::new(), Vec::new());
    for kind in &kinds {
        // Side by side: the card's clock drifts.
        let [without_ms, _] = step_ms(bench, work, &kind.calls)?;
        let [whole_ms, host_ms] = step_ms(bench, work, &[])?;
        costs_us.push((whole_ms - without_ms) * 1e3);
        wholes_ms.push(whole_ms);
        hosts_ms.push(host_ms);
    }
    let whole_us = median(wholes_ms) * 1e3;
    println!("\n{}, host {:.3} ms a step:\n", title(work), median(hosts_ms));
    println!("| kernel | calls | us | share | floor us | of the floor | bound by |");
    println!("|---|---|---|---|---|---|---|");
    let line = |name: &str, calls: &str, us: f64, floor_us: f64, bound: &str| {
        let share = 100.0 * us / whole_us;
        let near = 100.0 * floor_us / us;
        println!(
            "| {name} | {calls} | {us:.1} | {share:.1} % | {floor_us:.1} | {near:.0} % | {bound} |"
        );
    };
    for (kind, &us) in kinds.iter().zip(&costs_us) {
        let calls = kind.calls.len().to_string();
        line(&kind.name, &calls, us, kind.floor.us(), kind.floor.bound());
    }
    let rest_us = whole_us - costs_us.iter().sum::<f64>();
    let rest_floor_us = sampler.map_or(0.0, |kind| kind.floor.us());
    let floor_us = kinds.iter().map(|kind| kind.floor.us()).sum::<f64>() + rest_floor_us;
    line("rest: step's input, sampler, what no kernel hides", "", rest_us, rest_floor_us, "bytes");
    line("step", "", whole_us, floor_us, "both");
    Ok(())
}

pub fn run(folder: &Path, works: &[Work]) -> Result<()> {
    let spec = read_spec(folder)?;
    let most = works.iter().map(|&work| pages(work)).max().unwrap_or(1);
    let dev = Without::new(Cuda::open(0, spec.dtype)?);
    let mut bench = Bench::load(&spec, dev, 1 + most)?;
    let name = bench.dev.info().name;
    let dtype = spec.dtype;
    println!("{}, {dtype:?}, on {name}", folder.display());
    println!("Floors: {STREAM} TB/s, {TENSOR} TFLOP/s (H200).");
    for &work in works {
        let length = work.length(WARM_STEPS + STEPS);
        let longest = bench.limits.max_model_len;
        if length > longest {
            println!("\n{}: left out, {length} positions of {longest}", title(work));
            continue;
        }
        table(&mut bench, &spec, work)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str) -> ModelSpec {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
        read_spec(&models.join(name)).unwrap()
    }

    /// The trace device's numbers of calls are those that a device's calls get.
    #[test]
    fn leaving_out_a_kind_leaves_the_others() {
        for (model, work) in [
            ("llama", Work::Decode(Streams::new(3, 40))),
            ("gpt2", Work::Prefill(30)),
            ("qwen3-moe", Work::Decode(Streams::new(5, 17))),
            ("gemma2", Work::Prefill(9)),
        ] {
            let spec = spec(model);
            let all = launches(&spec, work).unwrap();
            let mut kinds = kinds(&all, spec.dtype);
            assert_eq!(kinds.pop().unwrap().calls, [all.len() - 1], "the sampler's");
            assert_eq!(kinds.iter().map(|k| k.calls.len()).sum::<usize>(), all.len() - 1);

            let dev = Without::new(Trace::new(spec.dtype));
            let mut bench = Bench::load(&spec, dev, 1 + pages(work)).unwrap();
            for kind in &kinds {
                bench.dev.leave_out(&kind.calls);
                bench.step(work).unwrap();

                let left: Vec<_> = bench.dev.device.take_launches();
                let of_kind = |launch: &&Launch| Kind::name(launch) == kind.name;
                let others: Vec<_> = all.iter().filter(|l| !of_kind(l)).cloned().collect();
                assert_eq!(left, others, "{model} without {}", kind.name);
            }
        }
    }

    #[test]
    fn floors_are_bytes_of_few_rows_and_flops_of_many() {
        let launch = |rows: u64| Launch {
            op: "logits",
            rows: rows as usize,
            inputs: 4096,
            outputs: 128_256,
            read_bytes: 2 * 4096 * (128_256 + rows),
            written_bytes: 4 * 128_256 * rows,
            flops: 2 * 4096 * 128_256 * rows,
        };
        // A head of 1.05 GB takes 236 us at 4.45 TB/s, and 4096 rows of it 4.35 ms.
        for (rows, us, bound) in [(1, 236.2, "bytes"), (4096, 4351.4, "FLOPs")] {
            let kinds = kinds(&[launch(rows), launch(rows)], DType::BF16);
            assert_eq!((kinds[0].name.as_str(), kinds.len()), ("logits 4096 to 128256", 1));
            let floor = kinds[0].floor;
            assert!((floor.us() / 2.0 - us).abs() < 0.1, "{rows}: {}", floor.us());
            assert_eq!(floor.bound(), bound);
            assert!((floor.percent(4.0 * us) - 50.0).abs() < 0.1);
        }
    }
}
