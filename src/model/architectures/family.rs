//! What a family of models is, as data: which config keys, which tensor names, which norm,
//! positions and biases. The rows are in `architectures`; `config` and `layers` read the keys,
//! `load` the names. A new family is a new row and no new code. It never touches a file or a
//! device.

use crate::device::NormKind;

/// A `config.json` flag that switches a feature, or a fixed answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flag {
    Always,
    Never,
    Key(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Eps {
    Fixed(f32),
    Key(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    Rope,
    /// A table of learned vectors; position p uses row p + offset.
    Learned {
        name: &'static str,
        offset: usize,
        /// The length in config.json counts the rows before the offset too.
        inclusive: bool,
    },
}

/// Which layers see a window (`sliding_window` of config.json, null: none do). A `layer_types` list
/// in config.json goes before all but `Never`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Windows {
    Never,
    All,
    /// If the flag `switch` is on, the layers from number `first` (a key).
    FromLayer {
        switch: &'static str,
        first: &'static str,
    },
    /// All but each n-th; n by this key.
    ExceptEach(&'static str),
}

/// What multiplies q.k.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttnScale {
    /// head_dim^-0.5
    HeadDim,
    /// The key's value^-0.5
    RootOf(&'static str),
    /// The key's value.
    Key(&'static str),
}

/// How one tensor holds q, k and v.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fused {
    /// All of q, then k, then v.
    Stacked,
    /// q, k and v of the first head, then of the second, ... (as many KV heads as heads).
    PerHead,
}

/// Norms of q and k before they are rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    None,
    /// Over each head alone; names of q's and k's.
    PerHead(&'static str, &'static str),
    /// Over all heads together.
    Whole(&'static str, &'static str),
}

/// Names of `config.json` keys.
#[derive(Debug)]
pub struct Keys {
    pub hidden: &'static str,
    pub layers: &'static str,
    pub heads: &'static str,
    /// None, or null: as many as heads.
    pub kv_heads: Option<&'static str>,
    pub ffn: &'static str,
    /// Null: four times hidden.
    pub ffn_null_4x: bool,
    pub activation: &'static str,
    /// What null means; None: it must not be null.
    pub activation_null: Option<&'static str>,
    /// Width of the token table where it may differ from hidden.
    pub embed_width: Option<&'static str>,
}

/// Tensor names without prefix. Those of a layer stand behind `<layers>.<i>.`; `.weight` or `.bias`
/// follows. Two or three names are stacked along the outputs.
#[derive(Debug)]
pub struct Names {
    pub embed: &'static str,
    /// A table of token types; every token has type 0, whose row goes to each position's.
    pub token_types: Option<&'static str>,
    /// Over the embedding with its positions, where norms come after the residual.
    pub embed_norm: Option<&'static str>,
    /// Before and after the layers, where the token table has another width than hidden.
    pub project: Option<(&'static str, &'static str)>,
    pub layers: &'static str,
    /// Before attention (or after its residual: `pre_norm`). None, with `mlp_norm`: sublayers read
    /// the residual as it is.
    pub attn_norm: Option<&'static str>,
    /// Over attention's output, before it is added.
    pub attn_post: Option<&'static str>,
    pub qk_norm: QkNorm,
    pub qkv: &'static [&'static str],
    pub attn_out: &'static str,
    pub mlp_norm: Option<&'static str>,
    pub mlp_post: Option<&'static str>,
    /// `[gate, up]` if gated.
    pub up: &'static [&'static str],
    pub down: &'static str,
    pub final_norm: &'static str,
    /// Stands outside of the prefix.
    pub head: &'static str,
}

/// Experts in place of the MLP. Keys of config.json, and tensor names behind the
/// module's.
#[derive(Debug)]
pub struct Mixture {
    pub experts: &'static str,
    /// Experts of one token.
    pub top_k: &'static str,
    /// Width of one expert.
    pub ffn: &'static str,
    /// The chosen weights are divided by their sum.
    pub renormalise: Flag,
    /// `decoder_sparse_step` and `mlp_only_layers` are obeyed: other layers have the plain MLP.
    pub sparse: bool,
    /// What the module may be called; the first under which the router exists.
    pub modules: &'static [&'static str],
    pub router: &'static str,
    /// Before each expert's number; before the names of the stacks that hold all of them.
    pub list: &'static str,
    pub gate_up: [&'static str; 2],
    pub down: &'static str,
    /// All experts in one tensor: `[experts, 2 ffn, hidden]` and `[experts, hidden, ffn]`.
    pub stacks: [&'static str; 2],
    pub shared: Option<SharedExpert>,
}

/// An expert that all tokens share, scaled by a gate of its own.
#[derive(Debug)]
pub struct SharedExpert {
    /// Key of its width.
    pub ffn: &'static str,
    pub gate_up: [&'static str; 2],
    pub down: &'static str,
    pub gate: &'static str,
}

#[derive(Debug)]
pub struct Family {
    /// `architectures[0]` of config.json.
    pub architecture: &'static str,
    /// Other names of it.
    pub aliases: &'static [&'static str],
    /// In front of every name but the head's; the first one under which the token table exists.
    pub prefixes: &'static [&'static str],
    pub keys: Keys,
    /// A JSON object: what keys are that config.json leaves out. Null is not absent.
    pub defaults: &'static str,
    /// Keys as some configs spell them, and as this row does.
    pub spellings: &'static [(&'static str, &'static str)],
    pub names: Names,
    pub norm: NormKind,
    pub eps: Eps,
    pub gated: bool,
    pub mixture: Option<Mixture>,
    pub positions: Positions,
    pub qkv_bias: Flag,
    pub out_bias: Flag,
    pub mlp_bias: Flag,
    /// Norms have learned weights (and biases, if `norm` is `Layer`).
    pub norm_affine: Flag,
    /// Norm before a sublayer (and at the end) or after its residual.
    pub pre_norm: Flag,
    /// Attention and MLP read the same residual: x + attn(norm x) + mlp(norm x).
    pub parallel: Flag,
    /// There, the MLP has a norm of its own.
    pub parallel_mlp_norm: bool,
    pub fused: Fused,
    pub windows: Windows,
    /// Windowed layers rotate by `rope_local_base_freq`, unscaled.
    pub local_rope: bool,
    pub attn_scale: AttnScale,
    /// `attn_logit_softcapping` and `final_logit_softcapping` are obeyed.
    pub softcaps: bool,
    /// The embedding is multiplied by sqrt(hidden), rounded to the model's type.
    pub embed_sqrt: bool,
    /// `embedding_multiplier`, `residual_multiplier` and `logits_scaling` are obeyed.
    pub multipliers: bool,
    pub head_bias: bool,
    /// Numbers leave float16's range.
    pub no_float16: bool,
    /// Linear weights are stored `[inputs, outputs]`.
    pub transposed: bool,
    /// Every token sees every other: the model only embeds, and keeps no K and V.
    pub encoder: bool,
    /// Keys that must be absent, false or null, because the forward pass lacks them.
    pub must_be_off: &'static [&'static str],
    /// Keys that must be absent, null or this (JSON).
    pub must_be: &'static [(&'static str, &'static str)],
}
