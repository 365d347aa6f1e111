//! Logprobs of one logits row: what a position reports of its token and of others. The cpu
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
    /// From a logits row, `[vocab]`, after step 1 of [`SamplerSpec`](super::SamplerSpec). NaN
    /// counts as -inf.
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// All by full sorts and sums in f64.
    fn naive(logits: &[f32], token: u32, k: usize) -> TokenLogprobs {
        let x: Vec<f64> = logits.iter().map(|&l| f64::from(real(l))).collect();
        let total: f64 = x.iter().map(|l| l.exp()).sum();
        let logprob = |t: usize| (x[t].exp() / total).ln() as f32;
        let mut order: Vec<usize> = (0..x.len()).collect();
        order.sort_by(|&a, &b| x[b].partial_cmp(&x[a]).unwrap().then(a.cmp(&b)));
        TokenLogprobs {
            token: TokenId(token),
            logprob: logprob(token as usize),
            rank: x.iter().filter(|l| **l >= x[token as usize]).count() as u32,
            top: order[..k].iter().map(|&t| (TokenId(t as u32), logprob(t))).collect(),
        }
    }

    #[track_caller]
    fn close(got: &TokenLogprobs, want: &TokenLogprobs) {
        assert_eq!((got.token, got.rank, got.top.len()), (want.token, want.rank, want.top.len()));
        let near = |a: f32, b: f32| a == b || (a - b).abs() < 1e-5;
        assert!(near(got.logprob, want.logprob), "{} for {}", got.logprob, want.logprob);
        for (got, want) in got.top.iter().zip(&want.top) {
            assert!(got.0 == want.0 && near(got.1, want.1), "{got:?} for {want:?}");
        }
    }

    #[test]
    fn equal_the_naive_ones() {
        // Steps of a quarter, so that there are many ties; -0 and 0 are one.
        let value = |i: u32| ((i.wrapping_mul(2_654_435_761) >> 24) as f32 - 128.0) / 4.0;
        for vocab in [1u32, 2, 40, 1000] {
            let mut logits: Vec<f32> = (0..vocab).map(|i| value(i + vocab)).collect();
            for (i, logit) in logits.iter_mut().enumerate() {
                match i % 17 {
                    3 => *logit = f32::NEG_INFINITY,
                    5 => *logit = -0.0,
                    7 => *logit = f32::NAN,
                    _ => {}
                }
            }
            for token in [0, vocab / 2, vocab - 1] {
                for k in [0, 1, 3, vocab - 1, vocab] {
                    let spec = LogprobSpec::Top(k);
                    let got = TokenLogprobs::read(&logits, TokenId(token), &spec);
                    close(&got, &naive(&logits, token, k.min(vocab) as usize));
                }
                let all = TokenLogprobs::read(&logits, TokenId(token), &LogprobSpec::Top(u32::MAX));
                assert_eq!(all.top.len(), vocab as usize);
            }
        }
    }

    #[test]
    fn given_tokens_come_in_their_order() {
        let logits = [1.0, 3.0, f32::NEG_INFINITY, 2.0];
        let given: Arc<[TokenId]> = [2, 0, 1].into_iter().map(TokenId).collect();
        let got = TokenLogprobs::read(&logits, TokenId(3), &LogprobSpec::Tokens(given));
        let all = naive(&logits, 3, 4);
        let of = |t: u32| all.top.iter().find(|(id, _)| id.0 == t).unwrap().1;
        let top = [2, 0, 1].map(|t| (TokenId(t), of(t))).to_vec();
        close(&got, &TokenLogprobs { top, ..all });
        assert_eq!(got.rank, 2);
    }

    #[test]
    fn nothing_is_likely_where_all_is_forbidden() {
        let got = TokenLogprobs::read(&[f32::NEG_INFINITY; 3], TokenId(1), &LogprobSpec::Top(1));
        let none = f32::NEG_INFINITY;
        assert_eq!((got.logprob, got.rank), (none, 3));
        assert_eq!(got.top, [(TokenId(0), none)]);
    }
}
