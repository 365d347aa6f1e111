//! libtriton_vllm.so: a vLLM backend for the stock tritonserver. This page is the map; laws,
//! threads, the way of a request, a token and a weight, and a glossary: `docs/architecture.md`.
//!
//! A request enters by the entry points in [`triton`], is parsed once into types that cannot be
//! wrong, waits in a bounded queue for the engine thread, is scheduled into steps, runs on a device
//! and leaves as responses from the outbox threads. Each module may import only modules below it;
//! `tests/tidy` holds us to it:
//!
//! ```text
//! triton -> engine -> { scheduler -> kv, text, model -> { device, image } }
//! leaves, which all may import: error, threads, files, json, ids, sampling, plan
//! ```
//!
//! | module | one sentence |
//! |---|---|
//! | [`triton`] | the only module that knows Triton: entry points, tensors, responses, metrics |
//! | [`engine`] | one thread owns all mutable state: submit, cancel, step, output, load, drain |
//! | [`scheduler`] | which sequences run next: (queues, pages) -> StepPlan; no device, no clock |
//! | [`kv`] | which sequence holds which pages; reference counts, prefix hashes, LRU |
//! | [`text`] | tokenizer, incremental detokeniser, stop strings, grammars |
//! | [`model`] | config.json -> ModelSpec, weights, architectures as data, one forward pass |
//! | [`device`] | the ops of a forward pass; cpu defines the numbers, trace counts, cuda is fast |
//! | [`image`] | image files as Pillow reads them, resized and cut as the families want them |
//! | [`sampling`] | validated parameters, the specification of random numbers and of sampling |
//! | [`plan`] | StepPlan and StepResult: the plain data in which scheduler and model meet |
//! | [`json`] | JSON as Python writes it, and keys of it by type |
//! | [`files`] | how files are read: regular ones only, within the size of their kind |
//! | [`threads`] | how threads start, each by a name, and how their panics are caught |
//! | [`ids`] | types for numbers, so that a page is never taken for a slot |
//! | [`error`] | one error type whose kinds are Triton's error codes |

#![warn(missing_docs)]

pub mod error;
pub mod files;
pub mod ids;
pub mod json;
pub mod plan;
pub mod sampling;
pub mod threads;

pub mod device;
pub mod engine;
pub mod image;
pub mod kv;
pub mod model;
pub mod scheduler;
pub mod text;
pub mod triton;
