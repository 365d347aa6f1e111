//! CUDA graphs: a memo of what a decode step launches between `begin` and `forwarded`. `Cuda` asks
//! [`Graphs::begin`] at the start of a step and [`Graphs::end`] at that end, before the host waits
//! for anything (no recording survives that); launches in between are recorded, skipped because a
//! graph will do them, or made, as [`Context::mode`] says. It knows no op.
//!
//! A decode step's launches depend on nothing but the model, the number of token rows, whether some
//! row has an adapter, whether some sequence has several rows, whether some row has no logits, and
//! whether attention reads keys once that sequences share: everything else the kernels read from
//! device memory. Whose the rows are does not matter otherwise: a step that verifies drafts is
//! recorded too (`Batch::decode`). So rows are padded to a bucket, and per [`Key`] the launches are
//! recorded the second time the key comes (the first time chose GEMM algorithms and grew buffers,
//! which no recording survives) and replayed from then on. The step that is recorded also runs,
//! launch by launch: another model that allocates at this moment can spoil a recording, and then
//! only the recording is lost. All that costs some milliseconds once per key, after the model is
//! ready. Steps with chunks of prompts are launched one by one: they are long enough to hide it.
//!
//! A replayed step must be the recorded one: a running hash of kernels, grids and operands is held
//! against the recording's.

use std::collections::HashMap;
use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys;

use super::context::{check, Context, Mode};
use crate::error::Result;
use crate::internal;

/// Graphs of one device at most; steps beyond are launched one by one. A graph of an 8B model takes
/// about a megabyte.
const MOST_GRAPHS: usize = 96;
/// Recordings of a key that may fail before it is left alone.
const ATTEMPTS: u32 = 8;
/// Token rows of a recorded step at most.
const MOST_ROWS: usize = 1024;

/// What recorded launches depend on beside the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// Token rows, padded.
    pub rows: usize,
    /// Some row has a low-rank adapter.
    pub adapters: bool,
    /// Some sequence has several rows: attention does not rotate them on its way, and where a model
    /// keeps states, tails of convolutions are moved by themselves.
    pub several_rows: bool,
    /// Some row has no logits.
    pub gathers: bool,
    /// Sequences have keys in common that attention reads once.
    pub shares_keys: bool,
    /// Kernels may start while those in front of them wait for other ranks.
    pub ahead: bool,
}

/// Rows that a decode step of `rows` is padded to. None: more than is recorded.
pub fn padded(rows: usize) -> Option<usize> {
    match rows {
        0 => None,
        1..=16 => Some(rows.next_power_of_two()),
        17..=256 => Some(rows.next_multiple_of(16)),
        257..=MOST_ROWS => Some(rows.next_multiple_of(64)),
        _ => None,
    }
}

/// An executable graph; destroyed when dropped.
struct Graph {
    context: Arc<Context>,
    executable: sys::CUgraphExec,
    /// Hash of what was recorded.
    trail: u64,
}

// SAFETY: the driver's handle may be used from any thread.
unsafe impl Send for Graph {}

impl Graph {
    fn launch(&self) -> Result<()> {
        // SAFETY: an executable graph and the stream it may run on; the memory that its kernels
        // name belongs to the device that owns us, and outlives us.
        let code = unsafe { sys::cuGraphLaunch(self.executable, self.context.stream()) };
        check(code, "launching a graph")
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: made in `finish`, destroyed once; the driver defers it until it has run.
            unsafe { sys::cuGraphExecDestroy(self.executable) };
        }
    }
}

pub struct Graphs {
    context: Arc<Context>,
    /// The caller has promised that steps repeat (`Device::steady`).
    pub steady: bool,
    graphs: HashMap<Key, Graph>,
    /// How often a key came without a graph.
    seen: HashMap<Key, u32>,
    current: Option<Key>,
    /// Steps that a graph did.
    pub replayed: u64,
}

impl Graphs {
    pub fn new(context: &Arc<Context>) -> Graphs {
        Graphs {
            context: context.clone(),
            steady: false,
            graphs: HashMap::new(),
            seen: HashMap::new(),
            current: None,
            replayed: 0,
        }
    }

    /// Addresses that graphs hold have changed.
    pub fn forget(&mut self) {
        self.graphs.clear();
        self.seen.clear();
    }

    /// A step begins; `key` if it may be recorded.
    pub fn begin(&mut self, key: Option<Key>) -> Result<()> {
        self.current = key.filter(|_| self.steady);
        let Some(key) = self.current else { return Ok(()) };
        if self.graphs.contains_key(&key) {
            self.context.set_mode(Mode::Replay);
            return Ok(());
        }
        let seen = self.seen.entry(key).or_insert(0);
        *seen += 1;
        if self.graphs.len() < MOST_GRAPHS && (2..2 + ATTEMPTS).contains(seen) {
            let ours = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
            // SAFETY: the context's stream, which is not being recorded.
            let code = unsafe { sys::cuStreamBeginCapture_v2(self.context.recorder(), ours) };
            match check(code, "recording a graph") {
                Ok(()) => drop(self.context.set_mode(Mode::Record)),
                Err(error) => tracing::debug!("no graph for {key:?} this time: {error}"),
            }
        }
        Ok(())
    }

    /// The step's last repeated launch was made: after this everything of it is enqueued. Again
    /// without effect.
    pub fn end(&mut self) -> Result<()> {
        let (mode, trail) = self.context.set_mode(Mode::Direct);
        let Some(key) = self.current.take() else { return Ok(()) };

        match mode {
            Mode::Direct => Ok(()),
            Mode::Record => {
                match self.finish(trail) {
                    Ok(graph) => {
                        self.graphs.insert(key, graph);
                    }
                    Err(error) => tracing::debug!("no graph for {key:?} this time: {error}"),
                }
                Ok(())
            }
            Mode::Replay => {
                self.replayed += 1;
                let Some(graph) = self.graphs.get(&key) else {
                    return Err(internal!("no graph for {key:?}"));
                };
                if graph.trail != trail {
                    return Err(internal!("a step of {key:?} is not the one that was recorded"));
                }
                graph.launch()
            }
        }
    }

    fn finish(&self, trail: u64) -> Result<Graph> {
        let (mut graph, mut executable) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the stream is being recorded since `begin`; both handles are live places to write
        // to, and the recording itself is not needed once it has been made executable.
        unsafe {
            let ended = sys::cuStreamEndCapture(self.context.recorder(), &mut graph);
            check(ended, "recording a graph")?;
            let made = sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0);
            sys::cuGraphDestroy(graph);
            check(made, "making a graph")?;
        }
        Ok(Graph { context: self.context.clone(), executable, trail })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_holds_its_rows_and_wastes_little() {
        for rows in 1..=MOST_ROWS {
            let padded = padded(rows).expect("within the limit");
            assert!(padded >= rows && padded <= (2 * rows).max(1) && padded - rows < 64);
            assert_eq!(super::padded(padded), Some(padded));
        }
        assert_eq!(padded(0), None);
        assert_eq!(padded(MOST_ROWS + 1), None);
    }
}
