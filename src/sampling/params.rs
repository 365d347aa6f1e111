//! Validated sampling parameters of one request.

/// What validation needs to know of the model.
#[derive(Debug, Clone)]
pub struct Limits {
    pub vocab_size: u32,
    pub max_logprobs: i64,
}

#[derive(Debug, Clone)]
pub struct SamplingParams {}
