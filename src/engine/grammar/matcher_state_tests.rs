//! What a matcher knows of drafts, and when.

use std::path::Path;

use serde_json::json;

use super::*;
use crate::engine::workers::{Rules, Workers};
use crate::sampling::{StructuredOptions, StructuredOutputs};
use crate::text::{Grammars, NeverInterrupted, Tokenizer};

const PATIENCE: Duration = Duration::from_secs(5);

/// A token that may come next.
fn first(state: &MatcherState) -> TokenId {
    let Ok(Next::Mask(mask)) = state.next() else { panic!("nothing may follow") };
    (0..).map(TokenId).find(|&token| allows(mask, token)).expect("a token")
}

/// Where a step's masks are waited for too long, the matcher may come back from the tokens of the
/// step before only when nobody asks about drafts any more: no mask behind them is no leave.
#[test]
fn drafts_are_known_behind_a_question_alone() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/models/opt-tiny");
    let tokenizer = Arc::new(Tokenizer::load(&folder).unwrap());
    let (size, ends) = (tokenizer.vocab_size(), [TokenId(2)]);
    let grammars = Grammars::new(tokenizer, size, &ends, StructuredOptions::default(), PATIENCE);
    let outputs = StructuredOutputs::parse(&json!({"choice": ["one two three four"]})).unwrap();
    let matcher = grammars.compile(&outputs, &NeverInterrupted).unwrap();
    let rules = Rules { threads: 1, limit: PATIENCE, answers: false };
    let (workers, supervisor) = Workers::start("grammar test".into(), rules).unwrap();

    let mut state = MatcherState::new(matcher, 0, [].into(), DropThread::new(workers.sender()));
    assert!(state.ahead().is_none(), "nobody has asked");
    let token = first(&state);
    state.look_ahead(&[token], |_| {});
    assert_eq!(state.ahead().map(<[_]>::len), Some(1));
    assert!(state.fork().ahead().is_none(), "the other sequence's drafts are others");

    state.advance(&[token]);
    assert!(state.ahead().is_none(), "what followed the old drafts says nothing of new ones");
    state.look_ahead(&[], |_| {});
    assert_eq!(state.ahead().map(<[_]>::len), Some(0));

    drop(state);
    drop(workers);
    supervisor.join().unwrap();
}
