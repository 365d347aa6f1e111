//! What each feature of a request costs per decode step, beside the plain step of the same run:
//! `feature_costs FOLDER [device=auto] [sequences=64] [prompt=512] [steps=128] [only=WORD]`. The
//! folder holds a config.json and a tokenizer; weights are made up. All of the engine takes part:
//! intake, scheduler, masks, logprobs, text; only Triton does not. Adapters come last, with an
//! engine of their own that has room for them. Prints a Markdown table of milliseconds from step to
//! step while all sequences decode.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{bounded, Sender};
use parking_lot::Mutex;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{json, Map, Value};
use triton_vllm::device::DType;
use triton_vllm::engine::{
    Answer, Client, EngineArgs, EngineOptions, Engines, GenerateRequest, Gpus, Observation,
    Observer, RequestOptions, Returns,
};
use triton_vllm::error::Result;
use triton_vllm::model::config::SpecOptions;
use triton_vllm::model::lora::projections;
use triton_vllm::model::ModelSpec;
use triton_vllm::sampling::{SamplingLimits, SamplingParams};

const PATIENCE: Duration = Duration::from_secs(300);
/// Steps at the start that are not counted: they choose algorithms and record graphs.
const WARM_STEPS: usize = 8;

const ADAPTERS: usize = 4;
const RANK: usize = 16;

/// What is timed.
struct Feature {
    name: &'static str,
    sampling: Value,
    /// They are returned.
    logprobs: bool,
    /// Each of the adapters serves its share of the sequences.
    adapters: bool,
}

fn feature(name: &'static str, sampling: &Value, logprobs: bool) -> Feature {
    Feature { name, sampling: sampling.clone(), logprobs, adapters: false }
}

fn features() -> Vec<Feature> {
    let penalties =
        json!({"repetition_penalty": 1.1, "frequency_penalty": 0.5, "presence_penalty": 0.5});
    let structured =
        json!({"structured_outputs": {"json": people(), "disable_any_whitespace": true}});
    let drawn = json!({"temperature": 0.8, "top_p": 0.9, "top_k": 50, "seed": 7});
    let all = [&json!({"logprobs": 5}), &penalties, &structured, &drawn];
    let all = all.into_iter().flat_map(|part| part.as_object().cloned().unwrap_or_default());
    vec![
        feature("plain", &json!({}), false),
        feature("temperature, top_p, top_k", &drawn, false),
        feature("logprobs 5", &json!({"logprobs": 5}), true),
        feature("three penalties", &penalties, false),
        feature("a JSON schema", &structured, false),
        feature("all of these", &Value::Object(all.collect()), true),
        feature("plain again", &json!({}), false),
    ]
}

fn with_adapters() -> Vec<Feature> {
    let none = feature("plain, with room for adapters", &json!({}), false);
    let four = feature("4 adapters of rank 16", &json!({}), false);
    vec![none, Feature { adapters: true, ..four }]
}

/// An adapter of zeros for every linear of the model, under several names.
fn write_adapters(model: &Path, folder: &Path) -> Result<()> {
    let supported = &[DType::BF16, DType::F16, DType::F32];
    let spec = ModelSpec::read(model, &SpecOptions { supported, ..Default::default() })?;

    let mut shapes = BTreeMap::new();
    for layer in 0..spec.layers {
        for projection in projections(&spec, layer) {
            for part in &projection.parts {
                let prefix = spec.family.prefixes[0];
                let layers = spec.family.names.layers;
                let name = format!("base_model.model.{prefix}{layers}.{layer}.{}", part.module);
                let a = vec![RANK, projection.inputs];
                shapes.insert(format!("{name}.lora_A.weight"), a);
                shapes.insert(format!("{name}.lora_B.weight"), vec![part.module_outputs, RANK]);
            }
        }
    }

    let largest = shapes.values().map(|shape| shape[0] * shape[1]).max().unwrap_or(0);
    let zeros = vec![0u8; 2 * largest];
    let views = shapes.iter().map(|(name, shape)| {
        let bytes = &zeros[..2 * shape[0] * shape[1]];
        (name, TensorView::new(Dtype::BF16, shape.clone(), bytes).expect("a tensor"))
    });

    let adapter = folder.join("adapter");
    std::fs::create_dir_all(&adapter).expect("a temporary folder");
    safetensors::serialize_to_file(views, None, &adapter.join("adapter_model.safetensors"))
        .expect("a temporary file");
    let config = format!(r#"{{"r": {RANK}, "lora_alpha": {RANK}}}"#);
    std::fs::write(adapter.join("adapter_config.json"), config).expect("a temporary file");

    let name = |n: usize| (format!("a{n}"), json!("adapter"));
    let names: Map<String, Value> = (0..ADAPTERS).map(name).collect();
    let names = Value::Object(names).to_string();
    std::fs::write(folder.join("multi_lora.json"), names).expect("a temporary file");
    Ok(())
}

/// So many objects that no answer of these lengths comes to its end.
fn people() -> Value {
    json!({
        "type": "array", "minItems": 5000,
        "items": {
            "type": "object", "additionalProperties": false,
            "required": ["name", "age", "email", "tags", "address"],
            "properties": {
                "name": {"type": "string", "minLength": 1, "maxLength": 20},
                "age": {"type": "integer", "minimum": 0, "maximum": 120},
                "email": {"type": "string", "pattern": "^[a-z]{1,12}@[a-z]{1,12}\\.(com|org)$"},
                "tags": {"type": "array", "maxItems": 4, "items": {"enum": ["a", "bc", "def"]}},
                "address": {
                    "type": "object", "additionalProperties": false,
                    "required": ["street", "zip"],
                    "properties": {
                        "street": {"type": "string", "maxLength": 30},
                        "zip": {"type": "string", "pattern": "^[0-9]{5}$"},
                    },
                },
            },
        },
    })
}

/// When each round of the engine ended, its tokens, and its part outside the device's calls.
#[derive(Default)]
struct Rounds(Mutex<Vec<(Instant, u32, f64)>>);

impl Observer for Rounds {
    fn observe(&self, observation: Observation) {
        if let Observation::Step { tokens, host_s, .. } = observation {
            self.0.lock().push((Instant::now(), tokens, host_s));
        }
    }
}

struct Waiting(Sender<Result<Answer>>);

impl Client for Waiting {
    fn cancelled(&self) -> bool {
        false
    }

    fn respond(&self, _: Answer) {}

    fn finish(&self, outcome: Result<Answer>) {
        let _ = self.0.send(outcome);
    }
}

struct Options {
    folder: String,
    device: String,
    sequences: u32,
    prompt: usize,
    steps: usize,
    only: String,
}

impl Options {
    fn parse() -> Option<Options> {
        let mut args = std::env::args().skip(1);
        let folder = args.next()?;
        let device = "auto".to_string();
        let only = String::new();
        let mut options = Options { folder, device, sequences: 64, prompt: 512, steps: 128, only };
        for arg in args {
            match arg.split_once('=')? {
                ("device", device) => options.device = device.into(),
                ("sequences", count) => options.sequences = count.parse().ok()?,
                ("prompt", tokens) => options.prompt = tokens.parse().ok()?,
                ("steps", steps) => options.steps = steps.parse().ok()?,
                ("only", word) => options.only = word.into(),
                _ => return None,
            }
        }
        Some(options)
    }
}

/// `adapters`: the folder with multi_lora.json.
fn load(options: &Options, rounds: &Arc<Rounds>, adapters: Option<&Path>) -> Result<Engines> {
    let length = options.prompt + options.steps + 2 * WARM_STEPS + 64;
    let mut args = json!({
        "model": options.folder, "load_format": "dummy", "device": options.device,
        "max_model_len": length.next_multiple_of(16), "max_num_seqs": options.sequences,
        "enable_prefix_caching": false,
    });
    if adapters.is_some() {
        args["enable_lora"] = json!(true);
        args["max_loras"] = json!(ADAPTERS);
        args["max_lora_rank"] = json!(RANK);
    }
    let (args, _) = EngineArgs::parse(&args.to_string())?;

    let options = EngineOptions {
        name: "costs".into(),
        version_dir: adapters.unwrap_or(Path::new(".")).into(),
        gpus: Gpus::Turn(0),
        observer: rounds.clone(),
        max_waiting: 1024,
        max_backlog_tokens: 1 << 20,
        max_logprob_entries: 1 << 20,
        outbox_threads: None,
        step_timeout: None,
        prompt_step: None,
        grammar_timeout: Duration::from_secs(5),
        step_trace: None,
        proposer: None,
    };
    Engines::load(&args, vec![options])
}

/// The mean and median step and the host's part of it, in ms, while all sequences decode; and
/// tokens of a prompt.
fn time(
    engine: &Engines,
    rounds: &Rounds,
    options: &Options,
    feature: &Feature,
) -> Result<([f64; 3], u32)> {
    let Feature { sampling, logprobs, adapters, .. } = feature;
    rounds.0.lock().clear();

    let tokens = options.steps + 2 * WARM_STEPS;
    let mut all = Map::new();
    all.insert("temperature".into(), 0.into());
    all.insert("max_tokens".into(), tokens.into());
    all.insert("ignore_eos".into(), true.into());
    all.extend(sampling.as_object().cloned().unwrap_or_default());

    let limits = SamplingLimits::new(engine.facts().vocab_size, 20);
    let (end, told) = bounded(options.sequences as usize);
    for i in 0..options.sequences {
        if *adapters {
            all.insert("lora_name".into(), format!("a{}", i as usize % ADAPTERS).into());
        }
        let params = SamplingParams::parse(&all, &limits)?;
        engine.submit(GenerateRequest {
            prompt: format!("{i}{}", " one".repeat(options.prompt.saturating_sub(3))),
            images: Vec::new(),
            params,
            stream: true,
            returns: Returns { logprobs: *logprobs, cumulative_logprob: *logprobs },
            client: Arc::new(Waiting(end.clone())),
            arrival: Instant::now(),
            options: RequestOptions::default(),
        })?;
    }

    let mut prompt_tokens = 0;
    for _ in 0..options.sequences {
        let outcome = told.recv_timeout(PATIENCE);
        prompt_tokens = outcome.expect("an answer in time")?.prompt_tokens;
    }

    // Only steps of all sequences count, and the first few of those warm up.
    let rounds = rounds.0.lock();
    let full = |round: &(Instant, u32, f64)| round.1 == options.sequences;
    let pairs = rounds.windows(2).filter(|pair| pair.iter().all(full)).skip(WARM_STEPS);
    let pairs: Vec<_> = pairs.take(options.steps).collect();
    let mut ms: Vec<f64> =
        pairs.iter().map(|pair| (pair[1].0 - pair[0].0).as_secs_f64() * 1e3).collect();
    assert!(ms.len() > options.steps / 2, "only {} steps had all sequences", ms.len());

    let count = ms.len() as f64;
    let host = pairs.iter().map(|pair| pair[1].2 * 1e3).sum::<f64>() / count;
    let mean = ms.iter().sum::<f64>() / count;
    ms.sort_by(f64::total_cmp);
    Ok(([mean, ms[ms.len() / 2], host], prompt_tokens))
}

/// Rows of the table; the first plain step that was ever timed is what others stand beside.
fn rows(
    engine: &Engines,
    rounds: &Rounds,
    options: &Options,
    features: &[Feature],
    plain: &mut Option<f64>,
) -> Result<()> {
    // Chooses algorithms for prompts and steps, makes the grammars' trie, reads adapters.
    for feature in features.iter().rev().take(2) {
        time(engine, rounds, options, feature)?;
    }
    for feature in features {
        let name = feature.name;
        if !name.starts_with("plain") && !name.contains(&options.only) {
            continue;
        }
        let ([mean, median, host], prompt) = time(engine, rounds, options, feature)?;
        let beside = *plain.get_or_insert(mean);
        let more = mean - beside;
        println!(
            "| {name} ({prompt} prompt tokens) | {mean:.3} | {median:.3} | {host:.3} | {more:+.3} \
             ({:+.1} %) |",
            more / beside * 100.0
        );
    }
    Ok(())
}

fn run(options: &Options) -> Result<()> {
    let rounds = Arc::new(Rounds::default());
    let engine = load(options, &rounds, None)?;
    let facts = engine.facts().clone();
    println!(
        "{}, {}, dummy weights on {}: {} sequences, vocabulary {}",
        options.folder, facts.dtype, facts.device, options.sequences, facts.vocab_size
    );
    println!("| a request with | mean ms a step | median | of it host | more than plain |");
    println!("|---|---|---|---|---|");
    let mut plain = None;
    rows(&engine, &rounds, options, &features(), &mut plain)?;
    engine.drain(PATIENCE);
    let folder = std::env::temp_dir().join(format!("feature_costs_{}", std::process::id()));
    let outcome = write_adapters(Path::new(&options.folder), &folder).and_then(|()| {
        let engine = load(options, &rounds, Some(&folder))?;
        let outcome = rows(&engine, &rounds, options, &with_adapters(), &mut plain);
        engine.drain(PATIENCE);
        outcome
    });
    let _ = std::fs::remove_dir_all(&folder);
    outcome
}

fn main() {
    let usage = "usage: feature_costs FOLDER [device=auto|cpu] [sequences=N] [prompt=TOKENS] \
                 [steps=N] [only=WORD]";
    let Some(options) = Options::parse() else {
        eprintln!("{usage}");
        std::process::exit(2);
    };
    if let Err(error) = run(&options) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
