//! Checkpoints with NaN in them: who is hit fails alone, in one line that says at which token, and
//! everybody else gets what the sound checkpoint says.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use safetensors::SafeTensors;
use serde_json::{json, Value};
use triton_vllm::text::Tokenizer;

use super::served::{device, goldens, serve, Served, Told};

const MODEL: &str = "llama-tiny";
const EMBED: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";
/// More than a page, so that the prefix cache has something to give.
const CLEAN: &str = "one two three four five six seven eight nine ten eleven twelve and so on";

/// A copy of the model in which one row of a tensor is NaN; gone when dropped.
struct Broken(PathBuf);

impl Broken {
    fn new(tensor: &str, row: usize) -> Broken {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("triton-vllm-nan-{}-{number}", std::process::id());
        let broken = Broken(std::env::temp_dir().join(name));
        std::fs::create_dir_all(&broken.0).expect("a folder");
        for file in std::fs::read_dir(model()).expect("the model") {
            let file = file.expect("a file");
            std::fs::copy(file.path(), broken.0.join(file.file_name())).expect("a copy");
        }
        let path = broken.0.join("model.safetensors");
        let mut bytes = std::fs::read(&path).expect("weights");
        let (header, head) = SafeTensors::read_metadata(&bytes).expect("a header");
        let info = head.info(tensor).expect("the tensor");
        let row_bytes = 4 * info.shape[1];
        let start = 8 + header + info.data_offsets.0 + row * row_bytes;
        let nan = f32::NAN.to_le_bytes().repeat(info.shape[1]);
        bytes[start..start + row_bytes].copy_from_slice(&nan);
        std::fs::write(&path, bytes).expect("weights");
        broken
    }

    fn serve(&self) -> Served {
        serve(MODEL, json!({"model": self.0}))
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn model() -> PathBuf {
    Path::new(&goldens()).join("models").join(MODEL)
}

fn ids(text: &str) -> Vec<u32> {
    let tokenizer = Tokenizer::load(&model()).expect("a tokenizer");
    tokenizer.encode(text).expect("tokens").iter().map(|t| t.0).collect()
}

fn greedy(tokens: u32) -> Value {
    json!({"temperature": 0, "max_tokens": tokens, "ignore_eos": true, "logprobs": 1})
}

/// Whatever the sampler does with the row.
fn samplings() -> Vec<Value> {
    vec![
        greedy(8),
        json!({"temperature": 0.9, "seed": 1, "max_tokens": 8}),
        json!({"temperature": 0.9, "seed": 2, "top_k": 5, "top_p": 0.9, "max_tokens": 8}),
        json!({"temperature": 1.0, "seed": 3, "min_p": 0.2, "max_tokens": 8, "n": 2}),
        json!({"temperature": 0, "max_tokens": 8, "logprobs": 5, "repetition_penalty": 1.3}),
        json!({"temperature": 0, "max_tokens": 8, "allowed_token_ids": [5, 6, 7]}),
        json!({"temperature": 0, "max_tokens": 8, "structured_outputs": {"choice": ["a", "b"]}}),
    ]
}

#[track_caller]
fn fails(told: Told, at: usize) {
    let error = told.outcome().expect_err("no answer");
    let line = error.message();
    let start = format!("The logits of output token {at} are not finite (NaN or infinity).");
    assert!(line.starts_with(&start) && line.contains("bfloat16 or float32"), "{line}");
    assert!(!line.contains('\n'), "{line}");
}

/// On a GPU a batch's size decides the order of sums: an answer may be another one there.
#[track_caller]
fn same(got: &str, want: &str) {
    assert!(got == want || device() != "cpu" && !got.is_empty(), "{got:?} for {want:?}");
}

#[test]
fn a_head_with_nan_fails_every_request_at_its_first_token() {
    let served = Broken::new(HEAD, 77).serve();
    let samplings = samplings();
    let told: Vec<_> = samplings.iter().map(|s| served.ask(CLEAN, s.clone(), false)).collect();
    let count = told.len();
    told.into_iter().for_each(|told| fails(told, 1));
    // A request of two sequences counts once.
    assert_eq!(served.counter.corrupted.load(Ordering::Acquire), count);
    assert!(served.engine.health().is_ok());
}

#[test]
fn a_prompt_that_meets_nan_fails_alone() {
    let sound = serve(MODEL, json!({}));
    let prompt = format!("{CLEAN} zebra");
    let token = *ids(&prompt).last().expect("tokens");
    let clean: Vec<String> = (1..9).map(|i| format!("{CLEAN} {i}")).collect();
    let want: Vec<String> = clean.iter().map(|p| sound.text(p, greedy(24))).collect();
    assert!(clean.iter().chain(&want).all(|text| !ids(text).contains(&token)));
    drop(sound);

    let served = Broken::new(EMBED, token as usize).serve();
    for round in 0..3 {
        let neighbours: Vec<_> =
            clean.iter().map(|p| served.ask(p, greedy(24), round == 1)).collect();
        let hit: Vec<_> =
            samplings().into_iter().map(|s| served.ask(&prompt, s, round == 2)).collect();
        hit.into_iter().for_each(|told| fails(told, 1));
        for (told, want) in neighbours.into_iter().zip(&want) {
            same(&told.answer().outputs[0].text, want);
        }
        // Afterwards too: what the failed ones left in the prefix cache is hit by nobody.
        for (prompt, want) in clean.iter().zip(&want) {
            same(&served.text(prompt, greedy(24)), want);
        }
    }
}

/// The token is sampled, given to the client, and fed: what comes then is the first that fails.
#[test]
fn the_line_says_at_which_token() {
    let sound = serve(MODEL, json!({}));
    let answer = sound.ask(CLEAN, greedy(24), false).answer();
    let positions = answer.outputs[0].logprobs.as_ref().expect("logprobs");
    let tokens: Vec<u32> = positions.iter().map(|position| position[0].token.0).collect();
    let prompt = ids(CLEAN);
    let is_new = |&at: &usize| !prompt.contains(&tokens[at]) && !tokens[..at].contains(&tokens[at]);
    let at = (1..22).find(is_new).expect("a token that comes up late");
    drop(sound);

    let served = Broken::new(EMBED, tokens[at] as usize).serve();
    for stream in [false, true] {
        fails(served.ask(CLEAN, greedy(24), stream), at + 2);
        // It ends in time: nothing is wrong with the token itself.
        let told = served.ask(CLEAN, greedy(at as u32 + 1), stream).answer();
        assert_eq!(told.outputs[0].tokens as usize, at + 1);
    }
}
