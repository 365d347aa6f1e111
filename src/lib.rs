//! libtriton_vllm.so: a vLLM backend for the stock tritonserver. This page is the map.
//!
//! A request enters by the door, is parsed once into types that cannot be wrong, waits in a bounded
//! queue for the engine thread, is scheduled into steps, runs on a device, and leaves as responses
//! from the outbox threads. Each room may import only rooms below it (`tests/tidy/` holds us to
//! it):
//!
//! ```text
//! triton -> engine -> { scheduler -> kv, text, model -> device }      leaves: error threads
//! files json ids sampling plan
//! ```
//!
//! | room | one sentence |
//! |---|---|
//! | [`triton`] | THE DOOR: the only room that knows Triton: entry points, tensors, responses, metrics, log |
//! | [`engine`] | THE HEART: one thread owns all mutable state: submit, cancel, step, outbox, load, drain |
//! | [`scheduler`] | THE POLICY: (queues, kv, now) -> StepPlan; no device, no clock, no thread |
//! | [`kv`] | THE LEDGER: pages, reference counts, prefix hashes, LRU; no memory of a device |
//! | [`text`] | THE WORDS: tokenizer, incremental detokeniser, stop strings, grammars |
//! | [`model`] | THE NET: config.json -> ModelSpec, weights, families as rows of data, one forward pass |
//! | [`device`] | THE MUSCLE: trait Device, fused ops; cpu is truth, trace counts, cuda is fast |
//! | [`sampling`] | THE TASTE: validated parameters, the one random-number spec |
//! | [`json`] | JSON as Python writes it, and keys of it by type |
//! | [`threads`] | how threads start, each by a name, and how their panics are caught |
//! | [`files`] | how files are read: regular ones only, within the size of their kind |
//! | [`plan`] | StepPlan and StepResult: the plain data in which scheduler and model meet |
//!
//! Five hops from a request to the arithmetic: `triton/request.rs`, `engine/step_loop/step.rs`,
//! `scheduler/mod.rs`, `model/decoder.rs`, `device/cpu/`.

pub mod error;
pub mod files;
pub mod ids;
pub mod json;
pub mod plan;
pub mod sampling;
pub mod threads;

pub mod device;
pub mod engine;
pub mod kv;
pub mod model;
pub mod scheduler;
pub mod text;
pub mod triton;
