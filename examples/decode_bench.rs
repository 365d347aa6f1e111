//! Times of the CPU device: decode steps of a model folder, or of a GPT-2 of 124M parameters with
//! dummy weights. `cargo run --release --example decode_bench -- <folder>|gpt2 [dtype] [batch]
//! [steps] [threads]`

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use triton_vllm::device::cpu::Cpu;
use triton_vllm::device::ops::*;
use triton_vllm::device::{DType, DeviceLimits, Rank};
use triton_vllm::error::Result;
use triton_vllm::ids::{AdapterId, GroupId, PageId, SlotId, TokenId};
use triton_vllm::model::config::SpecOptions;
use triton_vllm::model::{Checkpoint, Decoder, ModelSpec, Shard, WeightSource};
use triton_vllm::plan::{Feed, SlotChange, SlotOpen, StepPlan, TokenMasks};
use triton_vllm::sampling::SamplerSpec;

const PROMPT_TOKENS: usize = 16;
const PAGE_SIZE: usize = 16;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let text = |i: usize, default: &str| args.get(i).cloned().unwrap_or(default.to_string());
    let number = |i: usize, default: usize| text(i, "").parse().unwrap_or(default);
    let model = text(1, "gpt2");
    let dtype = text(2, "auto");
    let batch = number(3, 1);
    let steps = number(4, 64);
    let threads = number(5, 0);
    let options = SpecOptions {
        dtype: &dtype,
        supported: &[DType::F32, DType::BF16, DType::F16],
        ..Default::default()
    };
    let start = Instant::now();
    let (spec, format) = if model == "gpt2" {
        let config = json!({"architectures": ["GPT2LMHeadModel"], "n_embd": 768, "n_layer": 12,
            "n_head": 12, "n_positions": 1024, "vocab_size": 50257,
            "activation_function": "gelu_new"});
        let config = config.as_object().cloned().unwrap_or_default();
        (ModelSpec::from_config(&config, None, &options)?, WeightSource::Dummy)
    } else {
        let dir = Path::new(&model);
        (ModelSpec::read(dir, &options)?, WeightSource::Files(Checkpoint::open(dir)?))
    };
    let per_slot = (PROMPT_TOKENS + steps).div_ceil(PAGE_SIZE);
    let limits = DeviceLimits {
        step_tokens: (batch * PROMPT_TOKENS).max(64),
        slots: batch,
        logits_rows: batch,
        pages: 1 + batch * per_slot,
        page_size: PAGE_SIZE,
        max_model_len: spec.max_model_len,
        kv: spec.kv_shape(None)?,
        state: Shard::new(&spec, Rank::ALONE)?.state_shape(&spec),
        snapshots: 0,
        spares: 0,
    };
    let mut dev = Cpu::new(threads)?;
    let mut decoder = Decoder::load(&spec, &format, &mut dev, &limits)?;
    let loaded_s = start.elapsed().as_secs_f64();

    let start = Instant::now();
    run(&mut dev, &mut decoder, prefill(batch, per_slot, spec.vocab_size))?;
    let prefill_s = start.elapsed().as_secs_f64();
    let mut times_us: Vec<f64> = Vec::new();
    for step in 1..steps {
        let mut plan = StepPlan { step: step as u64 + 1, ..Default::default() };
        (0..batch as u32).for_each(|s| plan.push(SlotId(s), Feed::LastSampled, true));
        let start = Instant::now();
        run(&mut dev, &mut decoder, plan)?;
        times_us.push(start.elapsed().as_secs_f64() * 1e6);
    }
    times_us.sort_by(f64::total_cmp);
    let mean = times_us.iter().sum::<f64>() / times_us.len() as f64;
    println!(
        "{}: {model} {:?} batch {batch}: load {loaded_s:.2} s, prefill {} tokens {:.1} ms, step \
         mean {mean:.0} us, median {:.0}, min {:.0}; {:.1} tokens/s",
        dev.info().name,
        spec.dtype,
        batch * PROMPT_TOKENS,
        prefill_s * 1e3,
        times_us[times_us.len() / 2],
        times_us[0],
        batch as f64 * 1e6 / mean
    );
    Ok(())
}

fn prefill(batch: usize, per_slot: usize, vocab: usize) -> StepPlan {
    let mut plan = StepPlan { step: 1, ..Default::default() };
    for s in 0..batch {
        let slot = SlotId(s as u32);
        let token = |i: usize| TokenId(((s * 131 + i * 17) % vocab) as u32);
        let tokens: Arc<[TokenId]> = (0..PROMPT_TOKENS).map(token).collect();
        let first = plan.chunk_tokens.len();
        plan.chunk_tokens.extend(tokens.iter());
        plan.changes.push(SlotChange::Open(Box::new(SlotOpen {
            slot,
            adapter: AdapterId(0),
            prompt_tokens: PROMPT_TOKENS as u32,
            tokens,
            cached_tokens: 0,
            sampler: Arc::new(SamplerSpec::default()),
        })));
        let pages = (0..per_slot).map(|p| PageId((1 + s * per_slot + p) as u32)).collect();
        plan.changes.push(SlotChange::Pages { slot, group: GroupId(0), pages });
        let feed = Feed::Known(first..first + PROMPT_TOKENS);
        plan.push(slot, feed, true);
    }
    plan
}

fn run(dev: &mut Cpu, decoder: &mut Decoder<Cpu>, plan: StepPlan) -> Result<()> {
    decoder.step(dev, &plan)?;
    decoder.sample(dev, &TokenMasks::default())?;
    dev.collect().map(drop)
}
