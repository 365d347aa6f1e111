//! What a client may see of one output sequence: detokenised text, cut at a stop string, with as
//! much held back as a stop string that is still coming may need. One per request, on an outbox
//! thread. It counts output tokens for `min_tokens`, but whether eos or a stop id ends a sequence
//! is the engine's rule.
//!
//! Strings match in the client's order, not by place: after each token the first string of the list
//! that occurs anywhere in reach of the new text wins. Lengths are in characters (code points), as
//! the client sees them.

use std::sync::Arc;

use super::{Detokenizer, Tokenizer};
use crate::ids::TokenId;
use crate::sampling::SamplingParams;

/// Text behind the last one sent that is kept for matching is cut off when it grows beyond this.
const SLACK_BYTES: usize = 4096;

pub struct TextStream {
    /// None: `detokenize` is false, no text at all.
    detokenizer: Option<Detokenizer>,
    include_stop: bool,
    min_tokens: u32,
    outputs: u32,
    stops: Option<Stops>,
}

/// Present only if there are stop strings: without, text passes straight through.
struct Stops {
    /// The client's strings, each with its length in characters.
    strings: Vec<(String, usize)>,
    /// Characters that stay back while the sequence runs.
    hold_chars: usize,
    /// Characters before new text that a match may need.
    reach_chars: usize,
    /// The end of the text so far: `text[..sent]` has gone out.
    text: String,
    sent: usize,
}

impl TextStream {
    /// For the output that follows `prompt`.
    pub fn new(
        tokenizer: &Arc<Tokenizer>,
        prompt: &[TokenId],
        params: &SamplingParams,
    ) -> TextStream {
        let detokenizer = params.detokenize.then(|| {
            Detokenizer::new(
                tokenizer,
                prompt,
                params.skip_special_tokens,
                params.spaces_between_special_tokens,
            )
        });
        TextStream {
            detokenizer,
            include_stop: params.include_stop_str_in_output,
            min_tokens: params.min_tokens,
            outputs: 0,
            stops: Stops::new(&params.stop, params.include_stop_str_in_output),
        }
    }

    /// The next output token. Appends to `out` what may be shown now. True: a stop string ends the
    /// sequence here, `out` has all of its text and `finish` is not to be called.
    ///
    /// `stop_token`: the engine ended the sequence because of this token (eos, stop id). It counts,
    /// but has no text unless `include_stop_str_in_output`.
    pub fn push(&mut self, token: TokenId, stop_token: bool, out: &mut String) -> bool {
        self.outputs = self.outputs.saturating_add(1);
        let Some(detokenizer) = &mut self.detokenizer else { return false };
        if stop_token && !self.include_stop {
            return false;
        }
        let Some(stops) = &mut self.stops else {
            detokenizer.push(token, out);
            return false;
        };
        let old = stops.text.len();
        detokenizer.push(token, &mut stops.text);
        if self.outputs > self.min_tokens {
            if let Some(end) = stops.find(old, self.include_stop) {
                out.push_str(stops.text.get(stops.sent..end).unwrap_or_default());
                stops.text.clear();
                stops.sent = 0;
                return true;
            }
        }
        stops.release(out);
        false
    }

    /// The sequence ended without a stop string: what was held back for one comes out. Half a
    /// character does not.
    pub fn finish(&mut self, out: &mut String) {
        if let Some(stops) = &mut self.stops {
            out.push_str(&stops.text[stops.sent..]);
            stops.sent = stops.text.len();
        }
    }
}

impl Stops {
    fn new(strings: &[String], include_stop: bool) -> Option<Stops> {
        let strings: Vec<(String, usize)> =
            strings.iter().map(|s| (s.clone(), s.chars().count())).collect();
        let longest = strings.iter().map(|(_, chars)| *chars).max()?;
        let reach_chars = longest.saturating_sub(1);
        let hold_chars = if include_stop { 0 } else { reach_chars };
        Some(Stops { strings, hold_chars, reach_chars, text: String::new(), sent: 0 })
    }

    /// Where the text is to end because of a match that needs text from byte `old` on.
    fn find(&self, old: usize, include_stop: bool) -> Option<usize> {
        if old == self.text.len() {
            return None;
        }
        self.strings.iter().find_map(|(string, chars)| {
            let from = chars_before(&self.text, old, chars.saturating_sub(1));
            let start = from + self.text.get(from..)?.find(string.as_str())?;
            Some(if include_stop { start + string.len() } else { start })
        })
    }

    /// Send what no stop string can need any more, forget what none can match any more.
    fn release(&mut self, out: &mut String) {
        let end = chars_before(&self.text, self.text.len(), self.hold_chars);
        if end > self.sent {
            out.push_str(&self.text[self.sent..end]);
            self.sent = end;
        }
        if self.text.len() > SLACK_BYTES {
            let needed = chars_before(&self.text, self.text.len(), self.reach_chars).min(self.sent);
            self.text.drain(..needed);
            self.sent -= needed;
        }
    }
}

/// The byte at which the last `chars` characters before byte `end` begin; 0 if there are fewer.
fn chars_before(text: &str, end: usize, chars: usize) -> usize {
    match chars.checked_sub(1) {
        None => end,
        Some(skipped) => {
            let head = text.get(..end).unwrap_or_default();
            head.char_indices().rev().nth(skipped).map_or(0, |(at, _)| at)
        }
    }
}

#[cfg(test)]
#[path = "stop_tests.rs"]
mod tests;
