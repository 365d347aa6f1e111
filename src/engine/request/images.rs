//! Images of a request, from the texts that a client sent to what a plan carries: decoded,
//! processed, and each in the place of its token in the prompt. Called by `intake`, on a thread
//! that may take its time, and before that, where there are URLs, by `prepare_threads`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::client::Client;
use super::types::ImageSource;
use crate::error::{Error, Result};
use crate::ids::TokenId;
use crate::image::{self, Fetcher, Processor};
use crate::invalid;
use crate::model::config::{FrameSpec, VisionSpec};
use crate::plan::{ImageSpan, PromptImages};
use crate::text::{check_prompt_tokens, Tokenizer};

/// Images of a prompt, where nobody says how many.
pub(crate) const IMAGES_MAX: usize = 999;

/// Bytes of files that are fetched for one request, and how long that may take.
const FETCHED_BYTES: usize = 64 << 20;
const FETCH_TIME: Duration = Duration::from_secs(30);

/// What intake knows of a model that takes images.
pub(crate) struct ImageIntake {
    processor: Processor,
    placeholder: TokenId,
    /// Stands for each vector of an image.
    token: TokenId,
    /// Behind each row of an image's tokens but the last one, and behind that.
    row_ends: Option<[TokenId; 2]>,
    /// Tokens of an image at most.
    max_tokens: usize,
    /// Tokens of an image see each other.
    both_ways: bool,
    /// In front of an image's tokens and behind them.
    frame: [Vec<TokenId>; 2],
    /// One to four line breaks, where each is a token of its own.
    line_breaks: Option<[TokenId; 4]>,
    /// Images of a prompt at most; None: nobody said.
    limit: Option<usize>,
    /// Some hosts' files may be fetched.
    fetcher: Option<Fetcher>,
}

impl ImageIntake {
    /// Of a model with a tower.
    ///
    /// # Errors
    /// InvalidArgument: the tokenizer lacks a token that stands in images. Those of the tokenizer.
    pub fn new(
        vision: &VisionSpec,
        limit: Option<usize>,
        fetcher: Option<Fetcher>,
        tokenizer: &Tokenizer,
    ) -> Result<ImageIntake> {
        let (mut frame, mut line_breaks) = ([Vec::new(), Vec::new()], None);
        if let Some(FrameSpec { text, open, close }) = vision.frame {
            let text = tokenizer.encode_part(text)?;
            frame = [[&text[..], &[open]].concat(), [&[close], &text[..]].concat()];
            line_breaks = breaks(tokenizer)?;
        }
        let row_ends = vision.tower.row_ends;

        Ok(ImageIntake {
            processor: Processor { settings: vision.settings.clone() },
            placeholder: vision.placeholder,
            token: vision.token,
            row_ends: row_ends.map(|names| row_ends_of(names, tokenizer)).transpose()?,
            max_tokens: vision.max_tokens,
            both_ways: vision.tower.both_ways,
            frame,
            line_breaks,
            limit,
            fetcher,
        })
    }

    /// URLs may be fetched.
    pub fn fetches(&self) -> bool {
        self.fetcher.is_some()
    }

    /// The files of URLs in their place, while the client is there.
    ///
    /// # Errors
    /// The fetcher's, of the first image with one; too many images; the client's reason to go.
    pub fn fetch(&self, images: &mut [ImageSource], client: &dyn Client) -> Result<()> {
        let Some(fetcher) = &self.fetcher else { return Ok(()) };
        self.check_count(images.len())?;
        let count = images.len();
        let at = |n: usize| {
            move |error: Error| match count {
                1 => error,
                _ => error.context(&format!("image {}: ", n + 1)),
            }
        };
        // All are judged before any is fetched.
        for (n, image) in images.iter().enumerate() {
            image.url().map_or(Ok(()), |url| fetcher.check(url)).map_err(at(n))?;
        }

        let until = Instant::now() + FETCH_TIME;
        let mut room = FETCHED_BYTES;
        for (n, image) in images.iter_mut().enumerate() {
            let Some(url) = image.url() else { continue };
            client.gone().map_or(Ok(()), Err)?;
            let file = fetcher.fetch(url, room, until).map_err(at(n))?;
            room -= file.len();
            *image = ImageSource::File(file);
        }
        Ok(())
    }

    /// The prompt with as many placeholders for each image as it has tokens, and the images.
    ///
    /// # Errors
    /// InvalidArgument: too many images, one that cannot be read or processed, fewer placeholders
    /// than images, or more tokens than the model takes. Unavailable: no memory.
    pub fn place(
        &self,
        tokens: &[TokenId],
        images: &[ImageSource],
        max_model_len: u32,
    ) -> Result<(Vec<TokenId>, PromptImages)> {
        self.check_count(images.len())?;
        let places = tokens.iter().filter(|&&token| token == self.placeholder).count();
        if places < images.len() {
            return Err(invalid!(
                "Failed to apply prompt replacement for mm_items['image'][{places}]. The prompt \
                 has {places} placeholders (token {}) for {} images.",
                self.placeholder,
                images.len()
            ));
        }

        let count = images.len();
        let mut images = images.iter().enumerate();
        let mut prompt = Vec::with_capacity(tokens.len());
        let mut spans: Vec<ImageSpan> = Vec::new();
        for (at, &token) in tokens.iter().enumerate() {
            let next = if token == self.placeholder { images.next() } else { None };
            let Some((n, source)) = next else {
                prompt.push(token);
                continue;
            };

            prompt.extend(&self.frame[0]);
            let parts = self.spans(prompt.len(), source).map_err(|error| match count {
                1 => error,
                _ => error.context(&format!("image {}: ", n + 1)),
            })?;
            for span in parts {
                self.put(span, &mut prompt, &mut spans);
            }
            prompt.extend(&self.frame[1]);
            // Before the next one takes memory.
            check_prompt_tokens(prompt.len() + tokens.len() - at - 1, max_model_len)?;
        }
        let (prompt, spans) = match self.line_breaks {
            Some(breaks) => joined_breaks(prompt, spans, breaks),
            None => (prompt, spans),
        };
        Ok((prompt, PromptImages { spans, both_ways: self.both_ways }))
    }

    /// The tokens of an image, in a row or row by row.
    fn put(&self, span: ImageSpan, prompt: &mut Vec<TokenId>, spans: &mut Vec<ImageSpan>) {
        let Some([next_row, end]) = self.row_ends else {
            prompt.resize(span.end(), self.token);
            return spans.push(span);
        };
        let ImageSpan { rows, columns, .. } = span;
        for row in 0..rows {
            let (start, first) = (prompt.len(), row * columns);
            prompt.resize(start + columns, self.token);
            prompt.push(if row + 1 == rows { end } else { next_row });
            spans.push(ImageSpan { start, first, rows: 1, ..span.clone() });
        }
    }

    fn check_count(&self, images: usize) -> Result<()> {
        let most = self.limit.unwrap_or(IMAGES_MAX);
        if images <= most {
            return Ok(());
        }
        let remedy = match self.limit {
            Some(_) => " Set `--limit-mm-per-prompt` to increase this limit.",
            None => "",
        };
        Err(invalid!("At most {most} image(s) may be provided in one prompt.{remedy}"))
    }

    /// An image, from token `start` on.
    fn spans(&self, mut start: usize, source: &ImageSource) -> Result<Vec<ImageSpan>> {
        let picture = match source {
            ImageSource::File(bytes) => image::decode(bytes)?,
            ImageSource::Text(text) if image::is_url(text) => {
                return Err(invalid!(
                    "images are not fetched: send the file in base64, not its URL, or name its \
                     host in '{}' of model.json.",
                    image::DOMAINS
                ));
            }
            ImageSource::Text(text) => image::decode(&image::decode_text(text)?)?,
        };
        let parts = self.processor.parts(&picture)?;
        drop(picture);

        let settings = &self.processor.settings;
        let mut spans = Vec::with_capacity(parts.len());
        for part in parts {
            let (rows, columns) = (part.rows / settings.merge, part.columns / settings.merge);
            if rows * columns > self.max_tokens {
                return Err(invalid!(
                    "The decoder prompt contains a(n) image item with {} embedding tokens, which \
                     exceeds the pre-allocated encoder cache size {}. Please reduce the input \
                     size.",
                    rows * columns,
                    self.max_tokens
                ));
            }
            let patches = Arc::new(part.patches(settings)?);
            let span = ImageSpan { start, rows, columns, first: 0, patches };
            start = span.end();
            spans.push(span);
        }
        Ok(spans)
    }
}

/// The tokens of one to four line breaks, if each is one.
fn breaks(tokenizer: &Tokenizer) -> Result<Option<[TokenId; 4]>> {
    let mut tokens = [TokenId(0); 4];
    for (count, token) in (1..).zip(&mut tokens) {
        match tokenizer.encode_part(&"\n".repeat(count))?[..] {
            [one] => *token = one,
            _ => return Ok(None),
        }
    }
    Ok(Some(tokens))
}

/// Two line breaks around an image and those of the text beside it become one token, as vLLM has
/// it: pairs of one or two, from the left, one kind of pair after the other.
fn joined_breaks(
    mut prompt: Vec<TokenId>,
    mut spans: Vec<ImageSpan>,
    [one, two, three, four]: [TokenId; 4],
) -> (Vec<TokenId>, Vec<ImageSpan>) {
    for (pair, joined) in [([one, two], three), ([two, one], three), ([two, two], four)] {
        let mut out = Vec::with_capacity(prompt.len());
        let mut moved = spans.iter_mut().peekable();
        let mut at = 0;
        while at < prompt.len() {
            while let Some(span) = moved.next_if(|span| span.start <= at) {
                span.start = out.len();
            }
            if prompt[at..].starts_with(&pair) {
                out.push(joined);
                at += 2;
            } else {
                out.push(prompt[at]);
                at += 1;
            }
        }
        prompt = out;
    }
    (prompt, spans)
}

/// The tokens that end rows of images, and images.
fn row_ends_of(names: [&str; 2], tokenizer: &Tokenizer) -> Result<[TokenId; 2]> {
    let token = |name: &str| {
        tokenizer.token(name).ok_or_else(|| {
            invalid!(
                "The tokenizer has no token '{name}', which ends rows of images: take the \
                 checkpoint's own tokenizer, or set language_model_only to serve text."
            )
        })
    };
    Ok([token(names[0])?, token(names[1])?])
}

impl ImageSource {
    /// The URL, if it is one.
    pub(super) fn url(&self) -> Option<&str> {
        match self {
            ImageSource::Text(text) if image::is_url(text) => Some(text),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::PatchRows;

    #[test]
    fn line_breaks_beside_images_become_one_token() {
        let patches = Arc::new(PatchRows {
            rows: 1,
            columns: 2,
            tokens: 2,
            width: 3,
            bytes: vec![0; 6],
            numbers: Arc::new([[0.0; 256]; 3]),
            hash: [0; 32],
        });
        let span = |start| {
            let patches = Arc::clone(&patches);
            ImageSpan { start, rows: 1, columns: 2, first: 0, patches }
        };
        let tokens = |ids: &[u32]| ids.iter().map(|&id| TokenId(id)).collect::<Vec<_>>();
        // A line break, an image (50, 50) in its frame, another one, two line breaks.
        let prompt = tokens(&[7, 1, 2, 40, 50, 50, 41, 2, 2, 40, 50, 50, 41, 2, 2, 9]);
        let breaks = [1, 2, 3, 4].map(TokenId);
        let (prompt, spans) = joined_breaks(prompt, vec![span(4), span(10)], breaks);
        assert_eq!(prompt, tokens(&[7, 3, 40, 50, 50, 41, 4, 40, 50, 50, 41, 4, 9]));
        assert_eq!(spans.iter().map(|span| span.start).collect::<Vec<_>>(), [3, 8]);
    }
}
