//! Rotation of heads by position on the CPU.

use crate::device::Rope;

/// cos and sin by position, filled as positions come up; one per set of frequencies.
pub struct RopeTable {
    rope: Rope,
    /// `[position][cos | sin][rotary_dim / 2]`
    rows: Vec<f32>,
}

impl RopeTable {
    /// No positions yet.
    pub fn new(rope: &Rope) -> RopeTable {
        RopeTable { rope: rope.clone(), rows: Vec::new() }
    }

    /// The one of `tables` for these frequencies, made if need be, with room up to `last`.
    pub fn among<'t>(tables: &'t mut Vec<RopeTable>, rope: &Rope, last: usize) -> &'t RopeTable {
        let known = tables.iter().position(|t| t.is_for(rope)).unwrap_or_else(|| {
            tables.push(RopeTable::new(rope));
            tables.len() - 1
        });
        tables[known].extend_to(last);
        &tables[known]
    }

    /// Whether it was made for these frequencies.
    pub fn is_for(&self, rope: &Rope) -> bool {
        self.rope == *rope
    }

    /// Make room for positions up to `last`.
    pub fn extend_to(&mut self, last: usize) {
        let width = self.rope.rotary_dim;
        if width == 0 {
            return;
        }
        for position in self.rows.len() / width..=last {
            let angles = self.rope.inv_freq.iter().map(|f| position as f32 * f);
            let magnitude = self.rope.magnitude;
            self.rows.extend(angles.clone().map(|a| a.cos() * magnitude));
            self.rows.extend(angles.map(|a| a.sin() * magnitude));
        }
    }

    /// What q of a position is multiplied by, if it grows.
    pub fn growth(&self, position: usize) -> Option<f32> {
        let growth = self.rope.growth?;
        let position = position + growth.ahead as usize;
        let steps = (position / growth.length.max(1) as usize) as f32;
        Some(1.0 + growth.beta * (1.0 + steps).ln())
    }

    /// The same of a token with three positions, of which each frequency goes by the one that the
    /// rope says; the first where it says nothing.
    #[inline(always)]
    pub fn rotate_by(&self, positions: [usize; 3], head: &mut [f32]) {
        let axes = self.rope.axes.as_deref().unwrap_or_default();
        let width = self.rope.rotary_dim;
        let (low, high) = head[..width].split_at_mut(width / 2);
        for (i, (a, b)) in low.iter_mut().zip(high).enumerate() {
            let axis = axes.get(i).map_or(0, |&axis| usize::from(axis).min(2));
            let at = positions[axis] * width + i;
            let (c, s) = (self.rows[at], self.rows[at + width / 2]);
            (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
        }
    }

    /// Tokens have three positions where there are images.
    pub fn has_axes(&self) -> bool {
        self.rope.axes.is_some()
    }

    /// Rotate one head: element i pairs with i + rotary_dim / 2.
    #[inline(always)]
    pub fn rotate(&self, position: usize, head: &mut [f32]) {
        let width = self.rope.rotary_dim;
        let row = &self.rows[position * width..(position + 1) * width];
        let (cos, sin) = row.split_at(width / 2);
        let (low, high) = head[..width].split_at_mut(width / 2);
        for (((a, b), &c), &s) in low.iter_mut().zip(high).zip(cos).zip(sin) {
            (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
        }
    }
}
