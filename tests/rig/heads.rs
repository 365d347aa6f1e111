//! The fixtures of heads that draft from a model's hidden states (fixtures/heads), for the tests of
//! each device: a model and a head on devices of their own, as the engine has them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use triton_vllm::device::ops::*;
use triton_vllm::device::{DType, DeviceLimits, KvType, Rank};
use triton_vllm::ids::{AdapterId, GroupId, PageId, SlotId, TokenId};
use triton_vllm::model::config::{EagleVersion, SpecOptions};
use triton_vllm::model::head_files::CommonEnds;
use triton_vllm::model::{
    head_files, Checkpoint, Decoder, HiddenRows, ModelSpec, Shard, WeightSource,
};
use triton_vllm::plan::{Feed, SlotChange, SlotOpen, StepPlan, TokenMasks};
use triton_vllm::sampling::SamplerSpec;

use super::SUPPORTED;

pub const ROWS: [&str; 8] = [
    "eagle",
    "eagle3",
    "eagle3-speculators",
    "mtp-deepseek-v3",
    "mtp-glm4-moe",
    "mtp-mimo",
    "mtp-qwen3-next",
    "mtp-qwen3_5",
];

fn fixtures() -> PathBuf {
    std::env::var_os("TRITON_VLLM_FIXTURES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"),
        |models| PathBuf::from(models).join(".."),
    )
}

pub struct Case {
    pub ids: Vec<u32>,
    pub next: u32,
    pub drafts: Vec<u32>,
    /// Of each draft.
    pub logits: Vec<Vec<f32>>,
}

/// A row: its model and head, the tokens that the head can say, and what it drafts.
pub struct Row {
    pub target: (ModelSpec, WeightSource),
    pub head: (ModelSpec, WeightSource),
    pub said: Vec<u32>,
    pub cases: Vec<Case>,
}

fn numbers(list: &Value) -> Vec<u32> {
    list.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
}

impl Row {
    pub fn read(row: &str, dtype: &'static str) -> Row {
        let dir = fixtures().join("heads").join(row);
        let text = std::fs::read_to_string(dir.join("expected.json")).unwrap();
        let expected: Value = serde_json::from_str(&text).unwrap();
        let options = SpecOptions { supported: SUPPORTED, dtype, ..SpecOptions::default() };
        let folder = fixtures().join("models").join(expected["target"].as_str().unwrap());
        let spec = ModelSpec::read(&folder, &options).unwrap();
        let mut files = Checkpoint::open(&folder).unwrap();
        let own = Checkpoint::open(&dir).unwrap();
        let version = match expected["method"].as_str().unwrap() {
            "eagle" => Some(EagleVersion::One),
            "eagle3" => Some(EagleVersion::Three),
            _ => None,
        };

        let (target, head) = match version {
            Some(version) => {
                let target = (spec, WeightSource::Files(files));
                let spec = ModelSpec::read_eagle(&dir, version, &options, &target.0).unwrap();
                let own = WeightSource::Files(own);
                let weights = head_files::eagle(own, &spec, &target.0, &target.1);
                (target, (spec, weights))
            }
            None => {
                let names: Vec<String> = own.names().map(String::from).collect();
                for name in names {
                    assert!(files.borrow(&own, &name, &name));
                }
                let target = (spec, WeightSource::Files(files));
                let spec = target.0.next_token_layer().unwrap();
                let weights = head_files::next_token(&spec, &target.0, &target.1).unwrap();
                (target, (spec, weights))
            }
        };
        let case = |case: &Value| Case {
            ids: numbers(&case["ids"]),
            next: case["next"].as_u64().unwrap() as u32,
            drafts: numbers(&case["drafts"]),
            logits: case["logits"]
                .as_array()
                .unwrap()
                .iter()
                .map(super::embeddings::floats)
                .collect(),
        };
        let cases = expected["prompts"].as_array().unwrap().iter().map(case).collect();
        Row { target, head, said: numbers(&expected["tokens"]), cases }
    }
}

/// A model and a head on devices of their own.
pub struct Pair<D: Device> {
    target: (D, Decoder<D>),
    head: (D, Decoder<D>),
    step: u64,
}

/// A draft, and the logits that it was taken from.
pub type Draft = (u32, Vec<f32>);

/// Positions of a page.
pub const PAGE: usize = 16;
/// Those of a pool.
pub const PAGES: usize = 16;

fn limits(spec: &ModelSpec, kv: KvType) -> DeviceLimits {
    let shard = Shard::new(spec, Rank::ALONE).unwrap();
    DeviceLimits {
        step_tokens: 64,
        slots: 3,
        logits_rows: 4,
        pages: PAGES,
        page_size: PAGE,
        max_model_len: 96,
        kv: shard.kv_shape(spec, &spec.kv_shape(Some(kv)).unwrap()),
        state: shard.state_shape(spec),
        snapshots: 0,
        spares: 0,
    }
}

fn tokens(ids: &[u32]) -> Vec<TokenId> {
    ids.iter().map(|&id| TokenId(id)).collect()
}

/// Sequences lie in these pages: positions go through the table.
fn open(slot: u32, ahead: u32) -> Vec<SlotChange> {
    let pages = [[7, 2, 11, 5], [3, 14, 1, 9]][slot as usize];
    opened(SlotId(slot), pages.map(PageId).to_vec(), ahead)
}

/// A slot that begins in these pages.
pub fn opened(slot: SlotId, pages: Vec<PageId>, ahead: u32) -> Vec<SlotChange> {
    let sampler = SamplerSpec { ahead, ..SamplerSpec::default() };
    let open = SlotOpen {
        slot,
        adapter: AdapterId(0),
        tokens: Arc::from([]),
        prompt_tokens: 0,
        cached_tokens: 0,
        sampler: Arc::new(sampler),
    };
    vec![SlotChange::Open(Box::new(open)), SlotChange::Pages { slot, group: GroupId(0), pages }]
}

impl<D: Device> Pair<D> {
    /// `kv`: the type of pages. The head holds all of its own.
    pub fn new(row: &Row, kv: KvType, devices: impl FnMut(DType) -> D) -> Pair<D> {
        Pair::sharing(row, kv, CommonEnds::default(), devices)
    }

    /// The same of a head that has these of its model.
    pub fn sharing(
        row: &Row,
        kv: KvType,
        common: CommonEnds,
        mut devices: impl FnMut(DType) -> D,
    ) -> Pair<D> {
        let (spec, weights) = &row.target;
        let (head_spec, head_weights) = &row.head;
        let mut dev = devices(spec.dtype);
        let sizes = limits(spec, kv);
        let rows = HiddenRows::load(head_spec, head_weights, &mut dev, &sizes).unwrap();
        let mut decoder = Decoder::load(spec, weights, &mut dev, &sizes).unwrap();
        decoder.keep_hidden(rows);
        let mut head = devices(spec.dtype);
        let sizes = limits(head_spec, kv);
        let ends = decoder.ends(common);
        let head_decoder =
            Decoder::load_sharing(head_spec, head_weights, &mut head, &sizes, ends).unwrap();
        Pair { target: (dev, decoder), head: (head, head_decoder), step: 0 }
    }

    /// A step of the model.
    pub fn step(&mut self, plan: &StepPlan) {
        let (dev, decoder) = &mut self.target;
        decoder.step(dev, plan).unwrap();
        decoder.sample(dev, &TokenMasks::default()).unwrap();
        dev.collect().unwrap();
    }

    /// What the head is on.
    pub fn head_device(&self) -> &D {
        &self.head.0
    }

    /// The hidden states as the head would read them now.
    pub fn kept(&mut self) -> &D::Tensor {
        let (dev, decoder) = &mut self.target;
        let rows = decoder.hidden_rows().expect("hidden states");
        rows.read(dev, &mut self.head.0).unwrap()
    }

    fn plan(&mut self, changes: Vec<SlotChange>) -> StepPlan {
        self.step += 1;
        StepPlan { step: self.step, changes, ..StepPlan::default() }
    }

    /// Feed a prompt in chunks to the model: the token behind it.
    pub fn prompt(&mut self, slot: u32, ids: &[u32], chunk: usize) -> u32 {
        let mut changes = open(slot, 0);
        let mut next = None;
        for (n, part) in ids.chunks(chunk).enumerate() {
            let mut plan = self.plan(std::mem::take(&mut changes));
            plan.chunk_tokens = tokens(part);
            let last = (n + 1) * chunk >= ids.len();
            plan.push(SlotId(slot), Feed::Known(0..part.len()), last);
            let (dev, decoder) = &mut self.target;
            decoder.step(dev, &plan).unwrap();
            decoder.sample(dev, &TokenMasks::default()).unwrap();
            let result = dev.collect().unwrap();
            next = result.samples.first().map(|sample| sample.tokens.as_ref().unwrap()[0].0);
        }
        next.expect("a token")
    }

    /// What the head drafts behind a prompt that the model was fed and the token behind it, itself
    /// fed in chunks. `again`: the slot is open, and goes back to so many positions.
    pub fn drafts(
        &mut self,
        slot: u32,
        known: &[u32],
        chunk: usize,
        count: usize,
        again: Option<usize>,
    ) -> Vec<Draft> {
        let from = again.unwrap_or(0);
        let mut changes = match again {
            Some(length) => {
                vec![SlotChange::Truncate { slot: SlotId(slot), length: length as u32 }]
            }
            None => open(slot, 1),
        };

        let fed = &known[1 + from..];
        let mut drafts = Vec::new();
        for (n, part) in fed.chunks(chunk).enumerate() {
            let mut plan = self.plan(std::mem::take(&mut changes));
            plan.chunk_tokens = tokens(part);
            let last = (n + 1) * chunk >= fed.len();
            plan.push(SlotId(slot), Feed::Known(0..part.len()), last);
            drafts.extend(self.pass(&plan));
        }
        for _ in 1..count {
            let mut plan = self.plan(Vec::new());
            plan.push(SlotId(slot), Feed::LastSampled, true);
            drafts.extend(self.pass(&plan));
        }
        drafts
    }

    fn pass(&mut self, plan: &StepPlan) -> Option<Draft> {
        let (dev, decoder) = &mut self.head;
        let (target, model) = &mut self.target;
        let rows = model.hidden_rows().expect("hidden states");
        let kept = Some(rows.read(target, dev).unwrap());
        decoder.step_beside(dev, plan, kept).unwrap();
        let logits = decoder.logits(dev, plan.logits.len()).unwrap();
        decoder.sample(dev, &TokenMasks::default()).unwrap();
        let result = dev.collect().unwrap();
        result.samples.first().map(|s| (s.tokens.as_ref().unwrap()[0].0, logits))
    }
}

/// What the head of a row drafts, beside what it should: tokens, and logits within `tolerance` of
/// the largest.
#[track_caller]
pub fn judge(name: &str, row: &Row, case: &Case, got: &[Draft], tolerance: f32) {
    for (n, ((_, logits), want)) in got.iter().zip(&case.logits).enumerate() {
        let of_said: Vec<f32> = row.said.iter().map(|&token| logits[token as usize]).collect();
        super::embeddings::close(&format!("{name}, draft {n}"), &of_said, want, tolerance);
        let others = logits.iter().filter(|&&logit| logit != f32::NEG_INFINITY).count();
        assert_eq!(others, row.said.len(), "{name}: other tokens cannot be said");
    }
    let drafts: Vec<u32> = got.iter().map(|(token, _)| *token).collect();
    assert_eq!(drafts, case.drafts, "{name}");
}
