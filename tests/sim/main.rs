//! The scheduler and the cache manager in a simulated engine: thousands of seeded workloads on a
//! device that executes step plans literally and knows, for every position of every page, which
//! history of tokens was written there. So a wrong prefix hit, a page shared without a count, a
//! stale table and a slot's late token all show, at the step in which they happen. What a request
//! gets must not depend on batching, chunking, preemption, prefix hits or depth: it is compared
//! with a straight run.
//!
//! `SIM_SEED=n` repeats one workload, `SIM_ROUNDS=n` runs more of them.

mod device;
mod draft_device;
mod drafts;
mod images;
mod timing;

use std::collections::VecDeque;
use std::sync::Arc;

use triton_vllm::ids::{AdapterId, PageId, RequestId, TokenId};
use triton_vllm::plan::{SlotChange, StepPlan, StepResult};
use triton_vllm::sampling::SamplerSpec;
use triton_vllm::scheduler::{
    DraftLengths, DraftMethod, DraftModel, NewSequence, Proposer, Scheduler, SchedulerConfig,
    SpeculationConfig, StateConfig, StepCost, StepShape,
};

use device::{mix, straight_run, Device, VOCAB};
use draft_device::DraftDevice;
use drafts::{Known, Oracle};
use images::Eyes;

const ROUNDS: u64 = 20_000;
/// Steps after which a workload of this size is surely stuck.
const STEPS_MAX: u64 = 50_000;

/// splitmix64: the whole workload is a function of the seed.
#[derive(Debug)]
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0, 0)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

// ---- the engine ---------------------------------------------------------------------------------

struct Request {
    new: NewSequence,
    /// Ends the request when sampled, like an eos.
    stop: Option<TokenId>,
    outputs: Vec<TokenId>,
    ended: bool,
}

/// What the workloads went through, to see that they went through everything.
#[derive(Debug, Default, PartialEq, Eq)]
struct Coverage {
    steps: u64,
    tokens: u64,
    requests: u64,
    led: u64,
    preemptions: u64,
    hit_tokens: u64,
    cut_chunks: u64,
    stopped: u64,
    at_limit: u64,
    cancelled: u64,
    /// Logits were not finite.
    broken: u64,
    dropped_tokens: u64,
    /// Adapter slots that changed their adapter.
    taken_adapter_slots: u64,
    /// Prefix hits of models with a state.
    restored_states: u64,
    /// States that went back behind rejected drafts, and copies of states.
    states_back: u64,
    saved_states: u64,
    drafts: u64,
    guesses: u64,
    accepted_drafts: u64,
    /// Tokens of images that were fed, and drafts behind prompts with some.
    image_tokens: u64,
    image_drafts: u64,
    /// Of all plans in order: equal in two runs of a seed.
    trace: u64,
}

impl Coverage {
    fn add(&mut self, other: &Coverage) {
        self.steps += other.steps;
        self.tokens += other.tokens;
        self.requests += other.requests;
        self.led += other.led;
        self.preemptions += other.preemptions;
        self.hit_tokens += other.hit_tokens;
        self.cut_chunks += other.cut_chunks;
        self.stopped += other.stopped;
        self.at_limit += other.at_limit;
        self.cancelled += other.cancelled;
        self.broken += other.broken;
        self.dropped_tokens += other.dropped_tokens;
        self.taken_adapter_slots += other.taken_adapter_slots;
        self.restored_states += other.restored_states;
        self.states_back += other.states_back;
        self.saved_states += other.saved_states;
        self.drafts += other.drafts;
        self.guesses += other.guesses;
        self.accepted_drafts += other.accepted_drafts;
        self.image_tokens += other.image_tokens;
        self.image_drafts += other.image_drafts;
        self.trace = mix(self.trace, other.trace);
    }
}

struct Engine {
    rng: Rng,
    config: SchedulerConfig,
    scheduler: Scheduler,
    device: Device,
    /// Where a model drafts.
    drafting: Option<DraftDevice>,
    requests: Vec<Request>,
    /// Heads of prompts that several requests begin with.
    heads: Vec<Vec<TokenId>>,
    /// Of a model that sees images.
    eyes: Option<Eyes>,
    results: VecDeque<StepResult>,
    /// What the scheduler's proposer knows.
    known: Known,
    /// What steps cost here, and the shapes of those whose results are to come.
    cost: StepCost,
    shapes: VecDeque<StepShape>,
    seen: Coverage,
}

fn random_config(rng: &mut Rng) -> SchedulerConfig {
    let page_size = rng.pick(&[16, 16, 32, 4]);
    let max_model_len = rng.between(2, 8 * page_size);
    let chunked_prefill = rng.percent(75);
    let max_num_seqs = rng.between(1, 9);
    let room = rng.pick(&[4, 40, 200]);
    let budget = rng.between(max_num_seqs, max_num_seqs + room);
    let spare_pages = rng.pick(&[1, 4, 12, 60]);
    let needed_pages = max_model_len.div_ceil(page_size);
    // Of a seed of its own, so that the other workloads stay as they were.
    let mut own = Rng(mix(rng.0, 5));
    let state = own.percent(40).then(|| StateConfig {
        snapshots: own.pick(&[0, 1, 3, 30]),
        block: page_size * own.between(1, 3),
    });

    SchedulerConfig {
        max_num_seqs,
        max_num_batched_tokens: if chunked_prefill { budget } else { budget.max(max_model_len) },
        max_model_len,
        page_size,
        pages: 1 + needed_pages + rng.below(spare_pages),
        long_prefill_token_threshold: rng.pick(&[0, 0, 7, 33]),
        long_prefill_adaptive: false,
        step_ms: own.pick(&[0.0, 0.0, 2.0, 8.0]),
        chunked_prefill,
        prefix_caching: rng.percent(80),
        state,
        pooling: false,
        watermark: rng.pick(&[0.0, 0.0, 0.05, 0.3]),
        reserve_full_isl: rng.percent(70),
        max_loras: rng.between(1, 3),
        depth: rng.between(1, 2),
        speculation: own.percent(70).then(|| SpeculationConfig {
            method: random_method(&mut Rng(mix(own.0, 6)), max_model_len),
            lengths: DraftLengths::by_running(vec![(1, own.between(1, 9)), (4, own.between(0, 4))]),
            rows: own.between(1, 20),
        }),
        images: None,
    }
}

/// In milliseconds, of which a step may take a few.
fn random_cost(rng: &mut Rng) -> StepCost {
    let mut some = |most: f64| most * rng.below(1000) as f64 / 1e3;
    StepCost {
        fixed: some(1.0),
        per_row: some(0.2),
        per_context: some(0.002),
        per_pair: some(0.001),
        ..StepCost::default()
    }
}

fn random_method(rng: &mut Rng, max_model_len: usize) -> DraftMethod {
    if rng.percent(60) {
        return DraftMethod::Ngram { least: 1, most: 2 };
    }
    let longest = rng.pick(&[max_model_len, max_model_len, max_model_len / 2 + 1]);
    DraftMethod::Model(DraftModel { longest, samples: rng.percent(80), head: false })
}

impl Engine {
    fn new(seed: u64) -> Engine {
        let mut rng = Rng(seed);
        let mut config = random_config(&mut rng);
        let eyes = Eyes::random(&mut Rng(mix(seed, 10)), &mut config);
        let heads = (0..3).map(|_| random_tokens(&mut rng, config.max_model_len)).collect();
        let known = Known::default();
        let mut own = Rng(mix(seed, 9));
        let wrong = own.pick(&[0, 10, 40, 100]);
        // N-grams now and then, to which the made-up model gives little.
        let model = match config.speculation.as_ref().map(|speculation| speculation.method) {
            Some(DraftMethod::Model(model)) => Some(model),
            _ => None,
        };
        let oracle = (own.percent(90) && model.is_none()).then(|| -> Box<dyn Proposer> {
            Box::new(Oracle { known: known.clone(), rng: Rng(own.0), wrong })
        });
        let scheduler = match oracle {
            Some(oracle) => Scheduler::with_proposer(config.clone(), Some(oracle)),
            None => Scheduler::new(config.clone()),
        };
        Engine {
            scheduler: scheduler.expect("a valid configuration"),
            drafting: model
                .map(|model| DraftDevice::new(&config, model.samples.then(|| known.clone()))),
            known,
            cost: random_cost(&mut own),
            shapes: VecDeque::new(),
            device: Device::new(&config),
            requests: Vec::new(),
            heads,
            eyes,
            results: VecDeque::new(),
            seen: Coverage::default(),
            rng,
            config,
        }
    }

    /// The engine's loop, with a world that submits, cancels and stops at any moment.
    fn run(mut self) -> Coverage {
        let total = self.rng.between(1, 30);
        let burst = self.rng.pick(&[5, 30, 95]);
        let cancels = self.rng.pick(&[0, 2, 10]);
        let dawdle = self.rng.pick(&[0, 0, 30]);

        loop {
            while self.requests.len() < total && self.rng.percent(burst) {
                self.submit();
            }
            while self.results.len() < self.config.depth && !self.rng.percent(dawdle) {
                self.draft();
                let Some(plan) = self.scheduler.plan() else { break };
                self.enqueue(&plan);
                self.cancel(cancels);
            }
            self.cancel(cancels);
            match self.results.pop_front() {
                Some(result) => self.settle(&result),
                None if self.requests.len() == total && self.all_ended() => break,
                None => self.check_not_stuck(total),
            }
            self.scheduler.check();
            assert!(self.seen.steps < STEPS_MAX, "no end after {STEPS_MAX} steps");
        }
        self.check_end()
    }

    fn submit(&mut self) {
        let rng = &mut self.rng;
        let limit = self.config.max_model_len;
        let length = if rng.percent(3) { limit } else { rng.between(1, limit - 1) };
        // A turn of a conversation, a prompt with a common head, or one like no other.
        let mut images = None;
        let mut prompt = match rng.below(4) {
            0 if !self.requests.is_empty() => {
                let previous = &self.requests[rng.below(self.requests.len())];
                images = previous.new.images.clone();
                [&previous.new.prompt[..], &previous.outputs[..]].concat()
            }
            1 | 2 => self.heads[rng.below(self.heads.len())].clone(),
            _ => Vec::new(),
        };
        prompt.truncate(if rng.percent(50) { length } else { rng.below(length + 1) });
        let mut own = Rng(mix(rng.0, 11));
        images = match (images, self.eyes) {
            (Some(images), _) => images::cut(&images, prompt.len()),
            (None, Some(eyes)) if own.percent(80) => eyes.look(&mut own, &mut prompt),
            _ => None,
        };
        prompt.extend(random_tokens(rng, length - prompt.len()));
        // Another sequence of a request that is there (or was).
        let led = !self.requests.is_empty() && rng.percent(20);
        let primary = led.then(|| RequestId(rng.below(self.requests.len()) as u64));
        if let Some(primary) = primary {
            let first = &self.requests[primary.index()].new;
            (prompt, images) = (first.prompt.to_vec(), first.images.clone());
        }
        let length = prompt.len();
        let id = RequestId(self.requests.len() as u64);
        let longest = rng.pick(&[3, limit / 2 + 1, 2 * limit]);
        let skip_cache = rng.percent(5);
        let new = NewSequence {
            id,
            primary,
            skip_cache,
            prompt: Arc::from(prompt),
            max_tokens: rng.between(1, longest) as u32,
            sampler: Arc::new(SamplerSpec { seed: id.0, ..SamplerSpec::default() }),
            adapter: AdapterId(if rng.percent(40) { rng.between(1, 5) as u16 } else { 0 }),
            priority: 0,
            drafts: !rng.0.is_multiple_of(8),
            images,
        };
        self.known.lock().push(new.clone());
        let stop = rng.percent(40).then(|| TokenId(rng.below(VOCAB as usize) as u32));
        let added = self.scheduler.add(new.clone());
        assert_eq!(added.is_ok(), length < limit, "{added:?}");
        let ended = added.is_err();
        self.requests.push(Request { new, stop, outputs: Vec::new(), ended });
        self.seen.requests += 1;
        self.seen.led += u64::from(led);
    }

    fn enqueue(&mut self, plan: &StepPlan) {
        let seen = &mut self.seen;
        seen.steps += 1;
        seen.tokens += plan.tokens() as u64;
        seen.cut_chunks += (plan.chunks.len() - plan.sampled().count()) as u64;
        for chunk in &plan.chunks {
            let share = u64::from(chunk.slot.0) << 32 | chunk.feed.tokens() as u64;
            seen.trace = mix(seen.trace, share);
        }
        for change in &plan.changes {
            match change {
                SlotChange::Pages { pages, .. } => {
                    let with = |trace, page: &PageId| mix(trace, page.0.into());
                    seen.trace = pages.iter().fold(seen.trace, with);
                }
                SlotChange::Adapter { .. } => seen.taken_adapter_slots += 1,
                SlotChange::RestoreState { .. } => seen.restored_states += 1,
                SlotChange::SaveState { .. } => seen.saved_states += 1,
                SlotChange::Truncate { .. } => {
                    seen.states_back += u64::from(self.config.state.is_some());
                }
                _ => {}
            }
        }
        assert!(plan.chunks.len() <= self.config.max_num_seqs);
        self.results.push_back(self.device.run(plan));
        let shape = self.scheduler.newest_shape();
        assert_eq!(shape.rows, plan.tokens(), "what was planned");
        self.shapes.push_back(shape);
        self.scheduler.check();
        // Siblings are the exception: they wait for a prompt, and come next after it. Who needs a
        // adapter slot may be overtaken too; how often is a test of the scheduler's own. And who
        // starts again without the cache does so behind those who go on.
        let queued = |id: &u64| {
            let new = &self.requests[*id as usize].new;
            let is_broken = self.device.broken.contains(id);
            new.primary.is_none() && new.adapter == AdapterId(0) && !is_broken
        };
        let last_open = self.device.open_seeds().filter(queued).max();
        let in_order = |request: &&Request| {
            let id = request.new.id.0;
            queued(&id) && Some(id) < last_open && !request.ended
        };
        for request in self.requests.iter().filter(in_order) {
            let id = request.new.id;
            assert!(self.device.open_seeds().any(|seed| seed == id.0), "{id} was overtaken");
        }
    }

    /// Let the model guess, if one drafts.
    fn draft(&mut self) {
        let plans = self.scheduler.plan_drafts();
        let Some(device) = &mut self.drafting else { return assert!(plans.is_empty()) };
        let results: Vec<StepResult> = plans.iter().map(|plan| device.run(plan)).collect();
        if !plans.is_empty() {
            self.scheduler.take_drafts(&results);
        }
        self.scheduler.check();
    }

    fn cancel(&mut self, chance: usize) {
        if self.rng.percent(chance) && !self.requests.is_empty() {
            let victim = self.rng.below(self.requests.len());
            let request = &mut self.requests[victim];
            assert_eq!(self.scheduler.finish(request.new.id), !request.ended, "it was there");
            self.seen.cancelled += u64::from(!request.ended);
            request.ended = true;
        }
    }

    fn settle(&mut self, result: &StepResult) {
        let shape = self.shapes.pop_front().expect("a shape of each step");
        self.scheduler.learn(shape, self.cost.ms(&shape));
        let arrivals = self.scheduler.commit(result);
        let mut came: Vec<usize> = arrivals.iter().map(|arrival| arrival.sample).collect();
        came.dedup();
        self.seen.dropped_tokens += (result.samples.len() - came.len()) as u64;
        let left = arrivals.iter().filter(|arrival| arrival.at_limit).map(|arrival| arrival.id);
        let left: Vec<RequestId> = left.collect();
        let mut stopped = Vec::new();
        for arrival in arrivals {
            // Accepted with the token that ended it.
            if stopped.contains(&arrival.id) {
                continue;
            }
            let request = &mut self.requests[arrival.id.index()];
            assert!(!request.ended, "request {} got a token after its end", arrival.id);
            let Ok(token) = arrival.token else {
                assert!(!self.scheduler.finish(arrival.id), "it has left");
                self.seen.broken += 1;
                request.ended = true;
                continue;
            };

            request.outputs.push(token);
            let max_tokens = request.new.max_tokens as usize;
            let room = self.config.max_model_len - request.new.prompt.len();
            let last = request.outputs.len() == max_tokens.min(room);
            assert_eq!(arrival.at_limit, last, "request {}: its last token", arrival.id);

            if request.stop == Some(token) {
                assert_eq!(self.scheduler.finish(arrival.id), !left.contains(&arrival.id));
                stopped.push(arrival.id);
                self.seen.stopped += 1;
                request.ended = true;
            } else if last {
                self.seen.at_limit += 1;
                request.ended = true;
            }
        }
    }

    fn all_ended(&self) -> bool {
        self.requests.iter().all(|request| request.ended)
    }

    /// Nothing is in flight: if anything is left to do, a plan must come.
    fn check_not_stuck(&mut self, total: usize) {
        if self.all_ended() {
            assert!(self.requests.len() < total);
            return;
        }
        let Some(plan) = self.scheduler.plan() else { panic!("work, and no step for it") };
        self.enqueue(&plan);
    }

    fn check_end(mut self) -> Coverage {
        assert!(self.scheduler.plan().is_none(), "a step for nobody");
        let stats = self.scheduler.stats();
        assert_eq!((stats.running, stats.waiting, stats.kv_usage), (0, 0, 0.0));
        for request in &self.requests {
            let right = straight_run(&request.new, request.outputs.len());
            assert_eq!(request.outputs, right, "request {}: its tokens", request.new.id);
        }
        self.seen.preemptions = stats.preemptions;
        self.seen.hit_tokens = stats.prefix_hits_tokens;
        self.seen.image_tokens = self.device.image_tokens;
        self.seen.image_drafts = self.device.image_drafts;
        self.seen.guesses = self.drafting.as_ref().map_or(0, |device| device.judged);
        if let Some(drafts) = self.scheduler.draft_stats() {
            self.seen.drafts = drafts.draft_tokens;
            self.seen.accepted_drafts = drafts.accepted_tokens;
        }
        self.seen
    }
}

fn random_tokens(rng: &mut Rng, count: usize) -> Vec<TokenId> {
    (0..count).map(|_| TokenId(rng.below(VOCAB as usize) as u32)).collect()
}

// ---- the tests ----------------------------------------------------------------------------------

/// Says how to repeat a workload that fails.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("repeat it: SIM_SEED={} cargo test --release --test sim", self.0);
        }
    }
}

fn simulate(seed: u64) -> Coverage {
    let _named = Named(seed);
    Engine::new(seed).run()
}

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, got {text}")))
}

#[test]
fn every_request_gets_its_own_tokens_and_every_page_comes_back() {
    let seeds = match from_environment("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..from_environment("SIM_ROUNDS").unwrap_or(ROUNDS),
    };
    let many = seeds.end - seeds.start >= 100;
    let mut sum = Coverage::default();
    for seed in seeds {
        sum.add(&simulate(seed));
    }
    println!("{sum:?}");

    let rare = [
        sum.led,
        sum.preemptions,
        sum.hit_tokens,
        sum.cut_chunks,
        sum.stopped,
        sum.at_limit,
        sum.cancelled,
        sum.broken,
        sum.dropped_tokens,
        sum.taken_adapter_slots,
        sum.restored_states,
        sum.states_back,
        sum.accepted_drafts,
        sum.guesses,
        sum.drafts - sum.accepted_drafts,
        sum.image_tokens,
        sum.image_drafts,
    ];
    assert!(!many || rare.iter().all(|&count| count >= 100), "too little happened: {sum:?}");
}

/// No order of a hash table, no address and no clock decides anything.
#[test]
fn the_same_workload_gives_the_same_plans() {
    for seed in 0..100 {
        assert_eq!(simulate(seed), simulate(seed), "seed {seed}");
    }
}
