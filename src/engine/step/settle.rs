//! What a step yields, to its requests: tokens, vectors, and the end of those whose logits are not
//! finite. Part of `step`, whose loop calls it.

use std::time::Instant;

use super::{masks, Core, Live};
use crate::engine::command::Finish;
use crate::engine::outbox::Event;
use crate::engine::request::FinishReason;
use crate::engine::stream::NewToken;
use crate::error::Error;
use crate::ids::RequestId;
use crate::internal;
use crate::plan::StepResult;
use crate::sampling::NonFinite;
use crate::scheduler::Arrival;

impl Core {
    /// Hand a step's tokens to their requests and apply the stop rules of spec order: eos and stop
    /// ids once `min_tokens` are there, then the length, then repetition.
    pub(super) fn settle(&mut self, mut result: StepResult) {
        let now = Instant::now();
        for Arrival { id, token, at_limit, sample } in self.scheduler.commit(&result) {
            let Some(live) = self.live.get_mut(&id) else { continue };
            let token = match token {
                Ok(token) => token,
                Err(NonFinite) => {
                    let (ids, error) = (live.ids, not_finite(live, !result.vectors.is_empty()));
                    tracing::error!("request {}: {error}", ids.first);
                    self.meter.corrupted();
                    self.fail(ids, error);
                    continue;
                }
            };
            if let Some(vector) = result.vectors.get(sample) {
                let (id, vector) = (live.ids.first, vector.clone());
                self.outgoing[live.outbox].push(Event::Vector { id, vector });
                self.meter.ended(id, FinishReason::Stop);
                self.live.remove(&id);
                self.scheduler.finish(id);
                continue;
            }
            self.meter.token(id, now);
            live.outputs += 1;
            // `min_tokens` may ask for more than the model's length has room for: the limit wins.
            let length = Finish { reason: FinishReason::Length, by_token: false };
            let repetition =
                live.repetition.as_mut().is_some_and(|repetition| repetition.push(token));
            let finish = live.rules.check(live.outputs, token, repetition);
            let finish = finish.or(at_limit.then_some(length));
            let logprobs = result.samples[sample].logprobs.pop().map(Box::new);
            let new = NewToken { token, logprobs };
            if finish.is_none()
                && live.matcher.is_some()
                && !masks::advance_matcher(&self.matchers, id, live, token)
            {
                live.unsaid = Some(Box::new(new));
                live.held = true;
                self.scheduler.hold(id, true);
                continue;
            }
            self.tell(id, new, finish);
        }
    }

    /// Hand a token to its request, and end the sequence if that was its last one.
    pub(super) fn tell(&mut self, id: RequestId, token: NewToken, finish: Option<Finish>) {
        let Some(live) = self.live.get(&id) else { return };
        let (request, index) = (live.ids.first, live.index);
        self.outgoing[live.outbox].push(Event::Token { id: request, index, token, finish });
        if let Some(finish) = finish {
            self.meter.ended(id, finish.reason);
            self.live.remove(&id);
            self.scheduler.finish(id);
        }
    }
}

/// Why a request without finite logits, or without a finite vector, fails.
fn not_finite(live: &Live, embeds: bool) -> Error {
    let place = match embeds {
        true => "The embedding is".into(),
        false => format!("The logits of output token {} are", live.outputs + 1),
    };
    internal!(
        "{place} not finite (NaN or infinity). If dtype is float16, it may have overflowed: set \
         dtype to bfloat16 or float32. Otherwise look for NaN in the weights of the model or of \
         the request's LoRA adapter."
    )
}
