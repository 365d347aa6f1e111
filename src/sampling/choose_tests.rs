//! The sampler against a naive one in f64 that sorts everything.

use std::sync::Arc;

use super::*;
use crate::sampling::{adjust::forbid, TokenCounts};

/// A seeded generator for tests: splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Roughly normal.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}

/// Each token once.
fn biases(rng: &mut Random, mut tokens: Vec<TokenId>) -> Arc<[(TokenId, f32)]> {
    tokens.sort_unstable();
    tokens.dedup();
    tokens.into_iter().map(|t| (t, (rng.normal() * 3.0) as f32)).collect()
}

fn mask_of(tokens: &[TokenId]) -> Arc<[u32]> {
    let mut mask = vec![0u32; tokens.iter().map(|t| t.index() / 32 + 1).max().unwrap_or(0)];
    tokens.iter().for_each(|t| mask[t.index() / 32] |= 1 << (t.0 % 32));
    Arc::from(mask)
}

struct Case {
    logits: Vec<f32>,
    spec: SamplerSpec,
    prompt: Vec<TokenId>,
    outputs: Vec<TokenId>,
    mask: Option<Vec<u32>>,
}

impl Case {
    fn random(rng: &mut Random) -> Case {
        let vocab = [1, 5, 63, 64, 65, 1000, 4096][rng.below(7) as usize];
        let width = [0.1, 1.0, 5.0][rng.below(3) as usize];
        let logits = (0..vocab).map(|_| (rng.normal() * width) as f32).collect();
        let mut tokens = |limit: u64| -> Vec<TokenId> {
            (0..rng.below(limit)).map(|_| TokenId(rng.below(vocab) as u32)).collect()
        };
        let (prompt, outputs) = (tokens(20), tokens(20));
        let (masked, allowed, biased) = (tokens(4), tokens(40), tokens(6));
        let word = |tokens: Vec<TokenId>| tokens.into_boxed_slice();
        let words: Vec<Box<[TokenId]>> = (0..4).map(|_| word(tokens(3))).collect();
        let end = outputs.get(outputs.len().saturating_sub(2)..).unwrap_or_default();
        // One whose beginning the output has just ended with, and the last of it once more.
        let hit = word([end, &masked].concat());
        let words = words.into_iter().chain([hit]).filter(|word| !word.is_empty());
        let mut words: Vec<_> = words.collect();
        SamplerSpec::sort_bad_words(&mut words);
        let mask = (rng.below(4) == 0)
            .then(|| (0..vocab.div_ceil(32)).map(|_| rng.next() as u32 | 1).collect());
        let spec = SamplerSpec {
            temperature: [0.0, 0.01, 0.7, 1.0, 2.0][rng.below(5) as usize],
            top_k: [0, 1, 3, 50, 5000][rng.below(5) as usize],
            top_p: [1.0, 0.999, 0.9, 0.3, 1e-6][rng.below(5) as usize],
            min_p: [0.0, 0.0, 0.01, 0.5, 1.0][rng.below(5) as usize],
            repetition_penalty: [1.0, 1.5, 0.5][rng.below(3) as usize],
            frequency_penalty: [0.0, 0.5, -2.0][rng.below(3) as usize],
            presence_penalty: [0.0, 1.5][rng.below(2) as usize],
            seed: rng.next(),
            min_tokens: rng.below(30) as u32,
            masked_until_min: Arc::from(masked),
            allowed: (rng.below(4) == 0).then(|| mask_of(&allowed)),
            bias: biases(rng, biased),
            bad_words: if rng.below(3) == 0 { Arc::from(words) } else { Arc::from([]) },
            ..SamplerSpec::default()
        };
        Case { logits, spec, prompt, outputs, mask }
    }

    fn position(&self) -> u32 {
        (self.prompt.len() + self.outputs.len()) as u32
    }

    fn chosen(&self) -> TokenId {
        self.verdict().expect("a finite row")
    }

    fn verdict(&self) -> Result<TokenId, NonFinite> {
        let mut logits = self.logits.clone();
        let mut seen = Seen::default();
        if let Some(mask) = &self.mask {
            forbid(&mut logits, mask, &mut seen);
        }
        let history = History::new(&self.spec, &self.prompt, &self.outputs);
        choose(&mut logits, seen, &self.spec, &history, self.position())
    }

    /// The whole pipeline as the Python backend's documents put it, with full sorts. None where a
    /// border (a probability near top_p, a logit near min_p's, two best scores) is too close for
    /// f32 to tell.
    fn naive(&self) -> Option<TokenId> {
        const CLOSE: f64 = 1e-5;
        let spec = &self.spec;
        let mut x: Vec<f64> = self.logits.iter().map(|&l| f64::from(l)).collect();
        for (i, logit) in x.iter_mut().enumerate() {
            let token = TokenId(i as u32);
            let allowed = self.mask.as_ref().is_none_or(|m| m[i / 32] >> (i % 32) & 1 == 1);
            let listed = spec
                .allowed
                .as_ref()
                .is_none_or(|mask| mask.get(i / 32).is_some_and(|word| word >> (i % 32) & 1 == 1));
            if let Some((_, bias)) = spec.bias.iter().find(|(t, _)| *t == token) {
                *logit = f64::from(*logit as f32 + bias);
            }
            let early = (self.outputs.len() as u32) < spec.min_tokens;
            if !allowed || !listed || early && spec.masked_until_min.contains(&token) {
                *logit = f64::NEG_INFINITY;
            }
            let count = self.outputs.iter().filter(|t| **t == token).count() as f64;
            if count > 0.0 || self.prompt.contains(&token) {
                let r = f64::from(spec.repetition_penalty);
                *logit = if *logit > 0.0 { *logit / r } else { *logit * r };
            }
            *logit -= f64::from(spec.frequency_penalty) * count;
            *logit -= if count > 0.0 { f64::from(spec.presence_penalty) } else { 0.0 };
            let bad = |word: &[TokenId]| {
                let said = [&self.outputs[..], &[token]].concat();
                said.ends_with(word)
            };
            if spec.bad_words.iter().any(|word| bad(word)) {
                *logit = f64::NEG_INFINITY;
            }
        }
        let mut scores = x.clone();
        if spec.temperature > 0.0 {
            x.iter_mut().for_each(|l| *l /= f64::from(spec.temperature));
            scores = self.keep(&x, CLOSE)?;
            for (i, score) in scores.iter_mut().enumerate() {
                *score += f64::from(noise::gumbel(spec.seed, self.position(), i as u32));
            }
        }
        let mut order: Vec<usize> = (0..x.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        let close = order.get(1).is_some_and(|&b| scores[order[0]] - scores[b] < CLOSE);
        // Nothing left: token 0.
        let left = scores[order[0]] > f64::NEG_INFINITY;
        (!close).then_some(TokenId(if left { order[0] as u32 } else { 0 }))
    }

    fn keep(&self, x: &[f64], close: f64) -> Option<Vec<f64>> {
        let mut kept = x.to_vec();
        let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let min_p = max + f64::from(self.spec.min_p).ln();
        if self.spec.min_p < 1.0 && x.iter().any(|l| (l - min_p).abs() < close) {
            return None;
        }
        let min_p = min_p - 1e-9;
        kept.iter_mut().filter(|l| **l < min_p).for_each(|l| *l = f64::NEG_INFINITY);
        let mut ascending: Vec<usize> = (0..x.len()).collect();
        ascending.sort_by(|&a, &b| kept[a].total_cmp(&kept[b]));
        let k = self.spec.top_k as usize;
        if k > 0 && k < x.len() {
            ascending[..x.len() - k].iter().for_each(|&i| kept[i] = f64::NEG_INFINITY);
        }

        if self.spec.top_p < 1.0 {
            let total: f64 = kept.iter().map(|l| (l - max).exp()).sum();
            let mut cumulative = 0.0;
            for &i in &ascending[..x.len() - 1] {
                cumulative += (kept[i] - max).exp() / total;
                let limit = 1.0 - f64::from(self.spec.top_p);
                if kept[i].is_finite() && (cumulative - limit).abs() < close {
                    return None;
                }
                if cumulative <= limit {
                    kept[i] = f64::NEG_INFINITY;
                }
            }
        }
        Some(kept)
    }
}

#[test]
fn equals_the_naive_sampler() {
    let mut rng = Random(20_261_121);
    let mut decided = 0;
    for round in 0..4000 {
        let case = Case::random(&mut rng);
        if let Some(expected) = case.naive() {
            decided += 1;
            assert_eq!(case.chosen(), expected, "round {round}: {:?}", case.spec);
        }
    }
    assert!(decided > 3000, "only {decided} rounds could be judged");
}

/// What `sample` skips never matters: against noise for every token of the row.
#[test]
fn skipping_changes_nothing() {
    let mut rng = Random(3);
    for round in 0..200 {
        let width = [0.0, 0.5, 8.0][round % 3];
        let logits: Vec<f32> = (0..5000).map(|_| (rng.normal() * width) as f32).collect();
        let (seed, position) = (rng.next(), rng.below(100) as u32);
        let score = |i: &usize| logits[*i] + noise::gumbel(seed, position, *i as u32);
        let best = (0..logits.len()).reduce(|a, b| if score(&b) > score(&a) { b } else { a });
        let spec = SamplerSpec { temperature: 1.0, seed, ..SamplerSpec::default() };
        let chosen = plain(&logits, &spec, position);
        assert_eq!(Some(chosen.index()), best);
    }
}

fn spec_of(temperature: f32) -> SamplerSpec {
    SamplerSpec { temperature, ..SamplerSpec::default() }
}

/// A token of a row that is finite and has no past.
fn plain(logits: &[f32], spec: &SamplerSpec, position: u32) -> TokenId {
    let mut logits = logits.to_vec();
    choose(&mut logits, Seen::default(), spec, &History::default(), position).expect("finite")
}

/// Frequencies follow the softmax of the survivors.
#[test]
fn frequencies_are_probabilities() {
    let logits = [0.0f32, 1.0, 2.0, -1.0, f32::NEG_INFINITY];
    let spec = SamplerSpec { temperature: 1.0, seed: 11, ..SamplerSpec::default() };
    let draws = 40_000;
    let mut seen = [0u32; 5];
    for position in 0..draws {
        seen[plain(&logits, &spec, position).index()] += 1;
    }
    let total: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
    for (logit, count) in logits.iter().zip(seen) {
        let p = f64::from(*logit).exp() / total;
        // Five standard deviations, and exactly 0 for -inf.
        let limit = 5.0 * (p * (1.0 - p) / f64::from(draws)).sqrt();
        assert!((f64::from(count) / f64::from(draws) - p).abs() <= limit, "{seen:?}");
    }
}

#[test]
fn argmax_takes_the_lowest_of_equals() {
    for len in [1usize, 15, 16, 17, 1023, 1024, 1025, 5000] {
        for place in [0, len / 2, len - 1] {
            let mut row = vec![-3.0f32; len];
            row[place..].fill(1.5);
            assert_eq!(argmax(&row).index(), place, "{place} of {len}");
        }
    }
    assert_eq!(argmax(&[]).0, 0);
    assert_eq!(argmax(&[f32::NAN, -1.0, f32::NAN, 2.0]).0, 3);
    assert_eq!(argmax(&[f32::NEG_INFINITY; 3]).0, 0);
    assert_eq!(argmax(&[1.0, f32::INFINITY, f32::INFINITY]).0, 1);
}

/// Whatever the sampler does with a row and wherever the logit lies: masked, forbidden, penalised,
/// biased, below every floor.
#[test]
fn a_wild_logit_is_found_wherever_it_lies() {
    let mut rng = Random(9);
    for round in 0..400 {
        let mut case = Case::random(&mut rng);
        assert!(case.verdict().is_ok(), "round {round}: {:?}", case.spec);
        let place = rng.below(case.logits.len() as u64) as usize;
        case.logits[place] = [f32::NAN, f32::INFINITY][round % 2];
        assert_eq!(case.verdict(), Err(NonFinite), "round {round}, {place}: {:?}", case.spec);
        case.logits.fill(f32::NEG_INFINITY);
        assert_eq!(case.verdict(), Err(NonFinite), "round {round}: {:?}", case.spec);
    }
}

/// Masks may leave nothing: that is the request's wish, not the model's fault.
#[test]
fn where_masks_leave_nothing_token_0_is_taken() {
    let spec = SamplerSpec { allowed: Some(Arc::from([1 << 3])), ..SamplerSpec::default() };
    for temperature in [0.0, 0.7] {
        let spec = SamplerSpec { temperature, ..spec.clone() };
        let (mut row, mut seen) = ([1.0; 5], Seen::default());
        forbid(&mut row, &[1 << 2], &mut seen);
        assert_eq!(choose(&mut row, seen, &spec, &History::default(), 0), Ok(TokenId(0)));
    }
    let lone = plain(&[f32::NEG_INFINITY, -1e30, f32::NEG_INFINITY], &spec_of(0.7), 0);
    assert_eq!(lone, TokenId(1));
}

/// Ties: top_k keeps all logits equal to the k-th, top_p all equal to the last.
#[test]
fn ties_stay_together() {
    let reachable = |spec: SamplerSpec| {
        let mut seen = std::collections::BTreeSet::new();
        for position in 0..2000 {
            seen.insert(plain(&[1.0, 3.0, 2.0, 2.0, 2.0, -50.0], &spec, position).0);
        }
        seen.into_iter().collect::<Vec<_>>()
    };
    let warm = SamplerSpec { temperature: 1.0, ..SamplerSpec::default() };
    assert_eq!(reachable(SamplerSpec { top_k: 2, ..warm.clone() }), [1, 2, 3, 4]);
    assert_eq!(reachable(SamplerSpec { top_k: 1, ..warm.clone() }), [1]);
    // Masses: 0.448, 3 x 0.165, 0.061: 0.5 is crossed within the tie.
    assert_eq!(reachable(SamplerSpec { top_p: 0.5, ..warm.clone() }), [1, 2, 3, 4]);
    assert_eq!(reachable(SamplerSpec { top_p: 0.4, ..warm.clone() }), [1]);
    assert_eq!(reachable(SamplerSpec { min_p: 1.0, ..warm }), [1]);
}

#[test]
fn a_short_mask_forbids_the_rest() {
    let mut row = vec![0.0f32; 100];
    row[90] = 9.0;
    row[40] = 8.0;
    let mask = [0, 1 << 8];
    forbid(&mut row, &mask, &mut Seen::default());
    assert_eq!(argmax(&row).0, 40);
}

/// What a preemption interrupts goes on as if nothing had been.
#[test]
fn a_history_from_tokens_is_the_one_that_grew() {
    let mut rng = Random(5);
    for _ in 0..300 {
        let case = Case::random(&mut rng);
        let mut grown = History::new(&case.spec, &case.prompt, &[]);
        for cut in 0..=case.outputs.len() {
            let fresh = History::new(&case.spec, &case.prompt, &case.outputs[..cut]);
            assert_eq!(fresh, grown, "after {cut} outputs");
            if let Some(token) = case.outputs.get(cut) {
                grown.push(*token);
            }
        }
    }
}

/// A bad word of several tokens loses only its last one, and only where the others were the newest
/// outputs; the prompt does not count.
#[test]
fn bad_words_look_at_the_newest_outputs() {
    let ids = |list: &[u32]| list.iter().map(|&id| TokenId(id)).collect::<Vec<_>>();
    let word = |list: &[u32]| ids(list).into_boxed_slice();
    let spec = SamplerSpec {
        bad_words: Arc::from([word(&[4]), word(&[1, 2, 3])]),
        ..SamplerSpec::default()
    };
    let chosen = |prompt: &[u32], outputs: &[u32]| {
        let history = History::new(&spec, &ids(prompt), &ids(outputs));
        let mut row = [0.0, 0.0, 1.0, 2.0, 3.0];
        choose(&mut row, Seen::default(), &spec, &history, 0).expect("a finite row").0
    };
    assert_eq!(chosen(&[], &[1, 2]), 2);
    assert_eq!(chosen(&[], &[0, 1, 2]), 2);
    assert_eq!(chosen(&[], &[1, 2, 0]), 3);
    assert_eq!(chosen(&[1, 2], &[]), 3);
    assert_eq!(chosen(&[1], &[2]), 3);
    assert_eq!(spec.tail_tokens(), 2);
}

#[test]
fn counts_know_prompt_and_output() {
    let mut counts = TokenCounts::new(&[TokenId(7), TokenId(7), TokenId(3)], &[TokenId(3)]);
    counts.push(TokenId(9));
    counts.push(TokenId(3));
    let all: Vec<_> = counts.iter().map(|(t, n)| (t.0, n)).collect();
    assert_eq!(all, [(7, 0), (3, 2), (9, 1)]);
}
