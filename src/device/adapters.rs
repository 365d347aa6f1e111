//! Low-rank adapters (LoRA) as every device gets them: how much room there is, and the matrices of
//! one. `model` makes them, devices take them apart; they know neither files nor sequences.

use super::HostTensor;
use crate::error::Result;

/// Room for low-rank adapters (LoRA) behind a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdapterRoom {
    /// Adapters that may be there at the same time.
    pub banks: usize,
    /// The largest rank.
    pub rank: usize,
}

/// What an adapter does to one part of a weight: y += B (A x). Its scale is in B.
pub struct AdapterPart<'a> {
    /// `[rank, inputs]`, of the weight's element type.
    pub a: HostTensor<'a>,
    /// B transposed, `[rank, outputs of the part]`, of the same type.
    pub b: HostTensor<'a>,
}

impl AdapterPart<'_> {
    /// The rank, if both matrices fit.
    ///
    /// # Errors
    /// Internal: they do not fit each other, the weight or the room. Whoever reads adapters from
    /// files checks that before.
    pub fn rank(&self, inputs: usize, outputs: usize, room: AdapterRoom) -> Result<usize> {
        let (a, b) = (&self.a, &self.b);
        let whole = |t: &HostTensor| t.bytes.len() == t.rows * t.cols * t.dtype.bytes();
        let fits = a.rows == b.rows && a.rows <= room.rank && a.cols == inputs;
        if fits && b.cols == outputs && whole(a) && whole(b) {
            return Ok(a.rows);
        }
        Err(crate::internal!(
            "an adapter of {} x {} and {} x {} for {inputs} inputs, {outputs} outputs, rank {}",
            a.rows,
            a.cols,
            b.rows,
            b.cols,
            room.rank
        ))
    }
}
