//! What rows say of layers that differ from the usual: shapes, inputs of their own, experts beside
//! an MLP, growing queries. Part of [`Family`](super::Family); it never touches a file or a device.

/// How q of layers that do not rotate grows with its position, by keys: times
/// 1 + beta ln(1 + floor((position + 1) / length)).
#[derive(Debug)]
pub struct StillGrowth {
    /// Of the flag that switches it.
    pub switch: &'static str,
    /// Of beta.
    pub beta: &'static str,
    /// Of the length.
    pub length: &'static str,
}

/// Which shapes layers have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerShapes {
    /// All have the same.
    Same,
    /// Those that see all have heads of their own (`per_layer_config`, or `global_head_dim` and
    /// `num_global_key_value_heads`), and make K and V by one product if `attention_k_eq_v`; the
    /// last one sees all. The last `num_kv_shared_layers` use K and V of others, and have MLPs of
    /// twice the width if `use_double_wide_mlp`.
    ByWindow,
    /// By `block_configs`, an object for each layer: heads of q for each KV head, or no attention;
    /// the width of the MLP, or a factor that makes it, or no MLP.
    ByBlock,
}

/// How experts go beside an MLP: both read the same residual, each through a norm of its own, and
/// are added up behind norms of their own.
#[derive(Debug)]
pub struct BesideMlp {
    /// What a norm without weight over the router's input is multiplied by, as wide as it; with
    /// hidden^-0.5 on top.
    pub router_scale: &'static str,
    /// Over the experts' input.
    pub norm: &'static str,
    /// Over the MLP's output, and over the experts'.
    pub post: [&'static str; 2],
}

/// An input of each layer's own: a vector of a table for each token and layer, and beside it what a
/// product makes of the embedding.
#[derive(Debug)]
pub struct LayerInputs {
    /// Key of its width; 0 or null: there is none.
    pub width: &'static str,
    /// Key of the table's rows.
    pub rows: &'static str,
    /// The table, `[tokens, layers * width]`.
    pub table: &'static str,
    /// The product over the embedding, for all layers.
    pub projection: &'static str,
    /// Over a layer's part of it.
    pub norm: &'static str,
    /// In a layer: from the residual to what multiplies the input.
    pub gate: &'static str,
    /// In a layer: back.
    pub out: &'static str,
    /// In a layer: over that, before it is added.
    pub post: &'static str,
}
