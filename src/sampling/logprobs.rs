//! Logprobs of one row of logits: what a position reports of its token and of others. The cpu
//! device calls it, a CUDA device fills the same [`TokenLogprobs`]; tests hold one against the
//! other. It knows no batch and no text.

use super::LogprobSpec;
use crate::ids::TokenId;

/// Logprobs of one position: natural logarithms of softmax over the whole vocabulary.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// The sampled token, or the one that follows in the prompt.
    pub token: TokenId,
    /// -inf where a grammar's mask forbids it.
    pub logprob: f32,
    /// How many logits are not below its own: 1 = most likely, ties share the worst.
    pub rank: u32,
    /// What [`LogprobSpec`] asks for. The most likely tokens come in descending order, of equals
    /// the lowest id first, `token` among them if it is one of them; given tokens in their order.
    pub top: Vec<(TokenId, f32)>,
}

impl TokenLogprobs {
    /// From a row of logits [vocab], after step 1 of [`super::spec`]. NaN counts as -inf.
    pub fn read(logits: &[f32], token: TokenId, spec: &LogprobSpec) -> TokenLogprobs {
        let logit = |t: TokenId| {
            let x = logits.get(t.index()).copied().unwrap_or(f32::NEG_INFINITY);
            real(x)
        };
        let total = log_sum_exp(logits);
        let own = logit(token);
        let top = match spec {
            LogprobSpec::Top(k) => top(logits, *k),
            LogprobSpec::Tokens(tokens) => tokens.to_vec(),
        };
        TokenLogprobs {
            token,
            logprob: logprob(own, total),
            rank: logits.iter().filter(|&&x| real(x) >= own).count() as u32,
            top: top.into_iter().map(|t| (t, logprob(logit(t), total))).collect(),
        }
    }
}

fn real(x: f32) -> f32 {
    if x.is_nan() {
        f32::NEG_INFINITY
    } else {
        x
    }
}

/// -inf less -inf is -inf here: where everything is forbidden nothing is likely.
fn logprob(logit: f32, total: f64) -> f32 {
    if logit == f32::NEG_INFINITY {
        return logit;
    }
    (f64::from(logit) - total) as f32
}

/// ln of the sum of exp over the row; -inf if there is nothing above it.
fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = logits.iter().fold(f32::NEG_INFINITY, |max, &x| max.max(x));
    if max == f32::NEG_INFINITY {
        return f64::NEG_INFINITY;
    }
    let weights = logits.iter().map(|&x| f64::from((real(x) - max).exp()));
    f64::from(max) + weights.sum::<f64>().ln()
}

/// The `k` largest logits' tokens in order.
fn top(logits: &[f32], k: u32) -> Vec<TokenId> {
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    let order = |a: &u32, b: &u32| {
        let at = |i: &u32| real(logits.get(*i as usize).copied().unwrap_or(f32::NAN));
        // Adding 0 makes -0 and 0 the same: total_cmp would not.
        (at(b) + 0.0).total_cmp(&(at(a) + 0.0)).then(a.cmp(b))
    };
    let k = (k as usize).min(ids.len());
    if k > 0 && k < ids.len() {
        ids.select_nth_unstable_by(k - 1, order);
    }
    ids.truncate(k);
    ids.sort_unstable_by(order);
    ids.into_iter().map(TokenId).collect()
}
