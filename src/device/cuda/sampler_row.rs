//! What a slot's row says of its sampler: the header, and lists as long as the request makes them
//! (`Lists` in kernels/logits_order.cuh has the same order). `slots` writes both when a slot opens;
//! it touches no GPU.

use super::abi::{SlotHeader, NO_MASK};
use crate::ids::TokenId;
use crate::plan::SlotOpen;
use crate::sampling::SamplerSpec;

/// The sampler of a slot that opens.
pub struct SamplerRow {
    /// Its lists lie in the row, and it has no adapter.
    pub header: SlotHeader,
    /// Masked tokens, biases, ring of newest outputs, bad words, their tokens, allowed tokens.
    pub lists: Vec<u32>,
}

impl SamplerRow {
    /// `outputs`: those that a preemption had interrupted; `entries` of them and of the prompt are
    /// in the counts.
    pub fn new(open: &SlotOpen, outputs: &[TokenId], entries: usize) -> SamplerRow {
        let spec = &*open.sampler;
        let mut lists: Vec<u32> = spec.masked_until_min.iter().map(|t| t.0).collect();
        let masked = lists.len();
        lists.extend(spec.bias.iter().flat_map(|(t, bias)| [t.0, bias.to_bits()]));
        lists.extend(ring(spec.tail_tokens(), outputs));
        push_bad_words(&mut lists, spec);
        let allowed_at = lists.len();
        let allowed_words = spec.allowed.as_ref().map_or(NO_MASK, |mask| mask.len() as u32);
        lists.extend(spec.allowed.iter().flat_map(|mask| mask.iter().copied()));
        let ln_min_p = if spec.min_p > 0.0 { spec.min_p.ln() } else { f32::NEG_INFINITY };

        let header = SlotHeader {
            length: open.cached_tokens,
            outputs: outputs.len() as u32,
            count_entries: entries as u32,
            temperature: spec.temperature,
            top_k: spec.top_k,
            top_p: spec.top_p,
            ln_min_p,
            repetition_penalty: spec.repetition_penalty,
            frequency_penalty: spec.frequency_penalty,
            presence_penalty: spec.presence_penalty,
            seed_low: spec.seed as u32,
            seed_high: (spec.seed >> 32) as u32,
            min_tokens: spec.min_tokens,
            masked: masked as u32,
            needs_counts: u32::from(spec.needs_counts()),
            biases: spec.bias.len() as u32,
            bad_words: spec.bad_words.len() as u32,
            tail: spec.tail_tokens() as u32,
            allowed_words,
            allowed_at: allowed_at as u32,
            ahead: spec.ahead,
            ..SlotHeader::default()
        };
        SamplerRow { header, lists }
    }
}

/// The newest outputs, output n at n % `length`.
fn ring(length: usize, outputs: &[TokenId]) -> Vec<u32> {
    let mut ring = vec![0; length];
    for (n, token) in outputs.iter().enumerate().skip(outputs.len().saturating_sub(length)) {
        ring[n % length] = token.0;
    }
    ring
}

/// Where the tokens of each begin and how many they are, then the tokens.
fn push_bad_words(lists: &mut Vec<u32>, spec: &SamplerSpec) {
    let mut at = lists.len() + 2 * spec.bad_words.len();
    for word in spec.bad_words.iter() {
        lists.extend([at as u32, word.len() as u32]);
        at += word.len();
    }
    lists.extend(spec.bad_words.iter().flat_map(|word| word.iter().map(|t| t.0)));
}

/// Does a kernel have to touch single logits before the draw?
pub fn adjusts(spec: &SamplerSpec) -> bool {
    !spec.bias.is_empty()
        || spec.min_tokens > 0
        || spec.needs_counts()
        || !spec.bad_words.is_empty()
}

/// Is the token that of the largest logit, among all of them?
pub fn greedy(spec: &SamplerSpec) -> bool {
    spec.temperature == 0.0 && spec.allowed.is_none() && !adjusts(spec)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ids::{AdapterId, SlotId};

    fn tokens(ids: &[u32]) -> Vec<TokenId> {
        ids.iter().map(|&id| TokenId(id)).collect()
    }

    #[test]
    fn lists_lie_where_the_header_says() {
        let word = |ids: &[u32]| tokens(ids).into_boxed_slice();
        let spec = SamplerSpec {
            masked_until_min: Arc::from(tokens(&[2, 9])),
            bias: Arc::from([(TokenId(7), -1.5f32)]),
            bad_words: Arc::from([word(&[4]), word(&[5, 6, 8, 3])]),
            allowed: Some(Arc::from([0xff, 1])),
            ..SamplerSpec::default()
        };
        let outputs = tokens(&[20, 21, 22, 23, 24]);
        let open = SlotOpen {
            slot: SlotId(0),
            adapter: AdapterId(0),
            tokens: Arc::from(outputs.clone()),
            prompt_tokens: 0,
            cached_tokens: 0,
            sampler: Arc::new(spec),
        };
        let row = SamplerRow::new(&open, &outputs, 0);
        let wanted: Vec<u32> = [
            vec![2, 9],
            vec![7, (-1.5f32).to_bits()],
            // Outputs 2, 3, 4 at 2, 0, 1.
            vec![23, 24, 22],
            vec![11, 1, 12, 4],
            vec![4, 5, 6, 8, 3],
            vec![0xff, 1],
        ]
        .concat();
        assert_eq!(row.lists, wanted);
        let header = row.header;
        assert_eq!((header.outputs, header.masked, header.biases, header.bad_words), (5, 2, 1, 2));
        assert_eq!((header.tail, header.allowed_words, header.allowed_at), (3, 2, 16));
        let plain = SlotOpen { sampler: Arc::default(), ..open };
        let row = SamplerRow::new(&plain, &outputs, 0);
        assert!(row.lists.is_empty());
        let header = row.header;
        assert_eq!((header.masked, header.biases, header.bad_words, header.tail), (0, 0, 0, 0));
        assert_eq!((header.allowed_words, header.allowed_at), (NO_MASK, 0));
        assert!(header.lists.is_null());
    }
}
