//! The one specification of random numbers: Gumbel noise keyed by (seed, position, token). Every
//! device obeys it, so a seeded answer survives preemption, a change of batch and a change of
//! device. [`choose`](mod@super::choose) calls it on the cpu; a GPU kernel must give the same bits.
//! It knows no request and no logit.
//!
//! # The spec
//! Generator: Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2,
//! 3", SC 2011), which maps a 128-bit counter and a 64-bit key to four 32-bit words.
//!
//! | word | value |
//! |---|---|
//! | key 0, key 1 | low, high half of `seed` |
//! | counter 0 | `token / 4` |
//! | counter 1 | `position`: tokens (prompt, output) before the one that is chosen |
//! | counter 2 | 0: the sampler. Other values are for later purposes (drafts, …) |
//! | counter 3 | 0 |
//!
//! Token `t` uses output word `x = out[t % 4]`, and then, in f32:
//! 1. `v = min((float(x) + 0.5) * 2^-32, 1 - 2^-24)`: uniform in (0, 1). The conversion and the sum
//!    round to nearest, the product is exact, and the order leaves nothing to contract into an FMA:
//!    the same bits everywhere. Small `v` keeps 32 bits of resolution, and only small `v` wins an
//!    argmax.
//! 2. `e = -log1p(-v)`: exponential.
//! 3. `g = -log(e)`: Gumbel, between [`LOWEST`] and [`HIGHEST`].
//!
//! The words and `v` are exact on all devices. The two logarithms may differ in the last places
//! (libm and CUDA both promise about 1 ulp, so `g` agrees within 4e-6): a choice changes only if
//! two sums of logit and noise are that close, which is rarer than the same event by the order of a
//! dot product.

/// No Gumbel value is larger: `x = 0` gives `-log(2^-33)`, plus a margin for a device's logarithm.
pub const HIGHEST: f32 = 22.9;
/// No Gumbel value is smaller: `v = 1 - 2^-24` gives `-log(24 ln 2)`, less the same margin.
pub const LOWEST: f32 = -2.82;

const ROUNDS: usize = 10;
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// Added to the key after each round: the golden ratio and sqrt(3) - 1, as 32-bit fractions.
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Philox4x32 with 10 rounds.
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..ROUNDS {
        let even = u64::from(MULTIPLIERS[0]) * u64::from(c0);
        let odd = u64::from(MULTIPLIERS[1]) * u64::from(c2);
        c0 = (odd >> 32) as u32 ^ c1 ^ k0;
        c2 = (even >> 32) as u32 ^ c3 ^ k1;
        c1 = odd as u32;
        c3 = even as u32;
        k0 = k0.wrapping_add(WEYL[0]);
        k1 = k1.wrapping_add(WEYL[1]);
    }
    [c0, c1, c2, c3]
}

/// The random words of tokens `4 * block ..= 4 * block + 3` at a position.
pub fn words4(seed: u64, position: u32, block: u32) -> [u32; 4] {
    philox4x32([block, position, 0, 0], [seed as u32, (seed >> 32) as u32])
}

/// Step 1 of the spec: a word as a uniform value in (0, 1). Exact on all devices.
pub fn uniform(word: u32) -> f32 {
    const SCALE: f32 = 1.0 / 4_294_967_296.0;
    const BELOW_ONE: f32 = 1.0 - f32::EPSILON / 2.0;
    ((word as f32 + 0.5) * SCALE).min(BELOW_ONE)
}

/// Steps 1 to 3: a word as a Gumbel value.
pub fn gumbel_of(word: u32) -> f32 {
    let exponential = -(-uniform(word)).ln_1p();
    -exponential.ln()
}

/// Gumbel noise of one token.
pub fn gumbel(seed: u64, position: u32, token: u32) -> f32 {
    gumbel_of(words4(seed, position, token / 4)[(token % 4) as usize])
}

/// Gumbel noise of four neighbours, tokens `4 * block ..= 4 * block + 3`: one Philox call.
pub fn gumbel4(seed: u64, position: u32, block: u32) -> [f32; 4] {
    words4(seed, position, block).map(gumbel_of)
}

/// An upper bound of [`gumbel_of`] without a logarithm: `e >= v >= 2^-(z + 1)` where `z` is the
/// number of leading zero bits, so `g <= (z + 1) ln 2`. The margin is far above any logarithm's
/// error.
pub fn gumbel_bound(word: u32) -> f32 {
    (word.leading_zeros() + 1) as f32 * std::f32::consts::LN_2 + 1e-4
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors that the authors publish with Random123 (kat_vectors, philox4x32 10).
    #[test]
    fn philox_known_answers() {
        assert_eq!(
            philox4x32([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox4x32([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn every_word_gives_finite_noise_within_its_bounds() {
        let mut words = vec![0, 1, 2, 3, 255, 256, u32::MAX, u32::MAX - 1, u32::MAX - 200];
        words.extend((0..32).flat_map(|bit| [1u32 << bit, (1u32 << bit) - 1]));
        for block in 0..20_000 {
            words.extend(words4(9, 1, block));
        }
        for word in words {
            let v = uniform(word);
            assert!(v > 0.0 && v < 1.0, "{word} -> {v}");
            let g = gumbel_of(word);
            assert!((LOWEST..=HIGHEST).contains(&g), "{word} -> {g}");
            assert!(g < gumbel_bound(word), "{word}: {g} > {}", gumbel_bound(word));
        }
    }

    #[test]
    fn one_token_is_its_lane_of_the_block() {
        let seed = 0x0123_4567_89ab_cdef;
        for token in 0..64u32 {
            assert_eq!(gumbel(seed, 5, token), gumbel4(seed, 5, token / 4)[token as usize % 4]);
        }
        assert_ne!(gumbel(seed, 5, 0), gumbel(seed, 6, 0));
        assert_ne!(gumbel(seed, 5, 0), gumbel(seed ^ (1 << 40), 5, 0));
    }

    /// Mean is Euler's constant, variance pi^2 / 6; 400k draws put the mean within 0.002 (1 sigma).
    #[test]
    fn it_is_gumbel() {
        let draws: Vec<f64> = (0..100_000).flat_map(|b| gumbel4(42, 7, b)).map(f64::from).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let var = draws.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / draws.len() as f64;
        assert!((mean - 0.577_216).abs() < 0.01, "mean {mean}");
        assert!((var - std::f64::consts::PI.powi(2) / 6.0).abs() < 0.03, "variance {var}");
    }
}
