//! Which weight the next GEMM reads, so that kernels between two GEMMs can have its first bytes pulled into L2.
//! Decode at few rows streams weights; while norms, rope and attention run, device memory would idle. `Cuda`
//! tells of every product, small kernels ask. It knows no names and no layers: a step multiplies by the same
//! weights in the same order as the one before.

use std::collections::HashMap;
use std::sync::Arc;

use super::context::{Context, Memory};

/// With more rows the small kernels have bytes of their own to move.
const MOST_ROWS: usize = 32;
/// The instruction exists from here on.
const OLDEST_CAPABILITY: u32 = 90;

/// What a launch passes on: blocks beyond the rows, where the weight lies, how much of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ahead {
    pub blocks: usize,
    pub address: u64,
    pub bytes: u64,
}

/// How long the kernels between two GEMMs take.
#[derive(Debug, Clone, Copy)]
pub enum Gap {
    /// rope, attention
    Long,
    /// a norm, an activation
    Short,
}

pub struct Prefetch {
    /// From a weight's address to the weight that was used after it. It keeps them alive: an address that
    /// is gone must not be touched.
    after: HashMap<u64, Arc<Memory>>,
    last: u64,
    /// Blocks that reach every multiprocessor; 0 = the card has no such instruction.
    blocks: usize,
    limits: [u64; 2],
}

impl Prefetch {
    pub fn new(context: &Context) -> Prefetch {
        let able = context.capability >= OLDEST_CAPABILITY;
        let blocks = if able { context.multiprocessors as usize } else { 0 };
        let env = std::env::var("PREFETCH_MB").unwrap_or("24,12".into());
        let mb: Vec<u64> = env.split(',').map(|x| x.parse().unwrap()).collect();
        let limits = [mb[0] << 20, mb[1] << 20];
        Prefetch { after: HashMap::new(), last: 0, blocks, limits }
    }

    /// A product by this weight is enqueued.
    pub fn used(&mut self, weight: &Arc<Memory>) {
        let known = self.after.get(&self.last).is_some_and(|w| w.address == weight.address);
        if self.blocks > 0 && !known {
            self.after.insert(self.last, weight.clone());
        }
        self.last = weight.address;
    }

    /// What a kernel of `rows` rows should pull in; nothing where that does not pay.
    pub fn ahead(&self, rows: usize, gap: Gap) -> Ahead {
        if self.blocks == 0 || rows > MOST_ROWS {
            return Ahead::default();
        }
        let limit = self.limits[gap as usize];
        match self.after.get(&self.last) {
            Some(next) if limit > 0 => Ahead {
                blocks: self.blocks,
                address: next.address,
                bytes: limit.min(next.bytes as u64 / 16 * 16),
            },
            _ => Ahead::default(),
        }
    }
}
