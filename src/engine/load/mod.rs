//! From model.json to a running engine.
//!
//! | file | what |
//! |---|---|
//! | `args` | model.json, parsed once |
//! | `deadline` | a load that can be left: deadline, reads that hang, a server that goes |
//! | `assemble` | the load: device, files, model, pages, scheduler, threads |
//! | `cache_folder` | where a start leaves something to the next one |
//! | `placement` | which device serves |
//! | `files` | folders of model and tokenizer, local or from a hub, and what is read of them |
//! | `sizes` | batch, pages and memory, judged before anything is taken |
//! | `speculation` | whether a model may have drafts, and the logits rows that they take |
//! | `device_runner` | a device with a model on it, as the loop runs it |
//! | `rank_runners` | several of them that share a model, as the loop runs one |
//! | `start_threads` | the threads of an engine, and the channels between them |
//! | `fault` | a device that breaks on purpose, for tests |

pub mod args;
mod assemble;
#[cfg(any(feature = "cuda", test))]
mod cache_folder;
mod deadline;
mod device_runner;
mod fault;
mod files;
mod placement;
mod rank_runners;
mod sizes;
mod speculation;
mod start_threads;
mod warm_up;
