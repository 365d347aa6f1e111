//! The selective scan of Mamba 2 on the CPU: a head's tokens one after the other, in f32. `state`
//! shares out the heads of a step; nothing here knows slots.

use super::buffer::Tensor;
use super::numbers;
use super::state_tasks::Task;
use crate::device::{Columns, ScanSpec};

/// What all heads of a step share.
pub(super) struct Scan<'a> {
    pub spec: &'a ScanSpec,
    pub log_decay: &'a [f32],
    pub rate_bias: &'a [f32],
    pub skip: &'a [f32],
    pub mixed: &'a Tensor,
    pub rates: Columns<'a, Tensor>,
}

impl Scan<'_> {
    /// A sequence's rows of one head.
    #[inline(always)]
    pub(super) fn run(&self, task: &mut Task) {
        let ScanSpec { heads, head_dim, groups, state } = *self.spec;
        let Task { chunk, head, matrix, spares, y } = task;
        let group = *head / (heads / groups);
        let first_b = self.spec.inner_width() + group * state;
        let first_c = first_b + self.spec.group_width();
        if chunk.position() == 0 {
            matrix.fill(0.0);
        }
        let decay = numbers::exp(self.log_decay[*head]);

        let mut spares = spares.iter_mut();
        for (row, y) in chunk.rows().zip(y.chunks_exact_mut(head_dim)) {
            let mixed = self.mixed.row(row);
            let x = &mixed[*head * head_dim..(*head + 1) * head_dim];
            let b = &mixed[first_b..first_b + state];
            let c = &mixed[first_c..first_c + state];

            let rate = self.rates.tensor.row(row)[self.rates.first + *head];
            let step = numbers::softplus(rate + self.rate_bias[*head]);
            let keep = numbers::exp(-decay * step);
            token(matrix, keep, step, [x, b, c], y);
            y.iter_mut().zip(x).for_each(|(y, x)| *y += self.skip[*head] * x);
            spares.next().into_iter().for_each(|spare| spare.copy_from_slice(matrix));
        }
    }
}

/// One token: S = keep S + step x b^T, y = S c, row by row of S.
#[inline(always)]
fn token(matrix: &mut [f32], keep: f32, step: f32, xbc: [&[f32]; 3], y: &mut [f32]) {
    let [x, b, c] = xbc;
    let rows = matrix.chunks_exact_mut(b.len());
    for ((row, x), y) in rows.zip(x).zip(y) {
        let taken = step * x;
        row.iter_mut().zip(b).for_each(|(s, b)| *s = keep * *s + taken * b);
        *y = numbers::dot(row, c);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_forgets_and_takes_up() {
        let mut matrix = vec![0.0; 2 * 3];
        let (b, c) = ([1.0, 2.0, 0.0], [0.5, 0.0, 1.0]);
        let mut y = [0.0; 2];
        token(&mut matrix, 1.0, 2.0, [&[1.0, -3.0], &b, &c], &mut y);
        assert_eq!(y, [1.0, -3.0]);
        token(&mut matrix, 0.5, 0.0, [&[7.0, 7.0], &b, &c], &mut y);
        assert_eq!(y, [0.5, -1.5]);
        assert_eq!(matrix[..3], [1.0, 2.0, 0.0]);
    }
}
