//! One request as its outbox thread sees it: the sequences it asked for (`n`), each with tokens
//! that wait to become text, and the answers that are made of them. Called by `outbox`; it sends
//! nothing itself.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::logprobs::SequenceLogprobs;
use crate::engine::request::{
    Accepted, Answer, Client, EmbedOptions, Finish, FinishReason, NewOutput, Observation, Observer,
    Output, QueuedPrompt, SequenceIds,
};
use crate::error::Error;
use crate::ids::TokenId;
use crate::sampling::TokenLogprobs;
use crate::text::TextStream;

/// Tokens and reported logprobs that one turn of a request works on: about a millisecond.
const TURN_COST: usize = 512;

/// What a stream holds, or what a turn took of it.
#[derive(Default)]
struct Amount {
    tokens: usize,
    /// Of other tokens than the one that came.
    logprobs: usize,
}

/// One request, from its admission to its last answer.
pub(crate) struct Stream {
    pub client: Arc<dyn Client>,
    pub ids: SequenceIds,
    prompt_tokens: u32,
    /// Until the first token.
    waits: Option<QueuedPrompt>,
    stream: bool,
    /// Text is wanted as it comes: for deltas, or to find stop strings. Otherwise once, at the end.
    eager: bool,
    stream_interval: u32,
    arrival: Instant,
    /// It embeds: what its vector becomes.
    embedding: Option<EmbedOptions>,
    /// Waits for its turn.
    queued: bool,
    /// In index order.
    sequences: Vec<SequenceText>,
    /// The sequence at which the next turn goes on.
    next: usize,
    /// Of all sequences: what has not become text.
    pending: Amount,
    /// Reported logprobs for the next answer.
    unsent_logprobs: usize,
}

/// One sequence of the request: its tokens on their way to text.
struct SequenceText {
    text: TextStream,
    /// None: nobody reads logprobs.
    logprobs: Option<SequenceLogprobs>,
    pending: VecDeque<NewToken>,
    /// Decided by the engine: the sequence ends with the last of the pending tokens.
    finish: Option<Finish>,
    /// It ended, by the engine's decision or by a stop string.
    ended: Option<FinishReason>,
    /// Tokens that became text.
    tokens: u32,
    /// Those of them that were already reported to the client.
    reported: u32,
    /// Text not yet reported.
    unsent: String,
    last_token_at: Option<Instant>,
}

/// A token as it comes from the engine.
pub(crate) struct NewToken {
    pub token: TokenId,
    /// If the request's sampler reports them.
    pub logprobs: Option<Box<TokenLogprobs>>,
}

impl NewToken {
    fn logprobs(&self) -> usize {
        self.logprobs.as_ref().map_or(0, |scored| scored.top.len())
    }
}

impl Amount {
    fn add(&mut self, token: &NewToken) {
        self.tokens += 1;
        self.logprobs += token.logprobs();
    }

    fn enough(&self) -> bool {
        self.tokens + self.logprobs >= TURN_COST
    }
}

/// What a turn came to.
pub(crate) struct Turn {
    pub ended: Vec<Ended>,
    /// All sequences had their share of this round: time for an answer.
    pub whole: bool,
    /// The tokens of a sequence cannot become text: the request fails.
    pub failed: Option<Error>,
}

/// How a sequence ended just now.
pub(crate) struct Ended {
    pub index: usize,
    /// By a stop string: the engine does not know yet.
    pub by_text: bool,
}

impl Stream {
    pub fn new(accepted: Accepted, stream_interval: u32) -> Stream {
        let Accepted { ids, prompt, sequences, client, stream, eager, arrival, .. } = accepted;
        Stream {
            client,
            ids,
            prompt_tokens: prompt.len() as u32,
            waits: Some(accepted.queued),
            stream,
            eager,
            stream_interval: accepted.stream_interval.unwrap_or(stream_interval),
            arrival,
            embedding: accepted.embedding,
            queued: false,
            sequences: sequences.into_iter().map(SequenceText::new).collect(),
            next: 0,
            pending: Amount::default(),
            unsent_logprobs: 0,
        }
    }

    /// A new token of the sequence `index`, read from the device at `at`. True: the request wants a
    /// turn and waits for none yet. A sequence that a stop string ended may still get a surplus
    /// token: dropped.
    pub fn take(
        &mut self,
        index: usize,
        token: NewToken,
        finish: Option<Finish>,
        at: Instant,
        observer: &dyn Observer,
    ) -> bool {
        let running = self.sequences.get_mut(index).filter(|s| s.ended.is_none());
        let Some(sequence) = running else { return false };

        self.waits = None;
        self.pending.add(&token);
        sequence.pending.push_back(token);
        sequence.finish = finish;

        match sequence.last_token_at.replace(at) {
            None => observer.observe(Observation::FirstToken {
                prompt_tokens: self.prompt_tokens,
                ttft_s: at.saturating_duration_since(self.arrival).as_secs_f64(),
            }),
            // Of the same step: one observation for all of its tokens.
            Some(last) if last == at => {}
            Some(last) => {
                let gap = at.saturating_duration_since(last);
                observer.observe(Observation::InterToken { seconds: gap.as_secs_f64() });
            }
        }
        observer.observe(Observation::Generated { tokens: 1 });

        let wanted = self.eager || finish.is_some();
        wanted && !std::mem::replace(&mut self.queued, true)
    }

    /// Tokens that wait to be streamed; 0 for a request that is answered at its end.
    pub fn backlog_tokens(&self) -> usize {
        if self.stream {
            self.pending.tokens
        } else {
            0
        }
    }

    /// Reported logprobs that wait for an answer.
    pub fn held_logprobs(&self) -> usize {
        self.pending.logprobs + self.unsent_logprobs
    }

    /// Turn pending tokens into text, from where the last turn stopped.
    pub fn advance(&mut self, observer: &dyn Observer) -> Turn {
        let mut taken = Amount::default();
        let mut ended = Vec::new();
        while let Some(sequence) = self.sequences.get_mut(self.next).filter(|_| !taken.enough()) {
            if let Some((reason, by_text)) = sequence.advance(self.stream, &mut taken) {
                observer.observe(Observation::Finished {
                    reason,
                    e2e_s: self.arrival.elapsed().as_secs_f64(),
                    prompt_tokens: self.prompt_tokens,
                    output_tokens: sequence.tokens,
                });
                ended.push(Ended { index: self.next, by_text });
            }
            if !(taken.enough() && sequence.may_go_on(self.stream)) {
                self.next += 1;
            }
        }

        self.pending.tokens -= taken.tokens;
        self.pending.logprobs -= taken.logprobs;
        self.unsent_logprobs += taken.logprobs;
        let whole = self.next >= self.sequences.len();
        if whole {
            self.next = 0;
        }
        let failed = self.sequences.iter().find_map(|s| s.text.failed()).cloned();
        Turn { ended, whole, failed }
    }

    /// The one answer of a request that embeds: its pooled vector was read from the device at `at`.
    pub fn embedded(
        &self,
        vector: Vec<f32>,
        at: Instant,
        observer: &dyn Observer,
    ) -> Option<Answer> {
        let prompt_tokens = self.prompt_tokens;
        let answer = self.embedding.as_ref()?.answer(vector, prompt_tokens);
        observer.observe(Observation::FirstToken {
            prompt_tokens,
            ttft_s: at.saturating_duration_since(self.arrival).as_secs_f64(),
        });
        observer.observe(Observation::Finished {
            reason: FinishReason::Stop,
            e2e_s: self.arrival.elapsed().as_secs_f64(),
            prompt_tokens,
            output_tokens: 0,
        });
        observer.observe(Observation::Answered { n: self.ids.count });
        Some(answer)
    }

    /// Every sequence ended.
    pub fn done(&self) -> bool {
        self.sequences.iter().all(|s| s.ended.is_some())
    }

    /// After a whole round: something came meanwhile, or had to wait for the answer to a sequence's
    /// first token. True puts it in the queue.
    pub fn wants_turn(&mut self) -> bool {
        let wants = |s: &SequenceText| s.finish.is_some() || self.eager && !s.pending.is_empty();
        self.queued = self.sequences.iter().any(|s| s.ended.is_none() && wants(s));
        self.queued
    }

    /// Is it time for a delta?
    pub fn due(&self) -> bool {
        self.stream && self.sequences.iter().any(|s| s.due(self.stream_interval))
    }

    /// What is new, of all sequences in index order.
    pub fn take_answer(&mut self) -> Answer {
        self.unsent_logprobs = 0;
        let outputs = self.sequences.iter_mut().map(SequenceText::take_output).collect();
        Answer { prompt_tokens: self.prompt_tokens, outputs }
    }
}

impl SequenceText {
    fn new(new: NewOutput) -> SequenceText {
        SequenceText {
            text: new.text,
            logprobs: new.logprobs,
            pending: VecDeque::new(),
            finish: None,
            ended: None,
            tokens: 0,
            reported: 0,
            unsent: String::new(),
            last_token_at: None,
        }
    }

    /// Detokenise pending tokens until the turn has `taken` enough. Some((reason, by a stop
    /// string)) if the sequence ends here; tokens behind a stop string are dropped and not counted.
    /// The first token of a sequence that streams is taken alone: it is never late for later ones,
    /// and a stream of several tokens is always several answers, however fast they come.
    fn advance(&mut self, stream: bool, taken: &mut Amount) -> Option<(FinishReason, bool)> {
        if self.ended.is_some() {
            return None;
        }
        let most = if stream && self.tokens == 0 { 1 } else { usize::MAX };
        for _ in 0..most {
            if taken.enough() {
                break;
            }
            let Some(new) = self.pending.pop_front() else { break };
            taken.add(&new);
            self.tokens += 1;
            if let (Some(reported), Some(logprobs)) = (&mut self.logprobs, new.logprobs) {
                reported.push(&logprobs);
            }
            let last = self.pending.is_empty();
            let dropped = last && self.finish.is_some_and(|f| f.by_token);
            if self.text.push(new.token, dropped, &mut self.unsent) {
                self.ended = Some(FinishReason::Stop);
                break;
            }
        }

        let by_text = self.ended.is_some();
        if by_text {
            self.pending.drain(..).for_each(|new| taken.add(&new));
        } else {
            let finish = self.finish.filter(|_| self.pending.is_empty());
            self.ended = Some(finish?.reason);
            self.text.finish(&mut self.unsent);
        }
        self.ended.map(|reason| (reason, by_text))
    }

    /// It has tokens for this round that a longer turn would have taken.
    fn may_go_on(&self, stream: bool) -> bool {
        let alone = stream && self.tokens == 1 && self.reported == 0;
        !self.pending.is_empty() && !alone
    }

    /// The first token, then every `interval` tokens, then the end.
    fn due(&self, interval: u32) -> bool {
        let new = self.tokens - self.reported;
        new > 0 && (self.reported == 0 || new >= interval || self.ended.is_some())
    }

    fn take_output(&mut self) -> Output {
        let tokens = self.tokens - self.reported;
        self.reported = self.tokens;
        let text = std::mem::take(&mut self.unsent);
        Output {
            text,
            tokens,
            finish_reason: self.ended,
            cumulative_logprob: self.logprobs.as_ref().map_or(f32::NAN, SequenceLogprobs::sum),
            logprobs: self.logprobs.as_mut().and_then(SequenceLogprobs::take),
        }
    }
}
