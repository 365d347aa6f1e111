//! `tokenizer.model`, a sentencepiece model (BPE or Unigram), to a `tokenizers` tokenizer with the
//! rules that transformers gives Llama's and Gemma's. Called by `load` where a folder has no
//! tokenizer.json. It knows no other file; special tokens of side files come later.
//!
//! The file is a protocol buffer: of its messages only the pieces and five settings are read,
//! everything else is skipped. Field numbers: sentencepiece_model.proto.

use std::collections::HashMap;

use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{Vocab, BPE};
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::{Prepend, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    AddedToken, DecoderWrapper, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper,
    SplitDelimiterBehavior, Tokenizer as Inner,
};

use crate::error::{Error, Result};
use crate::invalid;
use crate::threads;

/// What stands for a blank in pieces.
const BLANK: &str = "▁";
/// Each piece is cut at each character: real ones stay below 100 bytes and 2^18 pieces.
const MAX_PIECE_BYTES: usize = 512;
const MAX_PIECES: usize = 1 << 20;

/// Whose rules apply, and what tokenizer_config.json says of them.
pub(super) struct Rules {
    pub gemma: bool,
    /// Llama's: a blank is put before each stretch of text between special tokens. Else before the
    /// first only.
    pub legacy: bool,
    /// Whether one is put there at all.
    pub prefix_space: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Normal,
    Control,
    UserDefined,
}

struct Piece {
    text: String,
    score: f64,
    kind: Kind,
}

struct Model {
    pieces: Vec<Piece>,
    bpe: bool,
    unk: String,
}

/// # Errors
/// InvalidArgument, one line without the path.
pub(super) fn read(bytes: &[u8], rules: &Rules) -> Result<Inner> {
    let mut model = Model::parse(bytes)?;
    if rules.gemma {
        add_tab(&mut model.pieces);
    }
    let added = model.added_tokens(rules);
    // The crate trusts a vocabulary, e.g. not to be empty: what it cannot take must not end us.
    let network = threads::catch(|| model.network(rules));
    let network = network.unwrap_or_else(|_| Err(invalid!("its pieces contradict each other")))?;
    let mut inner = Inner::new(network);
    inner.add_tokens(added).map_err(|e| invalid!("its control pieces: {e}"))?;
    let broken = |e: tokenizers::Error| invalid!("{e}");
    let blank = || Replace::new(" ", BLANK).map_err(broken);
    let mut decoders: Vec<DecoderWrapper> = vec![
        Replace::new(BLANK, " ").map_err(broken)?.into(),
        ByteFallback::new().into(),
        Fuse::new().into(),
    ];
    if rules.gemma {
        let pattern = SplitPattern::String(" ".into());
        let split = Split::new(pattern, SplitDelimiterBehavior::MergedWithPrevious, false);
        inner.with_normalizer(Some(blank()?)).map_err(broken)?;
        inner.with_pre_tokenizer(Some(PreTokenizerWrapper::from(split.map_err(broken)?)));
    } else if rules.legacy {
        let mut steps: Vec<NormalizerWrapper> = vec![blank()?.into()];
        if rules.prefix_space {
            steps.insert(0, Prepend::new(BLANK.into()).into());
        }
        inner.with_normalizer(Some(Normalizers::new(steps))).map_err(broken)?;
    } else {
        let scheme = if rules.prefix_space { PrependScheme::First } else { PrependScheme::Never };
        let blanks = Metaspace::new('▁', scheme, false);
        inner.with_pre_tokenizer(Some(PreTokenizerWrapper::from(blanks)));
    }
    if !rules.gemma && rules.prefix_space {
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    inner.with_decoder(Some(Decoders::new(decoders)));
    Ok(inner)
}

/// Old Gemma models have the byte 9 and no tab.
fn add_tab(pieces: &mut [Piece]) {
    if !pieces.iter().any(|piece| piece.text == "\t") {
        if let Some(byte) = pieces.iter_mut().find(|piece| piece.text == "<0x09>") {
            *byte = Piece { text: "\t".into(), score: 0.0, kind: byte.kind };
        }
    }
}

impl Model {
    fn parse(bytes: &[u8]) -> Result<Model> {
        let mut model = Model { pieces: Vec::new(), bpe: false, unk: "<unk>".into() };
        for field in Fields(bytes) {
            match field? {
                (1, Field::Bytes(piece)) => model.pieces.push(Piece::parse(piece)?),
                (2, Field::Bytes(trainer)) => model.trainer(trainer)?,
                _ => {}
            }
            if model.pieces.len() > MAX_PIECES {
                return Err(invalid!("more than {MAX_PIECES} pieces"));
            }
        }
        // Ids 0 to 2 have no scores of their own in transformers.
        match model.pieces.get_mut(..3) {
            Some(first) => first.iter_mut().for_each(|piece| piece.score = 0.0),
            None => return Err(invalid!("{} pieces only", model.pieces.len())),
        }
        Ok(model)
    }

    fn trainer(&mut self, bytes: &[u8]) -> Result<()> {
        for field in Fields(bytes) {
            match field? {
                (3, Field::Int(1)) => self.bpe = false,
                (3, Field::Int(2)) => self.bpe = true,
                (3, Field::Int(other)) => {
                    return Err(invalid!("model type {other}, expected 1 (Unigram) or 2 (BPE)"))
                }
                (45, Field::Bytes(unk)) => self.unk = String::from_utf8_lossy(unk).into_owned(),
                _ => {}
            }
        }
        Ok(())
    }

    fn added_tokens(&self, rules: &Rules) -> Vec<AddedToken> {
        let turn = |text: &str| matches!(text, "<start_of_turn>" | "<end_of_turn>");
        let added = self.pieces.iter().filter(|piece| piece.kind != Kind::Normal);
        let token = |piece: &Piece| {
            let special = piece.kind == Kind::Control || (rules.gemma && turn(&piece.text));
            AddedToken::from(piece.text.clone(), special).normalized(false)
        };
        added.filter(|piece| !piece.text.is_empty()).map(token).collect()
    }

    fn network(&self, rules: &Rules) -> Result<ModelWrapper> {
        let broken = |e: tokenizers::Error| invalid!("{e}");
        if !self.bpe {
            let scored = self.pieces.iter().map(|piece| (piece.text.clone(), piece.score));
            let unk = if rules.gemma { 3 } else { 0 };
            let model = Unigram::from(scored.collect(), Some(unk), true);
            return Ok(model.map_err(|e| invalid!("{e}"))?.into());
        }
        let ids = self.pieces.iter().zip(0u32..).map(|(piece, id)| (piece.text.clone(), id));
        let builder = BPE::builder()
            .vocab_and_merges(ids.collect::<Vocab>(), self.merges())
            .unk_token(self.unk.clone())
            .fuse_unk(true)
            .byte_fallback(true);
        Ok(builder.build().map_err(broken)?.into())
    }

    /// Sentencepiece knows no merges, only that the pair with the best score is joined first: each
    /// way to cut a piece in two pieces is a merge. Best score first, then longer left parts, then
    /// longer right ones; what is equal stays in the order of ids.
    fn merges(&self) -> Vec<(String, String)> {
        let ids: HashMap<&str, usize> =
            self.pieces.iter().enumerate().map(|(id, piece)| (piece.text.as_str(), id)).collect();
        let mut merges: Vec<(f64, usize, usize, &str, &str)> = Vec::new();
        for (id, piece) in self.pieces.iter().enumerate() {
            if ids.get(piece.text.as_str()) != Some(&id) {
                continue;
            }
            let mut ways: Vec<(usize, usize, &str, &str)> = Vec::new();
            for (at, _) in piece.text.char_indices().skip(1) {
                let (left, right) = piece.text.split_at(at);
                if let (Some(&l), Some(&r)) = (ids.get(left), ids.get(right)) {
                    ways.push((l, r, left, right));
                }
            }
            ways.sort_by_key(|way| (way.0, way.1));
            let length = |text: &str| text.chars().count();
            merges
                .extend(ways.iter().map(|&(_, _, l, r)| (piece.score, length(l), length(r), l, r)));
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| (b.1, b.2).cmp(&(a.1, a.2))));
        merges.into_iter().map(|(_, _, _, l, r)| (l.to_string(), r.to_string())).collect()
    }
}

impl Piece {
    fn parse(bytes: &[u8]) -> Result<Piece> {
        let mut piece = Piece { text: String::new(), score: 0.0, kind: Kind::Normal };
        for field in Fields(bytes) {
            match field? {
                (1, Field::Bytes(text)) if text.len() > MAX_PIECE_BYTES => {
                    return Err(invalid!("a piece of {} bytes", text.len()));
                }
                (1, Field::Bytes(text)) => {
                    let text = std::str::from_utf8(text);
                    piece.text = text.map_err(|_| invalid!("a piece is not UTF-8"))?.to_string();
                }
                // -0 and 0 are equal, as they are in Python.
                (2, Field::Fixed32(bits)) => piece.score = f64::from(f32::from_bits(bits)) + 0.0,
                (3, Field::Int(3)) => piece.kind = Kind::Control,
                (3, Field::Int(4)) => piece.kind = Kind::UserDefined,
                _ => {}
            }
        }
        if piece.score.is_nan() {
            return Err(invalid!("the score of piece {:?} is no number", piece.text));
        }
        Ok(piece)
    }
}

enum Field<'a> {
    Int(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
    Other,
}

/// The fields of a message, in the order of the file: number and value.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, count: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(count).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u64, Field<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Field::Int(self.varint()?),
            1 => self.take(8).map(|_| Field::Other)?,
            2 => {
                let length = self.varint()?;
                Field::Bytes(self.take(length)?)
            }
            5 => Field::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((tag >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = std::result::Result<(u64, Field<'a>), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or_else(|| invalid!("a field of it is cut short or of an unknown kind")))
    }
}

#[cfg(test)]
#[path = "sentencepiece_tests.rs"]
mod tests;
