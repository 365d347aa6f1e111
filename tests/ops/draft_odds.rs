//! Drafts by chance: what is accepted of them and what is put in their place are together
//! distributed as tokens without drafts. 100 000 draws of each sampler from a small vocabulary,
//! beside their probabilities in f64. Part of `drafts`.

use super::*;
use triton_vllm::plan::TokenMasks;
use triton_vllm::sampling::SamplerSpec;

const VOCAB: usize = 12;
const DRAWS: usize = 100_000;
const SLOTS: usize = 32;
const DRAFTS: usize = 3;
/// Tokens of a sequence behind its prompt, at least; then another one begins.
const OUTPUTS: usize = 40;
const LONGEST: usize = 64;
/// Cells with fewer expected draws are one.
const LEAST_EXPECTED: f64 = 20.0;
/// Standard deviations that a sum of squares may be away from what is expected.
const BOUND: f64 = 5.0;

/// Logits of each token behind each: `[before][token]`.
fn table() -> Vec<[f32; VOCAB]> {
    let mut noise = Noise(77);
    let mut row = |_| std::array::from_fn(|_| 2.5 * noise.next());
    (0..VOCAB).map(&mut row).collect()
}

fn samplers() -> Vec<SamplerSpec> {
    let base = SamplerSpec { temperature: 1.0, ..SamplerSpec::default() };
    vec![
        base.clone(),
        SamplerSpec { temperature: 0.5, ..base.clone() },
        SamplerSpec { temperature: 1.8, ..base.clone() },
        SamplerSpec { top_k: 4, ..base.clone() },
        SamplerSpec { top_p: 0.8, ..base.clone() },
        SamplerSpec { min_p: 0.1, temperature: 1.3, ..base.clone() },
        SamplerSpec { top_k: 7, top_p: 0.9, min_p: 0.03, temperature: 1.5, ..base.clone() },
        SamplerSpec {
            repetition_penalty: 1.3,
            frequency_penalty: 0.2,
            presence_penalty: 0.3,
            ..base
        },
    ]
}

/// The probability of each token behind these, by the definitions of the sampling parameters.
fn odds(spec: &SamplerSpec, logits: &[f32], prompt: &[usize], outputs: &[usize]) -> Vec<f64> {
    let penalised = logits.iter().enumerate().map(|(token, &logit)| {
        let count = outputs.iter().filter(|&&output| output == token).count() as f64;
        let mut x = f64::from(logit);
        if count > 0.0 || prompt.contains(&token) {
            let penalty = f64::from(spec.repetition_penalty);
            x = if x > 0.0 { x / penalty } else { x * penalty };
        }
        let presence = f64::from(spec.presence_penalty) * f64::from(count > 0.0);
        (x - f64::from(spec.frequency_penalty) * count - presence) / f64::from(spec.temperature)
    });
    let x: Vec<f64> = penalised.collect();
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|&a, &b| x[b].total_cmp(&x[a]));

    let most = if spec.top_k == 0 { x.len() } else { spec.top_k as usize };
    let weight = |token: usize| (x[token] - x[order[0]]).exp();
    let likely = |&&token: &&usize| weight(token) >= f64::from(spec.min_p);
    let left: Vec<usize> = order.iter().take(most).filter(likely).copied().collect();
    let all: f64 = left.iter().map(|&token| weight(token)).sum();
    let mut odds = vec![0.0; x.len()];
    let mut before = 0.0;
    for token in left {
        if before < f64::from(spec.top_p) * all {
            odds[token] = weight(token);
        }
        before += weight(token);
    }
    let sum: f64 = odds.iter().sum();
    odds.into_iter().map(|weight| weight / sum).collect()
}

/// Draws behind each token, and how many were expected: `[before][token]`.
struct Counts {
    drawn: Vec<[f64; VOCAB]>,
    expected: Vec<[f64; VOCAB]>,
    draws: usize,
}

impl Counts {
    fn add(&mut self, spec: &SamplerSpec, table: &[[f32; VOCAB]], prompt: usize, tokens: &[usize]) {
        let (newest, known) = tokens.split_last().expect("a token that was drawn");
        let before = *known.last().expect("a prompt");
        let (prompt, outputs) = known.split_at(prompt);
        let odds = odds(spec, &table[before], prompt, outputs);
        assert!(odds[*newest] > 0.0, "{newest} is no answer: {odds:?}, {spec:?}");
        self.drawn[before][*newest] += 1.0;
        for (sum, p) in self.expected[before].iter_mut().zip(odds) {
            *sum += p;
        }
        self.draws += 1;
    }

    /// How many standard deviations that sum is above what is expected.
    fn away(&self) -> f64 {
        let (sum, freedom) = self.chi_square();
        (sum - freedom) / (2.0 * freedom).sqrt()
    }

    /// The sum of squares over all cells, and its degrees of freedom.
    fn chi_square(&self) -> (f64, f64) {
        let (mut sum, mut freedom) = (0.0, 0.0);
        for (drawn, expected) in self.drawn.iter().zip(&self.expected) {
            let (mut rare_drawn, mut rare_expected, mut cells) = (0.0, 0.0, 0.0);
            let square = |o: f64, e: f64| (o - e).powi(2) / e;
            for (&o, &e) in drawn.iter().zip(expected) {
                if e < LEAST_EXPECTED {
                    (rare_drawn, rare_expected) = (rare_drawn + o, rare_expected + e);
                } else {
                    sum += square(o, e);
                    cells += 1.0;
                }
            }
            if rare_expected >= LEAST_EXPECTED {
                sum += square(rare_drawn, rare_expected);
                cells += 1.0;
            }
            freedom += f64::max(cells - 1.0, 0.0);
        }
        (sum, freedom)
    }
}

/// A sequence in a slot.
struct Drawing {
    tokens: Vec<usize>,
    prompt: usize,
    fed: usize,
    /// How many of its newest positions were rejected.
    rejected: usize,
    /// The first of its drafts, if it has fed some.
    draft: Option<usize>,
}

struct Rig {
    dev: Cpu,
    table: Weight,
    head: Weight,
    x: Tensor,
    picked: Tensor,
    logits: Tensor,
    step: u64,
}

impl Rig {
    fn new(logits_of: &[[f32; VOCAB]]) -> Rig {
        let mut dev = Cpu::new(1).unwrap();
        let rows = SLOTS * (1 + DRAFTS);
        let (pages, page_size) = (1 + SLOTS * LONGEST / 16, 16);
        let limits = DeviceLimits {
            step_tokens: rows,
            slots: SLOTS,
            logits_rows: rows,
            pages,
            page_size,
            max_model_len: LONGEST,
            kv: no_kv(),
            state: Default::default(),
            snapshots: 0,
            spares: 0,
        };
        // A token's vector has a one in its own place, so that the head's columns are its logits.
        let one = |i: usize| if i.is_multiple_of(VOCAB + 1) { 1.0 } else { 0.0 };
        let ones: Vec<f32> = (0..VOCAB * VOCAB).map(one).collect();
        let columns: Vec<f32> =
            (0..VOCAB).flat_map(|token| logits_of.iter().map(move |row| row[token])).collect();
        let shape = (VOCAB, VOCAB);
        let table = upload(&mut dev, WeightKind::Table, DType::F32, shape, &ones);
        let head = upload(&mut dev, WeightKind::Linear, DType::F32, shape, &columns);
        let [x, picked] = [(); 2].map(|()| dev.tensor(rows, VOCAB).unwrap());
        let logits = dev.logits_tensor(rows, VOCAB).unwrap();
        dev.reserve(&limits).unwrap();
        Rig { dev, table, head, x, picked, logits, step: 0 }
    }

    /// What each chunk of the plan came to.
    fn run(&mut self, mut plan: StepPlan) -> Vec<Vec<usize>> {
        let Rig { dev, table, head, x, picked, logits, step } = self;
        *step += 1;
        plan.step = *step;
        dev.begin(&plan).unwrap();
        dev.embed(table, 1.0, x).unwrap();
        dev.gather(x, picked).unwrap();
        dev.logits(head, None, picked, logits).unwrap();
        dev.forwarded().unwrap();
        dev.sample(logits, &TokenMasks::default()).unwrap();
        let samples = dev.collect().unwrap().samples.into_iter();
        let tokens = samples.map(|sample| sample.tokens.expect("finite rows"));
        tokens.map(|tokens| tokens.iter().map(|token| token.index()).collect()).collect()
    }
}

fn ids(tokens: &[usize]) -> Vec<TokenId> {
    tokens.iter().map(|&token| TokenId(token as u32)).collect()
}

fn below(noise: &mut Noise, bound: usize) -> usize {
    ((noise.next() + 1.0) / 2.0 * bound as f32) as usize % bound
}

/// Half of them by chance, half the likeliest behind the token before.
fn guesses(logits_of: &[[f32; VOCAB]], newest: usize, noise: &mut Noise) -> Vec<usize> {
    let mut tokens = vec![newest];
    for _ in 0..DRAFTS {
        let row = &logits_of[tokens[tokens.len() - 1]];
        let likeliest = (0..VOCAB).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
        let by_chance = below(noise, VOCAB);
        tokens.push(if below(noise, 2) == 0 { by_chance } else { likeliest });
    }
    tokens.split_off(1)
}

fn open_slot(slot: SlotId, tokens: &[usize], spec: SamplerSpec) -> [SlotChange; 2] {
    let each = (LONGEST / 16) as u32;
    let pages = (0..each).map(|page| PageId(1 + slot.0 * each + page)).collect();
    let open = SlotOpen {
        slot,
        adapter: AdapterId(0),
        tokens: ids(tokens).into(),
        prompt_tokens: tokens.len() as u32,
        cached_tokens: 0,
        sampler: Arc::new(spec),
    };
    let pages = SlotChange::Pages { slot, group: GroupId(0), pages };
    [SlotChange::Open(Box::new(open)), pages]
}

/// 100 000 draws of a sampler, and how many drafts were accepted and rejected. Of a hundred steps
/// with drafts so many take the first one unasked, as long as it is possible at all.
fn draw(spec: &SamplerSpec, logits_of: &[[f32; VOCAB]], unasked: usize) -> (Counts, [usize; 2]) {
    let mut rig = Rig::new(logits_of);
    let none = || vec![[0.0; VOCAB]; VOCAB];
    let mut counts = Counts { drawn: none(), expected: none(), draws: 0 };
    let mut drawing: Vec<Option<Drawing>> = (0..SLOTS).map(|_| None).collect();
    let mut noise = Noise(5);
    let (mut seed, mut fates) = (0, [0; 2]);
    while counts.draws < DRAWS {
        let mut plan = StepPlan::default();
        for (n, place) in drawing.iter_mut().enumerate() {
            let slot = SlotId(n as u32);
            let over = |d: &&mut Drawing| d.tokens.len() - d.prompt >= OUTPUTS;
            if place.as_mut().filter(over).is_some() {
                *place = None;
                plan.changes.push(SlotChange::Close { slot });
            }
            let Some(d) = place else {
                let prompt: Vec<usize> = (0..2).map(|_| below(&mut noise, VOCAB)).collect();
                seed += 1;
                plan.changes.extend(open_slot(slot, &prompt, SamplerSpec { seed, ..spec.clone() }));
                let start = plan.chunk_tokens.len();
                plan.chunk_tokens.extend(ids(&prompt));
                plan.push(slot, Feed::Known(start..start + prompt.len()), true);
                let fed = prompt.len();
                let (rejected, draft) = (0, None);
                *place = Some(Drawing { prompt: fed, tokens: prompt, fed, rejected, draft });
                continue;
            };
            if d.rejected > 0 {
                plan.changes.push(SlotChange::Truncate { slot, length: d.fed as u32 });
            }
            let newest = *d.tokens.last().unwrap();
            let drafts = guesses(logits_of, newest, &mut noise);
            plan.push_drafts(slot, TokenId(newest as u32), &ids(&drafts));
            d.draft = drafts.first().copied();
            d.fed += 1 + DRAFTS;
        }

        for (place, mut came) in drawing.iter_mut().zip(rig.run(plan)) {
            let d = place.as_mut().unwrap();
            if let Some(draft) = d.draft.filter(|_| below(&mut noise, 100) < unasked) {
                came = vec![draft];
            }
            d.rejected = if d.draft.is_some() { 1 + DRAFTS - came.len() } else { 0 };
            d.fed -= d.rejected;
            fates[0] += came.len() - 1;
            fates[1] += usize::from(d.rejected > 0);
            for token in came {
                d.tokens.push(token);
                counts.add(spec, logits_of, d.prompt, &d.tokens);
            }
        }
    }
    (counts, fates)
}

#[test]
fn drafts_by_chance_change_no_odds() {
    let logits_of = table();
    for spec in samplers() {
        let (counts, [accepted, rejected]) = draw(&spec, &logits_of, 0);
        let (sum, freedom) = counts.chi_square();
        let away = counts.away();
        println!(
            "{} draws, {accepted} drafts accepted, {rejected} times one rejected: {sum:.1} of \
             {freedom} degrees of freedom, {away:+.2} standard deviations; {spec:?}",
            counts.draws
        );
        assert!(accepted > DRAWS / 10 && rejected > DRAWS / 10, "{accepted}, {rejected}");
        assert!(freedom >= 20.0, "{freedom} degrees of freedom");
        // Behind penalties each draw has odds of its own, which makes the sum smaller.
        let penalties = spec.repetition_penalty != 1.0;
        assert!(away < BOUND && (penalties || away > -BOUND), "{away} of {BOUND}: {spec:?}");
    }
}

/// What is held to the bound is not blind: where one draft in twelve is taken unasked, it
/// shows.
#[test]
fn drafts_that_are_taken_unasked_are_noticed() {
    let logits_of = table();
    for temperature in [0.5, 1.0, 1.8] {
        let spec = SamplerSpec { temperature, ..SamplerSpec::default() };
        let away = draw(&spec, &logits_of, 8).0.away();
        println!("{away:+.1} standard deviations at temperature {temperature}");
        assert!(away > 2.0 * BOUND, "{away} at temperature {temperature}");
    }
}
