//! In which order a head's dimensions are held. Some checkpoints rotate neighbours (2i and 2i + 1),
//! devices rotate i and i + half. A product of q and k is the same whatever order both have their
//! dimensions in, so rows of q and k are put in the devices' order as they are read, and no device
//! learns of it. `load` and the reader of adapters ask; nothing is read here.

/// The order of heads whose neighbours are rotated together in the checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadOrder {
    /// Dimensions of a head.
    pub head_dim: usize,
    /// Those that are rotated, from the front; an even number.
    pub rotary_dim: usize,
}

impl HeadOrder {
    /// Where the row lies in the checkpoint that is held as number `row` of a stack of heads.
    pub fn stored(&self, row: usize) -> usize {
        let (head, i) = (row - row % self.head_dim, row % self.head_dim);
        let half = self.rotary_dim / 2;
        head + match i {
            i if i < half => 2 * i,
            i if i < self.rotary_dim => 2 * (i - half) + 1,
            i => i,
        }
    }

    /// Where the row is held that lies in the checkpoint as number `row` of a stack of heads.
    pub fn held(&self, row: usize) -> usize {
        let (head, i) = (row - row % self.head_dim, row % self.head_dim);
        let half = self.rotary_dim / 2;
        head + match i {
            i if i >= self.rotary_dim => i,
            i if i % 2 == 0 => i / 2,
            i => half + i / 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_lie_half_apart_and_the_rest_stays() {
        let order = HeadOrder { head_dim: 8, rotary_dim: 6 };
        let stored: Vec<usize> = (8..16).map(|row| order.stored(row)).collect();
        assert_eq!(stored, [8, 10, 12, 9, 11, 13, 14, 15]);
    }

    #[test]
    fn held_is_the_way_back() {
        for (head_dim, rotary_dim) in [(2, 2), (8, 8), (8, 4), (12, 6)] {
            let order = HeadOrder { head_dim, rotary_dim };
            assert!((0..3 * head_dim).all(|row| order.held(order.stored(row)) == row));
        }
    }
}
