//! Steps of a model on a GPU, timed: `gpu_steps FOLDER [GPU]`. The folder holds a config.json; weights are
//! made up. Prints the host's share of a step, milliseconds per decode step at several batch sizes, and
//! prompt tokens per second. Greedy, depth 2, as the engine runs it but without engine, text and door.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use triton_vllm::device::cuda::Cuda;
use triton_vllm::device::{DType, Device, Limits};
use triton_vllm::error::Result;
use triton_vllm::ids::{AdapterId, GroupId, PageId, SlotId, TokenId};
use triton_vllm::model::config::SpecOptions;
use triton_vllm::model::{Decoder, LoadFormat, ModelSpec};
use triton_vllm::plan::{Feed, Late, Row, SlotChange, SlotOpen, StepPlan};

const PAGE: usize = 16;
const STEP_TOKENS: usize = 8192;

struct Bench {
    dev: Cuda,
    decoder: Decoder<Cuda>,
    limits: Limits,
    /// Length and pages of each slot.
    slots: HashMap<u32, (usize, usize)>,
    changes: Vec<SlotChange>,
    next_page: u32,
    step: u64,
    vocab: u32,
}

impl Bench {
    fn open(&mut self, slot: u32) {
        self.slots.insert(slot, (0, 0));
        self.changes.push(SlotChange::Open(Box::new(SlotOpen {
            slot: SlotId(slot),
            adapter: AdapterId(0),
            tokens: [].into(),
            prompt_tokens: 0,
            cached_tokens: 0,
            sampler: Default::default(),
        })));
    }

    fn row(&mut self, slot: u32, feed: Feed, sample: bool) -> Row {
        let (length, pages) = self.slots.get_mut(&slot).expect("an open slot");
        *length += feed.tokens();
        let mut new = Vec::new();
        while *pages * PAGE < *length {
            *pages += 1;
            new.push(PageId(1 + self.next_page % (self.limits.pages as u32 - 1)));
            self.next_page += 1;
        }
        if !new.is_empty() {
            let (slot, group) = (SlotId(slot), GroupId(0));
            self.changes.push(SlotChange::Pages { slot, group, pages: new });
        }
        Row { slot: SlotId(slot), feed, sample }
    }

    fn enqueue(&mut self, rows: Vec<Row>, tokens: usize) -> Result<()> {
        self.step += 1;
        let (step, vocab) = (self.step, self.vocab);
        let token =
            |i: usize| TokenId((i as u32).wrapping_mul(7919).wrapping_add(step as u32) % vocab);
        let chunk_tokens = (0..tokens).map(token).collect();
        let plan =
            StepPlan { step, changes: std::mem::take(&mut self.changes), rows, chunk_tokens };
        self.decoder.step(&mut self.dev, &plan)?;
        self.decoder.sample(&mut self.dev, &Late::default())
    }

    /// Feed `tokens` of each of the slots, in steps of at most STEP_TOKENS.
    fn prefill(&mut self, slots: &[u32], tokens: usize) -> Result<()> {
        for &slot in slots {
            self.open(slot);
        }
        for group in slots.chunks((STEP_TOKENS / tokens).max(1)) {
            let mut rows = Vec::new();
            for (n, &slot) in group.iter().enumerate() {
                rows.push(self.row(slot, Feed::Chunk(n * tokens..(n + 1) * tokens), true));
            }
            self.enqueue(rows, tokens * group.len())?;
            self.dev.collect()?;
        }
        Ok(())
    }

    /// (milliseconds a step, milliseconds of the host's time in it)
    fn decode(&mut self, slots: &[u32], steps: usize) -> Result<(f64, f64)> {
        let mut host = 0.0;
        let begin = Instant::now();
        for step in 0..steps {
            let start = Instant::now();
            let rows = slots.iter().map(|&s| self.row(s, Feed::Last { count: 1 }, true)).collect();
            self.enqueue(rows, 0)?;
            host += start.elapsed().as_secs_f64();
            if step > 0 {
                self.dev.collect()?;
            }
        }
        self.dev.collect()?;
        let ms = 1e3 / steps as f64;
        Ok((begin.elapsed().as_secs_f64() * ms, host * ms))
    }
}

fn run(folder: &Path, gpu: usize) -> Result<()> {
    let supported = &[DType::BF16, DType::F16, DType::F32];
    let options = SpecOptions { supported, ..Default::default() };
    let spec = ModelSpec::read(folder, &options)?;
    let start = Instant::now();
    let mut dev = Cuda::open(gpu, spec.dtype)?;
    let opened = start.elapsed().as_secs_f64();
    let kv = spec.kv_shape("auto")?;
    let limits = Limits {
        step_tokens: STEP_TOKENS,
        slots: 256,
        pages: 20_000,
        page_size: PAGE,
        max_model_len: spec.max_model_len.min(16_384),
        kv,
    };
    let decoder = Decoder::load(&spec, &LoadFormat::Dummy, &mut dev, &limits)?;
    dev.wait()?;
    let loaded = start.elapsed().as_secs_f64();
    println!("{} on {}: open {opened:.2} s, load {loaded:.2} s", folder.display(), dev.info().name);
    let vocab = spec.vocab_size as u32;
    let slots = HashMap::new();
    let (changes, next_page, step) = (Vec::new(), 0, 0);
    let mut bench = Bench { dev, decoder, limits, slots, changes, next_page, step, vocab };
    let longest = bench.limits.max_model_len;
    for tokens in [128, 512, 2048, 4096].into_iter().filter(|&t| t < longest) {
        let mut ms = Vec::new();
        for _ in 0..4 {
            let start = Instant::now();
            bench.prefill(&[0], tokens)?;
            ms.push(start.elapsed().as_secs_f64() * 1e3);
        }
        ms.remove(0);
        ms.sort_by(f64::total_cmp);
        println!("prefill {tokens}: {:.2} ms, {:.0} tokens/s", ms[1], tokens as f64 / ms[1] * 1e3);
    }
    for (batch, context) in [(1, 512), (1, 4096), (16, 512), (64, 512), (256, 512)] {
        if context + 64 > longest {
            continue;
        }
        let slots: Vec<u32> = (0..batch).collect();
        bench.prefill(&slots, context)?;
        bench.decode(&slots, 8)?;
        let (ms, host) = bench.decode(&slots, 40)?;
        println!(
            "decode {batch} x {context}: {ms:.3} ms a step (host {host:.3}), {:.0} tokens/s",
            batch as f64 / ms * 1e3
        );
    }
    Ok(())
}

fn main() {
    let mut args = std::env::args().skip(1);
    let folder = args.next().expect("usage: gpu_steps FOLDER [GPU]");
    let gpu = args.next().map_or(0, |n| n.parse().expect("a GPU's number"));
    if let Err(error) = run(Path::new(&folder), gpu) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
