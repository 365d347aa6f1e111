//! Where a text may be cut so that its pieces, tokenised one by one, have the tokens of the whole:
//! in front of a blank between two ASCII letters, if the tokenizer's parts allow it, which is
//! judged once at load. Called by `pieces` and `tokenizer`. It knows no thread.
//!
//! A tokenizer takes added tokens out of a text, normalises what is between them, splits that into
//! words, and makes tokens of each word alone. Every step is held to one promise: done to both
//! sides of a cut, it yields what it yields for the whole, but for a border at the cut; and one
//! step puts a border there in any case. What is not known to keep the promise forbids all cuts.
//!
//! | step | keeps it if |
//! |---|---|
//! | added tokens | none reaches over the blank, or looks at the letter behind which it stands |
//! | normaliser | NFC or NFD: they leave the blank, and letters in front of ASCII, as they are |
//! | split | `split_pattern` says so, and matches are not joined to what is beside them |
//! | digits, punctuation | always: neither the blank nor the letters are any |
//! | bytes (`ByteLevel`) | always: what begins with a blank gets none in front |
//! | model | BPE without dropout: a word's tokens depend on the word alone |

use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::{AddedToken, NormalizedString, Normalizer, SplitDelimiterBehavior};
use tokenizers::{ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, Tokenizer as Inner};

use super::split_pattern::{judge, judge_literal, AtBlank};

/// By which `ByteLevel` splits.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Bytes without a place to cut at, at most: the crate's matcher gives up on a text, and leaves the
/// rest of it whole, after a million steps between two matches. These are at most 3/2 characters a
/// byte, with a step for each of 16 alternatives (`split_pattern`).
const MAX_STRETCH: usize = 32 * 1024;

/// Whether this tokenizer's texts may be cut.
pub(super) fn can_cut(inner: &Inner) -> bool {
    let normalizer = inner.get_normalizer();
    let is_bpe = match inner.get_model() {
        ModelWrapper::BPE(model) => model.dropout.is_none_or(|share| share == 0.0),
        _ => false,
    };
    is_bpe
        && normalizer.is_none_or(is_normal_form)
        && inner.get_pre_tokenizer().and_then(at_blank) == Some(AtBlank::Begins)
        && inner.get_added_tokens_decoder().values().all(|token| stays_whole(token, normalizer))
}

/// Where so many pieces of about the same size begin, the first at 0: fewer where there is no place
/// to cut at, one where the text may not be cut.
pub(super) fn piece_starts(text: &str, pieces: usize) -> Vec<usize> {
    let mut starts = vec![0];
    let mut last_place = 0;
    for (before, four) in text.as_bytes().windows(4).enumerate() {
        let [first, b' ', second, next] = *four else { continue };
        // A mark behind the second letter would make another character of it.
        if !(first.is_ascii_alphabetic() && second.is_ascii_alphabetic() && next.is_ascii()) {
            continue;
        }
        let place = before + 1;
        if place - last_place > MAX_STRETCH {
            return vec![0];
        }
        last_place = place;
        if starts.len() < pieces && place >= text.len() * starts.len() / pieces {
            starts.push(place);
        }
    }
    if text.len() - last_place > MAX_STRETCH {
        return vec![0];
    }
    starts
}

fn is_normal_form(normalizer: &NormalizerWrapper) -> bool {
    match normalizer {
        // Not NFKC and NFKD: one character may become 18, beyond what `MAX_STRETCH` allows.
        NormalizerWrapper::NFC(_) | NormalizerWrapper::NFD(_) => true,
        NormalizerWrapper::Sequence(all) => all.as_ref().iter().all(is_normal_form),
        _ => false,
    }
}

/// Whether the token is found the same in both sides of a cut, as it is written and as it is
/// normalised: it must not hold a letter with a blank behind it, strip blanks behind a letter, or
/// begin with a blank and stand alone.
fn stays_whole(token: &AddedToken, normalizer: Option<&NormalizerWrapper>) -> bool {
    let mut normalized = NormalizedString::from(token.content.as_str());
    let fails = normalizer.is_some_and(|rule| rule.normalize(&mut normalized).is_err());
    !fails
        && [token.content.as_str(), normalized.get()].iter().all(|text| {
            let bytes = text.as_bytes();
            let ends_in_letter = bytes.last().is_some_and(u8::is_ascii_alphabetic);
            let holds = |two: &[u8]| two[0].is_ascii_alphabetic() && two[1] == b' ';
            !(bytes.windows(2).any(holds)
                || (token.rstrip && ends_in_letter)
                || (token.single_word && text.starts_with(' ')))
        })
}

/// None: it may yield something else if the text is cut.
fn at_blank(rule: &PreTokenizerWrapper) -> Option<AtBlank> {
    match rule {
        PreTokenizerWrapper::ByteLevel(rule) if rule.use_regex => judge(GPT2),
        PreTokenizerWrapper::ByteLevel(_) | PreTokenizerWrapper::Digits(_) => Some(AtBlank::Passes),
        PreTokenizerWrapper::Punctuation(rule) => {
            let alone = rule.behavior == SplitDelimiterBehavior::Contiguous;
            (alone || is_kept_apart(rule.behavior)).then_some(AtBlank::Passes)
        }
        PreTokenizerWrapper::Split(rule) => of_split(rule),
        PreTokenizerWrapper::Sequence(all) => of_sequence(all.as_ref()),
        _ => None,
    }
}

fn of_split(rule: &Split) -> Option<AtBlank> {
    if !is_kept_apart(rule.behavior) {
        return None;
    }
    match &rule.pattern {
        SplitPattern::Regex(pattern) => judge(pattern),
        SplitPattern::String(text) => judge_literal(text),
    }
}

/// Matches are not joined to each other, nor to what is before or behind them.
fn is_kept_apart(behavior: SplitDelimiterBehavior) -> bool {
    matches!(behavior, SplitDelimiterBehavior::Isolated | SplitDelimiterBehavior::Removed)
}

/// One after the other, each on the words that the one before has made.
fn of_sequence(all: &[PreTokenizerWrapper]) -> Option<AtBlank> {
    let mut whole = AtBlank::Passes;
    for rule in all {
        let one = at_blank(rule)?;
        if one == AtBlank::Begins {
            whole = one;
        }
        // It spells a blank as another character, which what follows is not judged for.
        let spells_bytes = matches!(rule, PreTokenizerWrapper::ByteLevel(_));
        if spells_bytes && whole == AtBlank::Passes {
            return None;
        }
    }
    Some(whole)
}
