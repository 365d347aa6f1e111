//! Which images a step encodes and which are kept, by hand-made workloads and by random ones.

use std::collections::HashSet;
use std::sync::Arc;

use super::tests::{answer, config, request, scheduler, shares};
use super::*;
use crate::plan::{
    BothWays, Feed, ImageCache, ImageSpan, PatchRows, PromptImages, SlotChange, StepPlan,
};

fn limits(tokens: usize, whole: bool) -> SchedulerConfig {
    SchedulerConfig {
        max_num_batched_tokens: 16,
        max_model_len: 64,
        pages: 80,
        images: Some(ImageLimits { tokens, whole }),
        depth: 1,
        ..config()
    }
}

/// Images at these tokens, so many each: the n-th picture.
fn images(spans: &[(usize, usize, u8)]) -> Option<Arc<PromptImages>> {
    let span = |&(start, tokens, picture): &(usize, usize, u8)| ImageSpan {
        start,
        rows: 1,
        columns: tokens,
        first: 0,
        patches: Arc::new(PatchRows {
            rows: 1,
            columns: tokens,
            tiles: 1,
            tokens,
            arranged: None,
            width: 3,
            bytes: Vec::new(),
            numbers: Arc::new([[0.0; 256]; 3]),
            hash: [picture; 32],
        }),
    };
    Some(Arc::new(PromptImages {
        spans: spans.iter().map(span).collect(),
        both_ways: BothWays::Never,
    }))
}

fn with_images(id: u64, tokens: u32, spans: &[(usize, usize, u8)]) -> NewSequence {
    NewSequence { images: images(spans), ..request(id, tokens, 2) }
}

/// (slot, tokens fed) of a step.
fn step(s: &mut Scheduler) -> Vec<(u32, usize)> {
    let Some(plan) = s.plan() else { return Vec::new() };
    let fed = shares(&plan).iter().map(|&(slot, fed, _)| (slot, fed)).collect();
    s.commit(&answer(&plan, 7));
    s.check();
    fed
}

#[test]
fn a_chunk_ends_in_front_of_an_image_that_the_step_has_no_room_for() {
    let two = with_images(1, 14, &[(1, 6, 1), (8, 5, 2)]);
    assert_eq!(step(&mut scheduler(limits(11, false), std::slice::from_ref(&two))), [(0, 14)]);

    let mut s = scheduler(limits(10, false), &[two]);
    assert_eq!(step(&mut s), [(0, 8)], "up to the second one");
    assert_eq!(step(&mut s), [(0, 6)]);
}

#[test]
fn what_is_kept_for_one_sequence_is_not_taken_by_another() {
    let long = with_images(1, 30, &[(0, 20, 1)]);
    let other = with_images(2, 9, &[(2, 5, 2)]);
    let mut s = scheduler(limits(20, false), &[long, other]);
    assert_eq!(step(&mut s), [(0, 16)]);
    assert_eq!(step(&mut s), [(0, 14), (1, 2)], "the first image is needed until its step ran");
    assert_eq!(step(&mut s), [(0, 1), (1, 7)]);
}

#[test]
fn an_image_that_two_have_is_encoded_once() {
    let first = with_images(1, 7, &[(1, 5, 1)]);
    let again = with_images(2, 7, &[(1, 5, 1)]);
    let other = with_images(3, 7, &[(1, 5, 2)]);
    let config = SchedulerConfig { max_num_batched_tokens: 32, ..limits(6, false) };
    let mut s = scheduler(config.clone(), &[first.clone(), again]);
    assert_eq!(step(&mut s), [(0, 7), (1, 7)]);
    let mut s = scheduler(config, &[first, other]);
    assert_eq!(step(&mut s), [(0, 7), (1, 1)]);
}

#[test]
fn whoever_leaves_gives_images_back() {
    let long = with_images(1, 30, &[(0, 20, 1)]);
    let mut s = scheduler(limits(20, false), &[long, with_images(2, 9, &[(0, 5, 2)])]);
    assert_eq!(step(&mut s), [(0, 16)]);
    s.finish(crate::ids::RequestId(1));
    s.check();
    assert_eq!(step(&mut s), [(0, 9)]);
}

#[test]
fn whole_images_are_not_cut() {
    let mut s = scheduler(limits(16, true), &[with_images(1, 20, &[(4, 15, 1)])]);
    assert_eq!(step(&mut s), [(0, 4)]);
    assert_eq!(step(&mut s), [(0, 16)]);

    // One that a share of the step would cut has more of it.
    let few = SchedulerConfig { long_prefill_token_threshold: 6, ..limits(16, true) };
    let mut s = scheduler(few, &[with_images(1, 20, &[(4, 15, 1)])]);
    assert_eq!(step(&mut s), [(0, 4)]);
    assert_eq!(step(&mut s), [(0, 15)]);
    assert_eq!(step(&mut s), [(0, 1)]);
}

/// Steps as the tower sees them: it never encodes more than the limit, never lacks room for what
/// is still to be fed, and every sequence comes to its end.
#[test]
fn random_workloads_keep_the_limits_and_end() {
    let mut random = 1u64;
    let mut below = move |n: u64| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (random >> 33) % n
    };
    let mut split = 0;
    for round in 0..300 {
        let most = 1 + below(20) as usize;
        let whole = below(3) == 0;
        let config = SchedulerConfig {
            max_num_batched_tokens: 24,
            pages: 17 + below(20) as usize,
            depth: 1 + below(2) as usize,
            ..limits(most + below(10) as usize, whole)
        };
        let tokens = config.images.unwrap().tokens;
        let requests = (1..=6).map(|id| {
            let mut spans = Vec::new();
            let mut at = below(4) as usize;
            for _ in 0..below(4) {
                let picture = below(5) as usize;
                // A picture has always the same size.
                let size = 1 + picture * (most - 1) / 4;
                if at + size < 60 {
                    spans.push((at, size, picture as u8));
                }
                at += size + below(3) as usize;
            }
            let end = spans.last().map_or(1, |span| span.0 + span.1);
            with_images(id, (end + below(3) as usize) as u32, &spans)
        });
        let requests: Vec<NewSequence> = requests.collect();
        let mut s = scheduler(config, &requests);

        let mut tower = Tower { cache: ImageCache::new(tokens), ..Tower::default() };
        for _ in 0..2000 {
            if s.running_len() + s.waiting_len() == 0 {
                break;
            }
            let plan = s.plan().unwrap_or_else(|| panic!("round {round}: nothing to do"));
            split += tower.run(&plan, tokens, whole);
            s.commit(&answer(&plan, 7));
            s.check();
        }
        assert_eq!(s.running_len() + s.waiting_len(), 0, "round {round}: all have ended");
    }
    assert!(split > 100, "images across steps: {split}");
}

struct Tower {
    cache: ImageCache,
    slots: Vec<(usize, Option<Arc<PromptImages>>)>,
}

impl Default for Tower {
    fn default() -> Tower {
        Tower { cache: ImageCache::new(0), slots: vec![(0, None); 8] }
    }
}

impl Tower {
    /// How many images the step's chunks cut.
    fn run(&mut self, plan: &StepPlan, most: usize, whole: bool) -> usize {
        for change in &plan.changes {
            match change {
                SlotChange::Open(open) => {
                    self.slots[open.slot.index()] = (open.cached_tokens as usize, None);
                }
                SlotChange::Close { slot } => self.slots[slot.index()].1 = None,
                _ => {}
            }
        }
        for (slot, images) in &plan.images {
            self.slots[slot.index()].1 = Some(Arc::clone(images));
        }

        let (mut encoded, mut cut) = (0, 0);
        let mut needed = HashSet::new();
        for chunk in &plan.chunks {
            let (fed, images) = &mut self.slots[chunk.slot.index()];
            let range = *fed..*fed + chunk.feed.tokens();
            *fed = range.end;
            let Some(images) = images else { continue };
            assert!(
                matches!(chunk.feed, Feed::Known(_)) || images.touching(range.clone()).is_empty()
            );
            for n in images.touching(range.clone()) {
                let span = &images.spans[n];
                let new = needed.insert((span.patches.hash, span.tokens()));
                if new && self.cache.rows(&span.patches.hash).is_none() {
                    encoded += span.tokens();
                    self.cache.add(span.patches.hash, span.tokens(), 0);
                }
                if span.start + span.tokens() > range.end {
                    cut += 1;
                    assert!(!whole, "an image that must be whole is cut");
                }
            }
        }
        assert!(encoded <= most, "{encoded} tokens of images in a step of {most}");
        let kept: usize = needed.iter().map(|(_, tokens)| tokens).sum();
        assert!(kept <= most, "{kept} tokens of images are needed at once");
        cut
    }
}
