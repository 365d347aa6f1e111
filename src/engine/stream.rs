//! One request as its outbox thread sees it: the sequences it asked for (`n`), each with tokens
//! that wait to become text, and the answers that are made of them. Called by `outbox`; it sends
//! nothing itself.

use std::sync::Arc;
use std::time::Instant;

use super::command::{Accepted, Family, Finish, NewOutput};
use super::pooling::Wish;
use super::queued::Queued;
use super::request::{Answer, Client, FinishReason, Observation, Observer, Output};
use super::scores::Scores;
use crate::ids::TokenId;
use crate::sampling::TokenLogprobs;
use crate::text::TextStream;

pub(super) struct Stream {
    pub client: Arc<dyn Client>,
    pub ids: Family,
    prompt_tokens: u32,
    /// None: there was a token.
    queued: Option<Queued>,
    stream: bool,
    /// Text is wanted as it comes: for deltas, or to find stop strings. Otherwise once, at the end.
    eager: bool,
    stream_interval: u32,
    arrival: Instant,
    /// It embeds: what its vector becomes.
    embedding: Option<Wish>,
    /// Waits to be answered in this round.
    touched: bool,
    /// In index order.
    sequences: Vec<Sequence>,
}

struct Sequence {
    text: TextStream,
    /// None: nobody reads logprobs.
    scores: Option<Scores>,
    pending: Vec<NewToken>,
    /// The engine's word: the sequence ends with the last of the pending tokens.
    finish: Option<Finish>,
    /// It ended, by the engine's word or by a stop string.
    ended: Option<FinishReason>,
    /// Tokens processed, and those already reported to the client.
    tokens: u32,
    reported: u32,
    /// Text not yet reported.
    unsent: String,
    last_token_at: Option<Instant>,
}

/// A token as it comes from the engine.
pub(super) struct NewToken {
    pub token: TokenId,
    /// If the request's sampler reports them.
    pub logprobs: Option<Box<TokenLogprobs>>,
}

/// How a sequence ended just now.
pub(super) struct Ended {
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
            queued: Some(accepted.queued),
            stream,
            eager,
            stream_interval,
            arrival,
            embedding: accepted.embedding,
            touched: false,
            sequences: sequences.into_iter().map(Sequence::new).collect(),
        }
    }

    /// A new token of the sequence `index`, read from the device at `at`. True: the request wants
    /// an answer in this round and was not yet told so. A sequence that a stop string ended may
    /// still get a surplus token: dropped.
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
        self.queued = None;
        sequence.pending.push(token);
        sequence.finish = finish;
        observer.observe(match sequence.last_token_at.replace(at) {
            None => Observation::FirstToken {
                prompt_tokens: self.prompt_tokens,
                ttft_s: at.saturating_duration_since(self.arrival).as_secs_f64(),
            },
            Some(last) => {
                let gap = at.saturating_duration_since(last);
                Observation::InterToken { seconds: gap.as_secs_f64() }
            }
        });
        observer.observe(Observation::Generated { tokens: 1 });
        let wanted = self.eager || finish.is_some();
        wanted && !std::mem::replace(&mut self.touched, true)
    }

    /// Tokens that wait to be streamed; 0 for a request that is answered at its end.
    pub fn backlog(&self) -> usize {
        match self.stream {
            true => self.sequences.iter().map(|sequence| sequence.pending.len()).sum(),
            false => 0,
        }
    }

    /// Turn pending tokens into text. The sequences that end by it.
    pub fn advance(&mut self, observer: &dyn Observer) -> Vec<Ended> {
        self.touched = false;
        let mut all = Vec::new();
        for (index, sequence) in self.sequences.iter_mut().enumerate() {
            let Some((reason, by_text)) = sequence.advance(self.stream) else { continue };
            observer.observe(Observation::Finished {
                reason,
                e2e_s: self.arrival.elapsed().as_secs_f64(),
                prompt_tokens: self.prompt_tokens,
                output_tokens: sequence.tokens,
            });
            all.push(Ended { index, by_text });
        }
        all
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

    /// Tokens had to wait for the answer to a sequence's first.
    pub fn behind(&self) -> bool {
        self.sequences.iter().any(|s| s.ended.is_none() && !s.pending.is_empty())
    }

    /// Is it time for a delta?
    pub fn due(&self) -> bool {
        self.stream && self.sequences.iter().any(|s| s.due(self.stream_interval))
    }

    /// What is new, of all sequences in index order.
    pub fn take_answer(&mut self) -> Answer {
        let outputs = self.sequences.iter_mut().map(Sequence::take_output).collect();
        Answer { prompt_tokens: self.prompt_tokens, outputs }
    }
}

impl Sequence {
    fn new(new: NewOutput) -> Sequence {
        Sequence {
            text: new.text,
            scores: new.scores,
            pending: Vec::new(),
            finish: None,
            ended: None,
            tokens: 0,
            reported: 0,
            unsent: String::new(),
            last_token_at: None,
        }
    }

    /// Detokenise the pending tokens. Some((reason, by a stop string)) if the sequence ends here;
    /// tokens behind a stop string are dropped and not counted. The first token of a sequence that
    /// streams is taken alone: it is never late for later ones, and a stream of several tokens is
    /// always several answers, however fast they come.
    fn advance(&mut self, stream: bool) -> Option<(FinishReason, bool)> {
        if self.ended.is_some() {
            return None;
        }
        let first = stream && self.tokens == 0;
        let take = if first { self.pending.len().min(1) } else { self.pending.len() };
        let finish = self.finish.filter(|_| take == self.pending.len());
        let last = take.saturating_sub(1);
        for (i, NewToken { token, logprobs }) in self.pending.drain(..take).enumerate() {
            self.tokens += 1;
            if let (Some(scores), Some(logprobs)) = (&mut self.scores, logprobs) {
                scores.push(&logprobs);
            }
            let dropped = i == last && finish.is_some_and(|f| f.by_token);
            if self.text.push(token, dropped, &mut self.unsent) {
                self.ended = Some(FinishReason::Stop);
                break;
            }
        }
        let by_text = self.ended.is_some();
        if by_text {
            self.pending.clear();
        } else {
            self.ended = Some(finish?.reason);
            self.text.finish(&mut self.unsent);
        }
        self.ended.map(|reason| (reason, by_text))
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
            cumulative_logprob: self.scores.as_ref().map_or(f32::NAN, Scores::sum),
            logprobs: self.scores.as_mut().and_then(Scores::take),
        }
    }
}
