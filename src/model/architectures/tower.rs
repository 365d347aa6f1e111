//! What a vision tower is, as data: which config keys, which tensor names. The rows are in
//! `towers`; `config` reads the keys, `load` the names.

use crate::device::NormKind;
use crate::image::Kind;

/// A vision tower: how it is described and how its tensors are called. Names stand behind the first
/// of the prefixes under which there is the patches' product, those of layers behind the layer's.
#[derive(Debug)]
pub struct Tower {
    /// In front of every name.
    pub prefixes: &'static [&'static str],
    /// How images are processed.
    pub images: Kind,
    /// Key of the token that stands for a part of an image.
    pub placeholder: &'static str,
    /// Defaults of `vision_config`, as `Family::defaults`.
    pub defaults: &'static str,
    /// Key of the width of its residual, and of that of its vectors: the decoder's.
    pub widths: [&'static str; 2],
    /// Width of its MLP.
    pub ffn: TowerFfn,
    /// Of all its norms; layer norms have biases.
    pub norm: NormKind,
    /// The patches' product, a convolution in the checkpoint.
    pub patches: &'static str,
    /// It has a bias.
    pub patch_bias: bool,
    /// Vectors of places on a square, of which an image's patches have what lies between.
    pub places: Option<&'static str>,
    /// In front of the number of a layer.
    pub layers: &'static str,
    /// In front of attention, and of the MLP.
    pub norms: [&'static str; 2],
    /// q, k and v, with biases.
    pub qkv: &'static str,
    /// Attention's output product, with a bias.
    pub out: &'static str,
    /// Up of the MLP, or gate and up, with biases.
    pub up: &'static [&'static str],
    /// Its down, with a bias.
    pub down: &'static str,
    /// What makes tokens of patches.
    pub merger: MergerNames,
    /// What makes further vectors behind some layers, which the decoder adds behind its first ones.
    pub deep: Option<DeepNames>,
}

/// Key of a tower's MLP width.
#[derive(Debug)]
pub enum TowerFfn {
    /// The width.
    Width(&'static str),
    /// How many times as wide as the residual it is.
    Times(&'static str),
}

/// A norm over patches, the patches of a square side by side, two products with biases and GELU in
/// between.
#[derive(Debug)]
pub struct MergerNames {
    /// The norm.
    pub norm: &'static str,
    /// The products.
    pub products: [&'static str; 2],
}

/// Mergers behind layers: their norms are over the patches of a square together.
#[derive(Debug)]
pub struct DeepNames {
    /// Key of the layers.
    pub layers: &'static str,
    /// In front of the number of a merger.
    pub mergers: &'static str,
    /// Names behind it.
    pub names: MergerNames,
}
