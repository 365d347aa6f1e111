//! Images of a request, from the texts that a client sent to what a plan carries: decoded,
//! processed, and each in the place of its token in the prompt. Called by `intake`, on a thread
//! that may take its time, and before that, where there are URLs, by `prepare_threads`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::client::Client;
use super::image_texts::{with_parts, SquareTexts, WrittenPrompt};
use super::types::ImageSource;
use crate::error::{Error, Result};
use crate::ids::TokenId;
use crate::image::{self, Fetcher, GoOn, Processor};
use crate::invalid;
use crate::model::architectures::Written;
use crate::model::config::{FrameSpec, ImageTokens, VisionSpec};
use crate::plan::{BothWays, ImageSpan, PromptImages};
use crate::text::{check_prompt_tokens, Interrupt, Tokenizer};

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
    /// A text that stands for an image in place of a token.
    written: Option<Written>,
    /// Between the squares that an image is cut into.
    square_texts: Option<SquareTexts>,
    /// Behind each row of an image's tokens but the last one, and behind that.
    row_ends: Option<[TokenId; 2]>,
    /// Tokens of an image at most.
    max_tokens: usize,
    /// Tokens of an image see each other.
    both_ways: BothWays,
    /// Around an image's tokens.
    frame: FrameTokens,
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
        let (mut frame, mut line_breaks) = (FrameTokens::default(), None);
        if let Some(spec) = vision.frame {
            frame = FrameTokens::new(&spec, tokenizer)?;
            line_breaks = if spec.text.is_empty() { None } else { breaks(tokenizer)? };
        }
        let row_ends = vision.tower.row_ends;
        let (placeholder, token, written) = match vision.tokens {
            ImageTokens::Ids { placeholder, part } => (placeholder, part, None),
            ImageTokens::Written(written) => {
                let part = named(written.part, "stands for images", tokenizer)?;
                (part, part, Some(written))
            }
        };
        let square_texts = vision
            .tower
            .marks
            .as_ref()
            .map(|marks| SquareTexts::new(marks, vision.settings.most_a_side(), tokenizer));

        Ok(ImageIntake {
            processor: Processor { settings: vision.settings.clone() },
            placeholder,
            token,
            written,
            square_texts: square_texts.transpose()?,
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

    /// The prompt with names of tokens in the place of texts that stand for images, if the model
    /// has such.
    pub fn written(&self, prompt: &str, images: usize) -> Option<WrittenPrompt> {
        self.written.as_ref().map(|written| with_parts(prompt, written, images))
    }

    /// The prompt with as many placeholders for each image as it has tokens, and the images.
    /// `places`: which of the placeholders stand for images; None: the first ones.
    ///
    /// # Errors
    /// InvalidArgument: too many images, one that cannot be read or processed, fewer placeholders
    /// than images, or more tokens than the model takes. Unavailable: no memory. Those of
    /// `interrupt`, which is asked every few milliseconds.
    pub fn place(
        &self,
        tokens: &[TokenId],
        places: Option<&[usize]>,
        images: &[ImageSource],
        max_model_len: u32,
        interrupt: &dyn Interrupt,
    ) -> Result<(Vec<TokenId>, PromptImages)> {
        self.check_count(images.len())?;
        let of_images = self.places(tokens, places);
        if of_images.len() < images.len() {
            return Err(self.too_few_places(of_images.len(), images.len()));
        }

        let count = images.len();
        let mut images = images.iter().enumerate();
        let mut prompt = Vec::with_capacity(tokens.len());
        let mut spans: Vec<ImageSpan> = Vec::new();
        for (at, &token) in tokens.iter().enumerate() {
            let is_image = of_images.binary_search(&at).is_ok();
            let next = if is_image { images.next() } else { None };
            let Some((n, source)) = next else {
                prompt.push(token);
                continue;
            };

            let go_on = || interrupt.check();
            let placed = self.put_image(source, &go_on, &mut prompt, &mut spans);
            // Why nobody waits any more is no image's fault.
            placed.map_err(|error| match (count, interrupt.check()) {
                (_, Err(over)) => over,
                (1, Ok(())) => error,
                (_, Ok(())) => error.context(&format!("image {}: ", n + 1)),
            })?;
            // Before the next one takes memory.
            check_prompt_tokens(prompt.len() + tokens.len() - at - 1, max_model_len)?;
        }
        let (prompt, spans) = match self.line_breaks {
            Some(breaks) => joined_breaks(prompt, spans, breaks),
            None => (prompt, spans),
        };
        Ok((prompt, PromptImages { spans, both_ways: self.both_ways }))
    }

    /// Where tokens stand for images, in rising order: all placeholders, or those of `places`.
    fn places(&self, tokens: &[TokenId], places: Option<&[usize]>) -> Vec<usize> {
        let all = tokens.iter().enumerate().filter(|(_, &token)| token == self.placeholder);
        let all = all.map(|(at, _)| at);
        match places {
            None => all.collect(),
            Some(places) => {
                let is_image = |(nth, _): &(usize, usize)| places.binary_search(nth).is_ok();
                all.enumerate().filter(is_image).map(|(_, at)| at).collect()
            }
        }
    }

    fn too_few_places(&self, places: usize, images: usize) -> Error {
        let placeholder = match self.written {
            Some(written) => format!("'{}'", written.text),
            None => format!("token {}", self.placeholder),
        };
        invalid!(
            "Failed to apply prompt replacement for mm_items['image'][{places}]. The prompt has \
             {places} placeholders ({placeholder}) for {images} images."
        )
    }

    /// An image at the end of the prompt, with what stands between its parts.
    fn put_image(
        &self,
        source: &ImageSource,
        go_on: GoOn,
        prompt: &mut Vec<TokenId>,
        spans: &mut Vec<ImageSpan>,
    ) -> Result<()> {
        let (squares, parts) = self.parts(source, go_on)?;
        let several = parts.len() > 1;
        for (n, part) in parts.into_iter().enumerate() {
            prompt.extend(self.frame.in_front(n, several));
            if let Some(texts) = &self.square_texts {
                prompt.extend(texts.ahead_of(n, squares)?);
            }
            self.put(ImageSpan { start: prompt.len(), ..part }, prompt, spans);
        }
        prompt.extend(self.square_texts.iter().flat_map(SquareTexts::end));
        prompt.extend(&self.frame.behind);
        Ok(())
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

    /// The parts of an image, which have no place yet, and into how many rows and columns of
    /// squares it is cut.
    fn parts(&self, source: &ImageSource, go_on: GoOn) -> Result<((usize, usize), Vec<ImageSpan>)> {
        let picture = match source {
            ImageSource::File(bytes) => image::decode_while(bytes, go_on)?,
            ImageSource::Text(text) if image::is_url(text) => {
                return Err(invalid!(
                    "images are not fetched: send the file in base64, not its URL, or name its \
                     host in '{}' of model.json.",
                    image::DOMAINS
                ));
            }
            ImageSource::Text(text) => image::decode_while(&image::decode_text(text)?, go_on)?,
        };
        let squares = self.processor.squares(picture.height(), picture.width());
        let parts = self.processor.parts_while(&picture, go_on)?;
        drop(picture);

        let settings = &self.processor.settings;
        let mut spans = Vec::with_capacity(parts.len());
        for part in parts {
            let (rows, columns) = part.token_rows(settings);
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
            spans.push(ImageSpan { start: 0, rows, columns, first: 0, patches });
        }
        Ok((squares, spans))
    }
}

/// Tokens around those of an image, or of its parts.
#[derive(Default)]
struct FrameTokens {
    /// In front of an image that has no parts.
    alone: Vec<TokenId>,
    /// In front of one that has, of its first part, and of each other one.
    parts: [Vec<TokenId>; 3],
    /// Behind all.
    behind: Vec<TokenId>,
}

impl FrameTokens {
    fn new(spec: &FrameSpec, tokenizer: &Tokenizer) -> Result<FrameTokens> {
        let FrameSpec { text, parts, open, close } = *spec;
        // Text between tokens of images is one piece, whatever it is made of.
        let opened = |text: &str| -> Result<Vec<TokenId>> {
            Ok([&tokenizer.encode_part(text)?[..], &[open]].concat())
        };
        let between = |part: &str| -> Result<Vec<TokenId>> {
            Ok([&[close], &opened(&format!("{text}{part}{text}"))?[..]].concat())
        };
        let [first, second, next] = parts;
        Ok(FrameTokens {
            alone: opened(text)?,
            parts: [opened(&format!("{first}{text}"))?, between(second)?, between(next)?],
            behind: [&[close], &tokenizer.encode_part(text)?[..]].concat(),
        })
    }

    /// What stands in front of the n-th part, behind the one before.
    fn in_front(&self, n: usize, several: bool) -> &[TokenId] {
        match several {
            true => &self.parts[n.min(2)],
            false => &self.alone,
        }
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
    let token = |name: &str| named(name, "ends rows of images", tokenizer);
    Ok([token(names[0])?, token(names[1])?])
}

/// A token of the tokenizer, which has a meaning in images.
fn named(name: &str, meaning: &str, tokenizer: &Tokenizer) -> Result<TokenId> {
    tokenizer.token(name).ok_or_else(|| {
        invalid!(
            "The tokenizer has no token '{name}', which {meaning}: take the checkpoint's own \
             tokenizer, or set language_model_only to serve text."
        )
    })
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
    use std::path::Path;

    use serde_json::{Map, Value};

    use super::*;
    use crate::image::{Kind, Settings};
    use crate::plan::PatchRows;
    use crate::text::{NeverInterrupted, StopHandle};

    /// A client that has left.
    struct Left;

    impl Interrupt for Left {
        fn check(&self) -> Result<()> {
            Err(Error::Cancelled("left".into()))
        }

        fn stop_by(&self, _: StopHandle) {}
    }

    /// Tokens as Gemma's processor in transformers has them.
    #[test]
    fn parts_of_an_image_stand_in_text_of_their_own() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let folder = fixtures.join("vision/gemma3_crops");
        let json = |file: &str| -> Map<String, Value> {
            serde_json::from_str(&std::fs::read_to_string(folder.join(file)).unwrap()).unwrap()
        };
        let tokenizer = Tokenizer::load(&folder).unwrap();
        let spec = FrameSpec {
            text: "\n\n",
            parts: [
                "Here is the original image ",
                " and here are some crops to help you see better ",
                " ",
            ],
            open: TokenId(257),
            close: TokenId(258),
        };
        let settings =
            Settings::read("file", &json("preprocessor_config.json"), Kind::Square, 4, 2).unwrap();
        let intake = ImageIntake {
            processor: Processor { settings },
            placeholder: spec.open,
            token: TokenId(259),
            written: None,
            square_texts: None,
            row_ends: None,
            max_tokens: 16,
            both_ways: BothWays::Always,
            frame: FrameTokens::new(&spec, &tokenizer).unwrap(),
            line_breaks: None,
            limit: None,
            fetcher: None,
        };

        let (mut alone, mut several) = (0, 0);
        for prompt in json("expected.json")["prompts"].as_array().unwrap() {
            let image = |name: &Value| {
                let path = fixtures.join("images").join(name.as_str().unwrap());
                ImageSource::File(std::fs::read(path).unwrap())
            };
            let images: Vec<ImageSource> =
                prompt["images"].as_array().unwrap().iter().map(image).collect();
            let text = tokenizer.encode_part(prompt["text"].as_str().unwrap()).unwrap();
            let (ids, placed) = intake.place(&text, None, &images, 512, &NeverInterrupted).unwrap();
            if !images.is_empty() {
                let left = intake.place(&text, None, &images, 512, &Left).unwrap_err();
                assert_eq!(left, Error::Cancelled("left".into()));
            }
            let ids: Vec<u32> = ids.iter().map(|id| id.0).collect();
            assert_eq!(serde_json::json!(ids), prompt["ids"], "{}", prompt["text"]);
            match placed.spans.len() {
                0 => {}
                n if n == images.len() => alone += 1,
                _ => several += 1,
            }
        }
        assert!(alone > 0 && several > 0);
    }

    #[test]
    fn line_breaks_beside_images_become_one_token() {
        let patches = Arc::new(PatchRows {
            rows: 1,
            columns: 2,
            tiles: 1,
            tokens: 2,
            arranged: None,
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
