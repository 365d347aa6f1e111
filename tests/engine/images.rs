//! Prompts with images, from base64 to text: those that are answered, those that are refused, and
//! that neither disturbs the others.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::atomic::Ordering;

use serde_json::{json, Value};

use super::served::{refusal, serve, Served};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

fn folder(row: &str) -> String {
    format!("{FIXTURES}/vision/{row}")
}

fn served(extra: Value) -> Served {
    served_row("qwen2_5_vl", extra)
}

fn served_row(row: &str, extra: Value) -> Served {
    let mut args = json!({"model": folder(row), "tokenizer": folder(row), "device": "cpu"});
    for (key, value) in extra.as_object().expect("an object") {
        args[key] = value.clone();
    }
    serve("", args)
}

fn prompts() -> Vec<Value> {
    prompts_of("qwen2_5_vl")
}

fn prompts_of(row: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(folder(row) + "/expected.json").expect("answers");
    let json: Value = serde_json::from_str(&text).expect("JSON");
    json["prompts"].as_array().expect("prompts").clone()
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |chunk: &[u8]| {
        let bits = chunk.iter().fold(0u32, |all, &byte| all << 8 | u32::from(byte));
        let bits = bits << (8 * (3 - chunk.len()));
        let letter = |n: usize| {
            let letter = char::from(LETTERS[(bits >> (18 - 6 * n) & 63) as usize]);
            if n <= chunk.len() {
                letter
            } else {
                '='
            }
        };
        (0..4).map(letter).collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}

fn image(name: &str) -> String {
    base64(&std::fs::read(format!("{FIXTURES}/images/{name}")).expect(name))
}

fn images(prompt: &Value) -> Vec<String> {
    let names = prompt["images"].as_array().expect("images").iter();
    names.map(|name| image(name.as_str().expect("a name"))).collect()
}

/// Without what may become a character yet: the tokens are bytes.
fn whole(text: &str) -> &str {
    text.trim_end_matches('\u{fffd}')
}

fn said(prompt: &Value) -> &str {
    whole(prompt["answer"].as_str().expect("an answer"))
}

fn greedy() -> Value {
    json!({"temperature": 0, "max_tokens": 24, "ignore_eos": true})
}

#[test]
fn prompts_with_images_are_answered_as_by_transformers() {
    let served = served(json!({"max_num_batched_tokens": 64, "enable_prefix_caching": true}));
    let prompts = prompts();
    // All at the same time, twice: what was cached of the first ones has the same answer.
    for _ in 0..2 {
        let asked: Vec<_> = prompts
            .iter()
            .filter(|prompt| prompt["answer"].is_string())
            .map(|prompt| {
                let text = prompt["text"].as_str().expect("a text");
                (prompt, served.ask_with(text, &images(prompt), greedy()).expect("room"))
            })
            .collect();
        for (prompt, told) in asked {
            let answer = told.answer();
            assert_eq!(whole(&answer.outputs[0].text), said(prompt), "{}", prompt["text"]);
            let tokens = prompt["ids"].as_array().expect("ids").len();
            assert_eq!(answer.prompt_tokens as usize, tokens, "expanded");
        }
    }
    assert!(served.counter.prefix_hits.load(Ordering::Acquire) > 0, "of the second round");
}

/// What stands around an image's tokens and between its rows, squares of a picture, images that are
/// fed in one step.
#[test]
fn other_families_are_answered_as_by_transformers() {
    let rows = ["llava", "gemma3", "gemma4", "internvl", "mistral3", "pixtral", "qwen3_vl_moe"];
    let tiled = ["llava_next", "llava_onevision", "gemma3_crops"];
    let squares = ["internvl_own", "internvl_6b", "smolvlm"];
    for row in rows.into_iter().chain(tiled).chain(squares) {
        let tokens = if row == "gemma4" { 80 } else { 40 };
        let sizes = json!({
            "max_num_batched_tokens": tokens, "max_num_seqs": 8, "max_model_len": 384
        });
        let served = served_row(row, sizes);
        for _ in 0..2 {
            let prompts = prompts_of(row);
            let asked: Vec<_> = prompts
                .iter()
                .map(|prompt| {
                    let text = prompt["text"].as_str().expect("a text");
                    let params = json!({"temperature": 0, "max_tokens": 64, "ignore_eos": true});
                    (prompt, served.ask_with(text, &images(prompt), params).expect("room"))
                })
                .collect();

            for (prompt, told) in asked {
                let answer = told.answer();
                assert_eq!(
                    whole(&answer.outputs[0].text),
                    said(prompt),
                    "{row} {}",
                    prompt["text"]
                );
                let tokens = prompt["ids"].as_array().expect("ids").len();
                assert_eq!(answer.prompt_tokens as usize, tokens, "{row}, expanded");
            }
        }
        assert!(served.counter.prefix_hits.load(Ordering::Acquire) > 0, "of the second round");
    }
}

/// An image whose tokens see each other has room in a step beside what runs, or no model loads.
#[test]
fn a_step_must_hold_an_image_that_is_fed_whole() {
    let sizes = |tokens: usize| {
        json!({"model": folder("gemma3"), "tokenizer": folder("gemma3"), "device": "cpu",
            "max_num_seqs": 4, "max_num_batched_tokens": tokens})
    };
    let error = refusal("", &sizes(19));
    assert!(error.contains("max_num_batched_tokens (19)"), "{error}");
    let served = served_row("gemma3", sizes(20));
    let prompts = prompts_of("gemma3");
    let text = prompts[1]["text"].as_str().expect("a text");
    let params = json!({"temperature": 0, "max_tokens": 64, "ignore_eos": true});
    let told = served.ask_with(text, &images(&prompts[1]), params).expect("room");
    assert_eq!(whole(&told.answer().outputs[0].text), said(&prompts[1]));
}

/// Positions behind an image are not those of the tokens: drafts keep to them.
#[test]
fn drafts_behind_images_change_no_word() {
    let drafts = json!({"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_min": 1,
        "prompt_lookup_max": 2});
    let served = served(json!({"speculative_config": drafts}));
    let prompts = prompts();
    let answered = prompts.iter().filter(|prompt| prompt["answer"].is_string());
    for prompt in answered {
        let text = prompt["text"].as_str().expect("a text");
        let told = served.ask_with(text, &images(prompt), greedy()).expect("room");
        assert_eq!(whole(&told.answer().outputs[0].text), said(prompt), "{text}");
    }
    assert!(served.counter.drafts.lock().accepted_tokens > 0, "drafts");
}

/// The same text with another image of the same size: no page of the first one is hit.
#[test]
fn pages_of_one_image_are_not_those_of_another() {
    let served = served(json!({}));
    let text = "<|image_pad|> and so on, for some pages of text behind it: what is it?";
    let ask = |file: &str| {
        let told = served.ask_with(text, &[image(file)], greedy()).expect("room");
        told.answer().outputs[0].text.clone()
    };
    let hits = || served.counter.prefix_hits.load(Ordering::Acquire);
    let first = ask("jpeg_0_95_s_37.jpg");
    let other = ask("jpeg_2_30_s_37.jpg");
    assert_eq!(hits(), 0, "another image");
    assert_eq!(ask("jpeg_0_95_s_37.jpg"), first);
    assert!(hits() > 0, "the same image");
    assert_eq!(ask("jpeg_2_30_s_37.jpg"), other);
}

#[test]
fn what_is_refused_says_why_and_disturbs_nobody() {
    let served = served(json!({"limit_mm_per_prompt": {"image": 2}}));
    let prompts = prompts();
    let good = &prompts[1];
    let text = good["text"].as_str().expect("a text");
    let running = served.ask_with(text, &images(good), greedy()).expect("room");

    let png = std::fs::read(format!("{FIXTURES}/images/png_2_8.png")).expect("a file");
    let mut bomb = std::fs::read(format!("{FIXTURES}/images/bmp_RGB.bmp")).expect("a file");
    bomb[18..26].copy_from_slice(&[0x60, 0xea, 0, 0, 0x60, 0xea, 0, 0]);
    let one = || image("size_13x7.png");
    let cases: [(&str, Vec<String>, &str); 9] = [
        ("<|image_pad|>", vec!["abc".into()], "Incorrect padding"),
        ("<|image_pad|>", vec![String::new()], "cannot identify image file"),
        ("<|image_pad|>", vec![base64(b"no image")], "cannot identify image file"),
        ("<|image_pad|>", vec![base64(&png[..70])], "image file is truncated or damaged"),
        ("<|image_pad|>", vec![base64(&bomb)], "Image size (3600000000 pixels) exceeds limit"),
        ("<|image_pad|>", vec!["https://example.org/a.png".into()], "images are not fetched"),
        ("none", vec![one()], "Failed to apply prompt replacement for mm_items['image'][0]"),
        ("<|image_pad|>", vec![one(), one()], "Failed to apply prompt replacement"),
        (
            "<|image_pad|><|image_pad|><|image_pad|>",
            vec![one(), one(), one()],
            "At most 2 image(s) may be provided in one prompt. Set `--limit-mm-per-prompt`",
        ),
    ];
    for (text, images, why) in cases {
        let outcome = served.ask_with(text, &images, greedy());
        let error = outcome.map_or_else(|e| e, |told| told.outcome().expect_err(why));
        assert!(error.message().starts_with(why), "{error}");
        assert!(!error.message().contains('\n'), "{error}");
    }

    assert_eq!(whole(&running.answer().outputs[0].text), said(good));
    let again = served.ask_with(text, &images(good), greedy()).expect("room");
    assert_eq!(whole(&again.answer().outputs[0].text), said(good));
}

#[test]
fn a_model_without_its_tower_takes_text() {
    let served = served(json!({"language_model_only": true}));
    let prompts = prompts();
    let text = served.text(prompts[0]["text"].as_str().unwrap(), greedy());
    assert_eq!(whole(&text), said(&prompts[0]));
    let outcome = served.ask_with("<|image_pad|>", &[image("size_13x7.png")], greedy());
    let error = outcome.map_or_else(|e| e, |told| told.outcome().expect_err("no tower"));
    assert_eq!(error.message(), "Multi-modal processor not available for text-only models");
}

/// Gemma 4's small towers have limits around each product.
#[test]
fn a_tower_that_is_not_served_leaves_text() {
    let limits = json!({"model_type": "gemma4_vision", "use_clipped_linears": true});
    let served = served_row("gemma4", json!({"hf_overrides": {"vision_config": limits}}));
    let prompts = prompts_of("gemma4");
    let params = json!({"temperature": 0, "max_tokens": 64, "ignore_eos": true});
    let text = served.text(prompts[0]["text"].as_str().unwrap(), params);
    assert_eq!(whole(&text), said(&prompts[0]));
    let outcome = served.ask_with("<|image|>", &[image("size_13x7.png")], greedy());
    let error = outcome.map_or_else(|e| e, |told| told.outcome().expect_err("no tower"));
    assert_eq!(error.message(), "Multi-modal processor not available for text-only models");
}

/// Sends files of tests/fixtures/images to whoever asks; its port.
fn host() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut lines = BufReader::new(stream.try_clone().expect("a stream")).lines();
            let Some(Ok(first)) = lines.next() else { continue };
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            let name = first.split([' ', '/']).nth(2).unwrap_or_default().to_owned();
            let file = std::fs::read(format!("{FIXTURES}/images/{name}"));
            let status = if file.is_ok() { "200 OK" } else { "404 None" };
            let body = file.unwrap_or_default();
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
            );
            let _ = stream.write_all(&[head.as_bytes(), &body].concat());
        }
    });
    port
}

/// From hosts that model.json names, and from no others.
#[test]
fn images_of_urls_are_fetched_where_that_is_allowed() {
    let at = format!("http://127.0.0.1:{}", host());
    let prompts = prompts();
    let prompt = prompts
        .iter()
        .find(|p| p["answer"].is_string() && p["images"].as_array().is_some_and(|i| i.len() > 1))
        .expect("a prompt with several images");
    let text = prompt["text"].as_str().expect("a text");
    let names = prompt["images"].as_array().expect("images").iter();
    let mut urls: Vec<String> =
        names.map(|name| format!("{at}/{}", name.as_str().expect("a name"))).collect();
    urls[1] = images(prompt)[1].clone();

    let served_with = |domains: Value| served(json!({"allowed_media_domains": domains}));
    let fetches = served_with(json!(["127.0.0.1"]));
    let grammar =
        json!({"temperature": 0, "max_tokens": 9, "structured_outputs": {"choice": ["ab"]}});
    let choice = fetches.ask_with(text, &urls, grammar).expect("room");
    let told = fetches.ask_with(text, &urls, greedy()).expect("room");
    assert_eq!(whole(&told.answer().outputs[0].text), said(prompt));
    assert_eq!(choice.answer().outputs[0].text, "ab", "behind a grammar too");

    let refused = |served: &Served, urls: &[String]| {
        let outcome = served.ask_with(text, urls, greedy());
        let error = outcome.map_or_else(|e| e, |told| told.outcome().expect_err("no file"));
        assert!(!error.message().contains('\n'), "{error}");
        error.message().to_owned()
    };
    let mut missing = urls.clone();
    missing[2] = format!("{at}/none.png");
    assert_eq!(refused(&fetches, &missing), "image 3: image: 127.0.0.1 answers with status 404.");
    let elsewhere = served_with(json!(["example.org"]));
    let why = refused(&elsewhere, &urls);
    assert!(why.starts_with("image 1: image: nothing is fetched from '127.0.0.1'"), "{why}");
    assert!(refused(&served_with(json!([])), &urls).contains("images are not fetched"));
}

/// Each of several at once, in steps that have room for a part of an image.
#[test]
fn images_of_many_prompts_share_the_steps() {
    let served = served(json!({
        "max_num_batched_tokens": 16, "max_num_seqs": 8, "enable_prefix_caching": false,
        "mm_processor_kwargs": {"max_pixels": 3840},
    }));
    let prompts = prompts();
    let with_images = prompts.iter().filter(|prompt| prompt["answer"].is_string());
    let asked: Vec<_> = with_images
        .cycle()
        .take(12)
        .map(|prompt| {
            let text = prompt["text"].as_str().expect("a text");
            (prompt, served.ask_with(text, &images(prompt), greedy()).expect("room"))
        })
        .collect();
    for (prompt, told) in asked {
        assert_eq!(whole(&told.answer().outputs[0].text), said(prompt), "{}", prompt["text"]);
    }
}
