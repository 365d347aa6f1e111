//! The element types of weights and activations, and those of pages.

/// Element type of plain weights, and of activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DType {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// bfloat16.
    BF16,
}

impl DType {
    /// Of one element.
    pub fn bytes(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
        }
    }

    /// The nearest number of this type, ties to even.
    pub fn round(self, x: f32) -> f32 {
        match self {
            DType::F32 => x,
            DType::F16 => half::f16::from_f32(x).to_f32(),
            DType::BF16 => half::bf16::from_f32(x).to_f32(),
        }
    }
}

/// Element type of K and V in pages. The two of eight bits hold k / scale and v / scale, with a
/// layer's [`KvScales`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvType {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// bfloat16.
    BF16,
    /// Sign, four bits of exponent, three of fraction: at most 448, no infinities.
    E4m3,
    /// Sign, five bits of exponent, two of fraction: at most 57344 but for infinities.
    E5m2,
}

impl KvType {
    /// Of one element.
    pub fn bytes(self) -> usize {
        match self {
            KvType::F32 => 4,
            KvType::F16 | KvType::BF16 => 2,
            KvType::E4m3 | KvType::E5m2 => 1,
        }
    }

    /// The plain type that it is; none: it has eight bits, and scales.
    pub fn plain(self) -> Option<DType> {
        match self {
            KvType::F32 => Some(DType::F32),
            KvType::F16 => Some(DType::F16),
            KvType::BF16 => Some(DType::BF16),
            KvType::E4m3 | KvType::E5m2 => None,
        }
    }

    /// As `kv_cache_dtype` spells it.
    pub fn name(self) -> &'static str {
        match self {
            KvType::F32 => "float32",
            KvType::F16 => "float16",
            KvType::BF16 => "bfloat16",
            KvType::E4m3 => "fp8_e4m3",
            KvType::E5m2 => "fp8_e5m2",
        }
    }
}

impl From<DType> for KvType {
    fn from(dtype: DType) -> KvType {
        match dtype {
            DType::F32 => KvType::F32,
            DType::F16 => KvType::F16,
            DType::BF16 => KvType::BF16,
        }
    }
}

/// What a layer's K and V are divided by on their way into pages of eight bits and multiplied with
/// on their way out; other pages do not heed it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KvScales {
    /// Of K, after rotation. Finite and above 0, as is that of V.
    pub k: f32,
    /// Of V.
    pub v: f32,
}

impl KvScales {
    /// K and V as they are.
    pub const ONE: KvScales = KvScales { k: 1.0, v: 1.0 };
}
