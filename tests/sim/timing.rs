//! What scheduling makes of times: workloads on a made-up clock, with steps that take what an 8B
//! model on an H200 takes (about: its figures are those of `ci/runs/`). Streams must not stall for
//! prompts of others, nobody starves, and first tokens do not come later for that.
//!
//! `--nocapture` prints the figures.

use std::collections::VecDeque;
use std::sync::Arc;

use triton_vllm::ids::{AdapterId, RequestId, TokenId};
use triton_vllm::plan::{
    BothWays, ImageSpan, PatchRows, PromptImages, Sampled, StepPlan, StepResult,
};
use triton_vllm::sampling::SamplerSpec;
use triton_vllm::scheduler::{
    ImageLimits, NewSequence, Scheduler, SchedulerConfig, StepCost, StepShape,
};

use super::Rng;

/// Beside products: 128 KiB of K and V a position; 31 ms for the tower of Qwen2.5-VL over 1024 x
/// 1024 pixels; what else depends on rows is with the products.
const H200: StepCost = StepCost {
    fixed: 0.0,
    per_row: 0.0,
    per_context: 3e-5,
    per_pair: 1.3e-6,
    per_patch: 0.0045,
    per_patch_pair: 2.5e-7,
};

/// Rows, and milliseconds of all that is not attention: up to some 100 rows that is reading the
/// weights, up to 4096 whole tiles (of 128 rows, of an eighth of a doubling), beyond that 43 000
/// tokens/s.
const PRODUCTS: [(f64, f64); 12] = [
    (1.0, 3.65),
    (64.0, 4.25),
    (128.0, 5.25),
    (192.0, 6.6),
    (256.0, 7.5),
    (384.0, 9.9),
    (512.0, 12.5),
    (640.0, 15.3),
    (768.0, 18.1),
    (896.0, 21.2),
    (1024.0, 24.3),
    (8192.0, 191.0),
];

/// What a step takes.
fn h200_ms(shape: &StepShape) -> f64 {
    let rows = match shape.rows {
        257..=4096 => shape.rows.next_multiple_of((shape.rows.next_power_of_two() / 8).max(128)),
        rows => rows,
    };
    let rows = rows as f64;
    let beyond = PRODUCTS.len() - 2;
    let at = PRODUCTS.iter().skip(1).position(|&(up_to, _)| rows <= up_to).unwrap_or(beyond);
    let [(low, low_ms), (high, high_ms)] = [PRODUCTS[at], PRODUCTS[at + 1]];

    let products_ms = low_ms + (rows - low) / (high - low) * (high_ms - low_ms);
    products_ms + H200.ms(shape)
}

fn config(step_ms: f64) -> SchedulerConfig {
    SchedulerConfig {
        max_num_seqs: 1024,
        max_num_batched_tokens: 8192,
        max_model_len: 40_000,
        page_size: 16,
        pages: 60_000,
        long_prefill_token_threshold: 0,
        long_prefill_adaptive: false,
        step_ms,
        chunked_prefill: true,
        prefix_caching: true,
        state: None,
        pooling: false,
        watermark: 0.0,
        reserve_full_isl: true,
        max_loras: 0,
        depth: 2,
        speculation: None,
        images: None,
    }
}

/// Streams that send one request after the other.
#[derive(Clone)]
struct Load {
    streams: usize,
    requests: usize,
    /// Tokens that all prompts of the load begin with.
    shared: usize,
    own: usize,
    outputs: u32,
    /// When the first requests come, and how far apart those of the streams are, in ms.
    begins: f64,
    apart: f64,
    /// Patches a side of the image that each prompt has, 0 = none.
    side: usize,
}

impl Load {
    fn of(streams: usize, requests: usize, own: usize, outputs: u32) -> Load {
        Load { streams, requests, shared: 0, own, outputs, begins: 0.0, apart: 0.0, side: 0 }
    }
}

/// The n-th picture, behind the prompt's first tokens.
fn image(side: usize, n: u64) -> Option<Arc<PromptImages>> {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&n.to_le_bytes());
    let patches = PatchRows {
        rows: side,
        columns: side,
        tokens: side * side / 4,
        tiles: 1,
        arranged: None,
        width: 3,
        bytes: Vec::new(),
        numbers: Arc::new([[0.0; 256]; 3]),
        hash,
    };
    let span = ImageSpan {
        start: 20,
        rows: side / 2,
        columns: side / 2,
        first: 0,
        patches: Arc::new(patches),
    };
    (side > 0).then(|| Arc::new(PromptImages { spans: vec![span], both_ways: BothWays::Never }))
}

struct Request {
    load: usize,
    arrival: f64,
    /// When its tokens came.
    tokens: Vec<f64>,
    outputs: usize,
}

impl Request {
    fn ttft(&self) -> f64 {
        self.tokens[0] - self.arrival
    }

    fn longest_gap(&self) -> f64 {
        self.tokens.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max)
    }
}

/// A step that runs.
struct Step {
    ends: f64,
    ms: f64,
    shape: StepShape,
    result: StepResult,
}

/// An engine on a made-up clock.
struct World {
    scheduler: Scheduler,
    loads: Vec<Load>,
    now: f64,
    /// Arrivals to come, by time.
    due: Vec<(f64, usize)>,
    sent: Vec<usize>,
    requests: Vec<Request>,
    in_flight: VecDeque<Step>,
    rng: Rng,
}

impl World {
    fn new(config: SchedulerConfig, loads: &[Load]) -> World {
        let due = loads.iter().enumerate().flat_map(|(n, load)| {
            (0..load.streams).map(move |stream| (load.begins + stream as f64 * load.apart, n))
        });
        World {
            scheduler: Scheduler::new(config).unwrap(),
            loads: loads.to_vec(),
            now: 0.0,
            due: due.collect(),
            sent: vec![0; loads.len()],
            requests: Vec::new(),
            in_flight: VecDeque::new(),
            rng: Rng(7),
        }
    }

    /// Steps of all sizes ran before: their costs are known.
    fn taught(mut self) -> World {
        for n in 0..200 {
            let rows = 1 << (n % 14);
            let pairs = if rows > 64 { (rows * rows / 2) as u64 } else { 0 };
            let decode_context = if rows > 64 { 0 } else { rows as u64 * (n as u64 * 20 + 1) };
            let shape =
                StepShape { rows, decode_context, chunk_pairs: pairs, ..StepShape::default() };
            self.scheduler.learn(shape, h200_ms(&shape));
            let patches = 1 << (n % 14);
            let shape = StepShape { patches, patch_pairs: (patches * patches) as u64, ..shape };
            self.scheduler.learn(shape, h200_ms(&shape));
        }
        self
    }

    fn run(mut self) -> World {
        loop {
            self.arrive();
            while self.in_flight.len() < 2 {
                let Some(plan) = self.scheduler.plan() else { break };
                self.enqueue(&plan);
            }
            match self.in_flight.pop_front() {
                Some(step) => self.collect(step),
                None => {
                    let next = self.due.iter().map(|due| due.0).fold(f64::INFINITY, f64::min);
                    if next.is_infinite() {
                        break;
                    }
                    self.now = next;
                }
            }
        }
        assert!(self.requests.iter().all(|request| request.tokens.len() == request.outputs));
        self
    }

    fn arrive(&mut self) {
        self.due.sort_by(|a, b| a.partial_cmp(b).unwrap());
        while self.due.first().is_some_and(|due| due.0 <= self.now) {
            let (arrival, load) = self.due.remove(0);
            self.send(load, arrival);
        }
    }

    fn send(&mut self, load: usize, arrival: f64) {
        let Load { shared, own, outputs, requests, side, .. } = self.loads[load];
        if self.sent[load] == requests {
            return;
        }
        self.sent[load] += 1;
        let id = RequestId(self.requests.len() as u64);
        let head = (0..shared).map(|n| TokenId(n as u32));
        let rng = &mut self.rng;
        let tail = (0..own).map(|_| TokenId(100_000 + rng.below(1 << 20) as u32));
        let new = NewSequence {
            id,
            primary: None,
            prompt: head.chain(tail).collect(),
            max_tokens: outputs,
            sampler: Arc::new(SamplerSpec::default()),
            skip_cache: false,
            adapter: AdapterId(0),
            priority: 0,
            drafts: false,
            images: image(side, id.0),
        };

        self.scheduler.add(new).unwrap();
        let tokens = Vec::new();
        self.requests.push(Request { load, arrival, tokens, outputs: outputs as usize });
    }

    fn enqueue(&mut self, plan: &StepPlan) {
        let shape = self.scheduler.newest_shape();
        assert_eq!(shape.rows, plan.tokens());
        let samples = plan.sampled().map(|slot| Sampled {
            slot,
            tokens: Ok(vec![TokenId(7)]),
            logprobs: Vec::new(),
        });
        let samples = samples.collect();
        let result = StepResult { step: plan.step, samples, ..StepResult::default() };
        let begins = self.in_flight.back().map_or(self.now, |last| last.ends);
        let ms = h200_ms(&shape) * (1.0 + 0.04 * (self.rng.below(100) as f64 / 100.0 - 0.5));
        self.in_flight.push_back(Step { ends: begins + ms, ms, shape, result });
    }

    fn collect(&mut self, step: Step) {
        let Step { ends, ms, shape, result } = step;
        self.now = ends;
        self.scheduler.learn(shape, ms);
        for arrival in self.scheduler.commit(&result) {
            let request = &mut self.requests[arrival.id.index()];
            request.tokens.push(self.now);
            if arrival.at_limit {
                let load = request.load;
                self.due.push((self.now, load));
            }
        }
    }

    fn of(&self, load: usize) -> impl Iterator<Item = &Request> {
        self.requests.iter().filter(move |request| request.load == load)
    }

    /// Of a load: first token p50 and p99, longest gap p50 and most, tokens/s.
    fn figures(&self, load: usize, name: &str) -> Figures {
        let ttfts = sorted(self.of(load).map(Request::ttft));
        let gaps = sorted(self.of(load).map(Request::longest_gap));
        let tokens: usize = self.requests.iter().map(|request| request.tokens.len()).sum();
        let figures = Figures {
            ttft_p50: at(&ttfts, 0.5),
            ttft_p99: at(&ttfts, 0.99),
            gap_max: at(&gaps, 1.0),
            rate: tokens as f64 / self.now * 1e3,
        };
        println!("{name}: {figures:.0?}");
        figures
    }
}

#[derive(Debug)]
struct Figures {
    ttft_p50: f64,
    ttft_p99: f64,
    gap_max: f64,
    rate: f64,
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn at(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

const STEP_MS: f64 = 100.0;

/// Sixteen streams generate, and long prompts of others come meanwhile: no token of theirs comes
/// much later than a step may take; the prompts lose little.
#[test]
fn streams_do_not_stall_for_long_prompts() {
    let streams = Load::of(16, 16, 200, 600);
    // Of one token, so that they are over with their first.
    let prompts = Load { begins: 500.0, apart: 300.0, ..Load::of(4, 8, 16_000, 1) };
    let run = |step_ms: f64| {
        World::new(config(step_ms), &[streams.clone(), prompts.clone()]).taught().run()
    };
    let (free, bound) = (run(0.0), run(STEP_MS));
    let (before, after) = (free.figures(0, "streams, free"), bound.figures(0, "streams, bound"));
    assert!(before.gap_max > 1.8 * STEP_MS, "else this shows nothing");
    // A chunk's short rest may come on top.
    assert!(after.gap_max < 1.15 * STEP_MS, "{after:?}");
    let (before, after) = (free.figures(1, "prompts, free"), bound.figures(1, "prompts, bound"));
    assert!(after.ttft_p99 < 1.12 * before.ttft_p99 && after.rate > 0.95 * before.rate);
}

/// The same with images: what the vision tower takes counts as what tokens take. Ten pictures come
/// at once, and one in each 200 ms later on.
#[test]
fn streams_do_not_stall_for_images() {
    let streams = Load::of(16, 16, 200, 600);
    let pictures = |requests, apart| {
        let begins = 500.0;
        Load { side: 74, begins, apart, ..Load::of(requests, requests, 1400, 1) }
    };
    for (requests, apart) in [(10, 0.0), (10, 200.0)] {
        let loads = [streams.clone(), pictures(requests, apart)];
        let images = Some(ImageLimits { tokens: 8192, whole: false });
        let run = |step_ms: f64| {
            World::new(SchedulerConfig { images, ..config(step_ms) }, &loads).taught().run()
        };
        let (free, bound) = (run(0.0), run(STEP_MS));
        let name = format!("beside an image each {apart} ms");
        let [before, after] = [&free, &bound].map(|world| world.figures(0, &name));
        assert!(apart > 0.0 || before.gap_max > 1.8 * STEP_MS, "else this shows nothing");
        assert!(after.gap_max < 1.15 * STEP_MS, "{after:?}");
        let [before, after] = [&free, &bound].map(|world| world.figures(1, "images"));
        assert!(after.ttft_p99 < 1.2 * before.ttft_p99 && after.rate > 0.95 * before.rate);
    }
}

/// Whoever generates gets a token of every step, and a prompt in turn goes on in every step.
#[test]
fn nobody_starves() {
    for step_ms in [0.001, 5.0, STEP_MS] {
        let streams = Load::of(64, 64, 100, 200);
        let prompts = Load { begins: 100.0, ..Load::of(2, 2, 5000, 4) };
        let world = World::new(config(step_ms), &[streams, prompts]).taught().run();
        let decodes = StepShape { rows: 64, decode_context: 64 * 300, ..StepShape::default() };
        let decode_ms = h200_ms(&decodes);
        let most = step_ms.max(4.0 * decode_ms) * 1.15;
        for request in world.of(0) {
            assert!(request.longest_gap() < most, "{} of {most}", request.longest_gap());
        }
        // At least 16 tokens a step: 10 000 tokens while 64 generate 200.
        let figures = world.figures(1, "prompts beside 64 streams");
        assert!(figures.ttft_p99 < 1500.0, "{figures:?}");
    }
}

/// Requests that come together, and whose successors would come together too: half of the first
/// tokens come much sooner, the last ones a little later, streams hardly pause, and more tokens are
/// generated, since prompts take rows that weights are read for anyway.
#[test]
fn bursts_do_not_stay_bursts() {
    let loads = [
        ("16 streams", Load::of(16, 96, 512, 128), [1.02, 0.5]),
        ("64 streams", Load::of(64, 384, 512, 128), [1.02, 0.5]),
        // Here prompts have most of all steps' time anyway, and what comes takes its turn.
        ("256 streams", Load::of(256, 1024, 512, 128), [1.0, 2.0]),
        ("8 prompts of 4096", Load::of(8, 48, 4096, 64), [1.05, 0.7]),
    ];
    for (name, load, [faster, sooner]) in loads {
        let run =
            |step_ms: f64| World::new(config(step_ms), std::slice::from_ref(&load)).taught().run();
        let before = run(0.0).figures(0, &format!("{name}, free"));
        let after = run(250.0).figures(0, &format!("{name}, bound"));
        assert!(after.ttft_p50 < sooner * before.ttft_p50, "{name}");
        assert!(after.ttft_p99 < 1.2 * before.ttft_p99, "{name}");
        assert!(after.rate > faster * before.rate, "{name}");
        assert!(after.gap_max < 0.75 * before.gap_max || after.gap_max < 20.0, "{name}");
    }
}

/// One prompt alone stalls nobody and takes whole steps.
#[test]
fn a_prompt_alone_is_not_cut() {
    let load = Load::of(1, 1, 32_000, 2);
    let run =
        |step_ms: f64| World::new(config(step_ms), std::slice::from_ref(&load)).taught().run();
    let (free, bound) = (run(0.0).figures(0, "free"), run(STEP_MS).figures(0, "bound"));
    assert!(bound.ttft_p99 < 1.02 * free.ttft_p99);
}

/// Chats with one system prompt that begin together: it is read once, also where nobody knows yet
/// what steps cost.
#[test]
fn a_shared_prefix_is_read_once() {
    for (streams, most) in [(16, 155.0), (64, 420.0)] {
        let load = Load { shared: 2000, ..Load::of(streams, 4 * streams, 200, 128) };
        let name = format!("{streams} chats with 2000 tokens in common");
        for (step_ms, taught) in [(0.0, false), (STEP_MS, false), (STEP_MS, true)] {
            let world = World::new(config(step_ms), std::slice::from_ref(&load));
            let world = if taught { world.taught() } else { world }.run();
            let figures = world.figures(0, &format!("{name}, {step_ms} {taught}"));
            assert!(figures.ttft_p99 < most, "{figures:?}");
            let stats = world.scheduler.stats();
            let read = stats.prefix_queries_tokens - stats.prefix_hits_tokens;
            let least = 2000 + 4 * streams as u64 * 200;
            assert!(read <= least + 16, "{read} tokens were read, {least} had to be");
        }
    }
}

/// The same run twice: the plans depend on what was learnt, and on nothing else.
#[test]
fn what_was_learnt_alone_decides() {
    let run = || {
        let loads = [Load::of(20, 60, 900, 50), Load { begins: 40.0, ..Load::of(3, 9, 6000, 9) }];
        let world = World::new(config(STEP_MS), &loads).run();
        world.requests.iter().map(|request| request.tokens.clone()).collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}

/// A learnt cost is as good as the one that is.
#[test]
fn costs_are_learnt_by_the_way() {
    let loads = [Load::of(8, 30, 300, 60), Load { begins: 200.0, ..Load::of(2, 6, 9000, 3) }];
    let world = World::new(config(STEP_MS), &loads).run();
    // The first long prompts were read before anybody knew what that takes.
    let late = world.of(0).filter(|request| request.arrival > 1500.0);
    let gaps = sorted(late.map(Request::longest_gap));
    assert!(gaps.len() > 3 && at(&gaps, 1.0) < 1.2 * STEP_MS, "{gaps:?}");
}
