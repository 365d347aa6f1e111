//! The inverse transform of a block in whole numbers, as libjpeg's accurate one: 13 bits behind the
//! point, two of them kept between columns and rows.

use std::num::Wrapping;

type W = Wrapping<i32>;

/// Where the k-th coefficient of a file stands in a block.
#[rustfmt::skip]
pub(super) const ZIGZAG: [usize; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20,
    13, 6, 7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59,
    52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

const BITS: usize = 13;
const KEPT: usize = 2;

/// Eight samples a row, in eight rows.
pub(super) fn samples(coefficients: &[i16], quantiser: &[u16; 64]) -> [u8; 64] {
    let mut work = [Wrapping(0); 64];
    for ((w, &c), &q) in work.iter_mut().zip(coefficients).zip(quantiser) {
        *w = Wrapping(i32::from(c)) * Wrapping(i32::from(q));
    }

    for x in 0..8 {
        let column = std::array::from_fn(|y| work[8 * y + x]);
        for (y, sum) in line(column).into_iter().enumerate() {
            work[8 * y + x] = rounded(sum, BITS - KEPT);
        }
    }

    let mut samples = [0; 64];
    for y in 0..8 {
        let row = std::array::from_fn(|x| work[8 * y + x]);
        for (x, sum) in line(row).into_iter().enumerate() {
            let level = rounded(sum, BITS + KEPT + 3).0.saturating_add(128);
            samples[8 * y + x] = level.clamp(0, 255) as u8;
        }
    }
    samples
}

fn rounded(sum: W, bits: usize) -> W {
    (sum + Wrapping(1 << (bits - 1))) >> bits
}

/// One dimension, by Loeffler, Ligtenberg and Moschytz; constants times 2^13.
#[inline(always)]
fn line(x: [W; 8]) -> [W; 8] {
    let times = |x: W, constant: i32| x * Wrapping(constant);

    let both = times(x[2] + x[6], 4433);
    let low = both - times(x[6], 15137);
    let high = both + times(x[2], 6270);
    let sum = (x[0] + x[4]) << BITS;
    let difference = (x[0] - x[4]) << BITS;
    let even = [sum + high, difference + low, difference - low, sum - high];

    let [z1, z2, z3, z4] = [x[7] + x[1], x[5] + x[3], x[7] + x[3], x[5] + x[1]];
    let z5 = times(z3 + z4, 9633);
    let z1 = -times(z1, 7373);
    let z2 = -times(z2, 20995);
    let z3 = z5 - times(z3, 16069);
    let z4 = z5 - times(z4, 3196);
    let odd = [
        times(x[1], 12299) + z1 + z4,
        times(x[3], 25172) + z2 + z3,
        times(x[5], 16819) + z2 + z4,
        times(x[7], 2446) + z1 + z3,
    ];

    std::array::from_fn(|n| if n < 4 { even[n] + odd[n] } else { even[7 - n] - odd[7 - n] })
}
