//! One row of data per architecture that can be served; what the fields mean is said in
//! [`Family`]. `config` looks rows up. A new architecture is a new row and no new code;
//! `docs/models.md` lists the check that proves each row.
//!
//! | file | holds |
//! |---|---|
//! | `family` | what a row says: keys of config.json, names of tensors, kinds |
//! | `flag` | a feature that is on, off, or said by a key |
//! | `layer_rows` | the part of it that is about layers that differ from the usual |
//! | `recurrent_rows` | the part of it that is about layers that keep a state |
//! | `decoders` | rows of architectures that generate |
//! | `variants` | rows near to one of these |
//! | `mixtures` | those with experts |
//! | `older` | rows of older deployments, and of single houses |
//! | `latent` | those whose attention is over latent vectors |
//! | `hybrids` | those of which some layers keep a state in place of K and V |
//! | `heads` | heads that draft from a model's hidden states |
//! | `next_tokens` | layers that predict further tokens |
//! | `towers` | vision towers of some of these |
//! | `tiled_towers` | those whose images are squares with texts around them |
//! | `image_models` | models with a tower and the text model of another row |
//! | `scans` | those of which some layers keep the state of a selective scan |
//! | `channel_scans` | those with the scan of Mamba 1, and those with nothing but scans |
//! | `shapes` | those whose layers differ in shape |
//! | `encoders` | those that only embed or classify |
//! | `defaults` | what keys are that config.json leaves out |
//! | `further_defaults` | the same of further rows |
//! | `unknown` | what to say of a name that has no row |

mod channel_scans;
mod decoders;
mod defaults;
mod encoders;
mod family;
mod flag;
mod heads;
mod further_defaults;
mod latent;
mod hybrids;
mod image_models;
mod layer_rows;
mod mixtures;
mod next_tokens;
mod older;
mod recurrent_rows;
mod scans;
mod shapes;
mod tiled_towers;
mod tower;
mod towers;
mod unknown;
mod variants;

pub use family::*;
pub use flag::Flag;
pub use heads::{EAGLE, EAGLE3};
pub use layer_rows::*;
pub use recurrent_rows::*;
pub use tower::*;
pub use unknown::{gone, nearest};

/// The end of decoders' names.
const WHOLE: &str = "ForCausalLM";
/// The end of classifiers'.
const CLASSIFIER: &str = "ForSequenceClassification";

/// Every architecture that can be served.
pub const FAMILIES: &[Family] = &[
    decoders::LLAMA,
    decoders::INTERNLM,
    decoders::INTERNLM3,
    decoders::MISTRAL,
    decoders::MINISTRAL3,
    decoders::MISTRAL3,
    decoders::QWEN2,
    decoders::QWEN3,
    decoders::QWEN2_VL,
    decoders::QWEN2_5_VL,
    decoders::QWEN3_VL,
    mixtures::MIXTRAL,
    mixtures::QWEN2_MOE,
    mixtures::QWEN3_MOE,
    mixtures::QWEN3_VL_MOE,
    mixtures::GPT_OSS,
    hybrids::QWEN3_5,
    hybrids::QWEN3_5_MOE,
    hybrids::QWEN3_NEXT,
    hybrids::LFM2,
    hybrids::LFM2_MOE,
    decoders::GEMMA,
    decoders::GEMMA2,
    decoders::VAULT_GEMMA,
    decoders::GEMMA3,
    decoders::GEMMA3_MULTIMODAL,
    decoders::LLAVA,
    decoders::LLAVA_NEXT,
    decoders::LLAVA_ONEVISION,
    decoders::INTERNVL,
    image_models::INTERNVL_CHAT,
    image_models::IDEFICS3,
    shapes::GEMMA4,
    shapes::DECILM,
    shapes::LLAMA4,
    shapes::GEMMA4_WHOLE,
    decoders::PHI3,
    decoders::PHI,
    decoders::STABLELM,
    decoders::GRANITE,
    decoders::OLMO2,
    variants::OLMO3,
    variants::EXAONE,
    variants::EXAONE4,
    variants::GLM,
    variants::GLM4,
    variants::SMOLLM3,
    variants::SEED_OSS,
    variants::ERNIE4_5,
    scans::GRANITE_HYBRID,
    scans::BAMBA,
    scans::FALCON_H1,
    scans::NEMOTRON_H,
    channel_scans::JAMBA,
    channel_scans::MAMBA,
    channel_scans::FALCON_MAMBA,
    channel_scans::MAMBA2,
    variants::STARCODER2,
    variants::HUNYUAN_DENSE,
    variants::COHERE,
    variants::COHERE2,
    variants::ARCEE,
    variants::JAIS2,
    variants::HELIUM,
    variants::APERTUS,
    variants::NEMOTRON,
    variants::OLMO,
    variants::MINICPM,
    variants::INTERNLM2,
    variants::GPT_BIG_CODE,
    variants::GPTJ,
    variants::CODEGEN,
    mixtures::ERNIE4_5_MOE,
    mixtures::GLM4_MOE,
    mixtures::DOTS1,
    latent::DEEPSEEK_V2,
    latent::DEEPSEEK_V3,
    latent::GLM4_MOE_LITE,
    latent::MINICPM3,
    mixtures::PHIMOE,
    mixtures::MINIMAX_M2,
    mixtures::BAILING,
    mixtures::BAILING_V2,
    mixtures::OLMOE,
    mixtures::DBRX,
    mixtures::GRANITE_MOE,
    mixtures::GRANITE_MOE_SHARED,
    mixtures::HUNYUAN_MOE,
    mixtures::GRANITE_SWA,
    mixtures::GRANITE_MOE_SWA,
    older::FALCON,
    older::BLOOM,
    older::CHATGLM,
    older::ORION,
    older::HYPERCLOVAX,
    decoders::OPT,
    decoders::GPT2,
    decoders::NEOX,
    encoders::BERT,
    encoders::ROBERTA,
    encoders::ROBERTA_MASKED,
    encoders::XLM_ROBERTA,
    encoders::MODERN_BERT,
    encoders::NOMIC_BERT,
    encoders::GTE,
];

fn whole(architecture: &str) -> Option<&'static Family> {
    let is = |f: &&Family| f.architecture == architecture || f.aliases.contains(&architecture);
    FAMILIES.iter().find(is)
}

/// The row of an architecture, if there is one. A decoder that was saved without its head, to
/// embed, goes by `<name>Model` (Gemma 3: `<name>TextModel`), a classifier by
/// `<name>ForSequenceClassification`.
pub fn find(architecture: &str) -> Option<&'static Family> {
    let of_base = |base: &str, ends: &[&str]| {
        let base = base.strip_suffix("Text").unwrap_or(base);
        ends.iter().find_map(|end| whole(&format!("{base}{end}")))
    };
    let without_head = || of_base(architecture.strip_suffix("Model")?, &[WHOLE, "LMHeadModel"]);
    let with_classes = || {
        let base = architecture.strip_suffix(CLASSIFIER)?;
        of_base(base, &[WHOLE, "LMHeadModel", "Model"])
    };
    whole(architecture).or_else(without_head).or_else(with_classes)
}

/// Is this the name of a decoder without its head?
pub fn headless(architecture: &str) -> bool {
    !classifies(architecture) && whole(architecture).is_none() && find(architecture).is_some()
}

/// Is this the name of a classifier?
pub fn classifies(architecture: &str) -> bool {
    architecture.ends_with(CLASSIFIER) && find(architecture).is_some()
}
