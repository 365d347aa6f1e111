//! Images of a simulated engine's prompts: few sizes and few contents at few places, so that many
//! prompts have the same tokens, and some of them the same images too.

use std::sync::Arc;

use triton_vllm::ids::TokenId;
use triton_vllm::plan::{BothWays, ImageSpan, PatchRows, PromptImages};
use triton_vllm::scheduler::{ImageLimits, SchedulerConfig};

use super::Rng;

/// Tokens stand so many places from one image to the next, at least.
const EVERY: usize = 9;
/// Contents of each size.
const CONTENTS: usize = 2;

/// A model that sees images.
#[derive(Debug, Clone, Copy)]
pub struct Eyes {
    /// Tokens of an image at most.
    most: usize,
    both_ways: BothWays,
}

impl Eyes {
    /// In some engines; their limits of a step are in `config` then.
    pub fn random(rng: &mut Rng, config: &mut SchedulerConfig) -> Option<Eyes> {
        // Beside what runs, as the engine's sizes have it.
        let room = config.max_num_batched_tokens.saturating_sub(config.max_num_seqs);
        if room < 2 || config.state.is_some() || !rng.percent(50) {
            return None;
        }
        let most = rng.between(2, room.min(EVERY - 1));
        let (tokens, whole) = (most * rng.between(1, 3), rng.percent(30));
        config.images = Some(ImageLimits { tokens, whole });
        let both_ways = match rng.below(10) {
            0 | 1 => BothWays::Always,
            2 => BothWays::InWindows,
            _ => BothWays::Never,
        };
        Some(Eyes { most, both_ways })
    }

    /// Images of a prompt, whose tokens are put in its place; None: it has none.
    pub fn look(self, rng: &mut Rng, prompt: &mut [TokenId]) -> Option<Arc<PromptImages>> {
        let mut spans = Vec::new();
        for start in (1..prompt.len()).step_by(EVERY) {
            let columns = rng.between(1, 2.min(self.most));
            let rows = rng.between(1, self.most / columns);
            let tokens = rows * columns;
            if start + tokens > prompt.len() || rng.percent(40) {
                continue;
            }
            prompt[start..start + tokens].fill(TokenId(0));
            let patches = Arc::new(patches(rows, columns, rng.below(CONTENTS)));
            spans.push(ImageSpan { start, rows, columns, first: 0, patches });
        }
        let images = PromptImages { spans, both_ways: self.both_ways };
        (!images.spans.is_empty()).then(|| Arc::new(images))
    }
}

/// Those that stand in the first `length` tokens as a whole.
pub fn cut(images: &PromptImages, length: usize) -> Option<Arc<PromptImages>> {
    let mut images = images.clone();
    images.spans.retain(|span| span.end() <= length);
    (!images.spans.is_empty()).then(|| Arc::new(images))
}

fn patches(rows: usize, columns: usize, content: usize) -> PatchRows {
    let mut hash = [0; 32];
    hash[0] = (64 * content + 8 * rows + columns) as u8;
    PatchRows {
        rows,
        columns,
        tokens: rows * columns,
        width: 3,
        bytes: vec![0; 3 * rows * columns],
        numbers: Arc::new([[0.0; 256]; 3]),
        hash,
        tiles: 1,
        arranged: None,
    }
}
