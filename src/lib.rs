//! libtriton_vllm.so: a vLLM backend for the stock tritonserver. This page is the map.
//!
//! A request is parsed once into types that cannot be wrong, waits in a bounded queue for the
//! engine thread, is scheduled into steps, runs on a device, and leaves as responses from the
//! outbox threads. Each module may import only modules below it (`tests/tidy/` holds us to it).
//! Laws, threads and words are in `docs/architecture.md`.
//!
//! ```text
//! triton -> engine -> { scheduler -> kv, text, model -> device }      leaves: error files json
//! ids sampling plan
//! ```
//!
//! | module | one sentence |
//! |---|---|
//! | [`triton`] | the only one that knows Triton: entry points, tensors, responses, metrics |
//! | [`engine`] | one thread owns all mutable state: submit, cancel, step, outbox, load |
//! | [`scheduler`] | (queues, kv, now) -> StepPlan; no device, no clock, no thread |
//! | [`kv`] | which sequence holds which pages; prefix hashes, LRU; no memory of a device |
//! | [`text`] | tokenizer, incremental detokeniser, stop strings, grammars |
//! | [`model`] | config.json -> ModelSpec, weights, families as data, one forward pass |
//! | [`device`] | trait Device, fused ops: cpu is the reference, trace counts, cuda is fast |
//! | [`sampling`] | validated parameters, the one specification of random numbers |
//! | [`json`] | JSON as Python writes it, and keys of it by type |
//! | [`files`] | how files are read: regular ones only, within the size of their kind |
//! | [`plan`] | StepPlan and StepResult: the plain data in which scheduler and model meet |
//! | [`ids`] | types for numbers, so that a page is never taken for a slot |
//! | [`error`] | one error type whose kinds are Triton's error codes |
//!
//! Five hops from a request to the arithmetic: `triton/request.rs`, `engine/step.rs`,
//! `scheduler/mod.rs`, `model/decoder.rs`, `device/cpu/`.

pub mod error;
pub mod files;
pub mod ids;
pub mod json;
pub mod plan;
pub mod sampling;

pub mod device;
pub mod engine;
pub mod kv;
pub mod model;
pub mod scheduler;
pub mod text;
pub mod triton;
