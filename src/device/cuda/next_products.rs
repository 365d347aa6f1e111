//! Which weight is multiplied behind a norm, so that its bytes are asked for while ranks exchange:
//! what earlier steps did, since models go the same way at each. `joined_norm` asks, `products`
//! tells; it knows no model.

use std::collections::HashMap;

use super::abi;
use super::device_ptr::DevicePtr;
use super::weights::Weight;

/// Bytes of a weight that are fetched at most: less than half of a Hopper card's L2.
const MOST_BYTES: usize = 20 << 20;

/// What steps have shown.
#[derive(Default)]
pub struct NextProducts {
    /// By where a norm's weight lies: where the matrix behind it lies, and its bytes.
    known: HashMap<DevicePtr, (DevicePtr, usize)>,
    /// The norm behind which there was no product yet.
    open: Option<DevicePtr>,
}

impl NextProducts {
    /// A product multiplies by this weight.
    pub fn note(&mut self, weight: &Weight) {
        if let Some(norm) = self.open.take() {
            self.known.insert(norm, weight.bytes_in_memory());
        }
    }

    /// The norm with this weight is launched: what to fetch behind it, whole pieces of AHEAD_BYTES;
    /// nothing the first time.
    pub fn behind(&mut self, norm: DevicePtr) -> (DevicePtr, usize) {
        self.open = Some(norm);
        let piece = abi::AHEAD_BYTES as usize;
        let (first, bytes) = self.known.get(&norm).copied().unwrap_or((DevicePtr::NULL, 0));
        (first, bytes.min(MOST_BYTES) / piece * piece)
    }
}
