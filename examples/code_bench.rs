//! Times of the CPU device's products with codes beside those with plain weights: the linears of a
//! decoder of 135M parameters (SmolLM2's shapes), dummy weights, no attention. A step's time is the
//! sum of the best times of its linears, so that others on the machine count for little. All
//! figures of a run are comparable.
//! `cargo run --release --example code_bench -- [rows,...] [threads] [seconds]`

use std::time::{Duration, Instant};

use triton_vllm::device::cpu::buffer::Tensor;
use triton_vllm::device::cpu::weight::Weight;
use triton_vllm::device::cpu::Cpu;
use triton_vllm::device::ops::*;
use triton_vllm::device::{
    CodeType, DType, DeviceLimits, InputQuant, Join, KvShape, QuantForm, Source, WeightDesc,
    WeightKind,
};
use triton_vllm::error::Result;
use triton_vllm::ids::{AdapterId, GroupId, PageId, SlotId, TokenId};
use triton_vllm::plan::{Feed, SlotChange, SlotOpen, StepPlan};

const LAYERS: usize = 30;
/// (outputs, inputs) of a layer: q|k|v, o, gate|up, down.
const LINEARS: [(usize, usize); 4] = [(960, 576), (576, 576), (3072, 576), (576, 1536)];
const HEAD: (usize, usize) = (49152, 576);

/// A name, the type of plain weights, and the form of codes.
type Kind = (&'static str, DType, Option<QuantForm>);

fn kinds() -> Vec<Kind> {
    let coded = |name, codes, group, offsets, inputs| -> Kind {
        (name, DType::BF16, Some(QuantForm { codes, group, offsets, inputs }))
    };
    let table = CodeType::Table(std::array::from_fn(|i| i as f32 - 7.3));
    let (by_row, by_block) = (Some(InputQuant::E4m3Row), Some(InputQuant::E4m3Block));
    vec![
        ("f32", DType::F32, None),
        ("bf16", DType::BF16, None),
        coded("int8, group 32 (Q8_0)", CodeType::Int8, 32, false, None),
        coded("int8, group 16 (Q6_K)", CodeType::Int8, 16, false, None),
        coded("int4, group 32 (Q4_0)", CodeType::Int4, 32, false, None),
        coded("int4, group 32, offsets (Q4_K)", CodeType::Int4, 32, true, None),
        coded("int4, group 128 (GPTQ, AWQ)", CodeType::Int4, 128, false, None),
        coded("e2m1, group 16 (NVFP4)", CodeType::E2m1, 16, false, None),
        coded("table, group 64 (nf4)", table, 64, false, None),
        coded("e4m3, row", CodeType::E4m3, usize::MAX, false, None),
        coded("e4m3, row, rounded inputs", CodeType::E4m3, usize::MAX, false, by_row),
        coded("e4m3, group 128, rounded inputs", CodeType::E4m3, 128, false, by_block),
        coded("int8, row, rounded", CodeType::Int8, usize::MAX, false, Some(InputQuant::Int8Row)),
    ]
}

struct Layer {
    weights: Vec<Weight>,
}

struct Net {
    dev: Cpu,
    layers: Vec<Layer>,
    head: Weight,
    /// Inputs by width, outputs by weight.
    narrow: Tensor,
    wide: Tensor,
    outs: Vec<Tensor>,
    logits: Tensor,
}

impl Net {
    fn new(kind: &Kind, rows: usize, threads: usize) -> Result<Net> {
        let mut dev = Cpu::new(threads)?;
        begin(&mut dev, rows)?;
        let mut layers = Vec::new();
        for layer in 0..LAYERS {
            let weights = LINEARS.iter().map(|&shape| upload(&mut dev, kind, shape, layer as u64));
            layers.push(Layer { weights: weights.collect::<Result<_>>()? });
        }
        let head = upload(&mut dev, kind, HEAD, 99)?;

        let mut random = |width| -> Result<Tensor> {
            let mut tensor = dev.tensor(rows, width)?;
            let value = |i: usize| (i * 7919 % 1009) as f32 / 504.5 - 1.0;
            tensor.data.iter_mut().enumerate().for_each(|(i, x)| *x = value(i));
            Ok(tensor)
        };
        let (narrow, wide) = (random(576)?, random(1536)?);
        let outs = LINEARS.iter().map(|&(outputs, _)| dev.tensor(rows, outputs));
        let outs = outs.collect::<Result<_>>()?;
        let logits = dev.logits_tensor(1, HEAD.0)?;
        Ok(Net { dev, layers, head, narrow, wide, outs, logits })
    }

    /// Run all linears; `best` keeps the shortest time of each.
    fn step(&mut self, best: &mut [Duration]) -> Result<()> {
        let mut best = best.iter_mut();
        let mut timed = |start: Instant| {
            if let Some(best) = best.next() {
                *best = start.elapsed().min(*best);
            }
        };
        for layer in &self.layers {
            for (weight, out) in layer.weights.iter().zip(&mut self.outs) {
                let x = if weight.inputs == 576 { &self.narrow } else { &self.wide };
                let start = Instant::now();
                self.dev.linear(weight, None, x, out)?;
                timed(start);
            }
        }
        let start = Instant::now();
        self.dev.logits(&self.head, None, &self.narrow, &mut self.logits)?;
        timed(start);
        Ok(())
    }
}

fn upload(
    dev: &mut Cpu,
    kind: &Kind,
    (outputs, inputs): (usize, usize),
    seed: u64,
) -> Result<Weight> {
    let quant = kind.2.map(|form| QuantForm { group: form.group.min(inputs), ..form });
    dev.upload(WeightDesc {
        name: kind.0,
        kind: WeightKind::Linear,
        outputs,
        inputs,
        dtype: kind.1,
        quant,
        transposed: false,
        join: Join::None,
        source: Source::Dummy { seed, scale: 0.05 },
    })
}

/// One sequence of so many tokens.
fn begin(dev: &mut Cpu, rows: usize) -> Result<()> {
    let pages = rows.div_ceil(16);
    let kv = KvShape::heads(1, 1, 1, DType::F32.into());
    dev.reserve(&DeviceLimits {
        step_tokens: rows,
        slots: 1,
        logits_rows: 1,
        pages: pages + 1,
        page_size: 16,
        max_model_len: rows,
        kv,
        state: Default::default(),
        snapshots: 0,
        spares: 0,
    })?;

    let slot = SlotId(0);
    let open = SlotOpen {
        slot,
        adapter: AdapterId(0),
        tokens: Vec::new().into(),
        prompt_tokens: 0,
        cached_tokens: 0,
        sampler: Default::default(),
    };
    let pages = (1..=pages as u32).map(PageId).collect();

    let mut plan = StepPlan {
        step: 1,
        changes: vec![
            SlotChange::Open(Box::new(open)),
            SlotChange::Pages { slot, group: GroupId(0), pages },
        ],
        chunk_tokens: (0..rows as u32).map(TokenId).collect(),
        ..StepPlan::default()
    };
    plan.push(slot, Feed::Known(0..rows), true);
    dev.begin(&plan)
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let text = |i: usize, default: &str| args.get(i).cloned().unwrap_or(default.to_string());
    let threads = text(2, "0").parse().unwrap_or(0);
    let seconds = text(3, "1").parse().unwrap_or(1.0);
    for rows in text(1, "1").split(',').map(|rows| rows.parse().unwrap_or(1)) {
        let mut bf16 = f64::NAN;
        for kind in kinds() {
            let start = Instant::now();
            let mut net = Net::new(&kind, rows, threads)?;
            let load_s = start.elapsed().as_secs_f64();
            let mut best = [Duration::MAX; LAYERS * LINEARS.len() + 1];

            let start = Instant::now();
            while start.elapsed().as_secs_f64() < seconds {
                net.step(&mut best)?;
            }
            let best_ms = best.iter().sum::<Duration>().as_secs_f64() * 1e3;
            if kind.0 == "bf16" {
                bf16 = best_ms;
            }
            println!(
                "{rows} rows, {:32} {best_ms:8.2} ms, {:7.1} tokens/s, bf16 x {:.2}; load \
                 {load_s:.1} s",
                kind.0,
                rows as f64 * 1e3 / best_ms,
                best_ms / bf16
            );
        }
    }
    Ok(())
}
