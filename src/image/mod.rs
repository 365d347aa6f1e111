//! Images of requests: from the text that a client sends to the numbers that a vision tower takes.
//! Called by `engine`, on threads that prepare requests; it knows no model, no device and no
//! request. Everything that comes in is a stranger's: sizes are judged before memory is taken.
//!
//! | file | what |
//! |---|---|
//! | `base64` | text to bytes, as Python's `b64decode` or a `data:` URI |
//! | `fetch` | files of URLs, from hosts that the operator named |
//! | `crops` | parts of a picture of Gemma 3 |
//! | `decode` | which format it is, and its first frame in RGB |
//! | `rgb` | the picture itself, the limit on its size, other colours to RGB as Pillow does |
//! | `png`, `gif`, `webp`, `bmp`, `tiff`, `jpeg` | a decoder each |
//! | `resize` | resampling with the bits of Pillow, or of torchvision |
//! | `settings` | preprocessor_config.json |
//! | `normalise` | bytes of colour to numbers |
//! | `any_resolution` | the squares of LLaVA-NeXT's pictures, and what becomes of their vectors |
//! | `process` | a picture to what the tower of a family takes, and how many tokens it becomes |
//! | `tiles` | a picture as squares of one size |
//! | `patches` | the order of Qwen's patches |

mod any_resolution;
mod base64;
mod bmp;
mod crops;
mod decode;
mod fetch;
mod gif;
mod jpeg;
mod normalise;
mod patches;
mod png;
mod process;
mod resize;
mod rgb;
mod settings;
mod tiff;
mod tiles;
mod webp;

pub use any_resolution::AnyResolution;
pub use base64::decode_text;
pub use crops::Crops;
pub use decode::{decode, decode_while};
pub use fetch::{is_url, Fetcher, DOMAINS};
pub use normalise::Normalise;
pub use process::{Processed, Processor};
pub use resize::{resize, Filter, Rounding};
pub use rgb::{GoOn, Rgb, MAX_PIXELS};
pub use settings::{Kind, Settings};
