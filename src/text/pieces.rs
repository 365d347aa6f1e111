//! Long texts in pieces, tokenised at the same time by the thread that asks and by threads that
//! help: the same tokens, sooner. `tokenizer` asks; threads of `engine` help. It knows no request.
//!
//! Nobody waits for a thread that might not come: the asking thread takes pieces like the others,
//! one after the other, until none is left, and then waits for those that others have in hand.
//! Helpers last, for the crate remembers words by thread (`load`, `CACHED_WORDS`).

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use crossbeam::channel::{bounded, unbounded, Receiver, Sender};
use tokenizers::tokenizer::{Model, OffsetType, PreTokenizer};
use tokenizers::{Encoding, Tokenizer as Inner};

use super::cut_rule::{can_cut, piece_starts};
use crate::error::Result;
use crate::internal;
use crate::threads;

/// Bytes from which a text is cut: some 20 ms of tokenising.
pub const LONG_TEXT_BYTES: usize = 64 * 1024;
/// Of a piece at least, some 5 ms: hundred times what it takes to wake a thread for it.
const PIECE_BYTES: usize = 16 * 1024;
/// Threads on one text.
const MAX_THREADS: usize = 8;
/// Calls for help that nobody has heard yet. Each holds a text, so they must not pile up: with so
/// many, all helpers are busy.
const MAX_CALLS: usize = 64;

/// Where threads of one tokenizer ask for help with a long text.
pub(super) struct Pieces {
    /// Whether a text may be cut at all.
    allowed: bool,
    calls: Sender<PieceCall>,
    heard: Receiver<PieceCall>,
    helpers: AtomicUsize,
}

impl Pieces {
    pub fn new(inner: &Inner) -> Pieces {
        let (calls, heard) = bounded(MAX_CALLS);
        Pieces { allowed: can_cut(inner), calls, heard, helpers: AtomicUsize::new(0) }
    }

    /// A text's tokens, nothing put around them. None: it is to be tokenised as a whole, for it is
    /// short, must not be cut, or nobody would help.
    ///
    /// # Errors
    /// Internal, as [`super::Tokenizer::encode`].
    ///
    /// # Panics
    /// As the crate does on the whole: its panics are passed on.
    pub fn encode(&self, inner: &Arc<Inner>, text: &str) -> Result<Option<Encoding>> {
        let threads = self.helpers.load(Ordering::Relaxed).min(MAX_THREADS);
        if !self.allowed || text.len() < LONG_TEXT_BYTES || threads < 2 {
            return Ok(None);
        }
        let starts = piece_starts(text, pieces(text.len(), threads));
        if starts.len() == 1 {
            return Ok(None);
        }

        let (done, ends) = unbounded();
        let helpers = threads.min(starts.len()) - 1;
        let (inner, text) = (Arc::clone(inner), text.to_string());
        let job = Arc::new(Job { inner, text, starts, next: AtomicUsize::new(0), done });
        for _ in 0..helpers {
            // Full: all are busy.
            let _ = self.calls.try_send(PieceCall(Arc::clone(&job)));
        }
        job.run();
        job.joined(&ends).map(Some)
    }
}

/// A multiple of the threads, as long as pieces do not become too short.
fn pieces(bytes: usize, threads: usize) -> usize {
    let most = bytes / PIECE_BYTES;
    if most < threads {
        most
    } else {
        most / threads * threads
    }
}

/// A thread that helps with long texts of a tokenizer, while this lives.
pub struct PieceHelper(Arc<Pieces>);

impl PieceHelper {
    pub(super) fn new(pieces: &Arc<Pieces>) -> PieceHelper {
        pieces.helpers.fetch_add(1, Ordering::Relaxed);
        PieceHelper(Arc::clone(pieces))
    }

    /// Calls for help. Whoever takes one must answer it soon ([`PieceCall::help`]).
    pub fn calls(&self) -> &Receiver<PieceCall> {
        &self.0.heard
    }
}

impl Drop for PieceHelper {
    fn drop(&mut self) {
        self.0.helpers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Somebody tokenises a long text.
pub struct PieceCall(Arc<Job>);

impl PieceCall {
    /// Tokenise pieces of it until none is left; returns at once if none is. It never waits.
    pub fn help(self) {
        self.0.run();
    }
}

/// A piece's place in the text, and its tokens, or the text of a panic.
type End = (usize, std::result::Result<Result<Vec<u32>>, String>);

struct Job {
    inner: Arc<Inner>,
    text: String,
    /// Of the pieces, in order.
    starts: Vec<usize>,
    /// The first piece that nobody has taken.
    next: AtomicUsize,
    done: Sender<End>,
}

impl Job {
    /// Until no piece is left; how many that were.
    fn run(&self) -> usize {
        let mut count = 0;
        loop {
            let piece = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(&start) = self.starts.get(piece) else { return count };
            let end = self.starts.get(piece + 1).copied().unwrap_or(self.text.len());
            let ids = threads::catch_quietly(|| ids_of(&self.inner, &self.text[start..end]));
            // Nobody listens once another piece has failed.
            let _ = self.done.send((piece, ids));
            count += 1;
        }
    }

    /// Wait for all pieces.
    fn joined(&self, ends: &Receiver<End>) -> Result<Encoding> {
        let mut pieces = vec![Vec::new(); self.starts.len()];
        for _ in 0..self.starts.len() {
            let (piece, ids) = ends.recv().map_err(|_| internal!("a piece of a text is lost"))?;
            pieces[piece] = ids.unwrap_or_else(|panic| resume_unwind(Box::new(panic)))?;
        }
        // As the crate does without offsets.
        let token = |id| (id, String::new(), (0, 0), None, 0);
        Ok(pieces.into_iter().flatten().map(token).collect())
    }
}

/// What the crate does with a text before it puts tokens around it.
fn ids_of(inner: &Inner, text: &str) -> Result<Vec<u32>> {
    let encode = || -> tokenizers::Result<Encoding> {
        let added = inner.get_added_vocabulary();
        let mut words = added.extract_and_normalize(inner.get_normalizer(), text);
        if let Some(rule) = inner.get_pre_tokenizer() {
            rule.pre_tokenize(&mut words)?;
        }
        inner.get_model().tokenize_in_pretokenized(&mut words, None)?;
        words.into_encoding(None, 0, OffsetType::None)
    };
    let encoding = encode().map_err(|e| internal!("cannot tokenise: {e}"))?;
    Ok(encoding.get_ids().to_vec())
}

#[cfg(test)]
#[path = "pieces_tests.rs"]
mod tests;
