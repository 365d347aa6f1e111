//! Bytes of colour to numbers: rescaled and brought to mean 0 and deviation 1 in one step of single
//! precision, as processors fuse them: (x - mean / factor) / (std / factor). InternVL's own does it
//! in two.

use std::sync::Arc;

/// All numbers that there are.
#[derive(Debug, Clone, PartialEq)]
pub struct Normalise {
    /// By colour and byte.
    table: Arc<[[f32; 256]; 3]>,
}

impl Normalise {
    /// `factor`: what a byte is multiplied by first, 1/255.
    pub fn new(mean: [f32; 3], std: [f32; 3], factor: f64) -> Normalise {
        let scale = (1.0 / factor) as f32;
        let number = |c: usize, x: usize| (x as f32 - mean[c] * scale) / (std[c] * scale);
        let table = std::array::from_fn(|c| std::array::from_fn(|x| number(c, x)));
        Normalise { table: Arc::new(table) }
    }

    /// As torchvision does it to a picture of Pillow's: bytes over 255 first, then mean and
    /// deviation, each rounded.
    pub fn in_two_steps(mean: [f32; 3], std: [f32; 3]) -> Normalise {
        let number = |c: usize, x: usize| (x as f32 / 255.0 - mean[c]) / std[c];
        let table = std::array::from_fn(|c| std::array::from_fn(|x| number(c, x)));
        Normalise { table: Arc::new(table) }
    }

    /// As Gemma 4's tower has it, in two steps: from 0 to 1, then from -1 to 1.
    pub fn around_half(factor: f64) -> Normalise {
        let number = |x: usize| 2.0 * (x as f32 * factor as f32 - 0.5);
        Normalise { table: Arc::new([std::array::from_fn(number); 3]) }
    }

    /// All of them.
    pub fn table(&self) -> Arc<[[f32; 256]; 3]> {
        Arc::clone(&self.table)
    }

    /// The number of a byte of this colour.
    #[inline]
    pub fn of(&self, colour: usize, byte: u8) -> f32 {
        self.table[colour][usize::from(byte)]
    }
}
