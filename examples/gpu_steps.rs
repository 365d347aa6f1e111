//! Steps of a model on a GPU, timed: `gpu_steps FOLDER [WORK...]`. The folder holds a config.json;
//! weights are made up. WORK is `prefill:TOKENS` or `decode:SEQUENCESxCONTEXT`; without any, a
//! usual set. Prints the host's share of a step, milliseconds per decode step at several batch
//! sizes, and prompt tokens per second. Greedy, depth 2, as the engine runs it but without engine,
//! text and door.

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
        Row { slot: SlotId(slot), feed, sample, score: None }
    }

    fn enqueue(&mut self, rows: Vec<Row>, tokens: usize) -> Result<()> {
        self.step += 1;
        let (step, vocab) = (self.step, self.vocab);
        let token =
            |i: usize| TokenId((i as u32).wrapping_mul(7919).wrapping_add(step as u32) % vocab);
        let chunk_tokens = (0..tokens).map(token).collect();
        let plan = StepPlan {
            step,
            changes: std::mem::take(&mut self.changes),
            rows,
            chunk_tokens,
            ..StepPlan::default()
        };
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

    fn time_prefill(&mut self, tokens: usize) -> Result<()> {
        let mut ms = Vec::new();
        for _ in 0..4 {
            let start = Instant::now();
            self.prefill(&[0], tokens)?;
            ms.push(start.elapsed().as_secs_f64() * 1e3);
        }
        // The first one chooses algorithms.
        ms.remove(0);
        ms.sort_by(f64::total_cmp);
        println!("prefill {tokens}: {:.2} ms, {:.0} tokens/s", ms[1], tokens as f64 / ms[1] * 1e3);
        Ok(())
    }

    fn time_decode(&mut self, batch: u32, context: usize) -> Result<()> {
        let slots: Vec<u32> = (0..batch).collect();
        self.prefill(&slots, context)?;
        self.decode(&slots, 8)?;
        let (ms, host) = self.decode(&slots, 40)?;
        println!(
            "decode {batch} x {context}: {ms:.3} ms a step (host {host:.3}), {:.0} tokens/s",
            f64::from(batch) / ms * 1e3
        );
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

enum Work {
    Prefill(usize),
    Decode(u32, usize),
}

impl Work {
    fn parse(text: &str) -> Option<Work> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "prefill" => Some(Work::Prefill(rest.parse().ok()?)),
            "decode" => {
                let (batch, context) = rest.split_once('x')?;
                Some(Work::Decode(batch.parse().ok()?, context.parse().ok()?))
            }
            _ => None,
        }
    }

    fn usual() -> Vec<Work> {
        let prefills = [128, 512, 2048, 4096].map(Work::Prefill).into_iter();
        let decodes = [(1, 512), (1, 4096), (16, 512), (64, 512), (256, 512)];
        prefills.chain(decodes.map(|(b, c)| Work::Decode(b, c))).collect()
    }
}

fn run(folder: &Path, work: &[Work]) -> Result<()> {
    let supported = &[DType::BF16, DType::F16, DType::F32];
    let options = SpecOptions { supported, ..Default::default() };
    let spec = ModelSpec::read(folder, &options)?;
    let start = Instant::now();
    let mut dev = Cuda::open(0, spec.dtype)?;
    let opened = start.elapsed().as_secs_f64();
    let kv = spec.kv_shape("auto")?;
    let limits = Limits {
        step_tokens: STEP_TOKENS,
        slots: 256,
        logit_rows: 256,
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
    for work in work {
        match *work {
            Work::Prefill(tokens) if tokens < longest => bench.time_prefill(tokens)?,
            Work::Decode(batch, context) if context + 64 <= longest => {
                bench.time_decode(batch, context)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn main() {
    let mut args = std::env::args().skip(1);
    let folder = args.next().expect("usage: gpu_steps FOLDER [prefill:N] [decode:BxC]");
    let mut work: Vec<Work> =
        args.map(|a| Work::parse(&a).expect("prefill:N or decode:BxC")).collect();
    if work.is_empty() {
        work = Work::usual();
    }
    if let Err(error) = run(Path::new(&folder), &work) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
