//! Which logits rows no token may be taken from: those that are not finite. Reference code, like
//! [`choose`](mod@super::choose), which calls it; a kernel keeps the same account of a row in a
//! word.

/// A logits row holds NaN or +inf, or nothing above -inf: damaged weights, or float16 that
/// overflowed. Single -inf are legal, a model may give them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NonFinite;

/// What was seen of a logits row. Each logit is seen once: where a mask hides it, else at the
/// end of step 7 of [`SamplerSpec`](super::SamplerSpec). So the verdict does not depend on what
/// masks leave, and a kernel, which reads each logit at these places anyway, needs no pass for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// NaN or +inf.
    wild: bool,
    /// Anything above -inf.
    above: bool,
}

impl Seen {
    pub(super) fn one(&mut self, logit: f32) {
        // False for NaN too.
        let tame = logit < f32::INFINITY;
        self.wild |= !tame;
        self.above |= logit > f32::NEG_INFINITY;
    }

    /// All of a row, or what masks left of it.
    pub fn all(mut self, logits: &[f32]) -> Seen {
        logits.iter().for_each(|&logit| self.one(logit));
        self
    }

    /// Whether the row may be sampled from, once all of it was seen.
    ///
    /// # Errors
    /// It may not.
    pub fn verdict(self) -> Result<(), NonFinite> {
        if self.wild || !self.above {
            return Err(NonFinite);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: f32 = f32::NEG_INFINITY;

    #[test]
    fn nan_infinity_and_nothing_at_all_are_not_finite() {
        let verdict = |row: &[f32]| Seen::default().all(row).verdict();
        for wild in [f32::NAN, -f32::NAN, f32::INFINITY] {
            for place in 0..3 {
                let mut row = [1.0, NONE, f32::MIN];
                row[place] = wild;
                assert_eq!(verdict(&row), Err(NonFinite), "{row:?}");
            }
        }
        assert_eq!(verdict(&[NONE; 3]), Err(NonFinite));
        assert_eq!(verdict(&[]), Err(NonFinite));
        assert_eq!(verdict(&[NONE, f32::MIN, NONE]), Ok(()));
        assert_eq!(verdict(&[f32::MAX, -0.0]), Ok(()));
    }
}
