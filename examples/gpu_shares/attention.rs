//! Attention alone, one shape after the other, each on a device of its own. A step holds many
//! `attend` calls over layers whose K and V together do not fit the GPU's L2; its time less that of
//! a step with fewer, divided by the calls between, is the figure. Decode steps replay a CUDA
//! graph, so the host's launches do not count. K and V are random and written by the device's own
//! store. A second table has pages of eight bits beside those of bf16.

use std::time::Instant;

use triton_vllm::device::cuda::weights::Weight;
use triton_vllm::device::cuda::{Cuda, Tensor};
use triton_vllm::device::ops::*;
use triton_vllm::device::{
    AttnSpec, DType, DeviceLimits, Join, KvScales, KvShape, KvType, Source, WeightDesc, WeightKind,
};
use triton_vllm::error::Result;
use triton_vllm::ids::{AdapterId, GroupId, PageId, SlotId, TokenId};
use triton_vllm::plan::{Feed, SlotChange, SlotOpen, StepPlan, TokenMasks};

use crate::floor::Floor;
use crate::gpu::{median, PAGE};

const STEP_TOKENS: usize = 8192;
/// Rows of the table that q, k and v are looked up in.
const VOCAB: usize = 4096;
/// Bytes of K and V that calls go round: several times an L2.
const ROUND_BYTES: usize = 200 << 20;
const MOST_LAYERS: usize = 64;
/// What the calls of a step are to take together, by FlashAttention-3's time.
const STEP_US: f64 = 20_000.0;
/// Enough to learn the heads, meet the size, record it and replay it.
const WARM_STEPS: usize = 4;
const STEPS: usize = 9;
/// Coprime to the number of pages: neighbours in a sequence lie apart in the pool.
const PAGE_STRIDE: usize = 7919;

/// [q heads, KV heads, elements of a head]
type Heads = [usize; 3];
const LLAMA_8B: Heads = [32, 8, 128];
const QWEN_HALF_B: Heads = [14, 2, 64];
const GPT2: Heads = [12, 12, 64];
const GEMMA_2B: Heads = [8, 4, 256];

/// Tokens of a sequence that the step feeds, after so many that are in pages.
#[derive(Clone, Copy)]
struct Sequence {
    cached: usize,
    tokens: usize,
}

struct Shape {
    name: &'static str,
    heads: Heads,
    sequences: Vec<Sequence>,
    /// Of pages.
    kv: KvType,
    /// FlashAttention-3's time on one H200, pages of 16; None: not measured.
    peer_us: Option<f64>,
}

/// `count` sequences of `length` with their newest token.
fn decode(count: usize, length: usize) -> Vec<Sequence> {
    vec![Sequence { cached: length - 1, tokens: 1 }; count]
}

fn prompts(count: usize, tokens: usize) -> Vec<Sequence> {
    vec![Sequence { cached: 0, tokens }; count]
}

/// 64 lengths from 128 to 8192, 150 thousand tokens in all, in no order.
fn ragged() -> Vec<Sequence> {
    let length = |i: usize| 128 + (8064.0 * ((i * 37 % 64) as f64 / 63.0).powf(2.68)) as usize;
    (0..64).map(|i| Sequence { cached: length(i) - 1, tokens: 1 }).collect()
}

fn shapes() -> Vec<Shape> {
    let one = |name, heads, sequences, peer_us| {
        let peer_us = Some(peer_us);
        Shape { name, heads, sequences, kv: KvType::BF16, peer_us }
    };
    let mixed = || [prompts(1, 1536), decode(128, 1024)].concat();
    let chunk = || vec![Sequence { cached: 16_384 - 2048, tokens: 2048 }];

    vec![
        one("decode 1 x 2048", LLAMA_8B, decode(1, 2048), 11.4),
        one("decode 1 x 16384", LLAMA_8B, decode(1, 16_384), 25.7),
        one("decode 1 x 65536", LLAMA_8B, decode(1, 65_536), 72.9),
        one("decode 8 x 2048", LLAMA_8B, decode(8, 2048), 25.0),
        one("decode 64 x 2048", LLAMA_8B, decode(64, 2048), 134.0),
        one("decode 256 x 576", LLAMA_8B, decode(256, 576), 182.0),
        one("decode 32 x 8192", LLAMA_8B, decode(32, 8192), 250.0),
        one("decode ragged, 64 x 128..8192", LLAMA_8B, ragged(), 184.0),
        one("prefill 1 x 512", LLAMA_8B, prompts(1, 512), 15.6),
        one("prefill 16 x 512", LLAMA_8B, prompts(16, 512), 135.0),
        one("prefill 1 x 2048", LLAMA_8B, prompts(1, 2048), 75.0),
        one("prefill 4 x 2048", LLAMA_8B, prompts(4, 2048), 304.0),
        one("prefill 1 x 4096", LLAMA_8B, prompts(1, 4096), 247.0),
        one("prefill 1 x 8192", LLAMA_8B, prompts(1, 8192), 969.0),
        one("chunk 2048 at 16384", LLAMA_8B, chunk(), 862.0),
        one("mixed, chunk 1536 + 128 decodes at 1024", LLAMA_8B, mixed(), 210.0),
        one("decode 64 x 2048, 14/2 heads, d 64", QWEN_HALF_B, decode(64, 2048), 27.4),
        one("decode 100 x 512, 12/12 heads, d 64", GPT2, decode(100, 512), 70.5),
        one("decode 64 x 2048, 8/4 heads, d 256", GEMMA_2B, decode(64, 2048), 139.0),
        one("prefill 1 x 4096, 14/2 heads, d 64", QWEN_HALF_B, prompts(1, 4096), 90.0),
        one("prefill 1 x 4096, 8/4 heads, d 256", GEMMA_2B, prompts(1, 4096), 115.0),
    ]
}

/// What is measured over pages of several types.
fn shapes_by_pages() -> Vec<Shape> {
    let one = |name, heads, sequences| {
        let kv = KvType::BF16;
        Shape { name, heads, sequences, kv, peer_us: None }
    };
    let mixed = [prompts(1, 1536), decode(128, 1024)].concat();
    let chunk = vec![Sequence { cached: 16_384 - 2048, tokens: 2048 }];

    vec![
        one("decode 64 x 8192", LLAMA_8B, decode(64, 8192)),
        one("decode 64 x 2048", LLAMA_8B, decode(64, 2048)),
        one("decode 256 x 576", LLAMA_8B, decode(256, 576)),
        one("decode 1 x 16384", LLAMA_8B, decode(1, 16_384)),
        one("decode ragged, 64 x 128..8192", LLAMA_8B, ragged()),
        one("prefill 1 x 4096", LLAMA_8B, prompts(1, 4096)),
        one("chunk 2048 at 16384", LLAMA_8B, chunk),
        one("mixed, chunk 1536 + 128 decodes at 1024", LLAMA_8B, mixed),
        one("decode 64 x 2048, 14/2 heads, d 64", QWEN_HALF_B, decode(64, 2048)),
        one("decode 64 x 2048, 8/4 heads, d 256", GEMMA_2B, decode(64, 2048)),
        one("prefill 1 x 4096, 8/4 heads, d 256", GEMMA_2B, prompts(1, 4096)),
    ]
}

impl Shape {
    fn attn(&self) -> AttnSpec {
        let [heads, kv_heads, head_dim] = self.heads;
        let scale = (head_dim as f32).sqrt().recip();
        AttnSpec {
            heads,
            kv_heads,
            head_dim,
            scale,
            window: None,
            chunk: None,
            softcap: None,
            kv_scales: KvScales::ONE,
            q_only: false,
        }
    }

    /// Bytes of K and V of all positions, one layer's.
    fn kv_bytes(&self) -> usize {
        let [_, kv_heads, dim] = self.heads;
        let positions: usize = self.sequences.iter().map(|s| s.cached + s.tokens).sum();
        positions * 2 * kv_heads * dim * self.kv.bytes()
    }

    /// Bytes that a perfect kernel moves: K, V and q in, the result out.
    fn bytes(&self) -> usize {
        let [heads, _, dim] = self.heads;
        let rows: usize = self.sequences.iter().map(|s| s.tokens).sum();
        self.kv_bytes() + 2 * rows * heads * dim * DType::BF16.bytes()
    }

    /// Two products over all pairs of a token and a key that it sees.
    fn flops(&self) -> usize {
        let [heads, _, dim] = self.heads;
        let pairs = |s: &Sequence| s.tokens * s.cached + s.tokens * (s.tokens + 1) / 2;
        4 * heads * dim * self.sequences.iter().map(pairs).sum::<usize>()
    }

    fn floor(&self) -> Floor {
        Floor::new(self.bytes() as u64, self.flops() as u64, DType::BF16)
    }

    /// As the peer's is written: TB/s where a sequence decodes, else TFLOP/s.
    fn rate(&self, us: f64) -> (f64, &'static str) {
        if self.sequences.iter().any(|s| s.tokens == 1) {
            (self.bytes() as f64 / us / 1e6, "TB/s")
        } else {
            (self.flops() as f64 / us / 1e6, "TFLOP/s")
        }
    }
}

struct Bench<'a> {
    shape: &'a Shape,
    attn: AttnSpec,
    dev: Cuda,
    layers: usize,
    pages: usize,
    /// Where each sequence's pages begin, before they are scattered.
    first_page: Vec<usize>,
    table: Weight,
    qkv: Tensor,
    out: Tensor,
    logits: Tensor,
    changes: Vec<SlotChange>,
    step: u64,
}

impl<'a> Bench<'a> {
    fn new(shape: &'a Shape) -> Result<Bench<'a>> {
        let dtype = DType::BF16;
        let attn = shape.attn();
        let AttnSpec { heads, kv_heads, head_dim, .. } = attn;
        let layers = ROUND_BYTES.div_ceil(shape.kv_bytes()).clamp(4, MOST_LAYERS);
        let mut first_page = Vec::new();
        let mut pages = 0;
        for s in &shape.sequences {
            first_page.push(pages);
            pages += (s.cached + s.tokens).div_ceil(PAGE);
        }
        pages += usize::from(pages.is_multiple_of(PAGE_STRIDE));
        let longest = shape.sequences.iter().map(|s| s.cached + s.tokens).max().unwrap_or(1);
        // As many as a decode step may be padded to.
        let slots = shape.sequences.len().next_multiple_of(64);
        let limits = DeviceLimits {
            step_tokens: STEP_TOKENS,
            slots,
            logits_rows: slots,
            pages: 1 + pages,
            page_size: PAGE,
            max_model_len: longest,
            kv: KvShape::heads(layers, kv_heads, head_dim, shape.kv),
            state: Default::default(),
            snapshots: 0,
            spares: 0,
        };
        let mut dev = Cuda::open(0, dtype)?;
        let width = (heads + 2 * kv_heads) * head_dim;
        let table = dev.upload(WeightDesc {
            quant: None,
            name: "q, k and v",
            kind: WeightKind::Table,
            outputs: VOCAB,
            inputs: width,
            dtype,
            transposed: false,
            join: Join::None,
            source: Source::Dummy { seed: 1, scale: 1.0 },
        })?;
        let qkv = dev.tensor(STEP_TOKENS, width)?;
        let out = dev.tensor(STEP_TOKENS, heads * head_dim)?;
        let logits = dev.logits_tensor(slots, VOCAB)?;
        dev.fill(&qkv, 0)?;
        dev.fill(&logits, 0)?;
        dev.reserve(&limits)?;
        let changes = Vec::new();
        #[rustfmt::skip]
        let bench = Bench {
            shape, attn, dev, layers, pages, first_page, table, qkv, out, logits, changes, step: 0,
        };
        Ok(bench)
    }

    /// Open slot `n` for its sequence, again if it was, with so many positions done.
    fn open(&mut self, n: usize, cached: usize) {
        let Sequence { cached: before, tokens } = self.shape.sequences[n];
        let slot = SlotId(n as u32);
        self.changes.push(SlotChange::Open(Box::new(SlotOpen {
            slot,
            adapter: AdapterId(0),
            tokens: [].into(),
            prompt_tokens: 0,
            cached_tokens: cached as u32,
            sampler: Default::default(),
        })));
        let scattered = |i: usize| PageId(1 + ((i * PAGE_STRIDE) % self.pages) as u32);
        let first = self.first_page[n];
        let pages = (first..first + (before + tokens).div_ceil(PAGE)).map(scattered).collect();
        self.changes.push(SlotChange::Pages { slot, group: GroupId(0), pages });
    }

    /// One step: `work` between its begin and its end.
    fn step(
        &mut self,
        mut plan: StepPlan,
        tokens: usize,
        work: impl FnOnce(&mut Bench<'a>) -> Result<()>,
    ) -> Result<()> {
        self.step += 1;
        let token = |i: usize| TokenId((i * 7919 + 13 * self.step as usize) as u32 % VOCAB as u32);
        plan.step = self.step;
        plan.chunk_tokens = (0..tokens).map(token).collect();
        plan.changes = std::mem::take(&mut self.changes);
        self.dev.begin(&plan)?;
        work(self)?;
        self.dev.sample(&mut self.logits, &TokenMasks::default())?;
        self.dev.collect().map(drop)
    }

    /// Write K and V of all positions, in all layers.
    fn store(&mut self) -> Result<()> {
        let mut plan = StepPlan::default();
        let mut tokens = 0;
        for n in 0..self.shape.sequences.len() {
            self.open(n, 0);
            let Sequence { cached, tokens: fed } = self.shape.sequences[n];
            let mut left = cached + fed;
            while left > 0 {
                let count = left.min(STEP_TOKENS - tokens);
                plan.push(SlotId(n as u32), Feed::Known(tokens..tokens + count), false);
                (left, tokens) = (left - count, tokens + count);
                if tokens == STEP_TOKENS {
                    self.step(std::mem::take(&mut plan), tokens, Bench::store_step)?;
                    tokens = 0;
                }
            }
        }
        match tokens {
            0 => Ok(()),
            _ => self.step(plan, tokens, Bench::store_step),
        }
    }

    fn store_step(&mut self) -> Result<()> {
        self.dev.embed(&self.table, 1.0, &mut self.qkv)?;
        for layer in 0..self.layers {
            self.dev.rope_store(layer, &self.attn, None, &mut self.qkv)?;
        }
        Ok(())
    }

    /// The shape's step with so many calls of `attend`: its microseconds. The slots are opened
    /// anew, so every step is the same.
    fn attend(&mut self, calls: usize) -> Result<f64> {
        let mut plan = StepPlan::default();
        let mut tokens = 0;
        for n in 0..self.shape.sequences.len() {
            let Sequence { cached, tokens: fed } = self.shape.sequences[n];
            self.open(n, cached);
            let feed = match fed {
                1 => Feed::LastSampled,
                _ => Feed::Known(tokens..tokens + fed),
            };
            tokens += if fed > 1 { fed } else { 0 };
            plan.push(SlotId(n as u32), feed, true);
        }
        self.dev.wait()?;
        let start = Instant::now();
        self.step(plan, tokens, |b| {
            for call in 0..calls {
                b.dev.attend(call % b.layers, &b.attn, None, &b.qkv, &mut b.out)?;
            }
            Ok(())
        })?;
        Ok(start.elapsed().as_secs_f64() * 1e6)
    }

    fn median_us(&mut self, calls: usize) -> Result<f64> {
        self.dev.forget_steps();
        for _ in 0..WARM_STEPS {
            self.attend(calls)?;
        }
        (0..STEPS).map(|_| self.attend(calls)).collect::<Result<_>>().map(median)
    }

    /// Microseconds of one call.
    fn time(&mut self) -> Result<f64> {
        self.store()?;
        // Before a step has shown the number of heads a device runs its plain kernel: a short one.
        self.open(0, 0);
        let mut plan = StepPlan::default();
        plan.push(SlotId(0), Feed::LastSampled, true);
        self.step(plan, 0, |b| b.dev.attend(0, &b.attn, None, &b.qkv, &mut b.out))?;
        self.dev.steady();
        let about_us = self.shape.peer_us.unwrap_or_else(|| self.shape.floor().us());
        let many = (STEP_US / about_us).clamp(16.0, 80.0) as usize;
        let few = many / 4;
        let few_us = self.median_us(few)?;
        Ok((self.median_us(many)? - few_us) / (many - few) as f64)
    }
}

impl Shape {
    /// Columns of a table that say how `us` compares with what is possible.
    fn near(&self, us: f64) -> String {
        let (rate, unit) = self.rate(us);
        let floor = self.floor();
        let digits = if rate < 10.0 { 2 } else { 0 };
        let (near, floor_us, bound) = (floor.percent(us), floor.us(), floor.bound());
        format!("{us:.1} | {rate:.digits$} {unit} | {near:.0} % of {floor_us:.1} us ({bound})")
    }
}

/// Both tables; `word` keeps the shapes with it in their names, "fp8" the second table.
pub fn run(word: &str) -> Result<()> {
    beside_the_peer(word)?;
    beside_bf16(if word == "fp8" { "" } else { word })
}

fn beside_the_peer(word: &str) -> Result<()> {
    let shapes: Vec<Shape> = shapes().into_iter().filter(|s| s.name.contains(word)).collect();
    if shapes.is_empty() {
        return Ok(());
    }
    println!(
        "| attention, bf16, pages of {PAGE} | us | rate | of the floor | FA3 us | FA3 / ours |"
    );
    println!("|---|---|---|---|---|---|");
    for shape in &shapes {
        let us = Bench::new(shape)?.time()?;
        let peer_us = shape.peer_us.unwrap_or(f64::NAN);
        println!("| {} | {} | {peer_us:.1} | {:.2} |", shape.name, shape.near(us), peer_us / us);
    }
    Ok(())
}

fn beside_bf16(word: &str) -> Result<()> {
    let shapes: Vec<Shape> =
        shapes_by_pages().into_iter().filter(|s| s.name.contains(word)).collect();
    if shapes.is_empty() {
        return Ok(());
    }
    println!();
    println!(
        "| attention in bf16 by its pages of {PAGE} | pages | us | rate | of the floor | x bf16 |"
    );
    println!("|---|---|---|---|---|---|");
    for mut shape in shapes {
        let mut bf16_us = f64::NAN;
        for kv in [KvType::BF16, KvType::E4m3, KvType::E5m2] {
            // One size of heads has E5M2 only in its plain kernel, which is not what is measured.
            if kv == KvType::E5m2 && shape.heads[2] == 256 {
                continue;
            }
            shape.kv = kv;
            let us = Bench::new(&shape)?.time()?;
            if kv == KvType::BF16 {
                bf16_us = us;
            }
            let (name, near) = (shape.name, shape.near(us));
            println!("| {name} | {} | {near} | {:.2} |", kv.name(), us / bf16_us);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FlashAttention-3's rates beside its times, as they were measured: our bytes and FLOPs are
    /// counted as theirs.
    #[test]
    fn rates_of_the_peer_are_its_own() {
        let rates = [
            ("decode 1 x 16384", 2.6),
            ("decode 1 x 65536", 3.7),
            ("decode 8 x 2048", 2.7),
            ("decode 64 x 2048", 4.00),
            ("decode 256 x 576", 3.34),
            ("decode 32 x 8192", 4.31),
            ("decode ragged, 64 x 128..8192", 3.34),
            ("prefill 1 x 512", 138.0),
            ("prefill 16 x 512", 256.0),
            ("prefill 1 x 2048", 456.0),
            ("prefill 4 x 2048", 452.0),
            ("prefill 1 x 4096", 557.0),
            ("prefill 1 x 8192", 567.0),
            ("chunk 2048 at 16384", 598.0),
            ("mixed, chunk 1536 + 128 decodes at 1024", 2.7),
            ("decode 64 x 2048, 14/2 heads, d 64", 2.5),
            ("decode 100 x 512, 12/12 heads, d 64", 2.2),
            ("decode 64 x 2048, 8/4 heads, d 256", 3.9),
            ("prefill 1 x 4096, 14/2 heads, d 64", 333.0),
            ("prefill 1 x 4096, 8/4 heads, d 256", 600.0),
        ];
        let shapes = shapes();
        // The first has no rate.
        assert_eq!(shapes.len(), 1 + rates.len());
        for (shape, (name, rate)) in shapes[1..].iter().zip(rates) {
            let peer_us = shape.peer_us.unwrap();
            let ours = shape.rate(peer_us).0;
            assert_eq!(shape.name, name);
            assert!((ours / rate - 1.0).abs() < 0.03, "{name}: {ours} for {rate}");
            let near = shape.floor().percent(peer_us);
            assert!((10.0..100.0).contains(&near), "{name}: {near} %");
        }
    }

    #[test]
    fn floors_are_those_of_the_table() {
        let shapes = shapes();
        let floor = |name: &str| shapes.iter().find(|s| s.name == name).unwrap().floor();
        // 64 x 2048 keys of 4 KiB and 64 rows of q and result of 16 KiB at 4.45 TB/s.
        let decode = floor("decode 64 x 2048");
        assert_eq!(decode.bound(), "bytes");
        assert!((decode.us() - 120.9).abs() < 0.1, "{}", decode.us());
        // 4096 x 4097 / 2 pairs of 16384 FLOP at 989 TFLOP/s.
        let prefill = floor("prefill 1 x 4096");
        assert_eq!(prefill.bound(), "FLOPs");
        assert!((prefill.us() - 139.0).abs() < 0.1, "{}", prefill.us());

        // 64 x 8192 keys of 4 KiB, or of 2.
        let mut long = shapes_by_pages().remove(0);
        assert!((long.floor().us() - 482.8).abs() < 0.1, "{}", long.floor().us());
        long.kv = KvType::E4m3;
        assert!((long.floor().us() - 241.5).abs() < 0.1, "{}", long.floor().us());
    }
}
