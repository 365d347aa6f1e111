//! Where the rows of an adapter's B go, if not to where they are, and what they are multiplied by:
//! as the weight's own rows. `projections` says it of each part, the reader of adapters asks.

use std::ops::Range;

use crate::device::HostTensor;
use crate::error::Result;
use crate::internal;
use crate::model::architectures::QUARTERS;
use crate::model::head_order::HeadOrder;

/// Heads of q and of k or v, and their dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heads {
    pub(super) q: usize,
    pub(super) kv: usize,
    pub(super) dim: usize,
    /// They come in quarters of all heads, of which each has q, v and k.
    pub(super) quarters: bool,
}

impl Heads {
    /// Where a row goes: its head of its group, before which there are those of other groups.
    pub(super) fn held(&self, row: usize) -> usize {
        let &Heads { q, kv, dim, quarters } = self;
        if quarters {
            let of_quarter = q / QUARTERS;
            let (quarter, at) = (row / dim / (3 * of_quarter), row / dim % (3 * of_quarter));
            let part = [0, q + kv, q][at / of_quarter];
            return (part + quarter * of_quarter + at % of_quarter) * dim + row % dim;
        }
        let of_q = q / kv;
        let (group, head) = (row / dim / (of_q + 2), row / dim % (of_q + 2));
        let head = match head.checked_sub(of_q) {
            None => group * of_q + head,
            Some(part) => q + part * kv + group,
        };
        head * dim + row % dim
    }
}

/// The rows of a part.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Rows {
    /// Those of B that are the part's, in this order; empty: all.
    pub(super) picked: Vec<Range<usize>>,
    /// What each of these is multiplied by, or all rows; empty: by 1.
    pub(super) factors: Vec<f32>,
    /// They are q, k and v of some heads in turn, and become all of q, then k, then v.
    pub(super) by_group: Option<Heads>,
    /// The first ones are heads in the checkpoint's order.
    pub(super) order: Option<(HeadOrder, usize)>,
}

impl Rows {
    /// Where a row is held of those that were picked.
    fn held(&self, row: usize) -> usize {
        let row = self.by_group.as_ref().map_or(row, |heads| heads.held(row));
        match &self.order {
            Some((order, rotated)) if row < *rotated => order.held(row),
            _ => row,
        }
    }

    /// Rows of B that the part has, of so many, each with its factor.
    fn sources(&self, all: usize) -> Vec<(usize, f32)> {
        let factor = |part: usize| self.factors.get(part).copied().unwrap_or(1.0);
        if self.picked.is_empty() {
            return (0..all).map(|row| (row, factor(0))).collect();
        }
        let parts = self.picked.iter().enumerate();
        parts.flat_map(|(part, rows)| rows.clone().map(move |row| (row, factor(part)))).collect()
    }

    /// B transposed and times `scale`, its rows where the model holds them.
    ///
    /// # Errors
    /// Internal: rows that B has not.
    pub(super) fn transposed(&self, b: &HostTensor<'_>, scale: f32) -> Result<Vec<f32>> {
        let (rank, sources) = (b.cols, self.sources(b.rows));
        let outputs = sources.len();
        let values = b.values()?;
        let mut out = vec![0.0; outputs * rank];
        for (row, (source, factor)) in sources.into_iter().enumerate() {
            let held = self.held(row);
            let Some(line) = values.get(source * rank..(source + 1) * rank) else {
                return Err(internal!("row {source} of {}", b.rows));
            };
            for (j, value) in line.iter().enumerate() {
                out[j * outputs + held] = value * (scale * factor);
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DType;

    fn numbers(count: usize) -> Vec<u8> {
        (0..count).flat_map(|i| (i as f32).to_le_bytes()).collect()
    }

    /// Rows of a fused B, whatever their order, end where the fused weight's rows end.
    #[test]
    fn rows_of_heads_become_rows_of_parts() {
        let values = numbers(12);
        let b = HostTensor { dtype: DType::F32, rows: 12, cols: 1, bytes: (&values).into() };
        let transposed = |rows: &Rows, scale| rows.transposed(&b, scale).unwrap();
        // Two heads of d = 2: q0 k0 v0 q1 k1 v1.
        let want = [0., 1., 6., 7., 2., 3., 8., 9., 4., 5., 10., 11.];
        let by_group = Some(Heads { q: 2, kv: 2, dim: 2, quarters: false });
        assert_eq!(transposed(&Rows { by_group, ..Rows::default() }, 1.0), want);
        assert_eq!(transposed(&Rows::default(), 2.0)[3], 6.0);

        // Two heads of q for each of k and v, of d = 1: q0 q1 k0 v0, q2 q3 k1 v1, ...
        let by_group = Some(Heads { q: 6, kv: 3, dim: 1, quarters: false });
        let want = [0., 1., 4., 5., 8., 9., 2., 6., 10., 3., 7., 11.];
        assert_eq!(transposed(&Rows { by_group, ..Rows::default() }, 1.0), want);

        // Heads of d = 4 whose neighbours rotate, and two rows behind them.
        let order = Some((HeadOrder { head_dim: 4, first: 0, rotary_dim: 4 }, 8));
        let want = [0., 2., 1., 3., 4., 6., 5., 7., 8., 9., 10., 11.];
        assert_eq!(transposed(&Rows { order, ..Rows::default() }, 1.0), want);
    }

    #[test]
    fn rows_are_picked_with_factors_of_their_own() {
        let values = numbers(8);
        let b = HostTensor { dtype: DType::F32, rows: 4, cols: 2, bytes: (&values).into() };
        let picked = vec![2..4, 0..1];
        let rows = Rows { picked, factors: vec![1.0, 10.0], ..Rows::default() };
        assert_eq!(rows.transposed(&b, 0.5).unwrap(), [2., 3., 0., 2.5, 3.5, 5.]);
        let beyond = Rows { picked: vec![0..1, 3..5], ..Rows::default() };
        assert!(beyond.transposed(&b, 1.0).is_err());
        let all = Rows { factors: vec![2.0], ..Rows::default() };
        assert_eq!(all.transposed(&b, 1.0).unwrap()[..4], [0., 4., 8., 12.]);
    }

    #[test]
    fn rows_by_quarters_come_as_q_v_and_k() {
        let heads = Heads { q: 8, kv: 8, dim: 2, quarters: true };
        let held: Vec<usize> = (0..12).map(|row| heads.held(row)).collect();
        assert_eq!(held, [0, 1, 2, 3, 32, 33, 34, 35, 16, 17, 18, 19]);
        assert_eq!((heads.held(12), heads.held(47)), (4, 31));
    }
}
