//! What drafts gain and cost, beside the plain run of the same process: `draft_costs FOLDER
//! [device=auto] [streams=1,8,32] [prompt=128] [tokens=256] [drafts=3] [only=WORD] [head=FOLDER]`.
//! The folder holds a config.json and a tokenizer; weights are made up. All of the engine takes
//! part. Who drafts:
//!
//! - `all right`, `0.7 right`, `all wrong`: proposers of this program that know what the plain run
//!   answered, so that acceptance is what the name says and drafts themselves cost nothing. Of a
//!   method whose own cost is known this gives what it comes to;
//! - `ngram`, `suffix`: the methods, on prompts that repeat themselves;
//! - `draft_model`: a draft model that is the target itself, so that all it says is right;
//! - `eagle3, all right`, `eagle3, 0.7 right`, `eagle3`: an EAGLE-3 head of the target's shape and
//!   of made-up weights, which is asked in front of each step; what it says is replaced by what the
//!   program knows, but in the last. `head=FOLDER` takes another head's config.json.
//!
//! Greedy. Prints a Markdown table: output tokens per second while sequences decode, beside the
//! plain run, tokens of a step with drafts, and whether the answers are the plain run's.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{bounded, Sender};
use parking_lot::Mutex;
use serde_json::{json, Value};
use triton_vllm::engine::{
    Answer, Client, EngineArgs, EngineOptions, Engines, GenerateRequest, Gpus, Observation,
    Observer, RequestOptions, Returns,
};
use triton_vllm::error::Result;
use triton_vllm::ids::TokenId;
use triton_vllm::sampling::{SamplingLimits, SamplingParams};
use triton_vllm::scheduler::{DraftStats, Proposer};

const PATIENCE: Duration = Duration::from_secs(600);
/// Output tokens of each sequence before the clock starts.
const WARM_TOKENS: u64 = 8;

/// What the plain run fed and sampled, by its first tokens.
#[derive(Default)]
struct Truth(Mutex<HashMap<Vec<TokenId>, Vec<TokenId>>>);

/// Tokens that tell prompts apart.
const HEAD: usize = 24;

/// Drafts of which so many in a hundred are right; None: it listens and drafts nothing.
struct Knowing {
    truth: Arc<Truth>,
    right: Option<u64>,
    state: u64,
}

impl std::fmt::Debug for Knowing {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{:?} % right", self.right)
    }
}

impl Proposer for Knowing {
    fn propose(&mut self, tokens: &[TokenId], most: usize, drafts: &mut Vec<TokenId>) {
        let Some(head) = tokens.get(..HEAD) else { return };
        let Some(right) = self.right else {
            self.truth.0.lock().insert(head.to_vec(), tokens.to_vec());
            return;
        };
        let known = self.truth.0.lock();
        let behind = known.get(head).and_then(|all| all.get(tokens.len()..)).unwrap_or_default();
        for token in behind.iter().take(most) {
            self.state = self.state.wrapping_mul(6364136223846793005).wrapping_add(97);
            let wrong = (self.state >> 33) % 100 >= right;
            drafts.push(TokenId(if wrong { token.0 ^ 1 } else { token.0 }));
        }
    }
}

/// Counts output tokens by the time of the round that they came in, and drafts.
#[derive(Default)]
struct Counter {
    rounds: Mutex<Vec<(Instant, u64)>>,
    drafts: Mutex<DraftStats>,
}

impl Observer for Counter {
    fn observe(&self, observation: Observation) {
        if let Observation::Generated { tokens } = observation {
            self.rounds.lock().push((Instant::now(), u64::from(tokens)));
        }
    }

    fn drafts(&self, new: &DraftStats) {
        let mut all = self.drafts.lock();
        all.drafts += new.drafts;
        all.draft_tokens += new.draft_tokens;
        all.accepted_tokens += new.accepted_tokens;
    }
}

struct Waiting(usize, Sender<(usize, Result<Answer>)>);

impl Client for Waiting {
    fn cancelled(&self) -> bool {
        false
    }

    fn respond(&self, _: Answer) {}

    fn finish(&self, outcome: Result<Answer>) {
        let _ = self.1.send((self.0, outcome));
    }
}

struct Options {
    folder: String,
    device: String,
    streams: Vec<usize>,
    prompt: usize,
    tokens: usize,
    drafts: usize,
    only: String,
    /// Of an EAGLE-3 head; empty: it is made.
    head: String,
}

impl Options {
    fn parse() -> Option<Options> {
        let mut args = std::env::args().skip(1);
        let mut options = Options {
            folder: args.next()?,
            device: "auto".into(),
            streams: vec![1, 8, 32],
            prompt: 128,
            tokens: 256,
            drafts: 3,
            only: String::new(),
            head: String::new(),
        };

        for arg in args {
            match arg.split_once('=')? {
                ("device", device) => options.device = device.into(),
                ("streams", list) => {
                    let counts = list.split(',').map(|count| count.parse().ok());
                    options.streams = counts.collect::<Option<_>>()?;
                }
                ("prompt", tokens) => options.prompt = tokens.parse().ok()?,
                ("tokens", tokens) => options.tokens = tokens.parse().ok()?,
                ("drafts", drafts) => options.drafts = drafts.parse().ok()?,
                ("only", word) => options.only = word.into(),
                ("head", folder) => options.head = folder.into(),
                _ => return None,
            }
        }
        Some(options)
    }

    fn most_streams(&self) -> usize {
        self.streams.iter().copied().max().unwrap_or(1)
    }
}

/// A way to draft.
struct Way {
    name: &'static str,
    config: Option<Value>,
    /// Of the program's own proposer; the outer None: the method drafts.
    right: Option<Option<u64>>,
}

fn ways(options: &Options) -> Vec<Way> {
    let k = options.drafts;
    let ngram = json!({"method": "ngram", "num_speculative_tokens": k, "prompt_lookup_min": 2,
                       "prompt_lookup_max": 4});
    let suffix = json!({"method": "suffix"});
    let model = json!({"method": "draft_model", "num_speculative_tokens": k,
                       "model": options.folder});
    let head = json!({"method": "eagle3", "num_speculative_tokens": k, "model": options.head});
    let known = |name, right| Way { name, config: Some(ngram.clone()), right: Some(Some(right)) };
    let led = |name, right| Way { name, config: Some(head.clone()), right: Some(Some(right)) };
    let by = |name, config: &Value| Way { name, config: Some(config.clone()), right: None };
    vec![
        Way { name: "plain", config: None, right: None },
        // The plain run again, with an ear.
        Way { name: "nothing drafted", config: Some(ngram.clone()), right: Some(None) },
        known("all right", 100),
        known("0.7 right", 70),
        known("all wrong", 0),
        by("ngram", &ngram),
        by("suffix", &suffix),
        by("draft_model", &model),
        led("eagle3, all right", 100),
        led("eagle3, 0.7 right", 70),
        by("eagle3", &head),
    ]
}

/// A folder with the config.json of an EAGLE-3 head of a model's shape: a layer as the model's, and
/// a quarter of its tokens.
fn make_head(folder: &str) -> std::io::Result<String> {
    let text = std::fs::read(format!("{folder}/config.json"))?;
    let mut config: Value = serde_json::from_slice(&text)?;
    config["architectures"] = json!(["LlamaForCausalLM"]);
    config["num_hidden_layers"] = json!(1);
    config["draft_vocab_size"] = json!(config["vocab_size"].as_u64().unwrap_or(4) / 4);
    let head = std::env::temp_dir().join(format!("eagle3-head-{}", std::process::id()));
    std::fs::create_dir_all(&head)?;
    std::fs::write(head.join("config.json"), config.to_string())?;
    Ok(head.display().to_string())
}

fn load(
    options: &Options,
    way: &Way,
    truth: &Arc<Truth>,
    counter: &Arc<Counter>,
) -> Result<Engines> {
    let length = options.prompt + options.tokens + 64;
    let mut args = json!({
        "model": options.folder, "load_format": "dummy", "device": options.device,
        "max_model_len": length.next_multiple_of(16), "max_num_seqs": options.most_streams(),
        "enable_prefix_caching": false,
    });
    if let Some(config) = &way.config {
        args["speculative_config"] = config.clone();
    }
    let (args, _) = EngineArgs::parse(&args.to_string())?;

    let right = way.right;
    let truth = truth.clone();
    let proposer = move || -> Box<dyn Proposer> {
        Box::new(Knowing { truth: truth.clone(), right: right.flatten(), state: 1 })
    };
    let options = EngineOptions {
        name: "drafts".into(),
        version_dir: ".".into(),
        gpus: Gpus::Turn(0),
        observer: counter.clone(),
        max_waiting: 1024,
        max_backlog_tokens: 1 << 20,
        max_logprob_entries: 1 << 20,
        outbox_threads: None,
        step_timeout: None,
        prompt_step: None,
        grammar_timeout: Duration::from_secs(5),
        step_trace: None,
        proposer: right.is_some().then(|| Arc::new(proposer) as _),
    };
    Engines::load(&args, vec![options])
}

/// So many sequences at once: tokens per second of their decode steps, and their texts.
fn time(
    engine: &Engines,
    counter: &Counter,
    options: &Options,
    streams: usize,
) -> Result<(f64, Vec<String>)> {
    counter.rounds.lock().clear();
    *counter.drafts.lock() = DraftStats::default();
    let sampling =
        json!({"temperature": 0, "max_tokens": options.tokens, "ignore_eos": true}).to_string();
    let limits = SamplingLimits::new(engine.facts().vocab_size, 20);
    let (end, told) = bounded(streams);
    for i in 0..streams {
        engine.submit(GenerateRequest {
            prompt: format!(
                "{i} of {streams}:{}",
                " one two three four".repeat(options.prompt / 4)
            ),
            images: Vec::new(),
            params: SamplingParams::parse_text(&sampling, &limits)?,
            stream: true,
            returns: Returns { logprobs: false, cumulative_logprob: false },
            client: Arc::new(Waiting(i, end.clone())),
            arrival: Instant::now(),
            options: RequestOptions::default(),
        })?;
    }

    let mut texts = vec![String::new(); streams];
    for _ in 0..streams {
        let (i, outcome) = told.recv_timeout(PATIENCE).expect("an answer in time");
        texts[i] = outcome?.outputs[0].text.clone();
    }

    let rounds = counter.rounds.lock();
    let mut came = 0;
    let warm = rounds.iter().position(|(_, tokens)| {
        came += tokens;
        came >= WARM_TOKENS * streams as u64
    });
    let (Some(warm), Some((last, _))) = (warm, rounds.last()) else { return Ok((0.0, texts)) };
    let tokens: u64 = rounds[warm + 1..].iter().map(|(_, tokens)| tokens).sum();
    Ok((tokens as f64 / (*last - rounds[warm].0).as_secs_f64(), texts))
}

fn run(options: &Options) -> Result<()> {
    let truth = Arc::new(Truth::default());
    let mut plain: HashMap<usize, (f64, Vec<String>)> = HashMap::new();
    for way in ways(options) {
        let named = way.name.contains(&options.only);
        if !named && way.right != Some(None) && way.name != "plain" {
            continue;
        }
        let counter = Arc::new(Counter::default());
        let engine = load(options, &way, &truth, &counter)?;
        if plain.is_empty() {
            let facts = engine.facts();
            println!(
                "{}, {}, dummy weights on {}: {} drafts, prompts of {} tokens, {} outputs",
                options.folder,
                facts.dtype,
                facts.device,
                options.drafts,
                options.prompt,
                options.tokens
            );
            println!("| drafts | streams | tokens/s | beside plain | tokens a draft step | same |");
            println!("|---|---|---|---|---|---|");
        }
        for &streams in &options.streams {
            // The first run chooses ways to multiply and records graphs.
            time(&engine, &counter, options, streams)?;
            let (speed, texts) = time(&engine, &counter, options, streams)?;
            let (beside, right) = plain.entry(streams).or_insert((speed, texts.clone()));
            let same = texts.iter().zip(right.iter()).filter(|(a, b)| a == b).count();
            let DraftStats { drafts, accepted_tokens, .. } = *counter.drafts.lock();
            let each = 1.0 + accepted_tokens as f64 / (drafts as f64).max(1.0);
            println!(
                "| {} | {streams} | {speed:.0} | x{:.3} | {each:.2} in {drafts} | {same} of \
                 {streams} |",
                way.name,
                speed / *beside
            );
        }
        engine.drain(PATIENCE);
    }
    Ok(())
}

fn main() {
    let usage = "usage: draft_costs FOLDER [device=auto|cpu] [streams=1,8,32] [prompt=TOKENS] \
                 [tokens=N] [drafts=N] [only=WORD] [head=FOLDER]";
    let Some(mut options) = Options::parse() else {
        eprintln!("{usage}");
        std::process::exit(2);
    };
    if options.head.is_empty() {
        options.head = make_head(&options.folder).unwrap_or_default();
    }
    if let Err(error) = run(&options) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
