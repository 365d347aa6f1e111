//! LoRA on the CPU device: the ops against f64, every family's fixture against the same
//! checkpoint with the adapter merged into its weights, and peft's own folders against what
//! transformers and peft computed. Rows without an adapter, and rows of other adapters, must not
//! change a bit of a row.

mod rig;
#[path = "adapters/words.rs"]
mod words;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rig::{Rig, RigOptions};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use triton_vllm::device::cpu::buffer::Tensor;
use triton_vllm::device::cpu::simd::Isa;
use triton_vllm::device::cpu::weight::Weight;
use triton_vllm::device::cpu::Cpu;
use triton_vllm::device::ops::*;
use triton_vllm::device::{
    Activation, AdapterCapacity, AdapterPart, DType, DeviceLimits, HostTensor, Join, KvShape,
    KvType, Rank, Source, WeightDesc, WeightKind,
};
use triton_vllm::ids::{AdapterId, AdapterSlotId, GroupId, PageId, SlotId, TokenId};
use triton_vllm::model::lora::{has_adapters, projections};
use triton_vllm::model::{Adapter, AdapterOptions, ModelSpec, Shard};
use triton_vllm::plan::{Feed, SlotChange, SlotOpen, StepPlan};

/// Uniform in [-1, 1) from a linear congruential generator.
struct Noise(u64);

impl Noise {
    fn values(&mut self, n: usize) -> Vec<f32> {
        let next = |_| {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.0 >> 40) as f32 / (1u32 << 23) as f32 - 1.0
        };
        (0..n).map(next).collect()
    }
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

// ---- ops --------------------------------------------------------------------------------------

/// Adapter (0: none) and token rows of each sequence of a step.
type Mix = [(u16, usize)];

const ROOM: AdapterCapacity = AdapterCapacity { slots: 2, rank: 5 };

fn upload(dev: &mut Cpu, kind: WeightKind, outputs: usize, inputs: usize, w: &[f32]) -> Weight {
    let bytes = bytes(w);
    let dtype = DType::F32;
    let bytes = (&bytes).into();
    let part = HostTensor { dtype, rows: outputs, cols: inputs, bytes };
    let source = Source::Parts(vec![part]);
    let desc = WeightDesc {
        name: "w",
        kind,
        outputs,
        inputs,
        dtype,
        quant: None,
        transposed: false,
        join: Join::None,
        source,
    };
    dev.upload(desc).unwrap()
}

fn begin(dev: &mut Cpu, mix: &Mix) {
    let total = mix.iter().map(|(_, rows)| rows).sum();
    let kv = KvShape::heads(1, 1, 1, KvType::F32);
    let slots = mix.len();
    dev.reserve(&DeviceLimits {
        step_tokens: total,
        slots,
        logits_rows: slots,
        pages: 1 + 2 * slots,
        page_size: 16,
        max_model_len: 32,
        kv,
        state: Default::default(),
        snapshots: 0,
        spares: 0,
    })
    .unwrap();

    let adapter = |adapter_slot: u16| SlotChange::Adapter {
        adapter_slot: AdapterSlotId(adapter_slot),
        adapter: AdapterId(adapter_slot + 1),
    };
    let mut plan =
        StepPlan { step: 1, changes: vec![adapter(0), adapter(1)], ..Default::default() };

    for (n, &(adapter, rows)) in mix.iter().enumerate() {
        let slot = SlotId(n as u32);
        plan.changes.push(SlotChange::Open(Box::new(SlotOpen {
            slot,
            adapter: AdapterId(adapter),
            tokens: Vec::new().into(),
            prompt_tokens: 0,
            cached_tokens: 0,
            sampler: Default::default(),
        })));
        let pages = [2 * n + 1, 2 * n + 2].map(|p| PageId(p as u32)).to_vec();
        plan.changes.push(SlotChange::Pages { slot, group: GroupId(0), pages });

        let first = plan.chunk_tokens.len();
        plan.chunk_tokens.extend((first..first + rows).map(|t| TokenId(t as u32)));
        let feed = Feed::Known(first..first + rows);
        plan.push(slot, feed, true);
    }
    dev.begin(&plan).unwrap();
}

fn tensor(dev: &mut Cpu, rows: usize, width: usize, values: &[f32]) -> Tensor {
    let table = upload(dev, WeightKind::Table, rows, width, values);
    let mut out = dev.tensor(rows, width).unwrap();
    dev.embed(&table, 1.0, &mut out).unwrap();
    out
}

/// Rank, A, B transposed.
type Low = (usize, Vec<f32>, Vec<f32>);

/// A weight of these parts with an adapter in each adapter slot; adapter slot 1 leaves the last
/// part alone.
struct Case {
    parts: Vec<usize>,
    inputs: usize,
    w: Vec<f32>,
    bias: Vec<f32>,
    /// By adapter slot, then part.
    adapter_slots: Vec<Vec<Option<Low>>>,
}

impl Case {
    fn new(noise: &mut Noise, parts: &[usize], inputs: usize) -> Case {
        let outputs = parts.iter().sum();
        let adapter_slots = (0..2).map(|adapter_slot| {
            let part = |(n, &width): (usize, &usize)| {
                let rank = 2 + adapter_slot + n;
                let left_alone = adapter_slot == 1 && n + 1 == parts.len() && n > 0;
                let low = (rank, noise.values(rank * inputs), noise.values(rank * width));
                (!left_alone).then_some(low)
            };
            parts.iter().enumerate().map(part).collect()
        });
        let adapter_slots = adapter_slots.collect();
        let (w, bias) = (noise.values(outputs * inputs), noise.values(outputs));
        Case { parts: parts.to_vec(), inputs, w, bias, adapter_slots }
    }

    fn weight(&self, dev: &mut Cpu, kind: WeightKind, adapted: bool) -> Weight {
        let outputs = self.bias.len();
        let mut weight = upload(dev, kind, outputs, self.inputs, &self.w);
        if !adapted {
            return weight;
        }
        dev.adapt(&mut weight, &self.parts, ROOM).unwrap();
        for (adapter_slot, lows) in self.adapter_slots.iter().enumerate() {
            let kept: Vec<_> =
                lows.iter().map(|l| l.as_ref().map(|(r, a, b)| (*r, bytes(a), bytes(b)))).collect();
            let parts = kept.iter().zip(&self.parts).map(|(low, &width)| {
                let (rank, a, b) = low.as_ref()?;
                let dtype = DType::F32;
                let rows = *rank;
                Some(AdapterPart {
                    a: HostTensor { dtype, rows, cols: self.inputs, bytes: a.into() },
                    b: HostTensor { dtype, rows, cols: width, bytes: b.into() },
                })
            });
            let parts: Vec<_> = parts.collect();
            dev.install(&mut weight, AdapterSlotId(adapter_slot as u16), &parts).unwrap();
        }
        weight
    }

    /// W x + bias + B (A x) of one row.
    fn row(&self, adapter: u16, x: &[f32]) -> Vec<f64> {
        let dot = |w: &[f32]| -> f64 {
            w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum()
        };
        let mut out: Vec<f64> = self.w.chunks_exact(self.inputs).map(dot).collect();
        out.iter_mut().zip(&self.bias).for_each(|(o, b)| *o += f64::from(*b));
        let mut first = 0;
        for (n, &width) in self.parts.iter().enumerate() {
            let adapter_slot = usize::from(adapter)
                .checked_sub(1)
                .map(|adapter_slot| &self.adapter_slots[adapter_slot]);
            if let Some((rank, a, b)) =
                adapter_slot.and_then(|adapter_slot| adapter_slot[n].as_ref())
            {
                for j in 0..*rank {
                    let low = dot(&a[j * self.inputs..(j + 1) * self.inputs]);
                    for o in 0..width {
                        out[first + o] += low * f64::from(b[j * width + o]);
                    }
                }
            }
            first += width;
        }
        out
    }
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// What the ops give for a mix of rows, on one instruction set and number of threads.
fn run(
    case: &Case,
    gated: bool,
    mix: &Mix,
    x: &[f32],
    isa: Isa,
    threads: usize,
    adapted: bool,
) -> Vec<f32> {
    let rows = x.len() / case.inputs;
    let mut dev = Cpu::with_isa(threads, isa).unwrap();
    begin(&mut dev, mix);

    let xt = tensor(&mut dev, rows, case.inputs, x);
    let outputs = case.bias.len();
    let bias = upload(&mut dev, WeightKind::Vector, outputs, 1, &case.bias);
    let kind = if gated { WeightKind::GateUp } else { WeightKind::Linear };
    let weight = case.weight(&mut dev, kind, adapted);

    let mut out = dev.tensor(rows, if gated { outputs / 2 } else { outputs }).unwrap();
    let done = if gated {
        dev.linear_act(&weight, Some(&bias), Activation::SiluGated, &xt, &mut out)
    } else {
        dev.linear(&weight, Some(&bias), &xt, &mut out)
    };
    done.unwrap();
    dev.read(&out, rows).unwrap()
}

const MIX: [(u16, usize); 5] = [(0, 2), (1, 3), (2, 8), (0, 1), (1, 1)];
/// Parts, inputs, gated.
const CASES: [(&[usize], usize, bool); 6] = [
    (&[64, 32, 32], 48, false),
    (&[65, 7, 9], 31, false),
    (&[200], 72, false),
    (&[33, 33], 40, true),
    (&[176], 24, true),
    (&[96, 96], 16, true),
];

#[test]
fn linears_with_adapters_equal_f64() {
    let mut noise = Noise(1);
    for (parts, inputs, gated) in CASES {
        let case = Case::new(&mut noise, parts, inputs);
        let adapters: Vec<u16> = MIX.iter().flat_map(|&(a, n)| vec![a; n]).collect();
        let x = noise.values(adapters.len() * inputs);
        let got = run(&case, gated, &MIX, &x, Isa::detect(), 2, true);
        let width = got.len() / adapters.len();
        for (r, &adapter) in adapters.iter().enumerate() {
            let plain = case.row(adapter, &x[r * inputs..(r + 1) * inputs]);
            let half = plain.len() / 2;
            let want: Vec<f64> = if gated {
                (0..half).map(|o| silu(plain[o]) * plain[half + o]).collect()
            } else {
                plain
            };
            let size = want.iter().fold(1f64, |m, x| m.max(x.abs()));
            for (o, want) in want.iter().enumerate() {
                let error = (f64::from(got[r * width + o]) - want).abs();
                assert!(error < 2e-6 * size, "{parts:?} row {r} output {o}: error {error}");
            }
        }
    }
}

#[test]
fn company_threads_and_instruction_sets_change_no_bit() {
    let mut noise = Noise(2);
    for (parts, inputs, gated) in CASES {
        let case = Case::new(&mut noise, parts, inputs);
        let rows: usize = MIX.iter().map(|(_, n)| n).sum();
        let x = noise.values(rows * inputs);
        let want = run(&case, gated, &MIX, &x, Isa::detect(), 1, true);
        let width = want.len() / rows;
        for isa in Isa::all() {
            assert!(run(&case, gated, &MIX, &x, isa, 3, true) == want, "{parts:?} {isa:?}");
        }
        let mut first = 0;
        for &(adapter, n) in &MIX {
            for r in first..first + n {
                let x = &x[r * inputs..(r + 1) * inputs];
                let alone = run(&case, gated, &[(adapter, 1)], x, Isa::detect(), 1, true);
                assert!(alone == want[r * width..(r + 1) * width], "{parts:?} row {r} alone");
                let bare = run(&case, gated, &[(0, 1)], x, Isa::detect(), 1, false);
                assert_eq!(bare == alone, adapter == 0, "{parts:?} row {r} without room");
            }
            first += n;
        }
    }
}

// ---- families -----------------------------------------------------------------------------------

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let name = format!("triton-vllm-adapters-{}-{name}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        Scratch(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn read_tensors(dir: &Path) -> Option<Tensors> {
    let mut all = Tensors::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "safetensors") {
            continue;
        }
        let file = std::fs::read(path).unwrap();
        for (name, view) in SafeTensors::deserialize(&file).unwrap().iter() {
            let dtype = match view.dtype() {
                Dtype::F32 => DType::F32,
                Dtype::F16 => DType::F16,
                Dtype::BF16 => DType::BF16,
                // Masks, which are no weights.
                _ => continue,
            };
            let shape = view.shape().to_vec();
            let (rows, cols) = (1, shape.iter().product());
            let bytes = view.data().into();
            let values = HostTensor { dtype, rows, cols, bytes }.values().unwrap();
            all.insert(name.to_string(), (shape, values));
        }
    }
    (!all.is_empty()).then_some(all)
}

fn write_tensors(path: &Path, tensors: &Tensors) {
    let raw: Vec<_> = tensors.iter().map(|(n, (s, v))| (n, s.clone(), bytes(v))).collect();
    let views =
        raw.iter().map(|(n, s, b)| (*n, TensorView::new(Dtype::F32, s.clone(), b).unwrap()));
    safetensors::serialize_to_file(views, None, path).unwrap();
}

const RANK: usize = 3;
const SCALE: f32 = 2.0;

fn options() -> AdapterOptions {
    AdapterOptions { capacity: AdapterCapacity { slots: 2, rank: 4 }, modules: None }
}

/// A random adapter for every linear of a model, and the checkpoint with it merged in.
fn adapter_and_merged(spec: &ModelSpec, base: &Tensors, seed: u64) -> (Tensors, Tensors) {
    let mut noise = Noise(seed);
    let names = &spec.family.names;
    let embed = |prefix: &&&str| base.contains_key(&format!("{prefix}{}.weight", names.embed));
    let stored = spec.family.prefixes.iter().find(embed).expect("a prefix");
    let mut adapter = Tensors::new();
    let mut merged = base.clone();
    for layer in 0..spec.layers {
        for projection in &projections(spec, layer) {
            for part in &projection.parts {
                let (module, outputs, inputs) =
                    (&part.module, part.module_outputs, projection.inputs);
                let name = format!("{}.{layer}.{module}", names.layers);
                // As transformers names its modules, whatever the checkpoint's names are.
                let peft = format!("base_model.model.{}{name}", spec.family.prefixes[0]);
                if adapter.contains_key(&format!("{peft}.lora_A.weight")) {
                    // Some of its outputs are another linear's.
                    continue;
                }
                let a: Vec<f32> = noise.values(RANK * inputs).iter().map(|x| x * 0.2).collect();
                let b: Vec<f32> = noise.values(outputs * RANK).iter().map(|x| x * 0.2).collect();
                let (_, weight) =
                    merged.get_mut(&format!("{stored}{name}.weight")).expect("a weight");
                for o in 0..outputs {
                    for i in 0..inputs {
                        let at =
                            if spec.family.transposed { i * outputs + o } else { o * inputs + i };
                        let sum: f32 = (0..RANK).map(|j| b[o * RANK + j] * a[j * inputs + i]).sum();
                        weight[at] += SCALE * sum;
                    }
                }
                adapter.insert(format!("{peft}.lora_A.weight"), (vec![RANK, inputs], a));
                adapter.insert(format!("{peft}.lora_B.weight"), (vec![outputs, RANK], b));
            }
        }
    }
    words::add(spec, stored, &mut noise, &mut adapter, &mut merged);
    (adapter, merged)
}

fn logits_and_tokens(rig: &mut Rig, prompt: &[u32], adapter: u16) -> (Vec<f32>, Vec<u32>) {
    let mut seq = rig.open_with(prompt, AdapterId(adapter));
    let logits = rig.feed_prompt(&mut seq, 9);
    for _ in 0..6 {
        rig.decode(&mut [&mut seq]);
    }
    rig.close(&seq);
    (logits, seq.outputs)
}

fn prompts(dir: &Path) -> (Vec<Vec<u32>>, Option<i64>) {
    let text = std::fs::read_to_string(dir.join("expected.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let ids = |p: &serde_json::Value| serde_json::from_value(p["ids"].clone()).unwrap();
    let prompts = json["prompts"].as_array().unwrap().iter().map(ids).collect();
    (prompts, json.get("max_model_len").and_then(serde_json::Value::as_i64))
}

#[track_caller]
fn close(what: &str, got: &[f32], want: &[f32]) -> f32 {
    let size = want.iter().fold(0f32, |m, x| m.max(x.abs()));
    let error = got.iter().zip(want).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(error <= 1e-4 * size, "{what}: error {error} of {size}");
    size
}

#[test]
fn an_adapter_equals_merged_weights_in_every_family() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
    let mut families = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(root).unwrap() {
        let dir = entry.unwrap().path();
        // Without greedy tokens it is an encoder, and has nothing to generate with. Weights in
        // Mistral's own format are those of Hugging Face's once they are read.
        let usual = dir.join("config.json").exists();
        let generates = usual && dir.join("expected.json").exists();
        let Some(base) = read_tensors(&dir).filter(|_| generates) else { continue };
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        let (prompts, max_model_len) = prompts(&dir);
        let adapters = Some(options());
        let plain = RigOptions { max_model_len, dtype: "float32", ..Default::default() };
        let (spec, _) = rig::read(&dir, &plain);
        if !has_adapters(&spec) {
            continue;
        }
        let alone = RigOptions { adapters, ..plain.clone() };
        let mut rig = Rig::files(&dir, &alone);
        let shared = RigOptions { ranks: 2, ..alone };
        let mut two_ranks = Rig::files(&dir, &shared);
        let scratch = Scratch::new(&name);
        let mut want = vec![logits_and_tokens(&mut rig, &prompts[0], 0)];
        for id in [1, 2] {
            let (adapter, merged) = adapter_and_merged(&rig.spec, &base, u64::from(id));
            let config = format!(r#"{{"r": {RANK}, "lora_alpha": {}}}"#, SCALE * RANK as f32);
            std::fs::write(scratch.0.join("adapter_config.json"), config).unwrap();
            write_tensors(&scratch.0.join("adapter_model.safetensors"), &adapter);
            let adapter = Adapter::read(&scratch.0, &rig.spec, &options()).unwrap();
            rig.install(AdapterSlotId(id - 1), AdapterId(id), &adapter);
            two_ranks.install(AdapterSlotId(id - 1), AdapterId(id), &adapter);
            let folder = scratch.0.join(format!("merged-{id}"));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::copy(dir.join("config.json"), folder.join("config.json")).unwrap();
            write_tensors(&folder.join("model.safetensors"), &merged);
            want.push(logits_and_tokens(&mut Rig::files(&folder, &plain), &prompts[0], 0));
        }
        for (rig, by) in [(&mut rig, "one device"), (&mut two_ranks, "two ranks")] {
            let got: Vec<_> = (0..3).map(|id| logits_and_tokens(rig, &prompts[0], id)).collect();
            for (id, got) in got.iter().enumerate() {
                let what = format!("{name} by {by}, adapter {id}");
                let size = close(&what, &got.0, &want[id].0);
                assert_eq!(got.1, want[id].1, "{what}: tokens");
                let other = &want[(id + 1) % 3].0;
                let apart = got.0.iter().zip(other).any(|(a, b)| (a - b).abs() > 0.02 * size);
                assert!(apart, "{what} does next to nothing");
            }
            together(rig, &name, &prompts[0], &got);
        }
        families.insert(rig.spec.family.architecture);
    }
    let states =
        ["Qwen3NextForCausalLM", "Lfm2ForCausalLM", "FalconH1ForCausalLM", "JambaForCausalLM"];
    let new = states.iter().chain(&["DeepseekV3ForCausalLM"]).all(|name| families.contains(name));
    assert!(families.len() >= 40 && new, "only {families:?}");
}

/// All adapters in one batch give the bits that each gave alone.
fn together(rig: &mut Rig, name: &str, prompt: &[u32], alone: &[(Vec<f32>, Vec<u32>)]) {
    let mut running = Vec::new();
    for (id, want) in alone.iter().enumerate() {
        let mut seq = rig.open_with(prompt, AdapterId(id as u16));
        let logits = rig.feed_beside(&mut seq, 9, &mut running);
        assert!(logits == want.0, "{name}: company changes adapter {id}");
        running.push(seq);
    }
    for _ in 0..6 {
        let mut rows: Vec<_> = running.iter_mut().collect();
        rig.decode(&mut rows);
    }
    for (seq, want) in running.iter().zip(alone) {
        assert_eq!(seq.outputs[..7], want.1, "{name}: company changes tokens");
        rig.close(seq);
    }
}

// ---- peft ---------------------------------------------------------------------------------------

#[test]
fn folders_of_peft_equal_peft() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut count = 0;
    for entry in std::fs::read_dir(fixtures.join("adapters")).unwrap() {
        let dir = entry.unwrap().path();
        let Ok(text) = std::fs::read_to_string(dir.join("expected.json")) else { continue };
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let model = fixtures.join("models").join(json["model"].as_str().unwrap());
        for ranks in [1, 2, 4] {
            // As the reference computes.
            let adapters = Some(options());
            let options = RigOptions { adapters, dtype: "float32", ranks, ..Default::default() };
            let last = Rank { index: ranks - 1, of: ranks };
            if Shard::new(&rig::read(&model, &options).0, last).is_err() {
                assert!(ranks > 2, "{} by {ranks}", model.display());
                continue;
            }
            let mut rig = Rig::files(&model, &options);
            let adapter = Adapter::read(&dir, &rig.spec, &self::options()).unwrap();
            rig.install(AdapterSlotId(1), AdapterId(7), &adapter);
            let what = format!("{} by {ranks}", dir.display());
            for prompt in json["prompts"].as_array().unwrap() {
                let read = |key: &str| prompt[key].clone();
                let ids: Vec<u32> = serde_json::from_value(read("ids")).unwrap();
                let logits: Vec<f32> = serde_json::from_value(read("logits")).unwrap();
                let greedy: Vec<u32> = serde_json::from_value(read("greedy")).unwrap();
                let mut seq = rig.open_with(&ids, AdapterId(7));
                let got = rig.feed_prompt(&mut seq, usize::MAX);
                close(&what, &got, &logits);
                while seq.outputs.len() < greedy.len() {
                    rig.decode(&mut [&mut seq]);
                }
                assert_eq!(seq.outputs, greedy, "{what}");
                rig.close(&seq);
            }
        }
        count += 1;
    }
    assert!(count >= 18, "{count} folders");
}
