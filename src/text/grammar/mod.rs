//! Grammar to token mask. [`Grammars`] compiles a request's `structured_outputs` against the
//! tokenizer, on any thread that may take its time; the [`Guide`] that comes out says, token by
//! token, which ids may be sampled next. `engine` owns guides; nothing here knows a device.
//!
//! The work is done by the crate `llguidance`, which vLLM can use as well: many messages are its
//! own. Grammars come from strangers: their size is limited at the door, the crate counts what it
//! spends while compiling and in every mask and gives up beyond [`limits`], and what it recurses on
//! is limited by [`check_nesting`] and [`STACK_BYTES`].
//!
//! | file | what |
//! |---|---|
//! | `vocabulary` | the exact bytes of each token |
//! | `schema` | JSON schemas with our options put in |
//! | `ebnf` | EBNF (`root ::=`) to Lark |
//! | `tags` | structural tags to Lark |

mod ebnf;
#[cfg(test)]
mod fuzz_tests;
mod schema;
mod tags;
#[cfg(test)]
mod tests;
mod vocabulary;

use std::sync::{Arc, OnceLock};

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::InferenceCapabilities;
use llguidance::{Matcher, ParserFactory};
use serde_json::json;

use super::Tokenizer;
use crate::error::Result;
use crate::ids::TokenId;
use crate::invalid;
use crate::sampling::{Constraint, StructuredOptions, StructuredOutputs};
use schema::JsonRules;

/// Stack that a thread needs which compiles grammars or asks guides: both recurse as deep as a
/// grammar nests. Not touched until used.
pub const STACK_BYTES: usize = 256 << 20;
/// Brackets inside each other in a regular expression or a grammar.
const MAX_NESTING: usize = 500;
/// Rules and terminals of a grammar. The crate makes an error longer at each one on the way to it.
const MAX_DEFINITIONS: usize = 2000;
const MESSAGE_CHARS: usize = 1000;

/// What one grammar may cost. Times are those of the crate's authors, on one core.
fn limits() -> ParserLimits {
    ParserLimits {
        // Compiling: 20 ms.
        initial_lexer_fuel: 1_000_000,
        max_grammar_size: 500_000,
        // One mask: 14 ms and 3 ms.
        step_lexer_fuel: 200_000,
        step_max_items: 50_000,
        max_items_in_row: 2_000,
        // 1 to 2 KiB each.
        max_lexer_states: 1 << 15,
        precompute_large_lexemes: true,
        verbose_errors: false,
    }
}

/// Compiles grammars for one model. Shared by all threads.
pub struct Grammars {
    tokenizer: Arc<Tokenizer>,
    /// Rows of the model's head: no other id can be sampled.
    vocab_size: u32,
    /// Ids that end a text.
    ends: Arc<[TokenId]>,
    options: StructuredOptions,
    /// Made when the first grammar comes: tens of milliseconds, tens of MB.
    factory: OnceLock<Result<ParserFactory>>,
}

impl Grammars {
    /// `options`: the engine's own, on top of every request's.
    pub fn new(
        tokenizer: Arc<Tokenizer>,
        vocab_size: u32,
        ends: &[TokenId],
        options: StructuredOptions,
    ) -> Grammars {
        let ends = ends.iter().copied().filter(|id| id.0 < vocab_size).collect();
        Grammars { tokenizer, vocab_size, ends, options, factory: OnceLock::new() }
    }

    /// A guide before its first token. Milliseconds; wants [`STACK_BYTES`].
    ///
    /// # Errors
    /// InvalidArgument: what is wrong with the grammar or cannot be enforced, or its limits.
    /// Unsupported: a tokenizer or a form of grammar that cannot be served.
    pub fn compile(&self, outputs: &StructuredOutputs) -> Result<Guide> {
        let factory = self.factory.get_or_init(|| self.make_factory());
        let factory = factory.as_ref().map_err(Clone::clone)?;
        let grammar = self.grammar(outputs)?;
        let mut guide = Guide {
            matcher: Matcher::new(factory.create_parser(grammar)),
            ends: self.ends.clone(),
            words: self.vocab_size.div_ceil(32) as usize,
        };
        match guide.matcher.get_error() {
            Some(error) => Err(invalid!("Grammar error: {}", own_text(&error))),
            // A grammar that allows nothing at all shows at once.
            None => guide.next(&[]).map(|_| guide),
        }
    }

    fn make_factory(&self) -> Result<ParserFactory> {
        let env = vocabulary::token_env(&self.tokenizer, self.vocab_size, &self.ends)?;
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices);
        let mut factory = factory.map_err(|e| crate::internal!("structured_outputs: {e}"))?;
        factory.quiet();
        *factory.limits_mut() = limits();
        Ok(factory)
    }

    fn grammar(&self, outputs: &StructuredOutputs) -> Result<TopLevelGrammar> {
        let rules = JsonRules::new(&outputs.options, &self.options);
        Ok(match &outputs.constraint {
            Constraint::Json(schema) => {
                TopLevelGrammar::from_json_schema(schema::prepared(schema, &rules)?)
            }
            Constraint::JsonObject => {
                let schema = json!({"type": "object"});
                TopLevelGrammar::from_json_schema(schema::prepared(&schema, &rules)?)
            }
            Constraint::Regex(pattern) => {
                check_nesting("regex", pattern)?;
                TopLevelGrammar::from_regex(pattern)
            }
            Constraint::Choice(choices) => {
                let choices: Vec<String> = choices.iter().map(|text| quoted(text)).collect();
                let lark = format!("start: CHOICE\nCHOICE: {}", choices.join(" | "));
                TopLevelGrammar::from_lark(lark)
            }
            Constraint::Grammar(text) if ebnf::is_ebnf(text) => {
                let lark = ebnf::to_lark(text)?;
                check_definitions(&lark)?;
                TopLevelGrammar::from_lark(lark)
            }
            Constraint::Grammar(text) => {
                check_nesting("grammar", text)?;
                check_definitions(text)?;
                TopLevelGrammar::from_lark(text.clone())
            }
            Constraint::StructuralTag(tag) => {
                let lark = tags::to_lark(tag, &rules)?;
                check_nesting("structural_tag", &lark)?;
                TopLevelGrammar::from_lark(lark)
            }
        })
    }
}

/// A text as a literal of Lark.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Refuse what nests deeper than the stack is sure to bear, counting every bracket as one.
fn check_nesting(name: &str, text: &str) -> Result<()> {
    let (mut depth, mut deepest) = (0usize, 0);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    if deepest <= MAX_NESTING {
        return Ok(());
    }
    Err(invalid!(
        "structured_outputs.{name} has {deepest} nested brackets, more than {MAX_NESTING}."
    ))
}

/// Refuse more definitions than anybody writes: at most one a line.
fn check_definitions(lark: &str) -> Result<()> {
    let count = lark.lines().filter(|line| line.contains(':')).count();
    if count <= MAX_DEFINITIONS {
        return Ok(());
    }
    Err(invalid!(
        "structured_outputs.grammar has {count} definitions, more than {MAX_DEFINITIONS}."
    ))
}

/// The crate's message without its marks for logs, and not as long as the grammar that it quotes.
fn own_text(message: &str) -> String {
    message.trim_end_matches("\n<non-verbose/>").chars().take(MESSAGE_CHARS).collect()
}

/// What may come next.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Bit i of word i/32: token i may be sampled. At least one may.
    Mask(Arc<[u32]>),
    /// The grammar is complete and the model has no token to say so.
    End,
}

/// One sequence's way through its grammar.
pub struct Guide {
    matcher: Matcher,
    ends: Arc<[TokenId]>,
    /// Length of a mask.
    words: usize,
}

impl Guide {
    /// The tokens that may be sampled now, without those of `avoid` as long as there are others.
    /// Where a text may end, the model's ends are among them; where it must, nothing else is.
    ///
    /// # Errors
    /// InvalidArgument: no token leads on, or the mask costs more than the limits allow.
    pub fn next(&mut self, avoid: &[TokenId]) -> Result<Next> {
        if self.matcher.is_stopped() && self.ends.is_empty() {
            return Ok(Next::End);
        }
        let mask =
            self.matcher.compute_mask_or_eos().map_err(|error| match &*error.to_string() {
                "NoExtensionBias" | "NoExtensionBias\n<non-verbose/>" => {
                    invalid!("Grammar error: no token of this model can go on in the grammar")
                }
                other => invalid!("Grammar error: {}", own_text(other)),
            })?;
        let mut mask: Vec<u32> = mask.as_slice().to_vec();
        mask.resize(self.words, 0);
        let mut without = mask.clone();
        for id in avoid {
            if let Some(word) = without.get_mut(id.index() / 32) {
                *word &= !(1 << (id.0 % 32));
            }
        }
        let kept = if without.iter().any(|word| *word != 0) { without } else { mask };
        match kept.iter().any(|word| *word != 0) {
            true => Ok(Next::Mask(kept.into())),
            // Complete, and a longer text was possible only with tokens that the model has not.
            false => Ok(Next::End),
        }
    }

    /// The token that was sampled under the last mask.
    ///
    /// # Errors
    /// InvalidArgument: the mask forbade it. Other parameters must have left no token that it
    /// allowed.
    pub fn accept(&mut self, token: TokenId) -> Result<()> {
        if self.matcher.is_stopped() && self.ends.contains(&token) {
            return Ok(());
        }
        let Err(error) = self.matcher.consume_token(token.0) else { return Ok(()) };
        let error = own_text(&error.to_string());
        if !error.contains("doesn't satisfy the grammar") {
            return Err(invalid!("Grammar error: {error}"));
        }
        Err(invalid!(
            "structured_outputs: token {token} was sampled, which the grammar forbids here: \
             allowed_token_ids, bad_words or logit_bias leave no token that it allows ({error})"
        ))
    }

    /// The model has a token for the end of a text.
    pub fn has_end(&self) -> bool {
        !self.ends.is_empty()
    }

    /// Another one that goes its own way from here.
    pub fn fork(&self) -> Guide {
        let matcher = self.matcher.deep_clone();
        Guide { matcher, ends: self.ends.clone(), words: self.words }
    }
}
