//! THE WORDS: tokenizer, incremental detokeniser, stop strings, grammars. `engine` gives it a
//! prompt and gets ids ([`Tokenizer::encode`]), asks which ids a grammar lets follow
//! ([`Grammars`]), gives it sampled ids and gets the text a client may see ([`TextStream`]) and
//! what single tokens read like ([`Speller`]). It knows sampling parameters, but no model, no
//! device and no Triton.

mod detokenize;
mod grammar;
mod limits;
mod load;
mod sentencepiece;
mod spell;
mod stop;
mod tokenizer;

pub use detokenize::Detokenizer;
pub use grammar::{
    GrammarMatcher, Grammars, Next, Patience, Stop, Unhurried, STACK_BYTES, TIMEOUT_KEY,
};
pub use limits::{
    check_input_ids, check_input_tokens, check_prompt_chars, check_prompt_tokens, check_vocabulary,
};
pub use spell::Speller;
pub use stop::TextStream;
pub use tokenizer::Tokenizer;

#[cfg(test)]
mod corpus_tests;
#[cfg(test)]
mod testing;
