//! Recurrences alone: a prompt of 4096 tokens, some prompts, and single tokens of 64 sequences. The
//! floor are the bytes of states in and out and of what tokens bring and get, or the FLOPs of the
//! rule token by token, on tensor cores.

use triton_vllm::device::ops::*;
use triton_vllm::device::{
    Columns, DType, DeltaSpec, DeltaWeights, ScanSpec, ScanWeights, StateShape, WeightKind,
};
use triton_vllm::error::Result;

use crate::driver::Driver;
use crate::floor::Floor;

/// Of Qwen3-Next.
const DELTA: DeltaSpec = DeltaSpec { key_heads: 16, value_heads: 32, key_dim: 128, value_dim: 128 };
/// Of Granite 4 H Small.
const SCAN: ScanSpec = ScanSpec { heads: 128, head_dim: 64, groups: 1, state: 128 };
const LAYERS: usize = 4;

/// Sequences, and tokens of each.
const STEPS: [(usize, usize); 4] = [(1, 4096), (4, 1024), (1, 512), (64, 1)];

/// Bytes of a step's states, of rows of so many activations beside them, and its FLOPs.
fn floor(sequences: usize, tokens: usize, state: &StateShape, width: usize) -> Floor {
    let rows = sequences * tokens;
    let matrix = state.heads * state.rows * state.columns;
    let bytes = sequences * 2 * 4 * matrix + rows * width * 2;
    Floor::new(bytes as u64, (6 * rows * matrix) as u64, DType::BF16)
}

fn state(heads: usize, rows: usize, columns: usize) -> StateShape {
    StateShape { layers: LAYERS, tail_rows: 1, tail_width: 8, heads, rows, columns }
}

fn delta(sequences: usize, tokens: usize) -> Result<(f64, Floor)> {
    let state = state(DELTA.value_heads, DELTA.value_dim, DELTA.key_dim);
    let width = DELTA.mixed_width() + 2 * DELTA.value_heads + DELTA.value_width();
    let floor = floor(sequences, tokens, &state, width);
    let mut driver = Driver::new(sequences, tokens, state)?;
    let log_decay = driver.weight(WeightKind::Vector, DELTA.value_heads, 1, None)?;
    let rate_bias = driver.weight(WeightKind::Vector, DELTA.value_heads, 1, None)?;
    let mixed = driver.input(DELTA.mixed_width())?;
    let rates = driver.input(2 * DELTA.value_heads)?;
    let rows = driver.rows().max(64);
    let mut out = driver.dev.tensor(rows, DELTA.value_width())?;

    let us = driver.time(floor.us().max(50.0), |dev, call| {
        let weights = DeltaWeights { log_decay: &log_decay, rate_bias: &rate_bias };
        dev.delta_rule(call % LAYERS, &DELTA, weights, &mixed, &rates, &mut out)
    })?;
    Ok((us, floor))
}

fn scan(sequences: usize, tokens: usize) -> Result<(f64, Floor)> {
    let state = state(SCAN.heads, SCAN.head_dim, SCAN.state);
    let width = SCAN.mixed_width() + SCAN.heads + SCAN.inner_width();
    let floor = floor(sequences, tokens, &state, width);
    let mut driver = Driver::new(sequences, tokens, state)?;
    let mut vector = || driver.weight(WeightKind::Vector, SCAN.heads, 1, None);
    let log_decay = vector()?;
    let rate_bias = vector()?;
    let skip = vector()?;
    let mixed = driver.input(SCAN.mixed_width())?;
    let rates = driver.input(SCAN.heads)?;
    let rows = driver.rows().max(64);
    let mut out = driver.dev.tensor(rows, SCAN.inner_width())?;

    let us = driver.time(floor.us().max(50.0), |dev, call| {
        let weights = ScanWeights { log_decay: &log_decay, rate_bias: &rate_bias, skip: &skip };
        let rates = Columns { tensor: &rates, first: 0 };
        dev.selective_scan(call % LAYERS, &SCAN, weights, &mixed, rates, &mut out)
    })?;
    Ok((us, floor))
}

/// The table of one layer's calls.
pub fn run() -> Result<()> {
    println!("| recurrence, bf16 | sequences x tokens | us | of the floor |");
    println!("|---|---|---|---|");
    for (sequences, tokens) in STEPS {
        for (name, of) in [("delta rule", delta as fn(_, _) -> _), ("selective scan", scan)] {
            let (us, floor) = of(sequences, tokens)?;
            let (near, floor_us, bound) = (floor.percent(us), floor.us(), floor.bound());
            let near = format!("{near:.0} % of {floor_us:.1} us ({bound})");
            println!("| {name} | {sequences} x {tokens} | {us:.1} | {near} |");
        }
    }
    Ok(())
}
