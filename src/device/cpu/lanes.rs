//! The geometry of panels: which output each lane of a panel computes. Weights are packed by it,
//! products and lookups read by it. It knows no elements.

use std::ops::Range;

/// Outputs of a panel: four AVX-512 registers.
pub const LANES: usize = 64;

/// How the outputs of a matrix lie in panels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lanes {
    /// Of the matrix; gates and ups together.
    pub outputs: usize,
    /// A panel holds 32 gates and then the 32 ups that belong to them.
    pub gated: bool,
}

impl Lanes {
    /// Panels.
    pub fn count(self) -> usize {
        if self.gated {
            (self.outputs / 2).div_ceil(LANES / 2)
        } else {
            self.outputs.div_ceil(LANES)
        }
    }

    /// Lanes of a panel and the first output that they compute; padding is left out.
    pub fn runs(self, panel: usize) -> [(Range<usize>, usize); 2] {
        let half = self.outputs / 2;
        let first = panel * LANES;
        let column = first / 2;
        if self.gated {
            let count = (LANES / 2).min(half - column);
            [(0..count, column), (LANES / 2..LANES / 2 + count, half + column)]
        } else {
            [(0..LANES.min(self.outputs - first), first), (0..0, 0)]
        }
    }

    /// Which output a lane computes, if it is not padding.
    pub fn output_of(self, panel: usize, lane: usize) -> Option<usize> {
        let half = self.outputs / 2;
        let column = panel * (LANES / 2) + lane % (LANES / 2);
        match (self.gated, lane < LANES / 2) {
            (false, _) => Some(panel * LANES + lane).filter(|&o| o < self.outputs),
            (true, true) => Some(column).filter(|&o| o < half),
            (true, false) => Some(half + column).filter(|_| column < half),
        }
    }
}
