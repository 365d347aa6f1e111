//! Tokens with scores -> what a file `tokenizer.model` of sentencepiece's holds, so that one reader
//! serves both. Called by `tokenizer`. Field numbers: sentencepiece_model.proto.

/// A token of a sentencepiece model. Kinds are numbered in GGUF as they are there.
pub(super) struct Piece<'a> {
    pub text: &'a str,
    pub score: f32,
    pub kind: u8,
}

/// A model of these pieces, which are joined by their scores (BPE); `unknown` is the one that
/// stands for what no other does.
pub(super) fn model<'a>(pieces: impl Iterator<Item = Piece<'a>>, unknown: Option<&str>) -> Vec<u8> {
    let mut model = Vec::new();
    for Piece { text, score, kind } in pieces {
        let mut piece = Vec::with_capacity(text.len() + 10);
        bytes(1, text.as_bytes(), &mut piece);
        tag(2, 5, &mut piece);
        piece.extend(score.to_le_bytes());
        integer(3, kind.into(), &mut piece);
        bytes(1, &piece, &mut model);
    }

    const BPE: u64 = 2;
    let mut trainer = Vec::new();
    integer(3, BPE, &mut trainer);
    if let Some(unknown) = unknown {
        bytes(45, unknown.as_bytes(), &mut trainer);
    }
    bytes(2, &trainer, &mut model);
    model
}

/// Number of a field and kind of its value.
fn tag(field: u64, kind: u64, to: &mut Vec<u8>) {
    varint(field << 3 | kind, to);
}

fn integer(field: u64, value: u64, to: &mut Vec<u8>) {
    tag(field, 0, to);
    varint(value, to);
}

fn bytes(field: u64, value: &[u8], to: &mut Vec<u8>) {
    tag(field, 2, to);
    varint(value.len() as u64, to);
    to.extend_from_slice(value);
}

fn varint(mut value: u64, to: &mut Vec<u8>) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}
