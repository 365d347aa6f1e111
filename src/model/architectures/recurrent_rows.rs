//! What rows say of layers that keep a state. Part of [`Family`](super::Family); it never touches a
//! file or a device.

use super::flag::Flag;

/// What these have of a short convolution and the gated delta rule. Tensor names stand behind the
/// layer's.
#[derive(Debug)]
pub struct GatedDelta {
    /// The products in front of it.
    pub projections: DeltaProjections,
    /// Of the convolution, `[channels, 1, taps]`.
    pub convolution: &'static str,
    /// ln of each value head's rate of decay.
    pub log_decay: &'static str,
    /// Added to a token's share of the rate.
    pub rate_bias: &'static str,
    /// Over each value head's output, not stored less 1.
    pub norm: &'static str,
    /// The output product.
    pub out: &'static str,
}

/// Layers that keep a state in place of K and V, of a short convolution alone: out(C * conv(B x)).
/// Tensor names stand behind the layer's.
#[derive(Debug)]
pub struct ShortConv {
    /// B, C and x, one below the other.
    pub input: &'static str,
    /// `[channels, 1, taps]`.
    pub convolution: &'static str,
    /// The output product.
    pub out: &'static str,
}

/// Which layers have a selective scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScanLayers {
    /// As `layer_types` says, and all without it.
    Listed,
    /// All but those in a list, by this key.
    AllBut(&'static str),
    /// As a string of letters or a list says; layers have a single sublayer, so some have neither
    /// attention nor a state.
    OneSublayer {
        /// Key of the string: M, *, - and E for a scan, attention, an MLP and experts.
        letters: &'static str,
        /// Key of the list.
        list: &'static str,
    },
    /// All, beside attention.
    BesideAttention,
    /// All but those whose number leaves this rest; keys.
    AllButEach {
        /// Of what numbers are divided by.
        period: &'static str,
        /// Of the rest.
        offset: &'static str,
    },
    /// All, and layers have nothing else.
    Alone,
}

/// Norms of what a selective scan of Mamba 1 reads beside x: rates, B and C.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelNorms {
    /// There are none.
    None,
    /// RMS with weights, behind the module's name.
    Weighted([&'static str; 3]),
    /// RMS without, by the key of their epsilon.
    Unweighted(&'static str),
}

/// Layers with the selective scan of Mamba 1.
#[derive(Debug)]
pub struct ChannelScan {
    /// Which layers have one.
    pub layers: ScanLayers,
    /// In front of its tensors: in_proj (x and gate, one below the other), conv1d, x_proj (rates, B
    /// and C), dt_proj, A_log, D, out_proj.
    pub module: &'static str,
    /// Key of its channels; without it `mamba_expand` times the residual.
    pub width: Option<&'static str>,
    /// Norms of rates, B and C.
    pub norms: ChannelNorms,
}

/// Layers with the selective scan of Mamba 2. Keys are Granite's, or spelled as these.
#[derive(Debug)]
pub struct SelectiveScan {
    /// Which layers have one.
    pub layers: ScanLayers,
    /// In front of its tensors: in_proj (gate, x, B, C and rates, one below the other), conv1d,
    /// A_log, dt_bias, D, norm, out_proj.
    pub module: &'static str,
    /// It has a norm.
    pub normed: Flag,
}

/// Layers that keep a state.
#[derive(Debug)]
pub enum Recurrent {
    /// By a selective scan.
    SelectiveScan(SelectiveScan),
    /// By a selective scan of Mamba 1.
    ChannelScan(ChannelScan),
    /// By the gated delta rule.
    GatedDelta(GatedDelta),
    /// By a convolution alone.
    ShortConv(ShortConv),
}

/// How tensors hold what a gated delta rule reads: q, k, v and the gate of its output; beta and
/// rate of each value head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeltaProjections {
    /// q, k and v one below the other; the others by themselves.
    Apart {
        /// q, k and v.
        mixed: &'static str,
        /// The gate.
        gate: &'static str,
        /// Beta, and the rate.
        rates: [&'static str; 2],
    },
    /// The q, the k, the v's and the gates of the first key head; those of the second, ... The same
    /// of the betas and rates.
    ByKeyHead {
        /// q, k, v and gate.
        mixed_and_gate: &'static str,
        /// Beta and rate.
        rates: &'static str,
    },
}
