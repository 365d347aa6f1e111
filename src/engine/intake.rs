//! Intake: a validated request becomes tokens and limits, on the caller's thread, or is refused
//! there. What passes goes to the engine thread as an [`Accepted`].

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{unbounded, Receiver, Sender};

use super::command::{Accepted, Command, NewOutput, SequenceIds, StopRules};
use super::grammar_matchers::{DropThread, MatcherState};
use super::pooling::{Embedder, Job};
use super::queued::PromptQueue;
use super::repetition::RepetitionDetector;
use super::request::{GenerateRequest, Returns};
use super::scores::Scores;
use super::workers::{Job as Work, Rules, Watch, Workers};
use crate::error::{Error, Result};
use crate::ids::{AdapterId, RequestId, TokenId};
use crate::sampling::{LogprobSpec, SamplerSpec, SamplingParams};
use crate::text::{
    check_prompt_chars, check_prompt_tokens, check_vocabulary, Grammars, Interrupt,
    NeverInterrupted, Speller, TextStream, Tokenizer, STACK_BYTES,
};
use crate::{internal, invalid};

/// Requests of up to this many bytes of text are prepared on the caller's thread (a fraction of a
/// millisecond); larger ones on a thread of their own, so that one book does not hold up a hundred
/// questions.
const INLINE_BYTES: usize = 16 * 1024;
/// Threads that compile grammars, as long as none takes long: half of the cores, between these.
const COMPILERS: (usize, usize) = (2, 8);

/// The ways to the threads that prepare what would hold up the caller. They end when this is
/// dropped. What waits for them is limited by the engine's tickets and by the length of a prompt.
pub(super) struct Slow {
    intake: Arc<Intake>,
    long_prompts: Sender<Job>,
    grammars: Workers,
}

impl Slow {
    /// `grammar_limit`: what compiling one grammar may take.
    pub fn start(
        name: &str,
        intake: &Arc<Intake>,
        grammar_limit: Duration,
    ) -> Result<(Slow, Vec<JoinHandle<()>>)> {
        intake.warn_of_vocabulary(name);
        let (long_prompts, prompts) = unbounded();
        let reader = reader(format!("tokenize {name}"), intake, &prompts)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (cores / 2).clamp(COMPILERS.0, COMPILERS.1);
        let rules = Rules { threads, limit: grammar_limit, answers: true };
        let (grammars, compilers) = Workers::start(format!("compile {name}"), rules)?;
        let slow = Slow { intake: Arc::clone(intake), long_prompts, grammars };
        Ok((slow, vec![reader, compilers]))
    }

    /// Is this too much for the caller's own thread?
    pub fn wants(&self, job: &Job) -> bool {
        has_grammar(job) || job.work_bytes() > INLINE_BYTES
    }

    /// Have it prepared elsewhere.
    ///
    /// # Errors
    /// Unavailable: no thread can take it.
    pub fn send(&self, mut job: Job) -> Result<()> {
        if !has_grammar(&job) {
            let sent = self.long_prompts.send(job);
            return sent.map_err(|_| Error::Unavailable("the model is being unloaded".into()));
        }
        let (intake, client) = (Arc::clone(&self.intake), Arc::clone(job.end().0));
        let run = move |watch: &Arc<Watch>| {
            let client = Arc::clone(job.end().0);
            let taken = watch.check().and_then(|()| intake.accept(job, &**watch));
            if let Err(error) = taken {
                watch.refuse(&*client, error);
            }
        };
        self.grammars.send(Work { client, run: Box::new(run) })
    }
}

fn has_grammar(job: &Job) -> bool {
    matches!(job, Job::Generate(request) if request.params.structured_outputs.is_some())
}

fn reader(name: String, intake: &Arc<Intake>, jobs: &Receiver<Job>) -> Result<JoinHandle<()>> {
    let (intake, jobs) = (intake.clone(), jobs.clone());
    let read = move || {
        for mut job in jobs {
            let client = job.end().0.clone();
            let refused = match client.gone() {
                // A parser that panics costs its own request only.
                None => catch_unwind(AssertUnwindSafe(|| intake.accept(job, &NeverInterrupted)))
                    .unwrap_or_else(|_| Err(internal!("a fault in reading the request")))
                    .err(),
                Some(gone) => {
                    tracing::info!("Cancelling the request");
                    tracing::info!("Successfully cancelled the request");
                    Some(gone)
                }
            };
            if let Some(error) = refused {
                client.finish(Err(error));
            }
        }
    };
    std::thread::Builder::new()
        .name(name)
        .stack_size(STACK_BYTES)
        .spawn(read)
        .map_err(|e| internal!("cannot start a thread: {e}"))
}

/// Shared by all callers of one engine.
pub(super) struct Intake {
    pub tokenizer: Arc<Tokenizer>,
    pub grammars: Grammars,
    pub max_model_len: u32,
    /// Rows of the model's embedding table: no other id may reach a device.
    pub vocab_size: u32,
    /// The model's own ends: tokenizer's eos and generation_config's.
    pub eos: Vec<TokenId>,
    /// Engine seed: requests without a seed of their own derive one from it and their id.
    pub seed: u64,
    pub log_requests: bool,
    /// Names of multi_lora.json, in its order.
    pub adapters: Vec<String>,
    pub queue: Arc<PromptQueue>,
    pub commands: Sender<Command>,
    /// Where matchers of ended sequences go.
    pub drop_thread: DropThread,
    pub next_id: AtomicU64,
    /// The model embeds and generates nothing.
    pub embedder: Option<Arc<Embedder>>,
}

impl Intake {
    /// Tokenise, check the room, hand over, unless `interrupt` ends it.
    pub fn accept(&self, job: Job, interrupt: &dyn Interrupt) -> Result<()> {
        let accepted = match job {
            Job::Generate(request) => self.prepare(*request, interrupt)?,
            Job::Embed(request) => self.prepare_embedding(request)?,
        };
        interrupt.check()?;
        self.commands
            .send(Command::Submit(Box::new(accepted)))
            .map_err(|_| Error::Unavailable("the model is being unloaded".into()))
    }

    /// Tell the operator of ids that the tokenizer may give and the model lacks.
    fn warn_of_vocabulary(&self, name: &str) {
        let (known, rows) = (self.tokenizer.vocab_size(), self.vocab_size);
        let always = self.tokenizer.encode("").unwrap_or_default();
        if let Err(error) = check_vocabulary(&always, rows) {
            tracing::warn!(
                "{name}: every text will be refused, for the tokenizer puts a token into each that \
                 the model's {rows} embedding rows lack ({error}): tokenizer and checkpoint do not \
                 belong together"
            );
        } else if known > rows {
            tracing::warn!(
                "{name}: the tokenizer's ids go up to {}, the model has {rows} embedding rows: \
                 prompts with tokens beyond them are refused",
                known - 1
            );
        }
    }

    /// Refuse what cannot fit before anybody spends time on its tokens.
    pub fn check_length(&self, prompt: &str) -> Result<()> {
        check_prompt_chars(prompt, &self.tokenizer, self.max_model_len)
    }

    fn prepare(&self, request: GenerateRequest, interrupt: &dyn Interrupt) -> Result<Accepted> {
        let GenerateRequest { prompt, params, stream, returns, client, arrival, options } = request;
        if self.embedder.is_some() {
            return Err(invalid!("this model embeds, it does not generate text"));
        }
        let adapter = self.adapter(params.lora_name.as_deref())?;
        self.check_length(&prompt)?;
        let tokens = self.tokenizer.encode(&prompt)?;
        check_prompt_tokens(tokens.len(), self.max_model_len)?;
        check_vocabulary(&tokens, self.vocab_size)?;
        let ids = self.new_ids(params.n);
        let first = ids.first;
        let room = self.max_model_len - tokens.len() as u32;
        let mut bad_words = self.tokenizer.bad_words(&params.bad_words)?;
        // What has a token that cannot be sampled never occurs.
        bad_words.retain(|word| check_vocabulary(word, self.vocab_size).is_ok());
        let mut matcher_state = self.matcher_state(&params, interrupt)?.map(Box::new);
        let limits = self.stop_rules(&params, room)?;
        if self.log_requests {
            tracing::info!("request {first}: {} prompt tokens, {params:?}", tokens.len());
        }
        let returns = Returns { logprobs: returns.logprobs && params.wants_logprobs(), ..returns };
        let mut sampler = params.sampler(&self.eos, 0, bad_words);
        if !returns.logprobs {
            // The sum needs the sampled token's own only.
            sampler.logprobs = returns.cumulative_logprob.then_some(LogprobSpec::Top(0));
        }
        if matcher_state.is_some() {
            // Masked by the matcher, which knows when the grammar has nothing else.
            sampler.min_tokens = 0;
            sampler.masked_until_min = Arc::from([]);
        }
        let text = TextStream::new(&self.tokenizer, &tokens, &params)?;
        let sequence = |(index, id): (usize, RequestId)| {
            // A seed is the first sequence's: the others count up from it.
            let given = params.seed.map(|seed| (seed as u64).wrapping_add(index as u64));
            let seed = given.unwrap_or_else(|| mix(self.seed, id.0));
            let sampler = SamplerSpec { seed, ..sampler.clone() };
            let scores = sampler.logprobs.is_some().then(|| {
                let spell = returns.logprobs && params.detokenize;
                let speller = spell.then(|| Speller::new(&self.tokenizer, &tokens));
                Scores::new(returns, speller)
            });
            let matcher_state = match index + 1 == ids.count as usize {
                true => matcher_state.take(),
                false => matcher_state.as_ref().map(|matcher_state| Box::new(matcher_state.fork())),
            };
            NewOutput { sampler: Arc::new(sampler), text: text.clone(), scores, matcher_state }
        };
        Ok(Accepted {
            ids,
            adapter,
            sequences: ids.ids().enumerate().map(sequence).collect(),
            limits: Arc::new(limits),
            queued: self.queue.add(tokens.len()),
            prompt: tokens.into(),
            client,
            stream,
            stream_interval: params.stream_interval,
            eager: stream || !params.stop.is_empty(),
            arrival,
            skip_cache: params.skip_reading_prefix_cache,
            priority: options.priority,
            embedding: None,
        })
    }

    /// When a sequence of the request ends, with `room` for that many outputs.
    fn stop_rules(&self, params: &SamplingParams, room: u32) -> Result<StopRules> {
        let mut stop_ids = params.stop_token_ids.clone();
        if !params.ignore_eos {
            stop_ids.extend_from_slice(&self.eos);
        }
        stop_ids.sort_unstable();
        let limits = StopRules {
            max_tokens: params.max_tokens.map_or(room, |max| max.min(room)),
            min_tokens: params.min_tokens,
            stop_ids,
            repetition: params.repetition_detection.clone(),
        };
        if let Some(rule) = &limits.repetition {
            RepetitionDetector::check(rule, limits.max_tokens, params.n)?;
        }
        Ok(limits)
    }

    pub(super) fn new_ids(&self, count: u32) -> SequenceIds {
        let first = RequestId(self.next_id.fetch_add(u64::from(count), Ordering::Relaxed));
        SequenceIds { first, count }
    }

    fn adapter(&self, name: Option<&str>) -> Result<AdapterId> {
        let Some(name) = name else { return Ok(AdapterId(0)) };
        match self.adapters.iter().position(|known| known == name) {
            Some(n) => Ok(AdapterId(n as u16 + 1)),
            None => Err(invalid!("LoRA {name} is not known.")),
        }
    }
}

impl Intake {
    /// The compiled grammar of a request that has one.
    fn matcher_state(
        &self,
        params: &SamplingParams,
        interrupt: &dyn Interrupt,
    ) -> Result<Option<MatcherState>> {
        let Some(outputs) = &params.structured_outputs else { return Ok(None) };
        let matcher = self.grammars.compile(outputs, interrupt)?;
        let avoid = self.eos.iter().chain(&params.stop_token_ids).copied().collect();
        Ok(Some(MatcherState::new(matcher, params.min_tokens, avoid, self.drop_thread.clone())))
    }
}

/// SplitMix64's finaliser (Steele, Lea, Flood 2014): neighbouring ids give unrelated seeds.
fn mix(seed: u64, id: u64) -> u64 {
    let mut z = seed.wrapping_add(id.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
