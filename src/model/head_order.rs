//! In which order a head's dimensions are held. Some checkpoints rotate neighbours (2i and 2i + 1),
//! devices rotate i and i + half. A product of q and k is the same whatever order both have their
//! dimensions in, so rows of q and k are put in the devices' order as they are read, and no device
//! learns of it. `load` and the reader of adapters ask; nothing is read here.

/// The order of heads whose neighbours are rotated together in the checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadOrder {
    /// Dimensions of a head.
    pub head_dim: usize,
    /// The first that is rotated.
    pub first: usize,
    /// Those that are rotated, from the first on; an even number.
    pub rotary_dim: usize,
}

impl HeadOrder {
    /// Where the row lies in the checkpoint that is held as number `row` of a stack of heads.
    pub fn stored(&self, row: usize) -> usize {
        let Some((start, i)) = self.rotated(row) else { return row };
        let half = self.rotary_dim / 2;
        start + if i < half { 2 * i } else { 2 * (i - half) + 1 }
    }

    /// Where the row is held that lies in the checkpoint as number `row` of a stack of heads.
    pub fn held(&self, row: usize) -> usize {
        let Some((start, i)) = self.rotated(row) else { return row };
        let half = self.rotary_dim / 2;
        start + if i % 2 == 0 { i / 2 } else { half + i / 2 }
    }

    /// Of a rotated row the first rotated one of its head, and which it is of them.
    fn rotated(&self, row: usize) -> Option<(usize, usize)> {
        let i = (row % self.head_dim).checked_sub(self.first)?;
        (i < self.rotary_dim).then_some((row - i, i))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_lie_half_apart_and_the_rest_stays() {
        let order = HeadOrder { head_dim: 8, first: 0, rotary_dim: 6 };
        let stored = |order: HeadOrder| (8..16).map(|row| order.stored(row)).collect::<Vec<_>>();
        assert_eq!(stored(order), [8, 10, 12, 9, 11, 13, 14, 15]);
        let behind = HeadOrder { first: 3, rotary_dim: 4, ..order };
        assert_eq!(stored(behind), [8, 9, 10, 11, 13, 12, 14, 15]);
    }

    #[test]
    fn held_is_the_way_back() {
        for (head_dim, first, rotary_dim) in
            [(2, 0, 2), (8, 0, 8), (8, 0, 4), (12, 0, 6), (12, 4, 8), (12, 3, 6)]
        {
            let order = HeadOrder { head_dim, first, rotary_dim };
            assert!((0..3 * head_dim).all(|row| order.held(order.stored(row)) == row));
        }
    }
}
