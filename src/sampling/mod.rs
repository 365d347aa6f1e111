//! THE TASTE: which token is taken. Validated parameters of a request ([`SamplingParams`]), what a
//! device needs of them ([`SamplerSpec`]), and the one random-number spec that every device obeys
//! ([`noise`]). A leaf: every room may import it, it imports only `error` and `ids`.

mod params;
pub mod noise;
mod spec;

pub use params::{Limits, SamplingParams};
pub use spec::SamplerSpec;
