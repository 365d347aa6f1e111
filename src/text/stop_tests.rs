//! Recorded streams, and random ones against the Python backend's rule spelled out on whole texts.

use super::*;
use crate::text::testing::*;

/// `The most dangerous animal is` on opt-tiny goes on like this.
const OUTPUT: [u32; 5] = [851, 3255, 3205, 1186, 3988];
const PIECES: [&str; 5] = [" @", "undo", "epcopy", "onth", "locked"];

fn params(stop: &[&str], include: bool, min_tokens: u32) -> SamplingParams {
    SamplingParams {
        stop: stop.iter().map(|s| s.to_string()).collect(),
        include_stop_str_in_output: include,
        min_tokens,
        max_tokens: None,
        ..SamplingParams::default()
    }
}

fn stream_of(
    tokenizer: &Arc<Tokenizer>,
    prompt: &[TokenId],
    params: &SamplingParams,
) -> TextStream {
    TextStream::new(tokenizer, prompt, params).unwrap()
}

/// The deltas of a sequence and whether a stop string ended it.
fn run(stream: &mut TextStream, tokens: &[TokenId]) -> (Vec<String>, bool) {
    let mut deltas = Vec::new();
    for token in tokens {
        let mut out = String::new();
        let stopped = stream.push(*token, false, &mut out);
        deltas.push(out);
        if stopped {
            return (deltas, true);
        }
    }
    let mut out = String::new();
    stream.finish(&mut out);
    deltas.last_mut().unwrap().push_str(&out);
    (deltas, false)
}

fn recorded(stop: &[&str], include: bool, min_tokens: u32) -> (Vec<String>, bool) {
    let tokenizer = golden("opt-tiny");
    let prompt = tokenizer.encode("The most dangerous animal is").unwrap();
    let params = params(stop, include, min_tokens);
    run(&mut stream_of(&tokenizer, &prompt, &params), &ids(&OUTPUT))
}

fn owned(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| s.to_string()).collect()
}

#[test]
fn recorded_streams() {
    assert_eq!(recorded(&[], false, 0), (owned(&PIECES), false));
    // cross_token2_stream: the string begins in one token and ends in the next.
    assert_eq!(recorded(&["doepcop"], false, 0), (owned(&["", "", " @un"]), true));
    // cross_token_stream: never comes, seven characters stay behind until the end.
    assert_eq!(
        recorded(&["docepcop"], false, 0),
        (owned(&["", "", " @und", "oepc", "opyonthlocked"]), false)
    );
    assert_eq!(recorded(&["zzz", "copy"], true, 0), (owned(&[" @", "undo", "epcopy"]), true));
    assert_eq!(recorded(&["pc"], true, 0), (owned(&[" @", "undo", "epc"]), true));
    // The list's order decides, not the place.
    assert_eq!(recorded(&["py", "ep"], false, 0).0.concat(), " @undoepco");
    // Up to min_tokens nothing is searched, but a match may begin in that text.
    assert_eq!(recorded(&["undo"], false, 2).0.concat(), PIECES.concat());
    assert_eq!(recorded(&["doe"], false, 2).0.concat(), " @un");
    assert!(recorded(&["undo"], false, 1).1);
}

#[test]
fn the_stop_token_has_no_text() {
    let tokenizer = golden("opt-tiny");
    let cases = [(false, true, ""), (false, false, ""), (true, true, ""), (true, false, "</s>")];
    for (include, skip, text) in cases {
        let params = SamplingParams {
            include_stop_str_in_output: include,
            skip_special_tokens: skip,
            ..SamplingParams::default()
        };
        let mut stream = stream_of(&tokenizer, &[], &params);
        let mut out = String::new();
        assert!(!stream.push(TokenId(851), false, &mut out));
        assert!(!stream.push(TokenId(2), true, &mut out));
        stream.finish(&mut out);
        assert_eq!(out, format!(" @{text}"));
    }
    // A stop id that is an ordinary word has none either, and releases what was held back.
    let mut stream = stream_of(&tokenizer, &[], &params(&["zzzz"], false, 0));
    let mut out = String::new();
    stream.push(TokenId(3255), false, &mut out);
    stream.push(TokenId(1186), true, &mut out);
    assert_eq!(out, "u");
    stream.finish(&mut out);
    assert_eq!(out, "undo");
}

#[test]
fn without_detokenize_there_is_no_text() {
    let tokenizer = golden("opt-tiny");
    let params = SamplingParams { detokenize: false, ..SamplingParams::default() };
    let mut stream = stream_of(&tokenizer, &[], &params);
    assert_eq!(run(&mut stream, &ids(&OUTPUT)), (vec![String::new(); 5], false));
}

/// The Python backend's rule on whole texts, characters as a list.
fn naive(pieces: &[String], params: &SamplingParams) -> (Vec<String>, bool) {
    let longest = params.stop.iter().map(|s| s.chars().count()).max().unwrap_or(1);
    let hold = if params.include_stop_str_in_output { 0 } else { longest - 1 };
    let mut text: Vec<char> = Vec::new();
    let (mut deltas, mut sent) = (Vec::new(), 0);

    for (i, piece) in pieces.iter().enumerate() {
        text.extend(piece.chars());
        let new = piece.chars().count();
        let mut cut = None;
        if i as u32 + 1 > params.min_tokens && new > 0 {
            cut = params.stop.iter().find_map(|stop| {
                let stop: Vec<char> = stop.chars().collect();
                let from = (text.len() + 1).saturating_sub(new + stop.len());
                let at = (from..text.len()).find(|at| text[*at..].starts_with(&stop))?;
                Some(if params.include_stop_str_in_output { at + stop.len() } else { at })
            });
        }
        let end = cut.unwrap_or(text.len().saturating_sub(hold)).max(sent);
        deltas.push(text[sent..end].iter().collect());
        sent = end;
        if cut.is_some() {
            return (deltas, true);
        }
    }
    let rest: String = text[sent..].iter().collect();
    deltas.last_mut().unwrap().push_str(&rest);
    (deltas, false)
}

/// Texts over a tiny alphabet, so that partial matches abound; with characters of several bytes and
/// tokens.
#[test]
fn random_streams() {
    let tokenizer = golden("llama-tiny");
    let words = ["a", "b", "ab", " a", "é", "日", "ba"];
    let words: Vec<Vec<TokenId>> =
        words.iter().map(|w| tokenizer.encode(w).unwrap()[1..].to_vec()).collect();
    let mut rng = Random(7);
    let (mut stopped, mut ran) = (0, 0);

    for round in 0..3000 {
        let mut stop: Vec<String> = Vec::new();
        for _ in 0..1 + rng.below(5) {
            let chars = 1 + rng.below(6);
            stop.push((0..chars).map(|_| ['a', 'b', ' ', 'é', '日'][rng.below(5)]).collect());
        }
        let stop: Vec<&str> = stop.iter().map(String::as_str).collect();
        let params = params(&stop, rng.below(2) == 0, rng.below(6) as u32);
        let tokens: Vec<TokenId> =
            (0..1 + rng.below(40)).flat_map(|_| words[rng.below(words.len())].clone()).collect();
        let mut detokenizer = Detokenizer::new(&tokenizer, &[], true, true);
        let pieces: Vec<String> = tokens
            .iter()
            .map(|id| {
                let mut out = String::new();
                detokenizer.push(*id, &mut out);
                out
            })
            .collect();
        let wanted = naive(&pieces, &params);
        *if wanted.1 { &mut stopped } else { &mut ran } += 1;
        let got = run(&mut stream_of(&tokenizer, &[], &params), &tokens);
        assert_eq!(got, wanted, "round {round}: {params:?}");
    }
    assert!(stopped > 300 && ran > 300, "{stopped} stopped, {ran} did not");
}

/// A long output: the text kept for matching stays small, and nothing is lost.
#[test]
fn memory_is_bounded() {
    let tokenizer = golden("opt-tiny");
    let params = params(&["never comes"], false, 0);
    let mut stream = stream_of(&tokenizer, &[], &params);
    let mut out = String::new();
    for _ in 0..20_000 {
        stream.push(TokenId(1186), false, &mut out);
        assert!(stream.stops.as_ref().unwrap().text.len() <= SLACK_BYTES + 8);
    }
    stream.finish(&mut out);
    assert_eq!(out, "onth".repeat(20_000));
}

/// Case 10: what a token costs does not grow with the strings, neither in number nor in length.
/// A day's work for one that looks at each string or at all that is held back.
#[test]
fn many_and_long_strings_cost_what_one_costs() {
    let tokenizer = golden("opt-tiny");
    let mut stop: Vec<String> = (0..10_000).map(|i| format!("<never {i} comes>")).collect();
    stop.push("onth".repeat(25_000) + "!");
    let params = SamplingParams { stop, max_tokens: None, ..SamplingParams::default() };
    let first = stream_of(&tokenizer, &[], &params);
    for mut stream in [first.clone(), first] {
        let mut out = String::new();
        for _ in 0..100_000 {
            assert!(!stream.push(TokenId(1186), false, &mut out));
        }
        assert_eq!(out.len(), 4 * 100_000 - 4 * 25_000);
        stream.finish(&mut out);
        assert_eq!(out, "onth".repeat(100_000));
    }
}

#[test]
fn sequences_share_the_strings() {
    let tokenizer = golden("opt-tiny");
    let first = stream_of(&tokenizer, &[], &params(&["one", "two"], false, 0));
    let strings = |stream: &TextStream| Arc::as_ptr(&stream.stops.as_ref().unwrap().strings);
    assert_eq!(strings(&first.clone()), strings(&first));
}

/// The first of the client's list wins, not the one that ends first, nor the longest; NUL is a
/// character.
#[test]
fn nested_and_equal_strings() {
    assert_eq!(recorded(&["doepcopy", "ep", "oep", "oep"], false, 0).0.concat(), " @un");
    assert_eq!(recorded(&["copy", "ep", "doepcopy"], false, 0).0.concat(), " @undoep");
    let nul = recorded(&["e\0zz", "pc"], false, 0);
    assert_eq!((nul.0.concat().as_str(), nul.1), (" @undoe", true));
}

/// Requests that wait hold their strings: all of them together have a limit.
#[test]
fn the_strings_of_all_requests_are_bounded() {
    let one = UsedBytes::take(MAX_BYTES / 2).unwrap();
    let refused = UsedBytes::take(MAX_BYTES).err().expect("too much");
    assert!(matches!(refused, Error::Unavailable(_)), "{refused}");
    drop(one);
    drop(UsedBytes::take(MAX_BYTES / 2).unwrap());
    assert!(UsedBytes::take(usize::MAX).is_err());
    // Of other tests in this process there is little.
    assert!(USED_BYTES.load(Ordering::Relaxed) < MAX_BYTES / 4);
}

/// A request that asks for too much is refused alone, never together with one that came beside it.
#[test]
fn a_refused_request_takes_nothing_from_others() {
    const ROUNDS: usize = 1_000_000;
    let refused = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..ROUNDS {
                assert!(UsedBytes::take(MAX_BYTES + 1).is_err());
                refused.fetch_add(1, Ordering::Relaxed);
            }
        });
        while refused.load(Ordering::Relaxed) < ROUNDS {
            drop(UsedBytes::take(1).unwrap());
        }
    });
}
