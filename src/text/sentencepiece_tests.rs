//! Sentencepiece folders against what transformers answers, and files with changed bytes.

use super::*;
use crate::text::testing::*;
use crate::text::Tokenizer;

const LLAMA: Rules = Rules { gemma: false, legacy: true, prefix_space: true };

fn fixture(kind: &str) -> std::path::PathBuf {
    path("fixtures/tokenizers").join(kind)
}

#[test]
fn added_tokens_are_read() {
    assert_eq!(Tokenizer::load(&fixture("spm-bpe-first")).unwrap().vocab_size(), 701);
}

#[track_caller]
fn refused(bytes: &[u8], wanted: &str) {
    let error = read(bytes, &LLAMA).expect_err("must be refused").message().to_string();
    assert!(error.contains(wanted) && !error.contains('\n'), "lacks {wanted:?}: {error}");
}

fn message(number: u8, inside: &[u8]) -> Vec<u8> {
    let (low, high) = (inside.len() as u8 | 0x80, (inside.len() >> 7) as u8);
    [&[number << 3 | 2, low, high], inside].concat()
}

fn piece(text: &[u8], score: f32) -> Vec<u8> {
    let score = [&[2 << 3 | 5][..], &score.to_le_bytes()].concat();
    message(1, &[message(1, text), score].concat())
}

#[test]
fn broken_files() {
    let three = [piece(b"<unk>", 0.0), piece(b"a", 0.0), piece(b"b", 0.0)].concat();
    assert!(read(&three, &LLAMA).is_ok());
    refused(b"", "0 pieces only");
    refused(&three[..three.len() - 1], "cut short");
    refused(b"IQ== 0\nIg== 1\n", "0 pieces only");
    refused(&[&three[..], &piece(b"\xff", 0.0)].concat(), "not UTF-8");
    refused(&[&three[..], &piece(&[b'x'; 600], 0.0)].concat(), "a piece of 600 bytes");
    refused(&[&three[..], &piece(b"x", f32::NAN)].concat(), "no number");
    refused(&[&three[..], &message(2, &[3 << 3, 4])].concat(), "model type 4");
    refused(&[&three[..], &[1 << 3 | 2], &[0xff; 9], &[1]].concat(), "cut short");
    refused(&[&three[..], &[0xff; 11]].concat(), "cut short");
    let same = [piece(b"", 0.0), piece(b"", 0.0), piece(b"", 0.0)].concat();
    for model in [&same[..], &[&same[..], &message(2, &[3 << 3, 2])].concat()] {
        // Whatever it is worth, it is no crash.
        if let Ok(inner) = read(model, &LLAMA) {
            let _ = inner.encode("ab", true);
        }
    }
    let folder = Folder::with(&[("tokenizer.model", "IQ== 0\n".into())]);
    let error = folder.load().err().unwrap();
    assert!(error.message().contains("tokenizer.model is not a tokenizer file"), "{error}");
}

#[test]
fn changed_bytes_never_crash() {
    let mut rng = Random(5);

    for kind in ["spm-bpe", "spm-unigram"] {
        let good = std::fs::read(fixture(kind).join("tokenizer.model")).unwrap();
        let mut refusals = 0;
        for round in 0..150 {
            let mut bytes = good.clone();
            for _ in 0..1 + rng.below(3) {
                let at = rng.below(bytes.len());
                bytes[at] = rng.below(256) as u8;
            }
            if round % 5 == 0 {
                bytes.truncate(rng.below(good.len()));
            }
            match read(&bytes, &LLAMA) {
                Ok(inner) => {
                    let _ = inner.encode("Hello <0x41> \u{1f642}\n", true);
                }
                Err(error) => {
                    refusals += 1;
                    assert!(!error.message().contains('\n'), "{error}");
                }
            }
        }
        assert!(refusals > 20, "{refusals}");
    }
}
