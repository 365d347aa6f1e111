//! Texts of images in prompts: those that stand for one, and those between the squares that one is
//! cut into. Called by `images`; it knows no picture.

use crate::error::Result;
use crate::ids::TokenId;
use crate::internal;
use crate::model::architectures::{SquareMarks, Written};
use crate::text::Tokenizer;

/// A prompt in which a token's name stands for each image.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct WrittenPrompt {
    /// To be tokenised.
    pub text: String,
    /// Which of the tokens of that name stand for images: a client may have written some too.
    pub places: Vec<usize>,
}

/// The first `images` texts of images as names of tokens.
pub(super) fn with_parts(prompt: &str, written: &Written, images: usize) -> WrittenPrompt {
    let (mut text, mut places) = (String::new(), Vec::new());
    let (mut rest, mut own) = (prompt, 0);
    while places.len() < images {
        let Some((ahead, behind)) = rest.split_once(written.text) else { break };
        own += ahead.matches(written.part).count();
        places.push(own + places.len());
        for piece in [ahead, written.open, written.part, written.close] {
            text.push_str(piece);
        }
        rest = behind;
    }
    text.push_str(rest);
    WrittenPrompt { text, places }
}

/// Tokens of the texts between the squares of an image.
#[derive(Debug)]
pub(super) struct SquareTexts {
    /// By row and column: in front of a square.
    squares: Vec<Vec<Vec<TokenId>>>,
    /// In front of the whole picture, where that is all, and behind squares.
    whole: [Vec<TokenId>; 2],
    end: Vec<TokenId>,
}

impl SquareTexts {
    /// Of images of at most `a_side` squares a side.
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub fn new(marks: &SquareMarks, a_side: usize, tokenizer: &Tokenizer) -> Result<SquareTexts> {
        let SquareMarks { around, whole } = marks;
        let square = |row: usize, column: usize| {
            let line = if row > 1 && column == 1 { "\n" } else { "" };
            tokenizer.encode_part(&format!("{line}{around}<row_{row}_col_{column}>"))
        };
        let row = |row: usize| (1..=a_side).map(|column| square(row, column)).collect();
        Ok(SquareTexts {
            squares: (1..=a_side).map(row).collect::<Result<_>>()?,
            whole: [
                tokenizer.encode_part(&format!("{around}{whole}"))?,
                tokenizer.encode_part(&format!("\n\n{around}{whole}"))?,
            ],
            end: tokenizer.encode_part(around)?,
        })
    }

    /// In front of the n-th part of an image of so many rows and columns of squares.
    ///
    /// # Errors
    /// Internal: more squares than there are texts.
    pub fn ahead_of(&self, n: usize, (rows, columns): (usize, usize)) -> Result<&[TokenId]> {
        if rows * columns == 1 {
            return Ok(&self.whole[0]);
        }
        if n == rows * columns {
            return Ok(&self.whole[1]);
        }
        let row = self.squares.get(n / columns);
        let text = row.and_then(|row| row.get(n % columns));
        text.map(Vec::as_slice).ok_or_else(|| internal!("square {n} of {rows} x {columns}"))
    }

    /// Behind the last.
    pub fn end(&self) -> &[TokenId] {
        &self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITTEN: Written =
        Written { text: "<image>", open: "<img>", part: "<IMG_CONTEXT>", close: "</img>" };

    #[test]
    fn texts_of_images_become_names_of_tokens() {
        let cases = [
            ("none", 1, "none", vec![]),
            ("a <image>b", 1, "a <img><IMG_CONTEXT></img>b", vec![0]),
            // Further ones stay texts.
            ("<image><image>", 1, "<img><IMG_CONTEXT></img><image>", vec![0]),
            // What the client wrote itself is no image.
            (
                "<IMG_CONTEXT><image>, <IMG_CONTEXT>\n<image><IMG_CONTEXT>",
                2,
                "<IMG_CONTEXT><img><IMG_CONTEXT></img>, <IMG_CONTEXT>\n\
                 <img><IMG_CONTEXT></img><IMG_CONTEXT>",
                vec![1, 3],
            ),
        ];
        for (prompt, images, text, places) in cases {
            let made = with_parts(prompt, &WRITTEN, images);
            assert_eq!(made, WrittenPrompt { text: text.into(), places }, "{prompt}");
        }
    }
}
