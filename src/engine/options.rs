//! What an engine is told beside its arguments, and what it tells of itself once it runs. Plain
//! data: made and read by `triton` and by tests, used by `load` and `handle`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::request::Observer;
use crate::device::DeviceKind;
use crate::error::Result;
use crate::scheduler::Proposer;

/// What the server and its operator say beside model.json, of one engine.
#[derive(Clone)]
pub struct EngineOptions {
    /// Name for threads and logs: the Triton model's.
    pub name: String,
    /// `<repository>/<model>/<version>`: a relative `model` path is tried against it first.
    pub version_dir: PathBuf,
    /// Which GPUs, if GPUs serve at all: that is decided in `placement`.
    pub gpus: Gpus,
    /// Hears what happens, for metrics.
    pub observer: Arc<dyn Observer>,
    /// Requests that may wait for a slot; one more is refused with UNAVAILABLE.
    pub max_waiting: usize,
    /// Tokens of one stream that may wait for its responses to be sent; more fail it.
    pub max_backlog_tokens: usize,
    /// Logprobs of one request that may wait for a response to carry them; more fail it.
    pub max_logprob_entries: usize,
    /// Threads that detokenise and answer; None = by the number of cores.
    pub outbox_threads: Option<usize>,
    /// A step that runs longer poisons the engine; zero = never. None = [`STEP_TIMEOUT`], on the
    /// CPU [`STEP_TIMEOUT_CPU`].
    pub step_timeout: Option<Duration>,
    /// What a step with prompts is to take at most while others generate; zero = no limit. None =
    /// [`PROMPT_STEP`].
    pub prompt_step: Option<Duration>,
    /// What compiling one grammar may take, and each of its token masks.
    pub grammar_timeout: Duration,
    /// Chrome trace events of the engine's steps go here.
    pub step_trace: Option<PathBuf>,
    /// For tests: who proposes drafts in place of the method that model.json names, if it does.
    pub proposer: Option<NewProposer>,
}

/// Makes a proposer for each engine.
pub type NewProposer = Arc<dyn Fn() -> Box<dyn Proposer> + Send + Sync>;

/// Which of the visible GPUs an engine takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gpus {
    /// The instance group's (KIND_GPU).
    Group(u32),
    /// Those that `gpu_device_ids` in config.pbtxt lists, one for each rank.
    Listed(Vec<u32>),
    /// As many as it has ranks, behind those of so many other engines of the model. From the first
    /// again, if there are no more.
    Turn(usize),
}

/// How long a load may take, and whether anybody waits for it.
pub struct LoadLimits {
    /// In all. None: as long as it takes.
    pub deadline: Option<Duration>,
    /// Of reads of files, while none of them ends. None: as long as it takes.
    pub read_timeout: Option<Duration>,
    /// Why nobody waits any more, if so. Asked some times a second.
    pub wanted: Box<dyn Fn() -> Result<()> + Send + Sync>,
}

/// What a step with prompts is to take at most while others generate. A step of 8192 tokens of an
/// 8B model takes about 200 ms on an H200: with 100 ms eight prompts of 4096 tokens at once went
/// 6 % slower.
pub const PROMPT_STEP: Duration = Duration::from_millis(250);
/// How long a step on a GPU may run: vLLM's limit of one iteration.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a step on the CPU may run: a prompt of a large model may take minutes there.
pub const STEP_TIMEOUT_CPU: Duration = Duration::from_secs(600);

/// What a load decided, for logs and metrics.
#[derive(Debug, Clone)]
pub struct EngineFacts {
    /// Which of the devices serves.
    pub device_kind: DeviceKind,
    /// The device's name for logs: the GPU's, or "cpu" and what it computes with.
    pub device: String,
    /// Type of the activations, as vLLM spells it: "bfloat16", "float16" or "float32".
    pub dtype: String,
    /// Type of K and V in pages, as `kv_cache_dtype` spells it.
    pub kv_dtype: String,
    /// Prompt and output of one sequence at most, in tokens.
    pub max_model_len: u32,
    /// Sequences that run at the same time.
    pub max_num_seqs: u32,
    /// Token rows of one step at most.
    pub max_num_batched_tokens: u32,
    /// Tokens that the KV cache has room for; 0 of a model without one.
    pub kv_tokens: u64,
    /// Rows of the model's embedding table.
    pub vocab_size: u32,
    /// The model takes `embed`, not `submit`.
    pub embeds: bool,
    /// Names of the LoRA adapters that requests may ask for; None: LoRA is off.
    pub adapters: Option<Vec<String>>,
    /// Prompts may have images.
    pub images: bool,
}
