//! Random requests: every sampling parameter that changes an answer, together and apart. Used by
//! `mixes` and `devices`.

use std::sync::OnceLock;

use serde_json::{json, Map, Value};
use triton_vllm::text::Tokenizer;

use crate::served::goldens;

pub const MODEL: &str = "llama-tiny";
pub const VOCAB: usize = 4096;

/// splitmix64
pub struct Rng(pub u64);

impl Rng {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    pub fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    pub fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    /// From `low` to `high`, in hundredths.
    fn number(&mut self, low: f64, high: f64) -> f64 {
        let steps = ((high - low) * 100.0).round() as usize;
        (low * 100.0 + self.below(steps + 1) as f64).round() / 100.0
    }
}

#[derive(Clone)]
pub struct Request {
    pub prompt: String,
    pub sampling: Value,
}

/// The requests of one round.
pub fn requests(seed: u64, count: usize) -> (Rng, Vec<Request>) {
    let mut rng = Rng(seed.wrapping_mul(0x1000_0001));
    let make = |rng: &mut Rng| Request { prompt: prompt(rng), sampling: sampling(rng) };
    let requests = (0..count).map(|_| make(&mut rng)).collect();
    (rng, requests)
}

/// One of several heads and an end of its own: prefixes are shared by pages and by parts of them.
fn prompt(rng: &mut Rng) -> String {
    let words = ["one", "two", "three", "four", "def", "main", "(", "the", "cat", "é", "🦀"];
    let head = rng.below(3);
    let mut text = ["", "What is the answer? ", "Once upon a time there was "][head].to_owned();
    if rng.percent(50) {
        text.push_str(&"one two three four five six ".repeat(1 + rng.below(6)));
    }
    for _ in 0..1 + rng.below(12) {
        text.push_str(rng.pick(&words));
        text.push(' ');
    }
    text
}

/// Tokens of which greedy and sampled outputs of the recorded models like some.
fn tokens(rng: &mut Rng, count: usize) -> Value {
    (0..count).map(|_| rng.below(VOCAB)).collect()
}

fn sampling(rng: &mut Rng) -> Value {
    let mut all = Map::new();
    let max_tokens = 1 + rng.below(40);
    all.insert("max_tokens".into(), max_tokens.into());
    let greedy = rng.percent(30);
    let temperature = if greedy { 0.0 } else { rng.pick(&[0.3, 0.7, 1.0, 1.0, 1.6]) };
    all.insert("temperature".into(), temperature.into());
    if !greedy {
        all.insert("seed".into(), rng.below(1 << 40).into());
        if rng.percent(25) {
            all.insert("n".into(), (2 + rng.below(3)).into());
        }
    }
    choice(rng, &mut all, max_tokens);
    // Lists of tokens may leave none that a grammar allows: that is an error.
    if !all.contains_key("allowed_token_ids") && !all.contains_key("bad_words") {
        grammar(rng, &mut all);
    }
    ends(rng, &mut all, max_tokens);
    if rng.percent(15) {
        all.insert("skip_reading_prefix_cache".into(), true.into());
    }
    reports(rng, &mut all);
    Value::Object(all)
}

/// What decides which token comes next.
fn choice(rng: &mut Rng, all: &mut Map<String, Value>, max_tokens: usize) {
    let mut maybe = |chance: usize, key: &str, value: &dyn Fn(&mut Rng) -> Value| {
        if rng.percent(chance) {
            all.insert(key.into(), value(rng));
        }
    };

    maybe(30, "top_k", &|r| r.pick(&[1, 2, 10, 100, 4095, 5000]).into());
    maybe(30, "top_p", &|r| r.number(0.01, 1.0).into());
    maybe(20, "min_p", &|r| r.number(0.0, 0.3).into());
    maybe(25, "repetition_penalty", &|r| r.number(0.5, 2.0).into());
    maybe(25, "frequency_penalty", &|r| r.number(-2.0, 2.0).into());
    maybe(25, "presence_penalty", &|r| r.number(-2.0, 2.0).into());
    maybe(20, "min_tokens", &|r| r.below(max_tokens + 1).into());
    maybe(15, "allowed_token_ids", &|r| {
        let count = r.pick(&[1, 3, 40, 2000]);
        tokens(r, count)
    });
    maybe(20, "logit_bias", &|r| {
        let count = r.pick(&[1, 5, 300]);
        let one = |_| (r.below(VOCAB).to_string(), r.number(-20.0, 20.0).into());
        Value::Object((0..count).map(one).collect())
    });

    if rng.percent(25) {
        bad_words(rng, all);
    }
}

/// Now and then what all of the output must look like.
fn grammar(rng: &mut Rng, all: &mut Map<String, Value>) {
    if rng.percent(25) {
        let grammar = rng.pick(&[
            json!({"regex": "[a-z]{2,9}( [a-zé]{2,9}){0,5}"}),
            json!({"choice": ["yes", "no", "maybe not", "日本"]}),
            json!({"json_object": true}),
            json!({"grammar": "root ::= item+\nitem ::= \"(\" item* \")\" | [0-9]{1,3} \",\""}),
        ]);
        all.insert("structured_outputs".into(), grammar);
    }
}

/// Words of several tokens, and mostly no token allowed but theirs: else they never come up.
fn bad_words(rng: &mut Rng, all: &mut Map<String, Value>) {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    let tokenizer = TOKENIZER.get_or_init(|| {
        Tokenizer::load(format!("{}/models/{MODEL}", goldens()).as_ref()).expect("a tokenizer")
    });
    let pool = ["one two", "the cat", "a a", "cat one", "two the", " animal", "e", "é"];
    let words: Vec<String> = (0..2 + rng.below(3)).map(|_| rng.pick(&pool).into()).collect();
    if rng.percent(80) {
        let lists = tokenizer.bad_words(&words).expect("tokens");
        let tokens: Value = lists.iter().flat_map(|l| l.iter().map(|token| token.0)).collect();
        all.insert("allowed_token_ids".into(), tokens);
    }
    all.insert("bad_words".into(), words.into());
}

/// What ends a sequence, and how its text is told.
fn ends(rng: &mut Rng, all: &mut Map<String, Value>, max_tokens: usize) {
    let whole = rng.percent(90);
    let late = rng.percent(15);
    let mut maybe = |chance: usize, key: &str, value: &dyn Fn(&mut Rng) -> Value| {
        if rng.percent(chance) {
            all.insert(key.into(), value(rng));
        }
    };
    maybe(50, "ignore_eos", &|_| true.into());
    if whole {
        maybe(20, "stop", &|r| r.pick(&[json!(["e"]), json!(["th", "ing"]), json!(["\n", " "])]));
        maybe(20, "include_stop_str_in_output", &|_| true.into());
    } else {
        maybe(100, "detokenize", &|_| false.into());
    }
    maybe(20, "stop_token_ids", &|r| {
        let count = r.pick(&[40, 300]);
        tokens(r, count)
    });
    maybe(10, "skip_special_tokens", &|_| false.into());
    maybe(10, "spaces_between_special_tokens", &|_| false.into());
    maybe(
        10,
        "repetition_detection",
        &|r| json!({"max_pattern_size": 1 + r.below(4), "min_count": 2 + r.below(2)}),
    );
    if late {
        // So many that it matters from when on they may end a sequence.
        maybe(100, "stop_token_ids", &|r| tokens(r, 400));
        maybe(100, "min_tokens", &|r| r.below(max_tokens / 2 + 1).into());
    }
    if max_tokens == 1 {
        // Now and then no limit but the model's length.
        maybe(50, "max_tokens", &|_| Value::Null);
    }
}

fn reports(rng: &mut Rng, all: &mut Map<String, Value>) {
    match rng.below(10) {
        0..3 => {
            all.insert("logprobs".into(), rng.pick(&[0, 1, 5, 20, -1]).into());
        }
        3 => {
            let count = 1 + rng.below(20);
            all.insert("logprob_token_ids".into(), tokens(rng, count));
        }
        _ => {}
    }
    if rng.percent(10) {
        all.insert("prompt_logprobs".into(), rng.pick(&[0, 3, 20]).into());
    }
}
