//! The server's objects with Rust's ownership. Beside `sys`, `error`, `log` and `metrics` the only
//! files that call the server. They know no text generation.
//!
//! | file | holds |
//! |---|---|
//! | `models` | models and instances: names, config, state, statistics |
//! | `request` | requests: inputs, parameters, wanted outputs |
//! | `request_options` | a request's timeout and priority |
//! | `response` | factories and responses |
//! | `server` | the server itself: its list of models, unloads |
//! | `text` | the server's texts and messages, copied; its clock |

mod models;
mod request;
mod request_options;
mod response;
mod server;
mod text;

pub(super) use models::{prefer_one_instance, InstanceHandle, Kind, ModelHandle};
pub(super) use request::{Parameter, Request, Tensor};
pub(super) use response::{Factory, Response};
pub(super) use server::ServerHandle;
pub(super) use text::monotonic_ns;
