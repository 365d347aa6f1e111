//! The selective scan of Mamba 1 on the CPU: a channel's tokens one after the other, in f32.
//! `state` shares out the channels of a step; nothing here knows slots.

use super::buffer::Tensor;
use super::numbers;
use super::state_tasks::Task;
use crate::device::ChannelScanSpec;

/// Channels that are shared out together, where they are a multiple.
const CHANNELS: usize = 64;

/// What all channels of a step share.
pub(super) struct ChannelScan<'a> {
    pub spec: &'a ChannelScanSpec,
    pub log_decay: &'a [f32],
    pub rate_bias: &'a [f32],
    pub skip: &'a [f32],
    pub x: &'a Tensor,
    pub rates: &'a Tensor,
    pub bc: &'a Tensor,
}

impl ChannelScan<'_> {
    /// Channels of a task.
    pub(super) fn channels(spec: &ChannelScanSpec) -> usize {
        if spec.width.is_multiple_of(CHANNELS) {
            CHANNELS
        } else {
            spec.width
        }
    }

    /// A sequence's rows of some channels.
    #[inline(always)]
    pub(super) fn run(&self, task: &mut Task) {
        let state = self.spec.state;
        let channels = Self::channels(self.spec);
        let Task { chunk, head, matrix, spares, y } = task;
        let first = *head * channels;
        if chunk.position() == 0 {
            matrix.fill(0.0);
        }
        let decay = &self.log_decay[first * state..(first + channels) * state];
        let decay: Vec<f32> = decay.iter().map(|&log| numbers::exp(log)).collect();

        let mut spares = spares.iter_mut();
        for (row, y) in chunk.rows().zip(y.chunks_exact_mut(channels)) {
            let (x, rates) = (self.x.row(row), self.rates.row(row));
            let (b, c) = self.bc.row(row)[..2 * state].split_at(state);
            let rows = matrix.chunks_exact_mut(state).zip(decay.chunks_exact(state));
            for ((s, decay), (y, channel)) in rows.zip(y.iter_mut().zip(first..)) {
                let step = numbers::softplus(rates[channel] + self.rate_bias[channel]);
                *y = token(s, decay, step, x[channel], b, c) + self.skip[channel] * x[channel];
            }
            spares.next().into_iter().for_each(|spare| spare.copy_from_slice(matrix));
        }
    }
}

/// One token of a channel: s = e^(-decay step) s + step x b. Returns s c.
#[inline(always)]
fn token(s: &mut [f32], decay: &[f32], step: f32, x: f32, b: &[f32], c: &[f32]) -> f32 {
    let taken = step * x;
    for ((s, decay), b) in s.iter_mut().zip(decay).zip(b) {
        *s = numbers::exp(-decay * step) * *s + taken * b;
    }
    numbers::dot(s, c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_forgets_and_takes_up() {
        let mut s = [0.0; 2];
        let (b, c) = ([1.0, 2.0], [0.5, 1.0]);
        assert_eq!(token(&mut s, &[0.0, 0.0], 2.0, 1.5, &b, &c), 7.5);
        assert_eq!(s, [3.0, 6.0]);
        let half = std::f32::consts::LN_2;
        let y = token(&mut s, &[half, 0.0], 1.0, 0.0, &b, &c);
        assert!((y - 6.75).abs() < 1e-5, "{y}");
    }
}
