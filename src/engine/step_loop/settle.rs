//! What a step yields, to its requests: tokens, vectors, and the end of those whose logits are not
//! finite. Called by the loop in `step`.

use std::time::Instant;

use super::state::{ActiveSequence, Matcher, StepLoop};
use crate::engine::output::{Event, NewToken};
use crate::engine::request::{Finish, FinishReason};
use crate::error::Error;
use crate::ids::{RequestId, TokenId};
use crate::internal;
use crate::plan::StepResult;
use crate::sampling::NonFinite;
use crate::scheduler::Arrival;

impl StepLoop {
    /// Hand a step's tokens, or vectors, to their requests.
    pub(super) fn settle(&mut self, mut result: StepResult) {
        let now = Instant::now();
        let mut constrained = Vec::new();
        for Arrival { id, token, at_limit, sample } in self.scheduler.commit(&result) {
            match (token, result.vectors.get_mut(sample)) {
                (Err(NonFinite), vector) => self.fail_non_finite(id, vector.is_some()),
                (Ok(_), Some(vector)) => self.take_vector(id, std::mem::take(vector)),
                (Ok(token), None) => {
                    // A sequence's tokens come oldest first, and so do their logprobs.
                    let logprobs = &mut result.samples[sample].logprobs;
                    let logprobs = (!logprobs.is_empty()).then(|| Box::new(logprobs.remove(0)));
                    self.take_token(id, NewToken { token, logprobs }, at_limit, now);
                    constrained.push(id);
                }
            }
        }

        // Once all tokens of the step are there.
        for id in constrained {
            if self.active.get(&id).is_some_and(|active| !active.unmatched.is_empty()) {
                self.advance_matcher(id);
            }
        }
    }

    /// A token of a sequence was read at `now`. The stop rules are applied in the specification's
    /// order: eos and stop ids once `min_tokens` are there, then the length, then repetition.
    fn take_token(&mut self, id: RequestId, new: NewToken, at_limit: bool, now: Instant) {
        let Some(active) = self.active.get_mut(&id) else { return };
        self.meter.token(id, now);
        active.outputs += 1;
        let finish = active.finish(new.token, at_limit);

        if let (None, Some(matcher)) = (finish, &active.matcher) {
            active.unmatched.push(new.token);
            // A model without a token that ends a text: its matcher says whether this one does.
            if matches!(matcher, Matcher::Here(matcher) if !matcher.has_end()) {
                active.withheld = Some(Box::new(new));
                active.held = true;
                self.scheduler.hold(id, true);
                return;
            }
        }
        self.tell(id, new, finish);
    }

    /// The vector of a sequence that embeds: it ends with that.
    fn take_vector(&mut self, id: RequestId, vector: Vec<f32>) {
        let Some(active) = self.active.get(&id) else { return };
        let request = active.ids.first;
        self.outgoing[active.outbox].push(Event::Vector { id: request, vector });
        self.end(id, FinishReason::Stop);
    }

    fn fail_non_finite(&mut self, id: RequestId, embeds: bool) {
        let Some(active) = self.active.get(&id) else { return };
        let ids = active.ids;
        let error = not_finite(active, embeds);
        tracing::error!("request {}: {error}", ids.first);
        self.meter.corrupted();
        self.fail(ids, error);
    }
}

impl ActiveSequence {
    /// Does it end with its newest output? `at_limit`: there is no room for another.
    fn finish(&mut self, token: TokenId, at_limit: bool) -> Option<Finish> {
        let repetition = self.repetition.as_mut().is_some_and(|detector| detector.push(token));
        let finish = self.rules.check(self.outputs, token, repetition);
        // `min_tokens` may ask for more than the model's length has room for: the limit wins.
        let length = Finish { reason: FinishReason::Length, by_token: false };
        finish.or(at_limit.then_some(length))
    }
}

/// Why a request without finite logits, or without a finite vector, fails.
fn not_finite(active: &ActiveSequence, embeds: bool) -> Error {
    let place = if embeds {
        "The embedding is".into()
    } else {
        format!("The logits of output token {} are", active.outputs + 1)
    };
    internal!(
        "{place} not finite (NaN or infinity). If dtype is float16, it may have overflowed: set \
         dtype to bfloat16 or float32. Otherwise look for NaN in the weights of the model or of \
         the request's LoRA adapter."
    )
}
