//! Layers of experts alone, at 1, 16 and 64 rows: router, experts, sum. Calls go round over layers
//! whose weights together do not fit the GPU's L2. The floor are the bytes of the router and of the
//! experts that are met.

use std::collections::BTreeSet;

use triton_vllm::device::ops::*;
use triton_vllm::device::{Activation, CodeType, DType, QuantForm, Routing, WeightKind};
use triton_vllm::error::Result;

use crate::driver::Driver;
use crate::floor::Floor;

/// Bytes of weights that calls go round.
const ROUND_BYTES: f64 = 1e9;

struct Shape {
    name: &'static str,
    hidden: usize,
    ffn: usize,
    experts: usize,
    top_k: usize,
    quant: Option<QuantForm>,
}

fn shapes() -> Vec<Shape> {
    let form = |codes, group| Some(QuantForm { codes, group, offsets: false, inputs: None });
    let one = |name, hidden, ffn, experts, top_k, quant| Shape {
        name,
        hidden,
        ffn,
        experts,
        top_k,
        quant,
    };
    vec![
        one("gpt-oss-20b, MXFP4", 2880, 2880, 32, 4, form(CodeType::E2m1, 32)),
        one("Qwen3-30B-A3B, bf16", 2048, 768, 128, 8, None),
        one("Qwen3-30B-A3B, INT4 by 128", 2048, 768, 128, 8, form(CodeType::Int4, 128)),
        one("Qwen3-30B-A3B, FP8 by row", 2048, 768, 128, 8, form(CodeType::E4m3, usize::MAX)),
        one("DeepSeek-V2-Lite, bf16", 2048, 1408, 64, 6, None),
        one("Qwen3-Next-80B-A3B, bf16", 2048, 512, 512, 10, None),
    ]
}

impl Shape {
    /// Bytes of so many experts.
    fn bytes(&self, experts: usize) -> f64 {
        let of_element = match self.quant {
            None => 2.0,
            Some(form) if form.group > self.hidden => form.codes.bits() as f64 / 8.0,
            Some(form) => form.codes.bits() as f64 / 8.0 + 2.0 / form.group as f64,
        };
        (experts * 3 * self.hidden * self.ffn) as f64 * of_element
    }

    /// Microseconds of a layer, and experts that it met.
    fn time(&self, rows: usize) -> Result<(f64, usize)> {
        let Shape { hidden, ffn, experts, top_k, quant, .. } = *self;
        let mut driver = Driver::new(rows, 1, Default::default())?;
        let routing = Routing::softmax(experts, top_k, true);
        let layers = (ROUND_BYTES / self.bytes(experts)).clamp(1.0, 8.0).ceil() as usize;
        let mut weights = Vec::new();
        for _ in 0..layers {
            let kind = |gated| WeightKind::Experts { count: experts, gated };
            weights.push([
                driver.weight(WeightKind::Linear, experts, hidden, None)?,
                driver.weight(kind(true), experts * 2 * ffn, hidden, quant)?,
                driver.weight(kind(false), experts * hidden, ffn, quant)?,
            ]);
        }
        let x = driver.input(hidden)?;
        let room = rows.next_multiple_of(64);
        let mut routes = driver.dev.routes_tensor(room, &routing)?;
        let mut inside = driver.dev.tensor(room * top_k, ffn)?;
        let mut parts = driver.dev.tensor(room * top_k, hidden)?;
        let mut out = driver.dev.tensor(room, hidden)?;

        let us = driver.time(40.0, |dev, call| {
            let [router, up, down] = &weights[call % layers];
            dev.route(router, None, None, &routing, &x, &mut routes)?;
            dev.experts_act(up, None, Activation::SiluGated, &routes, &x, &mut inside)?;
            dev.experts_sum(down, None, &routes, &inside, &mut parts, &mut out)
        })?;
        let chosen = driver.dev.read(&routes, rows)?;
        let numbers = chosen.chunks_exact(2 * top_k).flat_map(|row| &row[..top_k]);
        let met: BTreeSet<u32> = numbers.map(|&number| number as u32).collect();
        Ok((us, met.len()))
    }
}

/// The table; `word` keeps the shapes with it in their names.
pub fn run(word: &str) -> Result<()> {
    println!("| layer of experts | rows | experts met | us | of the floor |");
    println!("|---|---|---|---|---|");
    for shape in shapes().iter().filter(|shape| shape.name.contains(word)) {
        for rows in [1, 16, 64] {
            let (us, met) = shape.time(rows)?;
            let bytes = shape.bytes(met) + (shape.experts * shape.hidden * 2) as f64;
            let flops = 6 * rows * shape.top_k * shape.hidden * shape.ffn;
            let floor = Floor::new(bytes as u64, flops as u64, DType::BF16);
            let (near, floor_us) = (floor.percent(us), floor.us());
            let name = shape.name;
            println!("| {name} | {rows} | {met} | {us:.1} | {near:.0} % of {floor_us:.1} us |");
        }
    }
    Ok(())
}
