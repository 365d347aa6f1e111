//! Which token is taken: the parameters of a request, and the sampler that devices are compared
//! with. A leaf that every module may import; it imports `error`, `ids` and `json` only.
//!
//! | file | holds |
//! |---|---|
//! | `params` | [`SamplingParams`]: validated parameters of a request |
//! | `parse` | a request's JSON -> these |
//! | `raw` | keys and values as the client wrote them, with Python's coercions |
//! | `verify` | the rules, in the Python backend's order and words |
//! | `limits`, [`bounds`] | what the rules know of model and operator; how long lists may be |
//! | `other_versions` | parameters that other versions of vLLM know |
//! | `structured` | the parameter `structured_outputs` |
//! | [`python`], `json` | numbers, texts and JSON as Python reads and writes them |
//! | `spec` | [`SamplerSpec`]: what a device needs of all this; the order of steps |
//! | [`mod@choose`], [`adjust`], `finite` | the reference sampler, step by step |
//! | [`noise`] | the one specification of random numbers |
//! | `logprobs` | [`TokenLogprobs`]: what is reported of a token |

pub mod adjust;
pub mod bounds;
pub mod choose;
mod finite;
mod json;
mod limits;
mod logprobs;
pub mod noise;
mod other_versions;
mod params;
mod parse;
pub mod python;
mod raw;
mod spec;
mod structured;
mod verify;

pub use adjust::{History, TokenCounts};
pub use bounds::ListLimits;
pub use choose::choose;
pub use finite::{NonFinite, Seen};
pub use limits::SamplingLimits;
pub use logprobs::TokenLogprobs;
pub use params::{RepetitionRule, SamplingParams};
pub use python::repr as python_repr;
pub use spec::{LogprobSpec, SamplerSpec};
pub use structured::{Constraint, StructuredOptions, StructuredOutputs};
