//! Numbers of eight bits as K and V lie in pages: E4M3 and E5M2, there and back. Plain functions of
//! one number that the compiler makes wide ones of; `kv_pool` calls them and knows the scales.

/// A type by the bits of its fraction: 3 is OCP's E4M3, 2 its E5M2. What remains beside the sign
/// are those of the exponent.
pub const E4M3: u32 = 3;
/// See [`E4M3`].
pub const E5M2: u32 = 2;

/// No number, in both types.
const NAN: u8 = 0x7f;

const fn bias(fraction: u32) -> u32 {
    (1 << (6 - fraction)) - 1
}

/// The largest finite number: E4M3 has no infinities, and one code of the highest exponent is no
/// number.
const fn largest(fraction: u32) -> f32 {
    if fraction == E4M3 {
        448.0
    } else {
        57344.0
    }
}

/// 2^n for n in -126..=127.
const fn power(n: i32) -> f32 {
    f32::from_bits(((n + 127) as u32) << 23)
}

/// To the nearest, ties to even; what is beyond the largest number becomes that.
#[inline(always)]
pub fn encode<const FRACTION: u32>(x: f32) -> u8 {
    let cut = 23 - FRACTION;
    let rebias = 127 - bias(FRACTION);
    let size = x.abs().min(largest(FRACTION));
    // Adding this rounds to a multiple of the least number, which then counts in the low bits.
    let magic = power(23 + 1 - bias(FRACTION).cast_signed() - FRACTION.cast_signed());

    let bits = size.to_bits();
    let odd = bits >> cut & 1;
    let normal = ((bits + (1 << (cut - 1)) - 1 + odd) >> cut).wrapping_sub(rebias << FRACTION);
    let subnormal = (size + magic).to_bits() - magic.to_bits();
    let code = if bits < (rebias + 1) << 23 { subnormal } else { normal };

    let code = if x.is_nan() { NAN } else { code as u8 };
    code | ((x.to_bits() >> 24) as u8 & 0x80)
}

/// Exact.
#[inline(always)]
pub fn decode<const FRACTION: u32>(code: u8) -> f32 {
    let rebias = 127 - bias(FRACTION);
    let magnitude = u32::from(code & 0x7f);
    let moved = magnitude << (23 - FRACTION);
    let normal = moved + (rebias << 23);
    // Without subnormal operands, which some processors take their time for.
    let least = f32::from_bits((rebias + 1) << 23);
    let subnormal = (f32::from_bits(moved + ((rebias + 1) << 23)) - least).to_bits();
    // Infinity or no number: the fraction of a 32-bit one says which.
    let special = moved | 0x7f80_0000;

    let is_special = if FRACTION == E4M3 { magnitude == 0x7f } else { magnitude >= 0x7c };
    let bits = if magnitude < 1 << FRACTION { subnormal } else { normal };
    let bits = if is_special { special } else { bits };
    f32::from_bits(bits | u32::from(code & 0x80) << 24)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::quant::e4m3_to_f32;

    /// By the definition of such numbers, in f64.
    fn by_definition(fraction: u32, code: u8) -> f64 {
        let exponent = u32::from(code & 0x7f) >> fraction;
        let part = f64::from(u32::from(code) & ((1 << fraction) - 1)) / f64::from(1 << fraction);
        let bias = f64::from(bias(fraction));
        let size = match exponent {
            _ if fraction == E4M3 && code & 0x7f == 0x7f => f64::NAN,
            31 if part == 0.0 => f64::INFINITY,
            31 => f64::NAN,
            0 => part * (1.0 - bias).exp2(),
            _ => (1.0 + part) * (f64::from(exponent) - bias).exp2(),
        };
        if code < 128 {
            size
        } else {
            -size
        }
    }

    fn decoded(fraction: u32, code: u8) -> f32 {
        if fraction == E4M3 {
            decode::<E4M3>(code)
        } else {
            decode::<E5M2>(code)
        }
    }

    fn encoded(fraction: u32, x: f32) -> u8 {
        if fraction == E4M3 {
            encode::<E4M3>(x)
        } else {
            encode::<E5M2>(x)
        }
    }

    #[test]
    fn codes_are_their_numbers_and_come_back() {
        for fraction in [E4M3, E5M2] {
            for code in 0..=255u8 {
                let (want, got) = (by_definition(fraction, code), decoded(fraction, code));
                assert!(
                    f64::from(got) == want || (got.is_nan() && want.is_nan()),
                    "{fraction} {code:#x}: {got}, want {want}"
                );
                assert_eq!(got.is_sign_negative(), code > 127, "{code:#x}");
                if got.is_finite() {
                    assert_eq!(encoded(fraction, got), code, "{fraction} {code:#x}");
                }
            }
        }
        assert!((0..=255).all(|code| {
            let (a, b) = (decode::<E4M3>(code), e4m3_to_f32(code));
            a == b || (a.is_nan() && b.is_nan())
        }));
    }

    /// Between neighbours the nearer one, halfway the even one; beyond the largest that one.
    #[test]
    fn numbers_go_to_the_nearest_code() {
        for fraction in [E4M3, E5M2] {
            let last = encoded(fraction, largest(fraction));
            for code in 0..last {
                let (low, high) = (decoded(fraction, code), decoded(fraction, code + 1));
                let middle = low + (high - low) / 2.0;
                let even = code + code % 2;
                for sign in [1.0, -1.0] {
                    let side = if sign < 0.0 { 0x80 } else { 0 };
                    let to = |x: f32| encoded(fraction, sign * x);
                    assert_eq!(to(middle), side | even, "{fraction}: {middle}");
                    assert_eq!(to(middle.next_down()), side | code, "{fraction}: below {middle}");
                    assert_eq!(to(middle.next_up()), side | (code + 1), "{fraction}: above");
                }
            }
            for large in [largest(fraction) * 1.01, 1e30, f32::INFINITY] {
                assert_eq!(encoded(fraction, large), last);
                assert_eq!(encoded(fraction, -large), last | 0x80);
            }
            assert!(decoded(fraction, encoded(fraction, f32::NAN)).is_nan());
            assert_eq!(encoded(fraction, 1e-30), 0);
        }
    }
}
