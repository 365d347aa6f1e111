//! Images of a model on a GPU, timed: `gpu_images FOLDER [SIDE[xCOUNT]...]`. The folder holds a
//! config.json of a model with a vision tower; weights are made up. SIDE is that of a square
//! picture in pixels, COUNT how many prompts with one a step feeds. Prints the milliseconds of
//! such a step, of the same step without images, and of the tower: their difference, beside the
//! least that its FLOPs need; then what each kind of op over the tower's rows takes, which is what
//! the step is shorter without it, beside its own FLOPs. No files are decoded.

#[expect(dead_code, reason = "steps of text alone are other programs'")]
mod gpu;
#[expect(dead_code, reason = "calls by number are another program's")]
#[path = "gpu_shares/without.rs"]
mod without;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use gpu::{median, read_spec, Bench};
use triton_vllm::device::cuda::Cuda;
use triton_vllm::device::ops::*;
use triton_vllm::error::Result;
use triton_vllm::ids::SlotId;
use triton_vllm::model::config::VisionSpec;
use triton_vllm::model::ModelSpec;
use triton_vllm::plan::{BothWays, Feed, ImageSpan, PatchRows, PromptImages, StepPlan};
use without::{Without, ATTEND_IMAGES, ATTEND_WINDOWS};

const PAGES: usize = 4_000;
const RUNS: usize = 7;
/// Tokens of text in front of an image, and behind it.
const TEXT: usize = 16;
/// Dense FLOP/s of an H200 in half types, by its data sheet.
const PEAK: f64 = 989e12;

/// What a step is fed.
#[derive(Clone, Copy)]
struct Work {
    side: usize,
    count: usize,
}

impl Work {
    fn parse(text: &str) -> Option<Work> {
        let (side, count) = text.split_once('x').unwrap_or((text, "1"));
        Some(Work { side: side.parse().ok()?, count: count.parse().ok()? })
    }

    /// Rows and columns of an image's tokens: sides to the nearest whole token.
    fn tokens_of_side(self, vision: &VisionSpec) -> usize {
        let token = vision.settings.patch * vision.settings.merge;
        (self.side as f64 / token as f64).round().max(1.0) as usize
    }
}

/// A picture of its own each time.
fn image(vision: &VisionSpec, side: usize, seed: u64) -> ImageSpan {
    let settings = &vision.settings;
    let patches = side * settings.merge;
    let width = 3 * settings.copies * settings.patch * settings.patch;
    let byte = |n: usize| (n as u64).wrapping_mul(2_654_435_761).wrapping_add(seed << 7) >> 11;
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&seed.to_le_bytes());
    hash[8..16].copy_from_slice(&(side as u64).to_le_bytes());
    let patches = PatchRows {
        rows: patches,
        columns: patches,
        tiles: 1,
        tokens: side * side,
        arranged: None,
        width,
        bytes: (0..patches * patches * width).map(|n| byte(n) as u8).collect(),
        numbers: Arc::new([std::array::from_fn(|byte| byte as f32 / 128.0 - 1.0); 3]),
        hash,
    };
    ImageSpan { start: TEXT, rows: side, columns: side, first: 0, patches: Arc::new(patches) }
}

/// FLOPs of the tower for one square image, by the ops that need them.
struct Flops {
    /// Of patches, of q, k and v, of mergers.
    linear: f64,
    /// Behind which an activation stands.
    up: f64,
    /// Behind which the residual and a norm stand: those of attention's output and of the MLP.
    down: f64,
    windows: f64,
    images: f64,
}

impl Flops {
    fn all(&self) -> f64 {
        self.linear + self.up + self.down + self.windows + self.images
    }
}

/// Of so many tokens a side.
fn flops(vision: &VisionSpec, hidden: usize, side: usize) -> Flops {
    let square = vision.settings.merge * vision.settings.merge;
    let patches = (side * side * square) as f64;
    let width = vision.width as f64;
    let patch = (3 * vision.settings.copies * vision.settings.patch.pow(2)) as f64;
    let up = if vision.activation.is_gated() { 2.0 } else { 1.0 };

    let (layers, ffn) = (patches * vision.depth as f64, vision.ffn as f64);
    let qkv = patches * patch * width + 3.0 * layers * width * width;
    let down = layers * width * (width + ffn);
    let merged = square as f64 * width;
    let mergers = (1 + vision.deep.len()) as f64;
    let merging = mergers * (side * side) as f64 * merged * (merged + hidden as f64);

    let in_windows = |side_of_window: usize| -> f64 {
        let sides: Vec<usize> =
            (0..side).step_by(side_of_window).map(|at| side_of_window.min(side - at)).collect();
        let pairs = sides.iter().flat_map(|a| sides.iter().map(move |b| a * b * square));
        pairs.map(|rows| (rows * rows) as f64).sum()
    };
    let wholes = vision.whole.iter().filter(|&&whole| whole || vision.window.is_none()).count();
    let windows = vision.window.map_or(0.0, in_windows) * (vision.whole.len() - wholes) as f64;
    Flops {
        linear: 2.0 * (qkv + merging),
        up: 2.0 * up * layers * width * ffn,
        down: 2.0 * down,
        windows: 4.0 * width * windows,
        images: 4.0 * width * wholes as f64 * patches * patches,
    }
}

/// A line for each kind of op over the tower's rows, and one for a step without any: the host's
/// part, and bytes on their way. Milliseconds of a step with all ops, and of one without images.
fn parts(
    bench: &mut Bench<Without<Cuda>>,
    vision: &VisionSpec,
    work: Work,
    [seen, text]: [f64; 2],
    flops: &Flops,
) -> Result<()> {
    let kinds: [(&str, &[&'static str], f64); 7] = [
        ("products of patches, q k v, merger", &["linear"], flops.linear),
        ("gates and ups, activation", &["linear_act"], flops.up),
        ("out and down, bias, residual, norm", &["linear_add_norm"], flops.down),
        ("bias and rotation of q k v", &["turn_rows"], 0.0),
        ("attention in windows", &[ATTEND_WINDOWS], flops.windows),
        ("attention over images", &[ATTEND_IMAGES], flops.images),
        ("other norms, copies", &["norm", "add", "put_patches", "add_places", "join_rows"], 0.0),
    ];

    let all: Vec<&'static str> = kinds.iter().flat_map(|(_, ops, _)| ops.iter().copied()).collect();
    for (nth, (what, ops, flops)) in kinds.into_iter().enumerate() {
        let ms = seen - step_without(bench, vision, work, ops, nth)?;
        let floor = work.count as f64 * flops / PEAK * 1e3;
        println!("  {what}: {ms:.2} ms, its FLOPs {floor:.2} ({:.0} %)", floor / ms * 100.0);
    }
    let rest = step_without(bench, vision, work, &all, kinds.len())? - text;
    println!("  the host, and patches on their way: {rest:.2} ms");
    Ok(())
}

/// Milliseconds of a step with new images whose tower lacks these ops; `nth` makes images new.
fn step_without(
    bench: &mut Bench<Without<Cuda>>,
    vision: &VisionSpec,
    work: Work,
    ops: &[&'static str],
    nth: usize,
) -> Result<f64> {
    let side = work.tokens_of_side(vision);
    bench.dev.leave_out_of_tower(ops);
    let mut times = Vec::new();
    for run in 0..RUNS {
        let seed = |n: usize| (((nth + 1) * RUNS + run) * 1000 + n) as u64;
        let images: Vec<ImageSpan> =
            (0..work.count).map(|n| image(vision, side, seed(n))).collect();
        times.push(step(bench, side * side + 2 * TEXT, &images, work.count)?);
    }
    bench.dev.leave_out_of_tower(&[]);
    Ok(median(times))
}

/// Milliseconds of a step that feeds new prompts, each with its image if there are some.
fn step(
    bench: &mut Bench<Without<Cuda>>,
    length: usize,
    images: &[ImageSpan],
    count: usize,
) -> Result<f64> {
    let mut plan = StepPlan::default();
    for n in 0..count {
        let slot = n as u32;
        bench.open(slot, 0);
        bench.push(&mut plan, slot, Feed::Known(n * length..(n + 1) * length));
        if let Some(image) = images.get(n) {
            let images =
                Arc::new(PromptImages { spans: vec![image.clone()], both_ways: BothWays::Never });
            plan.images.push((SlotId(slot), images));
        }
    }
    let start = Instant::now();
    bench.enqueue(plan, count * length)?;
    bench.dev.collect()?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

fn time(
    bench: &mut Bench<Without<Cuda>>,
    spec: &ModelSpec,
    vision: &VisionSpec,
    work: Work,
) -> Result<()> {
    let side = work.tokens_of_side(vision);
    let length = side * side + 2 * TEXT;
    let (mut with, mut without) = (Vec::new(), Vec::new());
    // The first ones choose algorithms.
    for run in 0..RUNS + 2 {
        let seed = |n: usize| (run * work.count + n) as u64;
        let images: Vec<ImageSpan> =
            (0..work.count).map(|n| image(vision, side, seed(n))).collect();
        let seen = step(bench, length, &images, work.count)?;
        let text = step(bench, length, &[], work.count)?;
        if run >= 2 {
            with.push(seen);
            without.push(text);
        }
    }

    let (with, without) = (median(with), median(without));
    let flops = flops(vision, spec.hidden, side);
    let floor = work.count as f64 * flops.all() / PEAK * 1e3;
    let tower = with - without;
    println!(
        "{} x {} px ({} tokens each): {with:.2} ms, text alone {without:.2}, tower {tower:.2}, its \
         FLOPs {floor:.2} ({:.0} %), {:.1} images/s",
        work.count,
        work.side,
        side * side,
        floor / tower * 100.0,
        work.count as f64 / with * 1e3
    );
    parts(bench, vision, work, [with, without], &flops)
}

fn run(folder: &Path, works: &[Work]) -> Result<()> {
    let mut spec = read_spec(folder)?;
    let Some(vision) = &mut spec.vision else {
        println!("{}: no vision tower", folder.display());
        return Ok(());
    };
    // Room for all that is asked for, whatever the processor would allow.
    let tokens = works.iter().map(|work| work.count * work.tokens_of_side(vision).pow(2)).max();
    vision.max_tokens = tokens.unwrap_or(1);

    let vision = vision.clone();
    let dev = Without::new(Cuda::open(0, spec.dtype)?);
    let mut bench = Bench::load(&spec, dev, PAGES)?;
    println!("{} on {}", folder.display(), bench.dev.info().name);
    works.iter().try_for_each(|&work| time(&mut bench, &spec, &vision, work))
}

fn main() {
    let mut args = std::env::args().skip(1);
    let folder = args.next().expect("usage: gpu_images FOLDER [SIDE[xCOUNT]...]");
    let mut works: Vec<Work> = args.map(|a| Work::parse(&a).expect("SIDE or SIDExCOUNT")).collect();
    if works.is_empty() {
        works = ["224", "1024", "1024x4"].iter().filter_map(|text| Work::parse(text)).collect();
    }
    if let Err(error) = run(Path::new(&folder), &works) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
