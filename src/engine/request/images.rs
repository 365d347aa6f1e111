//! Images of a request, from the texts that a client sent to what a plan carries: decoded,
//! processed, and each in the place of its token in the prompt. Called by `intake`, on a thread
//! that may take its time.

use std::sync::Arc;

use crate::error::Result;
use crate::ids::TokenId;
use crate::image::{self, Processor};
use crate::invalid;
use crate::model::config::VisionSpec;
use crate::plan::{ImageSpan, PromptImages};
use crate::text::check_prompt_tokens;

/// Images of a prompt, where nobody says how many.
pub(crate) const IMAGES_MAX: usize = 999;

/// What intake knows of a model that takes images.
pub(crate) struct ImageIntake {
    processor: Processor,
    placeholder: TokenId,
    /// Tokens of an image at most.
    max_tokens: usize,
    /// Images of a prompt at most; None: nobody said.
    limit: Option<usize>,
}

impl ImageIntake {
    /// Of a model with a tower.
    pub fn new(vision: &VisionSpec, limit: Option<usize>) -> ImageIntake {
        ImageIntake {
            processor: Processor { settings: vision.settings.clone() },
            placeholder: vision.placeholder,
            max_tokens: vision.max_tokens,
            limit,
        }
    }

    /// The prompt with as many placeholders for each image as it has tokens, and the images.
    ///
    /// # Errors
    /// InvalidArgument: too many images, one that cannot be read or processed, fewer placeholders
    /// than images, or more tokens than the model takes. Unavailable: no memory.
    pub fn place(
        &self,
        tokens: &[TokenId],
        images: &[String],
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
            let Some((n, text)) = next else {
                prompt.push(token);
                continue;
            };

            let span = self.span(prompt.len(), text).map_err(|error| match count {
                1 => error,
                _ => error.context(&format!("image {}: ", n + 1)),
            })?;
            prompt.resize(prompt.len() + span.tokens(), self.placeholder);
            spans.push(span);
            // Before the next one takes memory.
            check_prompt_tokens(prompt.len() + tokens.len() - at - 1, max_model_len)?;
        }
        Ok((prompt, PromptImages { spans }))
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

    /// The image of a text, from token `start` on.
    fn span(&self, start: usize, text: &str) -> Result<ImageSpan> {
        if text.starts_with("http://") || text.starts_with("https://") {
            return Err(invalid!("images are not fetched: send the file in base64, not its URL."));
        }
        let picture = image::decode(&image::decode_text(text)?)?;
        let processed = self.processor.process(&picture)?;
        drop(picture);

        let settings = &self.processor.settings;
        let (rows, columns) = (processed.rows / settings.merge, processed.columns / settings.merge);
        if rows * columns > self.max_tokens {
            return Err(invalid!(
                "The decoder prompt contains a(n) image item with {} embedding tokens, which \
                 exceeds the pre-allocated encoder cache size {}. Please reduce the input size.",
                rows * columns,
                self.max_tokens
            ));
        }
        let patches = Arc::new(processed.patches(settings)?);
        Ok(ImageSpan { start, rows, columns, first: 0, patches })
    }
}
