//! How many KV pages fit, by arithmetic. Called by `engine` at load, with the peak that the trace device
//! counted. It never asks a device anything itself.
