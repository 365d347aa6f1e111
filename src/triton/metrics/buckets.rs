//! Upper ends of the buckets of histograms, as dashboards of vLLM know them. Called by `metrics`;
//! model.json may say others.

/// Time to the first token, seconds.
pub(super) const TTFT_S: &[f64] =
    &[0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// Time from token to token, seconds.
pub(super) const PER_TOKEN_S: &[f64] =
    &[0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5];
/// Time of a whole request, seconds.
pub(super) const E2E_S: &[f64] = &[1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0];
/// The parameter `n`.
pub(super) const N: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0];

/// vLLM's server counts a request's phases in these buckets, seconds.
pub(super) const PHASE_S: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];
/// What vLLM's inter-token latency has beyond `PER_TOKEN_S`.
pub(super) const SLOW_TOKEN_S: &[f64] = &[5.0, 7.5, 10.0, 20.0, 40.0, 80.0];
/// Length of a step, seconds.
pub(super) const STEP_S: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0,
];
/// Tokens of a step.
pub(super) const STEP_TOKENS: &[f64] =
    &[1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];
