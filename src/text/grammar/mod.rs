//! Grammar to token mask. [`Grammars`] compiles a request's `structured_outputs` against the
//! tokenizer, on any thread that may take its time; the [`GrammarMatcher`] that comes out says,
//! token by token, which ids may be sampled next. `engine` owns matchers; nothing here knows a
//! device.
//!
//! The work is done by the crate `llguidance`, which vLLM can use as well: many messages are its
//! own. Grammars come from strangers: their size is limited at the door and in `bounds`, the crate
//! counts what it spends while compiling and in every mask and gives up beyond its limits, and
//! whoever waits for it is asked between the parts ([`Patience`]) and may [`Stop`] a matcher.
//!
//! | file | what |
//! |---|---|
//! | `bounds` | what a grammar may cost |
//! | `vocabulary` | the exact bytes of each token |
//! | `schema` | JSON schemas with our options put in |
//! | `ebnf` | EBNF (`root ::=`) to Lark |
//! | `tags` | structural tags to Lark |

mod bounds;
mod ebnf;
#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod limit_tests;
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
use llguidance::{regex_to_lark, CancellationHandle, Matcher, ParserFactory};
use serde_json::json;

use super::Tokenizer;
use crate::error::{Error, Result};
use crate::ids::TokenId;
use crate::invalid;
use crate::sampling::{Constraint, StructuredOptions, StructuredOutputs};
use bounds::{check_nesting, check_size, refusal};
use schema::JsonRules;

/// Stack that a thread needs which compiles grammars or asks matchers: both recurse as deep as a
/// grammar nests. Not touched until used.
pub const STACK_BYTES: usize = 256 << 20;
/// The operator's key for what compiling a grammar, and each mask of it, may take.
pub const TIMEOUT_KEY: &str = "grammar-timeout-ms";
/// Compiles grammars for one model. Shared by all threads.
pub struct Grammars {
    tokenizer: Arc<Tokenizer>,
    /// Rows of the model's head: no other id can be sampled.
    vocab_size: u32,
    /// Ids that end a text.
    ends: Arc<[TokenId]>,
    options: StructuredOptions,
    /// What one mask may take; told in the refusal. Who keeps it is the caller.
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
    /// Unsupported: a tokenizer or a form of grammar that cannot be served. And what `patience`
    /// says when it has ended.
    pub fn compile(
        &self,
        outputs: &StructuredOutputs,
        patience: &dyn Patience,
    ) -> Result<GrammarMatcher> {
        let factory = self.factory.get_or_init(|| self.make_factory());
        let factory = factory.as_ref().map_err(Clone::clone)?;
        let grammar = self.grammar(outputs)?;
        patience.check()?;

        let (env, limits) = (factory.tok_env().clone(), factory.limits().clone());
        let parsed = catch_unwind(AssertUnwindSafe(|| {
            GrammarInit::Serialized(grammar).to_internal(Some(env), limits)
        }));
        let (grammar, lexer) = parsed.map_err(|error| refusal(&error.to_string()))?;
        patience.check()?;

        bounds::check_lexer(&lexer, &factory.extra_lexemes(), factory.limits(), patience)?;
        let init = GrammarInit::Internal(grammar, lexer);
        let matcher = Matcher::new(factory.create_parser_from_init_default(init));
        if let Some(error) = matcher.get_error() {
            return Err(refusal(&error));
        }
        let mut matcher = GrammarMatcher {
            inner: matcher.into_cancellable(),
            spent_steps: 0,
            ends: self.ends.clone(),
            words: self.vocab_size.div_ceil(32) as usize,
            timeout: self.timeout,
        };
        patience.stop_by(matcher.stop());
        patience.check()?;
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
                let lark = tags::to_lark(tag, &rules)?;
                check_nesting("structural_tag", &lark)?;
                TopLevelGrammar::from_lark(lark)
            }
        })
    }
}

/// A regular expression as it stands between slashes in Lark, with `\d`, `\w` and `\s` of ASCII,
/// as vLLM's default engine has them.
fn ascii_classes(pattern: &str) -> String {
    regex_to_lark(pattern, "dws")
}

/// A text as a literal of Lark.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// What may come next.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Bit i of word i/32: token i may be sampled. At least one may.
    Mask(Arc<[u32]>),
    /// The grammar is complete and the model has no token to say so.
    End,
}

/// Whoever waits for a compilation.
pub trait Patience {
    /// # Errors
    /// Why it need not go on. Asked between its parts.
    fn check(&self) -> Result<()>;

    /// From here on this ends it.
    fn stop_by(&self, stop: Stop);
}

/// Waits for ever.
pub struct Unhurried;

impl Patience for Unhurried {
    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn stop_by(&self, _: Stop) {}
}

/// Ends a matcher's computation, from another thread.
pub struct Stop(CancellationHandle);

impl Stop {
    /// The computation that runs, and every later one of that matcher, fails within microseconds.
    pub fn now(&self) {
        self.0.cancel();
    }
}

/// One sequence's way through its grammar.
pub struct GrammarMatcher {
    inner: Matcher,
    /// Steps of building the lexer, which forks share, since this matcher was made.
    spent_steps: u64,
    ends: Arc<[TokenId]>,
    /// Length of a mask.
    words: usize,
    timeout: Duration,
}

impl GrammarMatcher {
    /// The tokens that may be sampled now, without those of `avoid` as long as there are others.
    /// Where a text may end, the model's ends are among them; where it must, nothing else is.
    ///
    /// # Errors
    /// InvalidArgument: no token leads on, or the mask costs more than the limits allow.
    pub fn next(&mut self, avoid: &[TokenId]) -> Result<Next> {
        if self.inner.is_stopped() && self.ends.is_empty() && !self.inner.is_cancelled() {
            return Ok(Next::End);
        }
        let mask =
            self.inner.compute_mask_or_eos().map_err(|error| self.failed(&error.to_string()))?;
        let mut mask: Vec<u32> = mask.as_slice().to_vec();
        mask.resize(self.words, 0);
        self.spend()?;

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

    /// Count what the last mask has cost: the lexer keeps all that it built.
    fn spend(&mut self) -> Result<()> {
        let cost = self.inner.last_step_stats().map_or(0, |stats| stats.lexer_cost);
        self.spent_steps = self.spent_steps.saturating_add(cost);
        if self.spent_steps <= bounds::MAX_STEPS {
            return Ok(());
        }
        Err(invalid!(
            "Grammar error: the texts so far took more than the limit of {} steps in this \
             grammar's lexer: use smaller values of multipleOf or simpler patterns",
            bounds::MAX_STEPS
        ))
    }

    /// The token that was sampled under the last mask.
    ///
    /// # Errors
    /// InvalidArgument: the mask forbade it. Other parameters must have left no token that it
    /// allowed.
    pub fn accept(&mut self, token: TokenId) -> Result<()> {
        if self.inner.is_stopped() && self.ends.contains(&token) {
            return Ok(());
        }
        let Err(error) = self.inner.consume_token(token.0) else { return Ok(()) };
        let text = error.to_string();
        if !text.contains("doesn't satisfy the grammar") {
            return Err(self.failed(&text));
        }
        let text = text.trim_end_matches("\n<non-verbose/>");
        Err(invalid!(
            "structured_outputs: token {token} was sampled, which the grammar forbids here: \
             allowed_token_ids, bad_words or logit_bias leave no token that it allows ({text})"
        ))
    }

    fn failed(&self, error: &str) -> Error {
        if self.inner.is_cancelled() {
            return invalid!(
                "Grammar error: a token mask of this grammar takes longer than {} ms, the limit of \
                 --backend-config=vllm,{TIMEOUT_KEY}: use a smaller grammar",
                self.timeout.as_millis()
            );
        }
        match error {
            "NoExtensionBias" | "NoExtensionBias\n<non-verbose/>" => {
                invalid!("Grammar error: no token of this model can go on in the grammar")
            }
            other => refusal(other),
        }
    }

    /// What ends this matcher's computation.
    pub fn stop(&self) -> Stop {
        Stop(self.inner.cancellation_handle().unwrap_or_default())
    }

    /// The model has a token for the end of a text.
    pub fn has_end(&self) -> bool {
        !self.ends.is_empty()
    }

    /// Another one that goes its own way from here. What the lexer has built is shared.
    pub fn fork(&self) -> GrammarMatcher {
        GrammarMatcher { inner: self.inner.clone(), ends: self.ends.clone(), ..*self }
    }
}
