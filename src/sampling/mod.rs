//! THE TASTE: which token is taken. Validated parameters of a request ([`SamplingParams`]), what a
//! device needs of them ([`SamplerSpec`]), the one random-number spec that every device obeys
//! ([`noise`]), the reference sampler ([`choose`]) and what it reports ([`TokenLogprobs`]). A leaf:
//! every module may import it, it imports only `error` and `ids`.

pub mod adjust;
mod ages;
pub mod bounds;
pub mod choose;
mod finite;
mod json;
mod logprobs;
pub mod noise;
mod params;
pub mod python;
mod spec;
mod structured;
mod verify;

pub use adjust::{History, TokenCounts};
pub use bounds::ListLimits;
pub use choose::choose;
pub use finite::{NonFinite, Seen};
pub use logprobs::TokenLogprobs;
pub use params::{RepetitionRule, SamplingLimits, SamplingParams};
pub use python::repr as python_repr;
pub use spec::{LogprobSpec, SamplerSpec};
pub use structured::{Constraint, StructuredOptions, StructuredOutputs};
