//! THE TASTE: which token is taken. Validated parameters of a request ([`SamplingParams`]), what a
//! device needs of them ([`SamplerSpec`]), the one random-number spec that every device obeys
//! ([`noise`]), and the reference sampler ([`choose`]). A leaf: every room may import it, it
//! imports only `error` and `ids`.

pub mod choose;
mod json;
pub mod noise;
mod params;
mod python;
mod spec;
mod verify;

pub use choose::{choose, TokenCounts};
pub use params::{Limits, SamplingParams};
pub use spec::SamplerSpec;
