//! Tokenizer, incremental detokeniser, stop strings, grammars. `engine` gives it a prompt and gets
//! ids ([`Tokenizer::encode`]), asks which ids a grammar lets follow ([`Grammars`]), gives it
//! sampled ids and gets the text a client may see ([`TextStream`]) and what single tokens read like
//! ([`Speller`]). It knows sampling parameters, but no model, no device and no Triton.
//!
//! | file | holds |
//! |---|---|
//! | `tokenizer` | text to ids, and what the detokeniser must know of each |
//! | `load`, `sentencepiece`, `tekken` | a model's tokenizer files -> a tokenizer |
//! | `growth` | how much longer a tokenizer's rules can make a text |
//! | `pieces`, `cut_rule`, `split_pattern` | long texts in pieces, and where a cut changes nothing |
//! | `byte_alphabet` | how byte-level tokenizers spell bytes |
//! | `limits` | whether a prompt is short enough |
//! | `detokenize`, `held` | ids to text, token by token; what is known of tokens that wait |
//! | `spell` | what a single token reads like at its place |
//! | `stop` | the text that a client may see: cut at stop strings |
//! | `grammar` | grammars to token masks |

mod byte_alphabet;
mod cut_rule;
mod detokenize;
mod grammar;
mod growth;
mod held;
mod limits;
mod load;
mod pieces;
mod sentencepiece;
mod spell;
mod split_pattern;
mod stop;
mod tekken;
mod tokenizer;

pub use detokenize::Detokenizer;
pub use grammar::{
    GrammarMatcher, Grammars, Interrupt, NeverInterrupted, Next, StopHandle, STACK_BYTES,
    TIMEOUT_KEY,
};
pub use limits::{
    check_input_ids, check_input_tokens, check_prompt_chars, check_prompt_tokens, check_vocabulary,
};
pub use load::TokenizerFiles;
pub use pieces::{PieceCall, PieceHelper, LONG_TEXT_BYTES};
pub use spell::Speller;
pub use stop::TextStream;
pub use tokenizer::Tokenizer;

#[cfg(test)]
mod corpus_tests;
#[cfg(test)]
mod testing;
