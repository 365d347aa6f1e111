//! What a client may see of one output sequence: detokenised text, cut at a stop string, with as
//! much held back as a stop string that is still coming may need. One per request, on an outbox
//! thread. It counts output tokens for `min_tokens`, but whether eos or a stop id ends a sequence
//! is the engine's rule.
//!
//! Strings match in the client's order, not by place: after each token the first string of the list
//! that occurs anywhere in reach of the new text wins. Lengths are in characters (code points), as
//! the client sees them.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use aho_corasick::automaton::{Automaton, StateID};
use aho_corasick::nfa::contiguous::NFA;
use aho_corasick::{Anchored, MatchKind};

use super::{Detokenizer, Tokenizer};
use crate::error::{Error, Result};
use crate::ids::TokenId;
use crate::invalid;
use crate::sampling::SamplingParams;

/// Text that was sent is forgotten when it grows beyond this.
const SLACK_BYTES: usize = 4096;
/// What the stop strings of all requests of this process may take once they are ready to be found,
/// some thirty bytes for each of theirs: thousands of usual lists, dozens of the largest.
const MAX_BYTES: usize = 512 << 20;
/// What they take.
static USED_BYTES: AtomicUsize = AtomicUsize::new(0);

/// A clone is another sequence's before its first token: it shares the stop strings.
#[derive(Clone)]
pub struct TextStream {
    /// None: `detokenize` is false, no text at all.
    detokenizer: Option<Detokenizer>,
    include_stop: bool,
    min_tokens: u32,
    outputs: u32,
    stops: Option<StopSearch>,
}

/// The stop strings of a request, ready to be found: one pass over a text finds all of them.
struct StopStrings {
    automaton: NFA,
    _used: UsedBytes,
    /// Characters of the longest without its last one: no longer end of a text can become a match.
    reach_chars: usize,
}

/// A share of [`USED_BYTES`].
struct UsedBytes(usize);

impl UsedBytes {
    /// # Errors
    /// Unavailable: other requests use too much.
    fn take(bytes: usize) -> Result<UsedBytes> {
        // Checked before it counts: a request that is refused must not push another over the limit.
        let taken = USED_BYTES.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|all| *all <= MAX_BYTES)
        });

        match taken {
            Ok(_) => Ok(UsedBytes(bytes)),
            Err(used) => Err(Error::Unavailable(format!(
                "the stop strings of all requests would take {} MiB, and {} MiB is the limit: \
                 retry later, or send fewer",
                used.saturating_add(bytes) >> 20,
                MAX_BYTES >> 20
            ))),
        }
    }
}

impl Drop for UsedBytes {
    fn drop(&mut self) {
        USED_BYTES.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// Present only if there are stop strings: without, text passes straight through.
#[derive(Clone)]
struct StopSearch {
    strings: Arc<StopStrings>,
    /// Where the automaton is after all text so far.
    state: StateID,
    /// Characters that stay back while the sequence runs.
    hold_chars: usize,
    /// The end of the text so far: `text[..sent]` has gone out.
    text: String,
    sent: usize,
    /// Characters of `text[sent..]`.
    unsent_chars: usize,
}

impl TextStream {
    /// For the output that follows `prompt`.
    ///
    /// # Errors
    /// InvalidArgument: more stop strings than can be searched for. Unavailable: those of other
    /// requests take too much memory. Internal: the decoder's rules fail on the prompt.
    pub fn new(
        tokenizer: &Arc<Tokenizer>,
        prompt: &[TokenId],
        params: &SamplingParams,
    ) -> Result<TextStream> {
        let detokenizer = params.detokenize.then(|| {
            Detokenizer::new(
                tokenizer,
                prompt,
                params.skip_special_tokens,
                params.spaces_between_special_tokens,
            )
        });
        if let Some(error) = detokenizer.as_ref().and_then(Detokenizer::failed) {
            return Err(error.clone());
        }
        Ok(TextStream {
            detokenizer,
            include_stop: params.include_stop_str_in_output,
            min_tokens: params.min_tokens,
            outputs: 0,
            stops: StopSearch::new(&params.stop, params.include_stop_str_in_output)?,
        })
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

        let found = stops.find(old).filter(|_| self.outputs > self.min_tokens);
        if let Some(Range { start, end }) = found {
            let end = if self.include_stop { end } else { start };
            out.push_str(stops.text.get(stops.sent..end).unwrap_or_default());
            stops.text.clear();
            stops.sent = 0;
            return true;
        }
        stops.release(old, out);
        false
    }

    /// Why no more text comes: the decoder's rules fail on the tokens.
    pub fn failed(&self) -> Option<&Error> {
        self.detokenizer.as_ref()?.failed()
    }

    /// The sequence ended without a stop string: what was held back for one comes out. Half a
    /// character does not.
    pub fn finish(&mut self, out: &mut String) {
        let Some(stops) = &mut self.stops else {
            if let Some(detokenizer) = &mut self.detokenizer {
                detokenizer.finish(out);
            }
            return;
        };
        let old = stops.text.len();
        if let Some(detokenizer) = &mut self.detokenizer {
            detokenizer.finish(&mut stops.text);
        }
        let found = stops.find(old).filter(|_| self.outputs > self.min_tokens);
        let end = found.map_or(stops.text.len(), |found| match self.include_stop {
            true => found.end,
            false => found.start,
        });
        out.push_str(stops.text.get(stops.sent..end).unwrap_or_default());
        stops.sent = stops.text.len();
        stops.unsent_chars = 0;
    }
}

impl StopStrings {
    /// None of none.
    fn new(strings: &[String]) -> Result<Option<StopStrings>> {
        let Some(longest) = strings.iter().map(|s| s.chars().count()).max() else {
            return Ok(None);
        };
        // Of equal ones the first decides: pattern numbers stay in the client's order.
        let mut seen = HashSet::new();
        let distinct = strings.iter().filter(|s| seen.insert(s.as_str()));
        let automaton = NFA::builder()
            .match_kind(MatchKind::Standard)
            .prefilter(false)
            .build(distinct)
            .map_err(|e| invalid!("stop: these strings cannot be searched for: {e}"))?;
        let _used = UsedBytes::take(automaton.memory_usage())?;
        Ok(Some(StopStrings { automaton, _used, reach_chars: longest.saturating_sub(1) }))
    }
}

impl StopSearch {
    fn new(strings: &[String], include_stop: bool) -> Result<Option<StopSearch>> {
        let Some(strings) = StopStrings::new(strings)? else { return Ok(None) };
        let state = strings
            .automaton
            .start_state(Anchored::No)
            .map_err(|e| invalid!("stop: these strings cannot be searched for: {e}"))?;
        Ok(Some(StopSearch {
            hold_chars: if include_stop { 0 } else { strings.reach_chars },
            strings: Arc::new(strings),
            state,
            text: String::new(),
            sent: 0,
            unsent_chars: 0,
        }))
    }

    /// Take the text from byte `old` on into account. Some(where): the first string of the client's
    /// list that ends in it, at its first place there.
    fn find(&mut self, old: usize) -> Option<Range<usize>> {
        let automaton = &self.strings.automaton;
        let mut first = None;
        for (at, &byte) in self.text.as_bytes().iter().enumerate().skip(old) {
            self.state = automaton.next_state(Anchored::No, self.state, byte);
            if !automaton.is_match(self.state) {
                continue;
            }
            for i in 0..automaton.match_len(self.state) {
                let string = automaton.match_pattern(self.state, i);
                if first.is_none_or(|(best, _)| string < best) {
                    first = Some((string, at + 1));
                }
            }
        }
        let (string, end) = first?;
        // Not below 0: the text is cut only before what a match may need.
        Some(end.saturating_sub(automaton.pattern_len(string))..end)
    }

    /// Send what no stop string can need any more, forget what was sent. The text from byte `old`
    /// on is new. Over a sequence's life the cost is linear in its text, however much is held back.
    fn release(&mut self, old: usize, out: &mut String) {
        self.unsent_chars += self.text.get(old..).unwrap_or_default().chars().count();
        if let Some(free_chars) = self.unsent_chars.checked_sub(self.hold_chars) {
            let unsent = self.text.get(self.sent..).unwrap_or_default();
            let bytes = unsent.char_indices().nth(free_chars).map_or(unsent.len(), |(at, _)| at);
            out.push_str(&unsent[..bytes]);
            self.sent += bytes;
            self.unsent_chars -= free_chars;
        }
        if self.text.len() > SLACK_BYTES && 2 * self.sent > self.text.len() {
            self.text.drain(..self.sent);
            self.sent = 0;
        }
    }
}

#[cfg(test)]
#[path = "stop_tests.rs"]
mod tests;
