//! Into how many shares the blocks of a cluster cut the inputs of a tile, where tiles are too few
//! for the card. The products of tiles ask; it knows no kernel and no weight.

use super::abi;
use crate::error::Result;

/// Shares of a tile at most.
const MOST: usize = abi::CODED_MOST_SHARES as usize;
/// What adding up the sums of a cluster takes, in units of what a tile multiplies at a time.
const ADD_UP_UNITS: usize = 3;

/// Clusters that the card holds at once, of 1, 2, ... blocks.
#[derive(Debug, Clone, Default)]
pub struct Shares([usize; MOST]);

impl Shares {
    /// `held` says how many clusters of so many blocks there are at once: that depends on how
    /// multiprocessors are grouped.
    pub fn of(held: impl Fn(usize) -> Result<usize>) -> Result<Shares> {
        let mut clusters = [0; MOST];
        for (shares, clusters) in (1..).zip(&mut clusters) {
            *clusters = held(shares)?;
        }
        Ok(Shares(clusters))
    }

    /// Clusters of so many blocks that the card holds at once; 0 where there are none.
    pub fn held(&self, blocks: usize) -> usize {
        self.0.get(blocks.wrapping_sub(1)).copied().unwrap_or(0)
    }

    /// Blocks that the card holds at once.
    pub fn resident(&self) -> usize {
        self.0[0]
    }

    /// The most shares of each of so many tiles, whose inputs are so many units, with which all
    /// clusters are on the card at once: where bytes are everything, blocks that all copy are what
    /// counts.
    pub fn of_one_wave(&self, tiles: usize, units: usize) -> usize {
        (1..=MOST.min(units)).rev().find(|&shares| tiles <= self.0[shares - 1]).unwrap_or(1)
    }

    /// Shares of each of so many tiles, whose inputs are so many units, that make the product
    /// shortest: all clusters of a wave take as long as the longest share and its end.
    pub fn best(&self, tiles: usize, units: usize) -> usize {
        let cost = |shares: usize| {
            let waves = tiles.div_ceil(self.0[shares - 1].max(1));
            waves * (units.div_ceil(shares) + if shares > 1 { ADD_UP_UNITS } else { 0 })
        };
        (1..=MOST.min(units)).min_by_key(|&shares| cost(shares)).unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An H200: 132 multiprocessors in groups of 16 and 18, one block on each.
    fn h200() -> Shares {
        Shares([132, 66, 42, 32, 25, 20, 16, 16])
    }

    #[test]
    fn tiles_fill_the_card() {
        let shares = h200();
        // The products of an 8B model, four bits: qkv, o, gate and up, down.
        assert_eq!(shares.best(24, 32), 5);
        assert_eq!(shares.best(16, 32), 8);
        assert_eq!(shares.best(112, 32), 1);
        assert_eq!(shares.best(16, 112), 8);
        // A head is several waves, and a tile of one unit is one share.
        assert_eq!(shares.best(501, 32), 1);
        assert_eq!(shares.best(1, 1), 1);
        assert_eq!(Shares::default().best(3, 2), 1);
    }

    #[test]
    fn a_wave_holds_all_shares() {
        let shares = h200();
        assert_eq!([24, 16, 112, 501].map(|tiles| shares.of_one_wave(tiles, 32)), [5, 8, 1, 1]);
        assert_eq!((shares.of_one_wave(1, 2), shares.of_one_wave(33, 32)), (2, 3));
        assert_eq!(Shares::default().of_one_wave(3, 2), 1);
    }

    #[test]
    fn a_card_that_holds_fewer_clusters_gets_smaller_ones() {
        let mut shares = h200();
        shares.0[7] = 15;
        assert_eq!(shares.best(16, 112), 7);
    }
}
