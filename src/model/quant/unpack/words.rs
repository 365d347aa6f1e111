//! Integers of 2 to 8 bits in words of 32, in the orders in which formats pack them -> codes row by
//! row as devices take them. Functions of bytes: they know no tensor. Work is shared out by blocks
//! of rows to rayon's threads.

use rayon::prelude::*;

use super::layer::zeroed;
use crate::error::Result;

/// Rows that are made at a time: a cache line of words that lie across the rows.
const BLOCK_ROWS: usize = 64;
/// AWQ packs eight outputs into a word; field i holds this one of them.
pub(super) const AWQ_OUTPUTS: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// Where the words of a row lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lie {
    /// `[rows, words]`.
    Along,
    /// `[words, rows]`.
    Across,
    /// `[fields, rows / 8]`: a field of eight rows in a word, four bits each, in AWQ's order.
    Awq,
}

/// A matrix of packed integers.
#[derive(Clone, Copy)]
pub(super) struct Packed<'a> {
    /// Little-endian words.
    pub bytes: &'a [u8],
    pub lie: Lie,
    /// 2 to 8.
    pub bits: usize,
    /// A word holds whole fields; else they are a stream of bits.
    pub loose: bool,
    pub rows: usize,
    /// Fields of a row.
    pub cols: usize,
}

/// Words of a row of so many fields.
pub(super) fn words_of(fields: usize, bits: usize, loose: bool) -> usize {
    if loose {
        fields.div_ceil(32 / bits)
    } else {
        (fields * bits).div_ceil(32)
    }
}

impl Packed<'_> {
    /// Codes of the device: [`crate::device::CodeType::Int4`] up to four bits, else `Int8`, which
    /// mean the field less 2^(bits - 1). Code j of a row is field `order[j]`; no order: field j.
    ///
    /// # Errors
    /// Unavailable: no memory.
    pub fn codes(&self, order: &[u32]) -> Result<Vec<u8>> {
        let code_bits = if self.bits <= 4 { 4 } else { 8 };
        let row_bytes = (self.cols * code_bits).div_ceil(8);
        self.blocks(row_bytes, |line, row| self.emit(line, order, row))
    }

    /// The fields themselves, row by row.
    ///
    /// # Errors
    /// As `codes`.
    pub fn fields(&self) -> Result<Vec<u8>> {
        self.blocks(self.cols, |line, row| {
            for (k, to) in row.iter_mut().enumerate() {
                *to = self.field(line, k);
            }
        })
    }

    /// `row_bytes` bytes for each row, which `emit` makes of the row's words.
    fn blocks(&self, row_bytes: usize, emit: impl Fn(&[u32], &mut [u8]) + Sync) -> Result<Vec<u8>> {
        let mut out = zeroed(self.rows * row_bytes)?;
        let row_words = words_of(self.cols, self.bits, self.loose).max(1);
        let blocks = out.par_chunks_mut((BLOCK_ROWS * row_bytes).max(1)).enumerate();
        blocks.for_each_init(Vec::new, |lines, (block, out)| {
            let first = block * BLOCK_ROWS;
            let rows = BLOCK_ROWS.min(self.rows - first);
            lines.clear();
            lines.resize(BLOCK_ROWS * row_words, 0);
            self.gather(first, rows, row_words, lines);
            for (line, row) in lines.chunks_exact(row_words).zip(out.chunks_exact_mut(row_bytes)) {
                emit(line, row);
            }
        });
        Ok(out)
    }

    /// The words of some rows, row by row.
    fn gather(&self, first: usize, rows: usize, row_words: usize, lines: &mut [u32]) {
        match self.lie {
            Lie::Along => {
                let words = self.words_at(first * row_words, rows * row_words);
                lines.iter_mut().zip(words).for_each(|(to, word)| *to = word);
            }
            Lie::Across => {
                for w in 0..row_words {
                    let column = self.words_at(w * self.rows + first, rows);
                    for (row, word) in column.enumerate() {
                        lines[row * row_words + w] = word;
                    }
                }
            }
            Lie::Awq => {
                for k in (0..self.cols).step_by(8) {
                    self.gather_awq(first, rows, k, row_words, lines);
                }
            }
        }
    }

    /// Fields k to k + 8 of some rows, which lie in eight words of eight rows each.
    fn gather_awq(&self, first: usize, rows: usize, k: usize, row_words: usize, lines: &mut [u32]) {
        let across = self.rows / 8;
        let fields = 8.min(self.cols - k);
        for octet in 0..rows / 8 {
            let mut turned = [0u32; 8];
            for j in 0..fields {
                let at = (k + j) * across + first / 8 + octet;
                let word = self.words_at(at, 1).next().unwrap_or(0);
                for (i, line) in turned.iter_mut().enumerate() {
                    *line |= (word >> (4 * i) & 15) << (4 * j);
                }
            }
            for (i, word) in turned.into_iter().enumerate() {
                lines[(8 * octet + AWQ_OUTPUTS[i]) * row_words + k / 8] = word;
            }
        }
    }

    fn words_at(&self, at: usize, count: usize) -> impl Iterator<Item = u32> + '_ {
        let bytes = &self.bytes[4 * at..4 * (at + count)];
        bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    /// Field k of a row's words.
    #[inline]
    fn field(&self, line: &[u32], k: usize) -> u8 {
        let bits = self.bits;
        let mask = (1u64 << bits) - 1;
        let (word, shift) = if self.loose {
            (k / (32 / bits), k % (32 / bits) * bits)
        } else {
            (k * bits / 32, k * bits % 32)
        };
        let low = u64::from(line[word]);
        let high = line.get(word + 1).map_or(0, |&word| u64::from(word) << 32);
        ((low | high) >> shift & mask) as u8
    }

    /// A row's codes of its words.
    fn emit(&self, line: &[u32], order: &[u32], row: &mut [u8]) {
        // Words of four and eight bits are codes already, but for the sign of eight.
        if order.is_empty() && matches!(self.bits, 4 | 8) {
            let sign = if self.bits == 8 { 0x8080_8080 } else { 0 };
            for (to, word) in row.chunks_mut(4).zip(line) {
                to.copy_from_slice(&(word ^ sign).to_le_bytes()[..to.len()]);
            }
            return;
        }

        let field = |j: usize| self.field(line, order.get(j).map_or(j, |&k| k as usize));
        if self.bits > 4 {
            let half = 1u8 << (self.bits - 1);
            for (j, to) in row.iter_mut().enumerate() {
                *to = field(j).wrapping_sub(half);
            }
        } else {
            let more = 8 - (1u8 << (self.bits - 1));
            for (pair, to) in row.iter_mut().enumerate() {
                let high = if 2 * pair + 1 < self.cols { field(2 * pair + 1) + more } else { 0 };
                *to = (field(2 * pair) + more) | high << 4;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::CodeType;

    /// Fields that differ from row to row and field to field.
    fn fields(rows: usize, cols: usize, bits: usize) -> Vec<u8> {
        let mask = (1u32 << bits) - 1;
        (0..rows * cols)
            .map(|i| ((i as u32).wrapping_mul(2_654_435_761) >> 13 & mask) as u8)
            .collect()
    }

    fn bytes(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Packed by the definition, field by field.
    fn pack(
        fields: &[u8],
        lie: Lie,
        bits: usize,
        loose: bool,
        rows: usize,
        cols: usize,
    ) -> Vec<u8> {
        let row_words = words_of(cols, bits, loose);
        let mut out = vec![0u32; if lie == Lie::Awq { cols * rows / 8 } else { rows * row_words }];
        for (n, k) in (0..rows).flat_map(|n| (0..cols).map(move |k| (n, k))) {
            let field = u64::from(fields[n * cols + k]);
            if lie == Lie::Awq {
                let i = AWQ_OUTPUTS.iter().position(|&o| o == n % 8).unwrap();
                out[k * rows / 8 + n / 8] |= (field as u32) << (4 * i);
                continue;
            }

            let per = 32 / bits;
            let bit = if loose { k / per * 32 + k % per * bits } else { k * bits };
            let at = |w| if lie == Lie::Across { w * rows + n } else { n * row_words + w };
            let placed = field << (bit % 32);
            out[at(bit / 32)] |= placed as u32;
            if placed >> 32 != 0 {
                out[at(bit / 32 + 1)] |= (placed >> 32) as u32;
            }
        }
        bytes(&out)
    }

    #[test]
    fn codes_are_the_fields_less_half_their_range() {
        let of_bits = |b| {
            let both = [Lie::Along, Lie::Across].map(|lie| [(lie, b, false), (lie, b, true)]);
            both.into_iter().flatten()
        };
        for (lie, bits, loose) in (2..=8).flat_map(of_bits).chain([(Lie::Awq, 4, false)]) {
            for (rows, cols) in [(8, 32), (136, 96), (72, 33)] {
                let fields = fields(rows, cols, bits);
                let bytes = pack(&fields, lie, bits, loose, rows, cols);
                let packed = Packed { bytes: &bytes, lie, bits, loose, rows, cols };
                assert_eq!(packed.fields().unwrap(), fields, "{lie:?} {bits} {loose}");
                let reversed: Vec<u32> = (0..cols as u32).rev().collect();
                for order in [&[][..], &reversed] {
                    judge(&packed, &fields, order);
                }
            }
        }
    }

    fn judge(packed: &Packed, fields: &[u8], order: &[u32]) {
        let Packed { bits, rows, cols, .. } = *packed;
        let codes = packed.codes(order).unwrap();
        let kind = if bits <= 4 { CodeType::Int4 } else { CodeType::Int8 };
        let row_bytes = kind.row_bytes(cols);
        for (n, j) in (0..rows).flat_map(|n| (0..cols).map(move |j| (n, j))) {
            let row = &codes[n * row_bytes..][..row_bytes];
            let code = if bits <= 4 { row[j / 2] >> (4 * (j % 2)) } else { row[j] };
            let k = order.get(j).map_or(j, |&k| k as usize);
            let want = f32::from(fields[n * cols + k]) - (1 << (bits - 1)) as f32;
            assert_eq!(kind.decode(code), want, "{:?} {bits} {n} {j}", packed.lie);
        }
    }
}
