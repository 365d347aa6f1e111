//! What a vision tower is, as data: which config keys, which tensor names. The rows are in
//! `towers`; `config` reads the keys, `load` the names.

use crate::device::{Activation, NormKind};
use crate::image::Kind;
use crate::plan::BothWays;

/// A vision tower: how it is described and how its tensors are called. Names stand behind the first
/// of the prefixes under which there is the patches' product, those of layers behind the layer's.
#[derive(Debug)]
pub struct Tower {
    /// `vision_config.model_type` that it is for; empty: any.
    pub model_types: &'static [&'static str],
    /// Keys of `vision_config` with a value each, in JSON, without which it is another's.
    pub only_with: &'static [(&'static str, &'static str)],
    /// In front of every name of the tower, and of what makes tokens behind it.
    pub prefixes: &'static [[&'static str; 2]],
    /// How images are processed.
    pub images: Kind,
    /// Keys of the token that a prompt has for an image, and of the one that stands for a part of
    /// it; the first that is given counts. Empty: `written` says them.
    pub placeholders: [&'static [&'static str]; 2],
    /// A prompt has a text for an image, and the tokenizer the token of a part.
    pub written: Option<Written>,
    /// What stands between the squares that an image is cut into.
    pub marks: Option<SquareMarks>,
    /// Tokens of the tokenizer behind each row of an image's but the last one, and behind that.
    pub row_ends: Option<[&'static str; 2]>,
    /// Defaults of `vision_config`, as `Family::defaults`.
    pub defaults: &'static str,
    /// Keys of the checkpoint as a whole that may have one value, in JSON, if they are given.
    pub must_be: &'static [(&'static str, &'static str)],
    /// The decoder turns tokens by time, row and column.
    pub axes: bool,
    /// In the decoder tokens of an image see each other, those behind too.
    pub both_ways: BothWays,
    /// Keys of `vision_config` or of the checkpoint as a whole that must have these values, in
    /// JSON, for the tower to run; with others the checkpoint takes text.
    pub only_if: &'static [(&'static str, &'static str)],
    /// What stands around the tokens of an image in the model's input.
    pub frame: Option<Frame>,
    /// Of images in one of several sizes.
    pub any_resolution: Option<AnyResolutionKeys>,
    /// The same of `vision_config`.
    pub own_must_be: &'static [(&'static str, &'static str)],
    /// Names of its sizes.
    pub keys: TowerKeys,
    /// Of all its norms; layer norms have biases.
    pub norm: NormKind,
    /// What its norms add to a variance.
    pub eps: TowerEps,
    /// The patches' product.
    pub patches: &'static str,
    /// It is stored as a product whose columns go by pixel, then by colour; else as a convolution.
    pub by_pixel: bool,
    /// It has a bias.
    pub patch_bias: bool,
    /// Vectors of places.
    pub places: Places,
    /// How q and k are turned.
    pub turns: Turns,
    /// In front of the first layer.
    pub first: Option<&'static str>,
    /// In front of the number of a layer.
    pub layers: &'static str,
    /// In front of attention, and of the MLP.
    pub norms: [&'static str; 2],
    /// Of attention's output and the MLP's, before they are added.
    pub post_norms: Option<[&'static str; 2]>,
    /// Of each head of q and of k, before they are turned; those of v have one without weights.
    pub head_norms: Option<[&'static str; 2]>,
    /// Scores are products of q and k as they are.
    pub unscaled: bool,
    /// q, k and v: together or a name each.
    pub qkv: &'static [&'static str],
    /// These have biases; else, if `qkv_bias_key` is there, as that key of `vision_config` says.
    pub qkv_bias: bool,
    /// See `qkv_bias`.
    pub qkv_bias_key: Option<&'static str>,
    /// Norms of q and of k, over all heads together.
    pub qk_norms: Option<[&'static str; 2]>,
    /// Attention's output product.
    pub out: &'static str,
    /// It has a bias.
    pub out_bias: bool,
    /// Up of the MLP, or gate and up.
    pub up: &'static [&'static str],
    /// Its down.
    pub down: &'static str,
    /// The MLP's have biases.
    pub mlp_bias: bool,
    /// Vectors that attention's output and the MLP's are multiplied by.
    pub layer_scales: Option<[&'static str; 2]>,
    /// Behind the last layer.
    pub last: Option<&'static str>,
    /// What makes tokens of patches.
    pub merger: MergerNames,
    /// What makes further vectors behind some layers, which the decoder adds behind its first ones.
    pub deep: Option<DeepNames>,
}

/// Keys of a tower's sizes, in `vision_config` but for `squares`.
#[derive(Debug)]
pub struct TowerKeys {
    /// Its layers.
    pub depth: &'static str,
    /// Of the checkpoint as a whole: which layer's output counts, from the last one (-1) or from
    /// what goes into the first (0).
    pub picked: Option<(&'static str, i64)>,
    /// Width of its residual.
    pub width: &'static str,
    /// Heads of attention.
    pub heads: &'static str,
    /// Width of its MLP.
    pub ffn: TowerFfn,
    /// Width of its vectors, which must be the decoder's.
    pub out: Option<&'static str>,
    /// Of how many patches a token is made.
    pub squares: Squares,
}

/// What an image's place in a prompt becomes beside its tokens: a text and a token in front, a
/// token and the text behind.
#[derive(Debug)]
pub struct Frame {
    /// The text.
    pub text: &'static str,
    /// Key of the token in front.
    pub open: &'static str,
    /// Key of the token behind.
    pub close: &'static str,
    /// Where there are parts of the image behind it: text in front of it, between it and the first
    /// part, and between parts.
    pub parts: [&'static str; 3],
}

/// What it takes to cut images of one of several sizes into squares.
#[derive(Debug)]
pub struct AnyResolutionKeys {
    /// The vector that ends rows, in front of which what makes tokens has its prefix's last part
    /// less.
    pub row_end: &'static str,
    /// Of keys of the checkpoint as a whole that the processor goes by too, what their absence
    /// means, in JSON.
    pub defaults: &'static str,
}

/// A text that stands for an image in a prompt, and what it becomes: a text, tokens of that name,
/// and a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// What the caller writes.
    pub text: &'static str,
    /// In front of the image's tokens.
    pub open: &'static str,
    /// Name of the token that stands for a part of an image.
    pub part: &'static str,
    /// Behind them.
    pub close: &'static str,
}

/// Texts in front of the squares of an image: `around` and `<row_i_col_j>`, from 1 on, with a line
/// break before each further row; in front of the whole a further line break, `around` and `whole`;
/// behind all `around`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SquareMarks {
    /// In front of each, and behind the last.
    pub around: &'static str,
    /// What tells the whole picture from a square of it.
    pub whole: &'static str,
}

/// Key of a tower's MLP width.
#[derive(Debug)]
pub enum TowerFfn {
    /// The width.
    Width(&'static str),
    /// How many times as wide as the residual it is.
    Times(&'static str),
}

/// Where it stands how many patches of a side become one token.
#[derive(Debug)]
pub enum Squares {
    /// A patch is a token.
    One,
    /// In `vision_config`.
    Side(&'static str),
    /// In the checkpoint's own keys.
    Factor(&'static str),
    /// Its inverse, there.
    Ratio(&'static str),
    /// How many tokens an image has, there.
    Tokens(&'static str),
}

/// What norms add to a variance.
#[derive(Debug)]
pub enum TowerEps {
    /// A number that no key changes.
    Fixed(f32),
    /// A key of `vision_config`.
    Key(&'static str),
}

/// Vectors of places, which are added to patches.
#[derive(Debug)]
pub enum Places {
    /// There are none.
    None,
    /// A square of as many as the key says, stretched over an image of any shape.
    Stretched {
        /// The table.
        table: &'static str,
        /// How many.
        count: &'static str,
    },
    /// One of its column and one of its row for each patch: two tables, one behind the other.
    OfColumnAndRow {
        /// Both.
        table: &'static str,
        /// Key of how many each has.
        count: &'static str,
    },
    /// One for each patch of an image of the one size that there is; rows that are stored as
    /// `[1, rows, width]` in some checkpoints.
    Each {
        /// The table, with the end of its name.
        table: &'static str,
        /// A row in front of the patches of an image, which is not theirs; its place is the
        /// table's first.
        class: Option<&'static str>,
    },
}

/// How q and k of a patch are turned by its row and column; element i of a head goes with
/// i + head_dim / 2.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Turns {
    /// Not at all.
    None,
    /// By theta^(-4i / head_dim) with i below head_dim / 4: by the row, then all of these by the
    /// column.
    SameOfBoth(f32),
    /// The head's first half by the column and its second one by the row, each by theta^(-4i /
    /// head_dim), where element i goes with i + head_dim / 4; the key of theta.
    HalfEach(&'static str),
    /// By theta^(-2i / head_dim) with i below head_dim / 2: those of even i by the row, then those
    /// of odd i by the column; the key of theta.
    EvenAndOdd(&'static str),
}

/// How the patches of a square become one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joined {
    /// Side by side.
    SideBySide,
    /// Side by side, where the weight behind has its columns by channel first.
    ChannelsFirst,
    /// Their mean.
    Mean,
}

/// From patches to tokens: a norm over patches or over what becomes of a square, and products.
#[derive(Debug)]
pub struct MergerNames {
    /// The norm.
    pub norm: Option<MergerNorm>,
    /// How squares become rows.
    pub joined: Joined,
    /// Vectors of the tower, of what is taken from rows of squares times the root of their width,
    /// and what they are multiplied by then.
    pub standard: Option<[&'static str; 2]>,
    /// From rows of squares to vectors of the decoder.
    pub products: &'static [MergerProduct],
}

/// A merger's norm.
#[derive(Debug, Clone, Copy)]
pub struct MergerNorm {
    /// Its name.
    pub name: &'static str,
    /// The tower's, if None.
    pub kind: Option<NormKind>,
    /// What it adds to a variance.
    pub eps: MergerEps,
    /// It is over rows of squares.
    pub joined: bool,
    /// It has no weights.
    pub unit: bool,
}

/// What a merger's norm adds to a variance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MergerEps {
    /// What the tower's norms do.
    Tower,
    /// A number.
    Fixed(f32),
    /// What the decoder's do.
    Decoder,
}

/// A product of a merger.
#[derive(Debug, Clone, Copy)]
pub struct MergerProduct {
    /// Its name, with the end if that is not `.weight`.
    pub name: &'static str,
    /// How wide what comes out is.
    pub outputs: MergerWidth,
    /// It has a bias.
    pub bias: bool,
    /// Stored as `[inputs, outputs]`, under the name alone.
    pub transposed: bool,
    /// Behind it.
    pub activation: Option<Activation>,
}

/// A width in a merger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MergerWidth {
    /// That of patches.
    Patch,
    /// That of a square's patches side by side.
    Square,
    /// The decoder's.
    Decoder,
}

/// Mergers behind layers.
#[derive(Debug)]
pub struct DeepNames {
    /// Key of the layers.
    pub layers: &'static str,
    /// In front of the number of a merger.
    pub mergers: &'static str,
    /// Names behind it.
    pub names: MergerNames,
}
