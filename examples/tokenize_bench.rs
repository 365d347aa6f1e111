//! How long a long prompt takes to become tokens, as a whole and with threads that help.
//! `tokenize_bench FOLDER [BYTES]`: a folder with tokenizer files, and how long the prompt is
//! (190 000). One line for each number of threads, of which the first does without help.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use triton_vllm::ids::TokenId;
use triton_vllm::text::{PieceCall, Tokenizer};

const ROUNDS: usize = 15;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().ok_or("which folder has the tokenizer?")?;
    let bytes = args.next().map_or(Ok(190_000), |bytes| bytes.parse())?;
    let tokenizer = Tokenizer::load(Path::new(&folder))?;
    let text = words(&tokenizer, bytes)?;
    let cores = std::thread::available_parallelism()?.get();

    let whole = tokenizer.encode(&text)?;
    println!("{} bytes, {} tokens, {cores} cores", text.len(), whole.len());
    for threads in (1..=8).filter(|&threads| threads <= cores.max(2)) {
        let times = times(&tokenizer, &text, threads - 1, &whole)?;
        let [first, best, median] = times;
        println!("{threads} threads: {median:.1?}, best {best:.1?}, the first time {first:.1?}");
    }
    Ok(())
}

/// With so many threads that help: the first time, when they remember no word, the best and the
/// median. A thread that asks counts as one that helps, as a thread of the server's does.
fn times(
    tokenizer: &Tokenizer,
    text: &str,
    helpers: usize,
    whole: &[TokenId],
) -> Result<[Duration; 3], Box<dyn std::error::Error>> {
    let ended = &AtomicBool::new(false);
    let asks = (helpers > 0).then(|| tokenizer.helper());
    let all: Vec<_> = (0..helpers).map(|_| tokenizer.helper()).collect();

    let times = std::thread::scope(|scope| {
        for helper in &all {
            scope.spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    let call = helper.calls().recv_timeout(Duration::from_millis(20));
                    call.into_iter().for_each(PieceCall::help);
                }
            });
        }

        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            let tokens = tokenizer.encode(text);
            times.push(begun.elapsed());
            if tokens.as_deref() != Ok(whole) {
                times.clear();
                break;
            }
        }
        ended.store(true, Ordering::Relaxed);
        times
    });
    drop(asks);
    let first = *times.first().ok_or("pieces have other tokens than the whole")?;
    let mut sorted = times;
    sorted.sort_unstable();
    Ok([first, sorted[0], sorted[sorted.len() / 2]])
}

/// Words that are one token each, at random, as in the prompts of `ci/gpu/bench.py`.
fn words(tokenizer: &Tokenizer, bytes: usize) -> Result<String, Box<dyn std::error::Error>> {
    let mut words = Vec::new();
    for id in (0..tokenizer.vocab_size()).map(TokenId) {
        let token = tokenizer.decode(&[id], true)?;
        let word = token.strip_prefix(' ').unwrap_or("");
        if !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            words.push(token);
        }
    }
    if words.is_empty() {
        return Err("no token is a blank and a word".into());
    }
    let (mut text, mut state) = (String::new(), 1u64);
    while text.len() < bytes {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text += &words[(state >> 33) as usize % words.len()];
    }
    Ok(text)
}
