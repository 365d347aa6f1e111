//! Which of cuBLASLt's algorithms multiplies which shape, as far as it was chosen: by this process,
//! or by an earlier start on such a card (`choices`). `gemm` asks, chooses and notes; nothing here
//! calls the library, and an algorithm is but words, which `gemm` has checked before it uses them.

use std::collections::HashMap;
use std::path::Path;

use cudarc::cublaslt::sys as lt;

use super::context::{driver_version, Context};
use super::gemm_product::{Operands, Product};
use crate::device::choices::{Choices, ChoicesFile};
use crate::device::DType;

/// What an algorithm depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// Or their bucket.
    rows: usize,
    outputs: usize,
    inputs: usize,
    stride: usize,
    logits: bool,
    operands: Operands,
}

impl Key {
    /// Of a product, as one of so many rows.
    pub fn of(product: &Product, rows: usize) -> Key {
        let Product { outputs, inputs, stride, logits, operands, .. } = *product;
        Key { rows, outputs, inputs, stride, logits, operands }
    }

    /// Rows, outputs and inputs, for messages.
    pub fn shape(&self) -> String {
        format!("{} x {} x {}", self.rows, self.outputs, self.inputs)
    }

    /// The key in a file.
    fn text(&self) -> String {
        let sums = if self.logits { "logits" } else { "activations" };
        format!("{} / {} {:?} to {sums}", self.shape(), self.stride, self.operands)
    }
}

/// The largest number of rows that shares an algorithm with `rows`.
pub fn bucket(rows: usize) -> usize {
    match rows {
        0..=16 => rows.next_power_of_two(),
        17..=64 => rows.next_multiple_of(16),
        65..=256 => rows.next_multiple_of(64),
        // Whole tiles: an algorithm for more of them may take as long for fewer.
        257..=4096 => rows.next_multiple_of((rows.next_power_of_two() / 8).max(128)),
        // Two for each doubling: choosing takes tens of milliseconds here, and a prompt waits.
        _ => rows.next_multiple_of(rows.next_power_of_two() / 4),
    }
}

/// Every bucket's largest number of rows up to `most`, and `most`.
pub fn buckets(most: usize) -> Vec<usize> {
    let mut sizes: Vec<usize> = (1..=most).filter(|&rows| bucket(rows) == rows).collect();
    if sizes.last() != Some(&most) && most > 0 {
        sizes.push(most);
    }
    sizes
}

/// Algorithms by what they depend on.
pub struct GemmChoices {
    dtype: DType,
    chosen: HashMap<Key, lt::cublasLtMatmulAlgo_t>,
    /// None: every start chooses for itself.
    file: Option<ChoicesFile>,
    /// What earlier starts chose.
    kept: Choices,
    /// What this one chose, and is not in the file.
    new: Choices,
}

impl GemmChoices {
    /// Nothing is chosen.
    pub fn new(dtype: DType) -> GemmChoices {
        let chosen = HashMap::new();
        GemmChoices { dtype, chosen, file: None, kept: Choices::new(), new: Choices::new() }
    }

    /// From here on look in this folder too. An algorithm is good for one version of the library;
    /// whether it is the fastest depends on the card, the driver and how this product times.
    pub fn remember(&mut self, folder: &Path, context: &Context, library: usize) {
        let Context { name, capability, multiprocessors, .. } = context;
        let dtype = self.dtype;
        let driver = driver_version();
        let product = env!("CARGO_PKG_VERSION");
        let file = ChoicesFile::new(
            folder,
            &format!(
                "products of {dtype:?} by triton_vllm {product} on {name}, sm_{capability}, \
                 {multiprocessors} multiprocessors, driver {driver}, cuBLASLt {library}"
            ),
        );
        self.kept = file.read();
        self.file = Some(file);
    }

    /// The algorithm that was chosen, if one was. It may not fit any more: whoever takes it checks.
    pub fn get(&self, key: &Key) -> Option<lt::cublasLtMatmulAlgo_t> {
        let kept = || Some(lt::cublasLtMatmulAlgo_t { data: *self.kept.get(&key.text())? });
        self.chosen.get(key).copied().or_else(kept)
    }

    /// This algorithm serves `key`, unless one did before.
    pub fn note(&mut self, key: Key, algorithm: lt::cublasLtMatmulAlgo_t) {
        if self.chosen.contains_key(&key) {
            return;
        }
        self.chosen.insert(key, algorithm);
        let text = key.text();
        if self.file.is_some() && self.kept.get(&text) != Some(&algorithm.data) {
            self.new.insert(text, algorithm.data);
        }
    }

    /// Write down what is new. Where that is not possible the next start chooses again.
    pub fn keep(&mut self) {
        let new = std::mem::take(&mut self.new);
        let Some(file) = self.file.as_ref().filter(|_| !new.is_empty()) else { return };
        match file.add(&new) {
            Ok(()) => tracing::debug!("{} ways to multiply are kept", new.len()),
            Err(error) => tracing::info!("{error} The next start chooses anew how to multiply."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{bucket, buckets};

    #[test]
    fn buckets_hold_their_rows_and_waste_little() {
        for rows in 1..5000 {
            let b = bucket(rows);
            assert!(b >= rows && b < 2 * rows.max(1) + 1, "{rows} -> {b}");
            assert_eq!(bucket(b), b);
        }
        let sizes = buckets(5000);
        assert!(sizes.is_sorted() && sizes.len() < 36 && sizes.last() == Some(&5000), "{sizes:?}");
        assert!((1..=5000).all(|rows| sizes.iter().any(|&size| bucket(size) == bucket(rows))));
    }
}
