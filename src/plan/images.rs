//! Images of prompts, as plans carry them: where each stands among a sequence's tokens, and the
//! patches that a vision tower makes its tokens' vectors of. Made by `engine`, read by `kv`,
//! `scheduler`, `model` and `device`.

use std::fmt;
use std::sync::Arc;

/// All images of a sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptImages {
    /// In the order of their tokens, which do not overlap.
    pub spans: Vec<ImageSpan>,
    /// In the text model tokens of a span see all of them, those behind too: a step feeds a span
    /// to its end.
    pub both_ways: BothWays,
}

/// In which layers of a text model tokens of an image see those of it that are behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BothWays {
    /// In none.
    #[default]
    Never,
    /// In all.
    Always,
    /// In those with a window, as far back as that reaches.
    InWindows,
}

impl BothWays {
    /// In some.
    pub fn anywhere(self) -> bool {
        self != BothWays::Never
    }

    /// In a layer, with a window or without.
    pub fn holds(self, window: bool) -> bool {
        match self {
            BothWays::Never => false,
            BothWays::Always => true,
            BothWays::InWindows => window,
        }
    }
}

/// Tokens of one image that follow each other in a prompt: all of them, or a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSpan {
    /// Its first token.
    pub start: usize,
    /// Rows of its tokens.
    pub rows: usize,
    /// Tokens of a row.
    pub columns: usize,
    /// Which of the image's tokens is the first here.
    pub first: usize,
    /// What it is.
    pub patches: Arc<PatchRows>,
}

impl ImageSpan {
    /// The token behind its last one.
    pub fn end(&self) -> usize {
        self.start + self.tokens()
    }

    /// Tokens.
    pub fn tokens(&self) -> usize {
        self.rows * self.columns
    }
}

/// A processed image as rows of patches, each `[3][copies][side][side]`, in the order of tokens and
/// of patches in them.
#[derive(Clone, PartialEq)]
pub struct PatchRows {
    /// Patches from top to bottom.
    pub rows: usize,
    /// Patches from left to right.
    pub columns: usize,
    /// Equal parts, one above the other, that are encoded each for itself.
    pub tiles: usize,
    /// Vectors that a tower makes of it.
    pub tokens: usize,
    /// What they are made of; None: they are those of the squares of patches, in their order.
    pub arranged: Option<Arc<[Arranged]>>,
    /// Elements of a patch.
    pub width: usize,
    /// `[rows * columns][width]`
    pub bytes: Vec<u8>,
    /// The number that a byte of each colour stands for.
    pub numbers: Arc<[[f32; 256]; 3]>,
    /// SHA-256 of sizes and bytes: equal images of one model are equal here.
    pub hash: [u8; 32],
}

/// A token's vector, of those that a tower makes of the squares of patches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arranged {
    /// One of them.
    Square(u32),
    /// Shares of four.
    Between([(u32, f32); 4]),
    /// The one that ends rows of any image.
    RowEnd,
}

impl Eq for PatchRows {}

impl fmt::Debug for PatchRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PatchRows { rows, columns, hash, .. } = self;
        write!(f, "PatchRows {{ {rows} x {columns}, {:02x?} }}", &hash[..4])
    }
}

impl PatchRows {
    /// Patches.
    pub fn count(&self) -> usize {
        self.rows * self.columns
    }

    /// The numbers of the n-th patch, into `out` of its width; behind the last one: zeros.
    pub fn write(&self, n: usize, out: &mut [f32]) {
        if n >= self.count() {
            return out.fill(0.0);
        }
        let colour = (self.width / 3).max(1);
        let patch = &self.bytes[n * self.width..(n + 1) * self.width];
        let parts = out.chunks_mut(colour).zip(patch.chunks(colour)).zip(self.numbers.iter());
        for ((out, bytes), numbers) in parts {
            out.iter_mut().zip(bytes).for_each(|(o, &byte)| *o = numbers[usize::from(byte)]);
        }
    }
}

impl PromptImages {
    /// By what the token at `index` is turned: time, row and column. Text goes on behind an image
    /// as if that were as long as its longer side.
    pub fn positions_of(&self, index: usize) -> [usize; 3] {
        let mut saved = 0;
        for span in &self.spans {
            if index < span.start {
                break;
            }
            let first = span.start - saved;
            let inside = index - span.start;
            if inside < span.tokens() {
                return [first, first + inside / span.columns, first + inside % span.columns];
            }
            saved += span.tokens() - span.rows.max(span.columns);
        }
        [index - saved; 3]
    }

    /// The first and the last token that the one at `index` sees because they are of its image, in
    /// layers with a window or without; no others than itself, if it is of none. In windows alone
    /// no token before it is seen for that.
    pub fn seen_from(&self, index: usize, window: bool) -> [usize; 2] {
        let of_token = |span: &&ImageSpan| (span.start..span.end()).contains(&index);
        match self.spans.iter().find(of_token).filter(|_| self.both_ways.holds(window)) {
            Some(span) if self.both_ways == BothWays::InWindows => [index, span.end() - 1],
            Some(span) => [span.start, span.end() - 1],
            None => [index; 2],
        }
    }

    /// Where a chunk of tokens from `fed` on ends that should end at `end`: not inside of a span
    /// whose tokens see each other, or of none if `whole`. In front of it, or, where it begins the
    /// chunk, behind it.
    pub fn chunk_end(&self, fed: usize, end: usize, whole: bool) -> usize {
        let cut = |span: &&ImageSpan| span.start < end && end < span.end();
        match self
            .spans
            .iter()
            .find(cut)
            .filter(|_| (whole || self.both_ways.anywhere()) && end > fed)
        {
            Some(span) if span.start > fed => span.start,
            Some(span) => span.end(),
            None => end,
        }
    }

    /// The images of which some tokens are in `range`, from the first.
    pub fn overlapping(
        &self,
        range: std::ops::Range<usize>,
    ) -> impl Iterator<Item = &ImageSpan> + '_ {
        self.spans.iter().filter(move |s| s.start < range.end && range.start < s.start + s.tokens())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patches() -> Arc<PatchRows> {
        Arc::new(PatchRows {
            rows: 2,
            columns: 2,
            tiles: 1,
            tokens: 4,
            arranged: None,
            width: 3,
            bytes: vec![0; 12],
            numbers: Arc::new([[0.0; 256]; 3]),
            hash: [0; 32],
        })
    }

    /// The example of Qwen2-VL's paper: text, an image, text.
    #[test]
    fn positions_go_on_behind_the_longer_side() {
        let span =
            |start, rows, columns| ImageSpan { start, rows, columns, first: 0, patches: patches() };
        let images =
            PromptImages { spans: vec![span(3, 2, 4), span(13, 3, 1)], both_ways: BothWays::Never };

        let want = [
            (2, [2; 3]),
            (3, [3, 3, 3]),
            (6, [3, 3, 6]),
            (7, [3, 4, 3]),
            (10, [3, 4, 6]),
            (11, [7; 3]),
            (13, [9; 3]),
            (15, [9, 11, 9]),
            (16, [12; 3]),
            (40, [36; 3]),
        ];
        for (index, positions) in want {
            assert_eq!(images.positions_of(index), positions, "{index}");
        }
        let starts = |range| images.overlapping(range).map(|s| s.start).collect::<Vec<_>>();
        assert!(starts(0..3).is_empty());
        assert_eq!(starts(0..4), [3]);
        assert_eq!(starts(10..14), [3, 13]);
        assert!(starts(16..99).is_empty());
    }

    #[test]
    fn chunks_end_beside_images_that_are_seen_both_ways() {
        let span = |start, tokens| ImageSpan {
            start,
            rows: 1,
            columns: tokens,
            first: 0,
            patches: patches(),
        };
        let images = |both_ways| PromptImages { spans: vec![span(3, 8), span(11, 4)], both_ways };
        let [one, both, windows] =
            [BothWays::Never, BothWays::Always, BothWays::InWindows].map(images);

        let ends = [
            (0, 2, 2),
            (0, 3, 3),
            (0, 5, 3),
            (3, 5, 11),
            (7, 9, 11),
            (3, 11, 11),
            (3, 12, 11),
            (11, 12, 15),
            (15, 99, 99),
            (7, 7, 7),
        ];
        for (fed, end, want) in ends {
            assert_eq!(both.chunk_end(fed, end, false), want, "{fed}..{end}");
            assert_eq!(windows.chunk_end(fed, end, false), want, "{fed}..{end}");
            assert_eq!(one.chunk_end(fed, end, false), end);
            assert_eq!(one.chunk_end(fed, end, true), want);
        }

        for (index, want) in
            [(2, [2, 2]), (3, [3, 10]), (10, [3, 10]), (11, [11, 14]), (15, [15, 15])]
        {
            for window in [false, true] {
                assert_eq!(both.seen_from(index, window), want);
                assert_eq!(one.seen_from(index, window), [index; 2]);
            }
            assert_eq!(windows.seen_from(index, true), [index, want[1]]);
            assert_eq!(windows.seen_from(index, false), [index; 2]);
        }
    }
}
