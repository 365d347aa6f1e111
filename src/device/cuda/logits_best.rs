//! The best of each block's part of a row of logits, which the product of few rows that makes them
//! leaves for the sampler: whose logits they are of. `dense` asks for them, `products` has them
//! left, `step` hands them to the sampler; it knows no kernel.

use super::device_ptr::DevicePtr;

/// At most one product's, as they lie in the sampler's one list.
#[derive(Default)]
pub struct LogitsBest {
    /// The product that writes these logits may leave its own.
    wanted: Option<DevicePtr>,
    /// Of these logits, so many parts of each row.
    left: Option<(DevicePtr, usize)>,
}

impl LogitsBest {
    /// The list is of no logits from here on; that of `logits` is wanted, if any.
    pub fn begin(&mut self, logits: Option<DevicePtr>) {
        *self = LogitsBest { wanted: logits, left: None };
    }

    /// Whether the product that writes `logits` may leave its list.
    pub fn wants(&self, logits: DevicePtr) -> bool {
        self.wanted == Some(logits)
    }

    /// The product that writes `logits` leaves its list, `parts` of each row.
    pub fn leave(&mut self, logits: DevicePtr, parts: usize) {
        self.left = Some((logits, parts));
    }

    /// The parts of each row of `logits`, if the list is theirs and nothing has changed them.
    pub fn parts(&self, logits: DevicePtr) -> Option<usize> {
        self.left.filter(|(of, _)| *of == logits).map(|(_, parts)| parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A list is of the logits whose product left it last, until something else is asked for.
    #[test]
    fn a_list_is_of_one_products_logits() {
        let [one, other] = [256, 512].map(DevicePtr::new);
        let mut best = LogitsBest::default();
        assert!(!best.wants(one));
        best.begin(Some(one));
        assert!(best.wants(one) && !best.wants(other));
        assert_eq!(best.parts(one), None, "wanted, not left");
        best.leave(one, 264);
        assert_eq!((best.parts(one), best.parts(other)), (Some(264), None));
        best.begin(None);
        assert_eq!(best.parts(one), None);
    }
}
