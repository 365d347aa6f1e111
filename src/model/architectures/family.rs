//! What a family of models is, as data: which config keys, which tensor names, which norm,
//! positions and biases. The rows are in `architectures`; `config` and `layers` read the keys,
//! `load` the names. A new family is a new row and no new code. It never touches a file or a
//! device.

use super::flag::Flag;
use super::layer_rows::{BesideMlp, LayerInputs, LayerShapes, StillGrowth};
use super::recurrent_rows::Recurrent;
use super::tower::Tower;
use crate::device::{Activation, NormKind, Pooling, RouteScore};

/// Epsilon of the norms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Eps {
    /// This, whatever config.json says.
    Fixed(f32),
    /// By this key.
    Key(&'static str),
}

/// How positions enter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    /// q and k are rotated.
    Rope,
    /// A table of learned vectors; position p uses row p + offset.
    Learned {
        /// Of the table's tensor.
        name: &'static str,
        /// Rows in front of position 0.
        offset: usize,
        /// The length in config.json counts the rows before the offset too.
        inclusive: bool,
    },
    /// A score is lowered by its key's distance times a slope of the head (ALiBi).
    Alibi {
        /// What multiplies q.k multiplies slopes too.
        scaled: bool,
    },
}

/// Which layers see a window (`sliding_window` of config.json, null: none do). A `layer_types` list
/// in config.json goes before all but `Never`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Windows {
    /// None does.
    Never,
    /// All do.
    All,
    /// As `layer_types` says, which must be there.
    Listed,
    /// If the flag `switch` is on, the layers from number `first` (a key).
    FromLayer {
        /// Key of the flag.
        switch: &'static str,
        /// Key of the number.
        first: &'static str,
    },
    /// All but each n-th; n by this key.
    ExceptEach(&'static str),
    /// All but the first and each n-th behind it; n by this key.
    ExceptFirstOfEach(&'static str),
    /// Those with an even number, from 0 on, whatever `layer_types` says.
    Even,
}

/// Which layers rotate q and k, where positions are rotated at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeLayers {
    /// All do.
    All,
    /// Those with a window.
    Windowed,
    /// The same; all if no layer has a window.
    WindowedIfAny,
    /// Those with a 1 in a list; without one all but each n-th.
    Listed {
        /// Key of the list.
        list: &'static str,
        /// Key of n.
        except_each: &'static str,
    },
    /// All if this key has this value, else none.
    If(&'static str, &'static str),
    /// By the bases in this list, an own one for each layer, of which those with 0 do not; without
    /// the list all do, by one base.
    Bases(&'static str),
    /// None does.
    None,
}

/// What multiplies q.k.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttnScale {
    /// head_dim^-0.5
    HeadDim,
    /// Nothing does.
    One,
    /// The key's value^-0.5
    RootOf(&'static str),
    /// The key's value.
    Key(&'static str),
    /// The key's value if it is given, else head_dim^-0.5
    KeyOrHeadDim(&'static str),
}

/// Factors of the embedding, of what sublayers add, and of the logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Multipliers {
    /// There are none.
    None,
    /// `embedding_multiplier`, `residual_multiplier`, and logits over `logits_scaling`.
    Granite,
    /// `scale_emb`; `scale_depth` over the square root of the number of layers; and logits over
    /// hidden / `dim_model_base`.
    MiniCpm,
    /// Granite's but for logits, which are multiplied; all are 1 if they are not given.
    HyperClovaX,
    /// Logits times this key.
    Logits(&'static str),
    /// `embedding_multiplier`, `lm_head_multiplier`, and factors of products.
    FalconH1,
}

/// Parts that heads come in where a tensor holds them by quarters.
pub const QUARTERS: usize = 4;

/// How one tensor holds q, k and v.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fused {
    /// All of q, then k, then v.
    Stacked,
    /// The heads of q that share the first KV head, its k, its v; then those of the second, ...
    PerGroup,
    /// A quarter of the heads of q, of v and of k; the second quarter, ... As many KV heads as
    /// heads.
    Quarters,
}

/// Norms of q and k.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// There are none.
    None,
    /// Over each head alone; names of q's and k's.
    PerHead(&'static str, &'static str),
    /// Over each head alone and without a weight, in layers that rotate.
    Unweighted,
    /// Over each head alone, by weights of each, without a bias.
    EachHead {
        /// Of q.
        q: &'static str,
        /// Of k.
        k: &'static str,
        /// A vector for each head, behind `<name>.norms.<head>`; else one matrix.
        listed: bool,
    },
    /// Over all heads together.
    Whole(&'static str, &'static str),
}

/// Names of `config.json` keys.
#[derive(Debug)]
pub struct Keys {
    /// Width of the residual.
    pub hidden: &'static str,
    /// Number of layers.
    pub layers: &'static str,
    /// Heads of q.
    pub heads: &'static str,
    /// None, or null: as many as heads.
    pub kv_heads: Option<&'static str>,
    /// One KV head, whatever keys say.
    pub one_kv_head: bool,
    /// Width of the MLP.
    pub ffn: &'static str,
    /// Null: four times hidden.
    pub ffn_null_4x: bool,
    /// The width is made of the key's as `block_auto_adjust_ff_dim` and its neighbours say.
    pub ffn_adjusted: bool,
    /// Name of the MLP's activation.
    pub activation: &'static str,
    /// What null means; None: it must not be null.
    pub activation_null: Option<&'static str>,
    /// Rotated dimensions of a head; None: by `partial_rotary_factor`.
    pub rotary_dim: Option<&'static str>,
    /// Width of the token table where it may differ from hidden.
    pub embed_width: Option<&'static str>,
}

/// Tensor names without prefix. Those of a layer stand behind `<layers>.<i>.`; `.weight` or `.bias`
/// follows. Two or three names are stacked along the outputs.
#[derive(Debug)]
pub struct Names {
    /// The token table.
    pub embed: &'static str,
    /// A table of token types; every token has type 0, whose row goes to each position's, or to
    /// each token's where positions are rotated.
    pub token_types: Option<&'static str>,
    /// Over the embedding with its positions.
    pub embed_norm: Option<&'static str>,
    /// Before and after the layers, where the token table has another width than hidden.
    pub project: Option<(&'static str, &'static str)>,
    /// In front of a layer's number.
    pub layers: &'static str,
    /// Before attention (or after its residual: `pre_norm`). None, with `mlp_norm`: sublayers read
    /// the residual as it is.
    pub attn_norm: Option<&'static str>,
    /// Over attention's output, before it is added.
    pub attn_post: Option<&'static str>,
    /// Norms of q and k.
    pub qk_norm: QkNorm,
    /// The product in front of attention: q, k and v, or one tensor that holds them.
    pub qkv: &'static [&'static str],
    /// A score of each head that takes its share of attention and has no value.
    pub sinks: Option<&'static str>,
    /// Attention is over latent vectors, made by these in place of `qkv`.
    pub latent: Option<LatentNames>,
    /// Attention's output product.
    pub attn_out: &'static str,
    /// In front of the MLP, or over its residual.
    pub mlp_norm: Option<&'static str>,
    /// Over the MLP's output, before it is added.
    pub mlp_post: Option<&'static str>,
    /// `[gate, up]` if gated.
    pub up: &'static [&'static str],
    /// The MLP's second product.
    pub down: &'static str,
    /// Module of the numbers of an activation that learned some.
    pub activation: Option<&'static str>,
    /// In front of the head.
    pub final_norm: &'static str,
    /// Stands outside of the prefix.
    pub head: &'static str,
}

/// Tensors of attention over latent vectors.
#[derive(Debug, Clone, Copy)]
pub struct LatentNames {
    /// The product that makes q, where it is one.
    pub q: &'static str,
    /// Where it is two: the first, the norm behind it, the second.
    pub q_low_rank: [&'static str; 3],
    /// What makes latent vectors and their rotated ends.
    pub latent: &'static str,
    /// The norm over latent vectors.
    pub latent_norm: &'static str,
    /// Of each head its matrix of K and that of V.
    pub heads: &'static str,
    /// Rope turns neighbours of rotated ends, dimensions 2i and 2i + 1; else i and i + half.
    pub neighbours: bool,
}

/// Experts in place of the MLP. Keys of config.json, and tensor names behind the
/// module's.
#[derive(Debug)]
pub struct Mixture {
    /// Key of their number.
    pub experts: &'static str,
    /// Experts of one token.
    pub top_k: &'static str,
    /// Width of one expert.
    pub ffn: &'static str,
    /// How they choose.
    pub choice: Choice,
    /// The chosen weights are divided by their sum.
    pub renormalise: Flag,
    /// Which layers have experts; others have the plain MLP.
    pub layers: MixtureLayers,
    /// What the module may be called; the first under which the router exists. Empty: names stand
    /// behind the layer's.
    pub modules: &'static [&'static str],
    /// The product by which tokens choose.
    pub router: &'static str,
    /// Of what is added to scores where experts are chosen, `[1, experts]` or `[experts]`.
    pub choice_bias: Option<&'static str>,
    /// What an expert's weight is multiplied by in the end, an element for each.
    pub expert_scale: Option<&'static str>,
    /// Layers with experts have the plain MLP too.
    pub beside: Option<BesideMlp>,
    /// Experts work on narrower vectors.
    pub narrowed: Option<NarrowExperts>,
    /// Before each expert's number; None: experts lie in `stacks` only.
    pub list: Option<&'static str>,
    /// Gate and up of one expert, or up alone.
    pub gate_up: &'static [&'static str],
    /// Down of one expert.
    pub down: &'static str,
    /// All experts in one tensor, by its whole name: `[experts, 2 ffn, hidden]`, of ffn without a
    /// gate, and `[experts, hidden, ffn]`.
    pub stacks: [&'static str; 2],
    /// The stacks lie the other way, `[experts, hidden, 2 ffn]` and `[experts, ffn, hidden]`.
    pub stacks_turned: bool,
    /// Gates and ups come in turn there.
    pub gates_in_turn: bool,
    /// The stacks are matrices, `[experts * ffn, hidden]` all: ups in this one, by its whole name,
    /// gates in the first of `stacks`; the second is as down lies the other way.
    pub flat_ups: Option<&'static str>,
    /// An expert's weight multiplies its input, not its output.
    pub weighs_inputs: bool,
    /// Router and experts have biases: `<router>.bias`, and behind the stacks' names `_bias`.
    pub biases: bool,
    /// Of the experts, if config.json does not say it.
    pub activation: Option<Activation>,
    /// One that every token passes through as well.
    pub shared: Option<SharedExpert>,
}

/// Products in front of all experts and behind them. The router, and the expert that all tokens
/// share, read what is in front.
#[derive(Debug, Clone, Copy)]
pub struct NarrowExperts {
    /// Key of the width in between; null: there are no such products.
    pub width: &'static str,
    /// In front.
    pub down: &'static str,
    /// Behind.
    pub up: &'static str,
}

/// How tokens choose experts: what their products become, and out of which experts.
#[derive(Debug, Clone, Copy)]
pub struct Choice {
    /// What the router's products become.
    pub score: RouteScore,
    /// Keys of the number of groups, and of how many of them a token meets; 1 or null: of all.
    pub groups: Option<[&'static str; 2]>,
    /// Key of what multiplies the weights.
    pub scale: Option<&'static str>,
    /// Key of the method's name, and the names that mean this one.
    pub method: Option<(&'static str, &'static [&'static str])>,
}

/// Which layers have experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MixtureLayers {
    /// All have.
    All,
    /// Each `decoder_sparse_step`-th, but for those in `mlp_only_layers`.
    Stepped,
    /// Each n-th of those between two numbers, both included; -1 is the last one. All by keys.
    Between {
        /// Key of the first.
        first: &'static str,
        /// Key of the last.
        last: &'static str,
        /// Key of n.
        each: &'static str,
    },
    /// All have if this flag is on, else none has.
    If(&'static str),
    /// Each n-th; n by this key.
    Each(&'static str),
    /// Those whose number leaves this rest; none if there is one expert only. By keys.
    EachFrom {
        /// Of what numbers are divided by.
        period: &'static str,
        /// Of the rest.
        offset: &'static str,
    },
    /// Those that a list calls sparse; without it from one on each whose number is a multiple of
    /// n. All by keys.
    From {
        /// Key of the list.
        kinds: &'static str,
        /// Key of the first.
        first: &'static str,
        /// Key of n.
        each: &'static str,
    },
    /// Those whose only sublayer they are.
    Single,
}

/// An expert that all tokens share.
#[derive(Debug)]
pub struct SharedExpert {
    /// Key of its width.
    pub ffn: &'static str,
    /// Key of how many such widths it has; 0: there is none.
    pub times: Option<&'static str>,
    /// Null there means that there is none.
    pub optional: bool,
    /// Its module in the layer; None: that of the others.
    pub module: Option<&'static str>,
    /// Its gate and up, or one tensor that holds both.
    pub gate_up: &'static [&'static str],
    /// Its down.
    pub down: &'static str,
    /// What scales it: a linear of one output. None: it is added as it is.
    pub gate: Option<&'static str>,
}

/// Where a checkpoint has the module of a layer that predicts further tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextTokenPlace {
    /// It is the layer behind the model's last.
    BehindLast,
    /// By this name among the model's layers, behind their prefix.
    Within(&'static str),
    /// By this name outside of the prefix, the layer in a module of its own in it.
    Beside(&'static str, &'static str),
}

/// A layer of a model's checkpoint that predicts one token further than the model (MTP): a product
/// of normed embedding and normed hidden state, then a layer as the model's own, with attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextToken {
    /// Where it is.
    pub place: NextTokenPlace,
    /// The norm over the embedding.
    pub token_norm: &'static str,
    /// The norm over the hidden state.
    pub hidden_norm: &'static str,
    /// The product.
    pub project: &'static str,
    /// The norm in front of the head.
    pub final_norm: &'static str,
    /// The product reads the embedding first.
    pub token_first: bool,
    /// It reads zeros in place of the embedding at position 0.
    pub blank_start: bool,
}

/// What stands in front of a classifier's last product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClassifierDense {
    /// Nothing does.
    None,
    /// Another product with its bias, and tanh: a tensor of the body, behind the prefix.
    OfBody(&'static str),
    /// The same of the head, outside of the prefix.
    OfHead(&'static str),
    /// Another product, of the head, the exact gelu, and a layer norm without bias.
    Normed {
        /// The product.
        dense: &'static str,
        /// The norm.
        norm: &'static str,
    },
}

/// How a classifier of the family (`<name>ForSequenceClassification`) makes logits of a pooled row.
#[derive(Debug)]
pub struct Classifier {
    /// In front of the last product.
    pub dense: ClassifierDense,
    /// The last product, an output for each label. Stands outside of the prefix.
    pub output: &'static str,
    /// It has a bias; else it has one if the checkpoint does.
    pub biased: bool,
    /// The second text of a pair has token type 1, if its tokenizer says so.
    pub pair_types: bool,
    /// Key of which rows make the vector, "cls" or "mean"; None: as embedders of the family.
    pub pooling: Option<&'static str>,
}

/// A family of models: how its config.json is read, how its tensors are called, and what its
/// forward pass does.
#[derive(Debug)]
pub struct Family {
    /// `architectures[0]` of config.json.
    pub architecture: &'static str,
    /// Other names of it.
    pub aliases: &'static [&'static str],
    /// Rows in place of this one, each where a key has a value (JSON); the first that fits counts.
    pub variants: &'static [(&'static str, &'static str, &'static Family)],
    /// In front of every name but the head's; the first one under which the token table exists.
    pub prefixes: &'static [&'static str],
    /// Where config.json has its sizes.
    pub keys: Keys,
    /// A JSON object: what keys are that config.json leaves out. Null is not absent.
    pub defaults: &'static str,
    /// Keys as some configs spell them, and as this row does.
    pub spellings: &'static [(&'static str, &'static str)],
    /// How its tensors are called.
    pub names: Names,
    /// Kind of all norms.
    pub norm: NormKind,
    /// Epsilon of all norms.
    pub eps: Eps,
    /// Norms of kind `Layer` have biases.
    pub norm_bias: bool,
    /// Their weights are stored less 1.
    pub norm_plus_one: bool,
    /// The MLP multiplies by a gate.
    pub gated: bool,
    /// Experts, in some layers or all.
    pub mixture: Option<Mixture>,
    /// Rotated, or learned.
    pub positions: Positions,
    /// Of the product in front of attention.
    pub qkv_bias: Flag,
    /// Of attention's output product.
    pub out_bias: Flag,
    /// Of both products of the MLP.
    pub mlp_bias: Flag,
    /// But not of the first.
    pub up_without_bias: bool,
    /// One tensor holds the MLP's up and then its gate; else the gate and then the up.
    pub up_before_gate: bool,
    /// Keys of what adapters are multiplied with and of their rank: each matrix is stored with
    /// adapters of several tasks, of which the last is merged.
    pub merged_adapter: Option<[&'static str; 2]>,
    /// Norms have learned weights (and biases, if `norm` is `Layer`).
    pub norm_affine: Flag,
    /// The first layer's attention reads the embedding as its norm left it, and has none of its
    /// own.
    pub first_norm_of_embedding: bool,
    /// Norm before a sublayer (and at the end) or after its residual.
    pub pre_norm: Flag,
    /// Attention and MLP read the same residual: x + attn(norm x) + mlp(norm x).
    pub parallel: Flag,
    /// There, the MLP has a norm of its own.
    pub parallel_mlp_norm: bool,
    /// How one tensor holds q, k and v.
    pub fused: Fused,
    /// q, k and v are limited to plus and minus this key, if it is not null.
    pub clip_qkv: Option<&'static str>,
    /// There are norms of q and k, where `names` says so.
    pub qk_norms: Flag,
    /// Each head of q is followed by a gate as wide, whose sigmoid multiplies attention's output.
    pub output_gate: bool,
    /// Layers that keep a state in place of K and V, in some places.
    pub recurrent: Option<Recurrent>,
    /// Norms of q and k follow their rotation; else they go before it.
    pub norms_after_rope: bool,
    /// v is normed by head, without a weight.
    pub value_norm: bool,
    /// Which shapes layers have.
    pub shapes: LayerShapes,
    /// An input of each layer's own.
    pub layer_inputs: Option<LayerInputs>,
    /// A number in each layer that its output is multiplied by.
    pub layer_scalar: Option<&'static str>,
    /// Which layers see a window.
    pub windows: Windows,
    /// Windows reach one token further than they are long.
    pub window_inclusive: bool,
    /// Windows reach half their length to both sides.
    pub window_both_sides: bool,
    /// Names in `layer_types`, and whether such a layer sees a window.
    pub layer_types: &'static [(&'static str, bool)],
    /// Rope turns neighbours of a head, dimensions 2i and 2i + 1; else i and i + half.
    pub interleaved: bool,
    /// Which layers rotate.
    pub rope_layers: RopeLayers,
    /// Key of how long the runs of positions are within which layers that rotate see; null: they
    /// see all.
    pub rotated_chunk: Option<&'static str>,
    /// In layers that do not rotate.
    pub still_growth: Option<StillGrowth>,
    /// Windowed layers rotate by `rope_local_base_freq`, unscaled.
    pub local_rope: bool,
    /// What multiplies q.k.
    pub attn_scale: AttnScale,
    /// `attn_logit_softcapping` and `final_logit_softcapping` are obeyed.
    pub softcaps: bool,
    /// The embedding is multiplied by sqrt(hidden), rounded to the model's type.
    pub embed_sqrt: bool,
    /// Factors of embedding, residual and logits.
    pub multipliers: Multipliers,
    /// The head has a bias.
    pub head_bias: Flag,
    /// Numbers leave float16's range.
    pub no_float16: bool,
    /// Linear weights are stored `[inputs, outputs]`.
    pub transposed: bool,
    /// Every token sees every other: the model only embeds, and keeps no K and V.
    pub encoder: bool,
    /// Layers behind the model's own that predict further tokens.
    pub next_token: Option<NextToken>,
    /// The vision towers of its image-and-text checkpoints: the first that is for their kind.
    pub towers: &'static [&'static Tower],
    /// Which rows make a vector, where neither the user nor a file says it.
    pub pooling: Pooling,
    /// Its classifiers.
    pub classifier: Classifier,
    /// Keys that must be absent, false or null, because the forward pass lacks them.
    pub must_be_off: &'static [&'static str],
    /// Keys that must be absent, null or this (JSON).
    pub must_be: &'static [(&'static str, &'static str)],
}
