//! The one random-number spec: Gumbel noise keyed by (seed, position, token).
