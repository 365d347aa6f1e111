//! Grammar to token mask. [`Grammars`] compiles a request's `structured_outputs` against the
//! tokenizer, on any thread that may take its time; the [`GrammarMatcher`] that comes out says,
//! token by token, which ids may be sampled next. `engine` owns matchers; nothing here knows a
//! device.
//!
//! The work is done by the crate `llguidance`, which vLLM can use as well: many messages are its
//! own. Grammars come from clients: their size is limited when they are parsed and in `bounds`,
//! the crate counts what it spends while compiling and in every mask and gives up beyond its
//! limits, and whoever waits for it may end it ([`Interrupt`], [`StopHandle`]).
//!
//! | file | what |
//! |---|---|
//! | `bounds` | what a grammar may cost |
//! | `matcher` | one sequence's way through its grammar |
//! | `interrupt` | how a compilation or a mask is ended early |
//! | `lark` | literals of the engine's dialect |
//! | `vocabulary` | the exact bytes of each token |
//! | `schema` | JSON schemas with our options put in |
//! | `ebnf` | EBNF (`root ::=`) to Lark |
//! | `tags` | structural tags to Lark |

mod bounds;
mod ebnf;
#[cfg(test)]
mod fuzz_tests;
mod interrupt;
mod lark;
#[cfg(test)]
mod limit_tests;
mod matcher;
#[cfg(test)]
mod meaning_tests;
mod schema;
mod tags;
#[cfg(test)]
mod tests;
mod vocabulary;

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use llguidance::api::{GrammarInit, TopLevelGrammar};
use llguidance::panic_utils::catch_unwind;
use llguidance::toktrie::InferenceCapabilities;
use llguidance::{Matcher, ParserFactory};
use serde_json::json;

use super::Tokenizer;
use crate::error::Result;
use crate::ids::TokenId;
use crate::sampling::{Constraint, StructuredOptions, StructuredOutputs};
use bounds::{check_nesting, check_size, refusal};
pub use interrupt::{Interrupt, NeverInterrupted, StopHandle};
use lark::{ascii_classes, quoted};
pub use matcher::{GrammarMatcher, Next, TIMEOUT_KEY};
use schema::JsonRules;

/// Stack that a thread needs which compiles grammars or asks matchers: both recurse as deep as a
/// grammar nests. Not touched until used.
pub const STACK_BYTES: usize = 256 << 20;

/// Compiles grammars for one model. Shared by all threads.
pub struct Grammars {
    tokenizer: Arc<Tokenizer>,
    /// Rows of the model's head: no other id can be sampled.
    vocab_size: u32,
    /// Ids that end a text.
    ends: Arc<[TokenId]>,
    options: StructuredOptions,
    /// What one mask may take, for the refusal. The caller sees that it is kept.
    timeout: Duration,
    /// Made when the first grammar comes: tens of milliseconds, tens of MB.
    factory: OnceLock<Result<ParserFactory>>,
}

impl Grammars {
    /// `options`: the engine's own, on top of every request's. `timeout`: what refusals name as
    /// the limit of one mask.
    pub fn new(
        tokenizer: Arc<Tokenizer>,
        vocab_size: u32,
        ends: &[TokenId],
        options: StructuredOptions,
        timeout: Duration,
    ) -> Grammars {
        let ends = ends.iter().copied().filter(|id| id.0 < vocab_size).collect();
        Grammars { tokenizer, vocab_size, ends, options, timeout, factory: OnceLock::new() }
    }

    /// A matcher before its first token. Milliseconds; wants [`STACK_BYTES`].
    ///
    /// # Errors
    /// InvalidArgument: what is wrong with the grammar or cannot be enforced, or its limits.
    /// Unsupported: a tokenizer or a form of grammar that cannot be served. And why
    /// `interrupt` ends it.
    pub fn compile(
        &self,
        outputs: &StructuredOutputs,
        interrupt: &dyn Interrupt,
    ) -> Result<GrammarMatcher> {
        let factory = self.factory.get_or_init(|| self.make_factory());
        let factory = factory.as_ref().map_err(Clone::clone)?;
        let grammar = self.grammar(outputs, interrupt)?;
        interrupt.check()?;

        let env = factory.tok_env().clone();
        let limits = factory.limits().clone();
        let parsed = catch_unwind(AssertUnwindSafe(|| {
            GrammarInit::Serialized(grammar).to_internal(Some(env), limits)
        }));
        let (grammar, lexer) = parsed.map_err(|error| refusal(&error.to_string()))?;
        interrupt.check()?;

        bounds::check_lexer(&lexer, &factory.extra_lexemes(), factory.limits(), interrupt)?;
        let init = GrammarInit::Internal(grammar, lexer);
        let matcher = Matcher::new(factory.create_parser_from_init_default(init));
        if let Some(error) = matcher.get_error() {
            return Err(refusal(&error));
        }
        let ends = self.ends.clone();
        let timeout = self.timeout;
        let matcher = matcher.into_cancellable();
        let mut matcher = GrammarMatcher::new(matcher, ends, self.vocab_size, timeout);
        interrupt.stop_by(matcher.stop_handle());
        interrupt.check()?;
        // A grammar that allows nothing at all shows at once.
        matcher.next(&[]).map(|_| matcher)
    }

    fn make_factory(&self) -> Result<ParserFactory> {
        let env = vocabulary::token_env(&self.tokenizer, self.vocab_size, &self.ends)?;
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices);
        let mut factory = factory.map_err(|e| crate::internal!("structured_outputs: {e}"))?;
        factory.quiet();
        *factory.limits_mut() = bounds::limits();
        Ok(factory)
    }

    fn grammar(
        &self,
        outputs: &StructuredOutputs,
        interrupt: &dyn Interrupt,
    ) -> Result<TopLevelGrammar> {
        let rules = JsonRules::new(&outputs.options, &self.options);
        Ok(match &outputs.constraint {
            Constraint::Json(schema) => {
                TopLevelGrammar::from_json_schema(schema::prepared(schema, &rules, interrupt)?)
            }
            Constraint::JsonObject => {
                let schema = json!({"type": "object"});
                TopLevelGrammar::from_json_schema(schema::prepared(&schema, &rules, interrupt)?)
            }

            Constraint::Regex(pattern) => {
                check_nesting("regex", pattern)?;
                TopLevelGrammar::from_lark(format!("start: /{}/", ascii_classes(pattern)))
            }
            Constraint::Choice(choices) => {
                let choices: BTreeSet<String> = choices.iter().map(|text| quoted(text)).collect();
                let choices: Vec<String> = choices.into_iter().collect();
                let lark = format!("start: CHOICE\nCHOICE: {}", choices.join(" | "));
                TopLevelGrammar::from_lark(lark)
            }

            Constraint::Grammar(text) if ebnf::is_ebnf(text) => {
                let lark = ebnf::to_lark(text)?;
                check_size(&lark)?;
                TopLevelGrammar::from_lark(lark)
            }
            Constraint::Grammar(text) => {
                check_nesting("grammar", text)?;
                check_size(text)?;
                TopLevelGrammar::from_lark(text.clone())
            }
            Constraint::StructuralTag(tag) => {
                let lark = tags::to_lark(tag, &rules, interrupt)?;
                check_nesting("structural_tag", &lark)?;
                TopLevelGrammar::from_lark(lark)
            }
        })
    }
}
