//! The reference sampler: one logits row to one token, in the order that
//! [`SamplerSpec`] fixes; what happens to the logits before the draw is in
//! [`super::adjust`]. The cpu device calls it for every sampled row, tests hold GPU kernels against
//! it. It knows no batch.
//!
//! min_p, top_k and top_p each come down to a *floor*: a logit below it cannot be chosen, a logit
//! equal to it can. So ties are always kept together and nothing depends on a sort's order:
//! - min_p: floor = max + ln(min_p)
//! - top_k: floor = the k-th largest logit
//! - top_p: floor = the smallest logit with less than top_p of the survivors' probability strictly
//!   above it
//!
//! The Python backend's top_p drops, in ascending order, whatever has a cumulative probability of
//! at most 1 - top_p: the same set but for exact ties at the border, of which it keeps some by
//! position.

use super::adjust::adjust;
use super::{noise, History, NonFinite, SamplerSpec, Seen};
use crate::ids::TokenId;

/// Choose a token: steps 3 to 8. `logits`, `[vocab]`, is scratch afterwards; a token mask is
/// already in it ([`super::adjust::forbid`]), and `seen` what it hid. `position` is the chosen
/// token's own position (tokens known before it). Where masks leave no token, the answer is token
/// 0.
///
/// # Errors
/// The row is not finite.
pub fn choose(
    logits: &mut [f32],
    mut seen: Seen,
    spec: &SamplerSpec,
    history: &History,
    position: u32,
) -> Result<TokenId, NonFinite> {
    adjust(logits, spec, history, &mut seen);
    seen.all(logits).verdict()?;
    Ok(draw(logits, spec, position))
}

/// Step 8, of a row that is finite.
fn draw(logits: &mut [f32], spec: &SamplerSpec, position: u32) -> TokenId {
    if spec.temperature == 0.0 {
        return argmax(logits);
    }
    for logit in logits.iter_mut() {
        *logit /= spec.temperature;
    }
    let top = argmax(logits);
    let Some(&max) = logits.get(top.index()).filter(|max| max.is_finite()) else {
        return top;
    };
    let floor = floor(logits, spec, max);
    sample(logits, spec.seed, position, floor, top)
}

/// The largest logit's token, the lowest id of equals; 0 if there is none above -inf.
pub fn argmax(logits: &[f32]) -> TokenId {
    const BLOCK: usize = 1024;
    let mut best = f32::NEG_INFINITY;
    let mut start = 0;
    for (i, block) in logits.chunks(BLOCK).enumerate() {
        let max = block_max(block);
        if max > best {
            best = max;
            start = i * BLOCK;
        }
    }
    let place = logits.iter().skip(start).position(|&x| x == best).unwrap_or(0);
    TokenId((start + place) as u32)
}

/// Maximum without NaN, -inf if empty. Sixteen independent lanes, so that it compiles to vector
/// code.
fn block_max(block: &[f32]) -> f32 {
    const LANES: usize = 16;
    let greater = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = block.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = greater(*lane, x);
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| greater(a, b))
}

/// The smallest logit that may be chosen. `max` is the largest one and finite.
fn floor(logits: &[f32], spec: &SamplerSpec, max: f32) -> f32 {
    // Never -inf: a token that was masked out must not come back.
    let mut floor = f32::MIN;
    if spec.min_p > 0.0 {
        floor = floor.max(max + spec.min_p.ln());
    }
    let k = spec.top_k as usize;
    if k > 0 && k < logits.len() {
        // Over the whole row: where fewer than k survive min_p its floor is the higher one anyway.
        floor = floor.max(kth_largest(logits, k));
    }
    if spec.top_p < 1.0 {
        floor = floor.max(nucleus_floor(logits, spec.top_p, floor, max));
    }
    floor
}

fn descending(a: &f32, b: &f32) -> std::cmp::Ordering {
    b.total_cmp(a)
}

/// The k-th largest of the row, 1 <= k < len; NaN counts as the smallest.
fn kth_largest(logits: &[f32], k: usize) -> f32 {
    // k blocks have a maximum at or above the k-th largest block maximum, so k logits are at or
    // above it: nothing below can be the answer, and for k far below the vocabulary little is left
    // to select from.
    const BLOCK: usize = 32;
    let mut bound = f32::NEG_INFINITY;
    let mut maxima: Vec<f32> = logits.chunks(BLOCK).map(block_max).collect();
    if k < maxima.len() {
        bound = *maxima.select_nth_unstable_by(k - 1, descending).1;
    }
    let mut left: Vec<f32> = logits.iter().copied().filter(|&x| x >= bound).collect();
    if left.len() < k {
        return f32::NEG_INFINITY;
    }
    *left.select_nth_unstable_by(k - 1, descending).1
}

/// The smallest logit with less than `top_p` of the probability of all logits >= `floor` strictly
/// above it.
fn nucleus_floor(logits: &[f32], top_p: f32, floor: f32, max: f32) -> f32 {
    let survivors = || logits.iter().copied().filter(|&x| x >= floor);
    let weight = |x: f32| f64::from((x - max).exp());
    let mut total = 0.0;
    let mut count = 0.0;
    for x in survivors() {
        total += weight(x);
        count += 1.0;
    }
    let wanted = f64::from(top_p) * total;
    // Logits of weight <= (total - wanted) / count have together no more than total - wanted, so at
    // least `wanted` lies above them: only heavier ones need sorting. One percent covers rounding.
    let light = ((total - wanted) / count * 0.99).ln() as f32 + max;
    let mut heavy: Vec<f32> = survivors().filter(|&x| x > light || x == max).collect();
    heavy.sort_unstable_by(descending);
    let mut above = 0.0;
    let mut group = 0.0;
    let mut last = max;
    for x in heavy {
        if x != last {
            above += group;
            group = 0.0;
            if above >= wanted {
                break;
            }
            last = x;
        }
        group += weight(x);
    }
    last
}

/// Argmax of logit + Gumbel noise over logits >= `floor`; `top` is the largest logit's token.
fn sample(logits: &[f32], seed: u64, position: u32, floor: f32, top: TokenId) -> TokenId {
    /// Tokens that one comparison may skip.
    const BLOCK: usize = 64;
    let mut best = (f32::NEG_INFINITY, top);
    if let Some(&max) = logits.get(top.index()) {
        // First, so that most of the row cannot win any more: the answer is the same in any order.
        best.0 = max + noise::gumbel(seed, position, top.0);
    }
    for (i, block) in logits.chunks(BLOCK).enumerate() {
        let max = block_max(block);
        if max < floor || max + noise::HIGHEST < best.0 {
            continue;
        }
        for (j, four) in block.chunks(4).enumerate() {
            let first = (i * BLOCK + j * 4) as u32;
            let words = noise::words4(seed, position, first / 4);
            for ((&logit, word), token) in four.iter().zip(words).zip(first..) {
                // Rounding is monotone: a sum with the bound that is below the best stays below it.
                let hopeful = logit + noise::gumbel_bound(word) >= best.0;
                if !(hopeful && logit >= floor) {
                    continue;
                }
                let score = logit + noise::gumbel_of(word);
                if score > best.0 || (score == best.0 && token < best.1 .0) {
                    best = (score, TokenId(token));
                }
            }
        }
    }
    best.1
}

#[cfg(test)]
#[path = "choose_tests.rs"]
mod tests;
