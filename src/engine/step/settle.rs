//! What a step yields, to its requests: tokens, vectors, and the end of those whose logits are not
//! finite. Part of `step`, whose loop calls it.

use std::time::Instant;

use super::{Core, Live};
use crate::engine::command::Finish;
use crate::engine::guides::{Guides, Place};
use crate::engine::outbox::Event;
use crate::engine::request::FinishReason;
use crate::engine::stream::NewToken;
use crate::error::Error;
use crate::ids::{RequestId, TokenId};
use crate::internal;
use crate::plan::StepResult;
use crate::sampling::NonFinite;
use crate::scheduler::Arrival;
use crate::text::Next;

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
            let circle = live.circle.as_mut().is_some_and(|circle| circle.push(token));
            let finish = live.rules.check(live.outputs, token, circle);
            let mut finish = finish.or(at_limit.then_some(length));
            if finish.is_none() && live.guide.is_some() {
                finish = guide_on(&self.guides, id, live, token);
            }
            let logprobs = result.samples[sample].logprobs.pop().map(Box::new);
            let token = NewToken { token, logprobs };
            let (request, index) = (live.ids.first, live.index);
            self.outgoing[live.outbox].push(Event::Token { id: request, index, token, finish });
            if let Some(finish) = finish {
                self.meter.ended(id, finish.reason);
                self.live.remove(&id);
                self.scheduler.finish(id);
            }
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

/// Let a sequence's guide take the token, elsewhere. For a model without a token that ends a text
/// here and now: the end of its grammar is the end of the request.
fn guide_on(guides: &Guides, id: RequestId, live: &mut Live, token: TokenId) -> Option<Finish> {
    let Some(Place::Here(mut guided)) = live.guide.replace(Place::Away) else { return None };
    if guided.has_end() {
        guides.advance(id, guided, token);
        return None;
    }
    guided.advance(token);
    let over = matches!(guided.next(), Ok(Next::End));
    live.guide = Some(Place::Here(guided));
    over.then_some(Finish { reason: FinishReason::Stop, by_token: false })
}
