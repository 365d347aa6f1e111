//! Unit tests of `budget`, and the golden list of what a llama step launches.

use super::*;
use crate::device::{AdapterCapacity, DeviceKind, KvType};
use crate::model::config::AdapterOptions;
use crate::model::config::SpecOptions;
use crate::model::Shard;
use serde_json::json;

fn llama() -> ModelSpec {
    let config = json!({"architectures": ["LlamaForCausalLM"], "hidden_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 72, "hidden_act": "silu", "max_position_embeddings": 512,
        "vocab_size": 100});
    let options = SpecOptions { supported: &[DType::F32], ..Default::default() };
    ModelSpec::from_config(config.as_object().unwrap(), None, &options).unwrap()
}

fn limits(spec: &ModelSpec) -> DeviceLimits {
    DeviceLimits {
        step_tokens: 40,
        slots: 8,
        logits_rows: 8,
        pages: 100,
        page_size: 16,
        max_model_len: 512,
        kv: spec.kv_shape(None).unwrap(),
        state: Default::default(),
        snapshots: 0,
        spares: 0,
    }
}

const SHARE: PoolOptions = PoolOptions {
    gpu_memory_utilization: 0.5,
    kv_cache_memory_bytes: None,
    num_gpu_blocks_override: None,
    fit_max_model_len: false,
    keep_states: true,
};

/// Adapters of the table and of the head: A, B and a rank of each adapter slot.
#[test]
fn tables_that_adapters_change_take_memory() {
    let adapted = |module: &str| {
        let mut spec = llama();
        let capacity = AdapterCapacity { slots: 3, rank: 8 };
        let modules = Some(vec![module.to_string()]);
        spec.adapters = Some(AdapterOptions { capacity, modules });
        footprint(&spec, &WeightSource::Dummy, &limits(&spec), DType::F32).unwrap().0.adapters
    };
    let adapter_slots = 3 * (4 * 8 * (100 + 64) + 4);
    assert_eq!(adapted("embed_tokens"), adapter_slots);
    // And A x of a step's rows.
    assert_eq!(adapted("lm_head"), adapter_slots + 4 * 40 * 8);
    assert_eq!(adapted("no_such_module"), 0);
}

#[test]
fn a_mixture_reads_the_experts_that_rows_can_meet() {
    let config = json!({"architectures": ["Qwen2MoeForCausalLM"], "hidden_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 72, "hidden_act": "silu", "max_position_embeddings": 512,
        "vocab_size": 100, "num_experts": 100, "num_experts_per_tok": 2, "mlp_only_layers": [0],
        "moe_intermediate_size": 24, "shared_expert_intermediate_size": 80});
    let options = SpecOptions { supported: &[DType::F32], ..Default::default() };
    let spec = ModelSpec::from_config(config.as_object().unwrap(), None, &options).unwrap();
    let (held, launches) =
        footprint(&spec, &WeightSource::Dummy, &limits(&spec), DType::F32).unwrap();
    let of = |op: &str| launches.iter().filter(|l| l.op == op).collect::<Vec<_>>();
    let (up, down) = (of("experts_act"), of("experts"));
    assert_eq!((up.len(), down.len()), (1, 1));
    assert_eq!((up[0].rows, up[0].inputs, up[0].outputs), (80, 64, 48));
    assert_eq!(up[0].flops, 2 * 80 * 64 * 48);
    // 80 choices meet at most 80 of the 100 experts.
    assert_eq!(up[0].read_bytes, 4 * (80 * 48 * 64 + 40 * 64));
    assert_eq!(down[0].read_bytes, 4 * (80 * 64 * 24 + 80 * 24));
    assert_eq!((of("route").len(), of("combine").len(), of("add_gated").len()), (1, 1, 1));
    assert_eq!(spec.mlp_width(), 80);
    assert!(held.weights > 4 * 100 * 3 * 24 * 64);
}

/// The shapes that `examples/gpu_steps` is timed with: parameters as published, so the shapes are
/// right, and a step of each within the trace device's reach, so that all their ops exist.
#[test]
fn deployed_shapes_have_their_published_sizes() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("ci/shapes");
    let entries = std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    names.sort();
    let published = [
        ("gemma-2b", 2_506_172_416u64),
        ("gemma-3-1b", 999_885_952),
        ("gpt2", 124_439_808),
        ("llama-3.2-1b", 1_235_814_400),
        ("opt-125m", 125_239_296),
        ("qwen2.5-0.5b", 494_032_768),
    ];
    assert_eq!(names.len(), published.len());
    for (folder, (name, parameters)) in names.iter().zip(published) {
        assert!(folder.ends_with(name), "{}", folder.display());
        let supported = &[DType::BF16, DType::F16, DType::F32];
        let options = SpecOptions { supported, ..Default::default() };
        let spec = ModelSpec::read(folder, &options).unwrap();
        let (held, launches) =
            footprint(&spec, &WeightSource::Dummy, &limits(&spec), spec.dtype).unwrap();
        // Norms and biases take four bytes each.
        let ratio = held.weights as f64 / (2 * parameters) as f64;
        assert!((1.0..1.002).contains(&ratio), "{name}: {ratio}");
        assert!(launches.len() > 5 * spec.layers, "{name}");
    }
}

/// DeepSeek V2-Lite: parameters as published, one vector of a token in a page, and the ops of
/// attention over it.
#[test]
fn latent_vectors_take_the_place_of_k_and_v() {
    let config = json!({"architectures": ["DeepseekV2ForCausalLM"], "hidden_size": 2048,
        "num_hidden_layers": 27, "num_attention_heads": 16, "intermediate_size": 10944,
        "moe_intermediate_size": 1408, "n_routed_experts": 64, "n_shared_experts": 2,
        "num_experts_per_tok": 6, "first_k_dense_replace": 1, "q_lora_rank": null,
        "kv_lora_rank": 512, "vocab_size": 102400, "torch_dtype": "bfloat16"});
    let options = SpecOptions { supported: &[DType::BF16], ..Default::default() };
    let spec = ModelSpec::from_config(config.as_object().unwrap(), None, &options).unwrap();
    let limits = limits(&spec);
    assert_eq!(limits.kv.page_bytes(16), 27 * 16 * 576 * 2);

    let (held, launches) = footprint(&spec, &WeightSource::Dummy, &limits, spec.dtype).unwrap();
    let ratio = held.weights as f64 / (2 * 15_706_484_224u64) as f64;
    assert!((1.0..1.002).contains(&ratio), "{ratio}");
    let of = |op: &str| launches.iter().filter(|l| l.op == op).collect::<Vec<_>>();
    let (products, attend) = (of("multiply_heads"), of("attend_latent"));
    assert_eq!((products.len(), of("store_latent").len(), attend.len()), (54, 27, 27));
    assert_eq!((products[0].inputs, products[0].outputs), (128, 512));
    assert_eq!((products[1].inputs, products[1].outputs), (512, 128));
    assert_eq!(attend[0].flops, 2 * (40 * 41 / 2) * 16 * (576 + 512));
}

/// Ranks share heads; each keeps whole latent vectors.
#[test]
fn ranks_keep_whole_latent_vectors() {
    let config = json!({"architectures": ["DeepseekV3ForCausalLM"], "num_hidden_layers": 2,
        "hidden_size": 256, "num_attention_heads": 8, "vocab_size": 512,
        "intermediate_size": 512, "moe_intermediate_size": 64});
    let options = SpecOptions { supported: &[DType::BF16], ..Default::default() };
    let spec = ModelSpec::from_config(config.as_object().unwrap(), None, &options).unwrap();
    let shard = Shard::new(&spec, Rank { index: 3, of: 4 }).unwrap();
    let whole = spec.kv_shape(None).unwrap();
    assert_eq!(shard.kv_shape(&spec, &whole), whole);
    assert_eq!((shard.heads, shard.attn_out(&spec, 0).inputs(8 * 128)), (2, 2 * 128));
}

#[test]
fn a_llama_step_launches_eight_ops_a_layer() {
    let spec = llama();
    let (_, launches) = footprint(&spec, &WeightSource::Dummy, &limits(&spec), DType::F32).unwrap();
    let shapes: Vec<_> = launches.iter().map(|l| (l.op, l.rows, l.inputs, l.outputs)).collect();
    let layer = [
        ("linear", 40, 64, 128),
        ("rope_store", 40, 128, 128),
        ("attend", 40, 128, 64),
        ("linear", 40, 64, 64),
        ("add_norm", 40, 64, 64),
        ("linear_act", 40, 64, 144),
        ("linear", 40, 72, 64),
        ("add_norm", 40, 64, 64),
    ];
    let mut want = vec![("embed", 40, 1, 64), ("norm", 40, 64, 64)];
    want.extend(layer.iter().chain(&layer));
    want.extend([("gather", 1, 64, 64), ("logits", 1, 64, 100), ("sample", 1, 100, 1)]);
    assert_eq!(shapes, want);
    let flops: u64 = launches.iter().filter(|l| l.op.starts_with("linear")).map(|l| l.flops).sum();
    assert_eq!(flops, 2 * 2 * 40 * (64 * 128 + 64 * 64 + 64 * 144 + 72 * 64));
    let pairs: u64 = (1..=40).sum();
    let attend = launches.iter().find(|l| l.op == "attend").unwrap();
    assert_eq!(attend.flops, 4 * pairs * 64);
    assert_eq!(attend.read_bytes, 4 * (40 * 64 + 40 * 2 * 32));
}

fn of(architecture: &str) -> ModelSpec {
    let act = if architecture.contains("Moe") { "silu" } else { "gelu_new" };
    let config = json!({"architectures": [architecture], "hidden_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
        "intermediate_size": 72, "hidden_act": act, "max_position_embeddings": 512,
        "vocab_size": 100, "num_experts": 8, "num_experts_per_tok": 2,
        "moe_intermediate_size": 24, "shared_expert_intermediate_size": 80});
    let options = SpecOptions { supported: &[DType::F32], ..Default::default() };
    ModelSpec::from_config(config.as_object().unwrap(), None, &options).unwrap()
}

#[test]
fn other_layers_launch_what_their_row_says() {
    let layer = |architecture: &str| -> Vec<&'static str> {
        let spec = of(architecture);
        let (_, launches) =
            footprint(&spec, &WeightSource::Dummy, &limits(&spec), DType::F32).unwrap();
        let ops: Vec<_> = launches.iter().map(|l| l.op).collect();
        // The first layer: up to the second one's q, k and v.
        let starts = |i: &usize| {
            let next = &ops[i + 1..];
            ops[*i] == "linear" && matches!(next[0], "norm_heads" | "rope_store")
        };
        let starts: Vec<usize> = (0..ops.len() - 1).filter(starts).collect();
        ops[starts[0]..starts[1]].to_vec()
    };
    let neox = ["norm", "linear_act", "add", "linear", "add_norm"];
    assert_eq!(layer("GPTNeoXForCausalLM")[4..], neox);
    assert_eq!(layer("PhiForCausalLM")[4..], neox[1..]);
    let attention = ["linear", "norm_heads", "rope_store", "attend", "linear", "norm"];
    let olmo = layer("Olmo2ForCausalLM");
    assert_eq!(olmo[..6], attention);
    assert_eq!(olmo[6..], ["add", "linear_act", "linear", "norm", "add"]);
    let gemma = layer("Gemma3ForCausalLM");
    assert_eq!(gemma[..6], attention);
    assert_eq!(gemma[6..], ["add_norm", "linear_act", "linear", "norm", "add_norm"]);
}

#[test]
fn memory_is_counted_to_the_byte() {
    let spec = llama();
    let (held, _) = footprint(&spec, &WeightSource::Dummy, &limits(&spec), DType::F32).unwrap();
    let layer = 64 * 128 + 64 * 64 + 64 * 144 + 72 * 64 + 2 * 64;
    assert_eq!(held.weights, 4 * (2 * 100 * 64 + 64 + 2 * layer));
    let token_row = 64 * 3 + 128 + 64 + 72;
    let logits_row = 64 + (64 + 64) + 100;
    assert_eq!(held.tensors, 4 * (40 * token_row + 8 * logits_row));
    assert_eq!(held.pages, 100 * 2 * 2 * 2 * 16 * 16 * 4);
}

/// What all hold is whole on each; of the rest each has its share, with a vocabulary of 128 rows.
#[test]
fn a_rank_holds_its_share() {
    let spec = llama();
    let rank = Rank { index: 1, of: 2 };
    let mut limits = limits(&spec);
    limits.kv = Shard::new(&spec, rank).unwrap().kv_shape(&spec, &limits.kv);
    let held = held(&spec, &WeightSource::Dummy, &limits, DType::F32, rank).unwrap();
    let layer = 64 * 64 + 64 * 32 + 64 * 72 + 36 * 64 + 2 * 64;
    assert_eq!(held.weights, 4 * (2 * 64 * 64 + 64 + 2 * layer));
    let token_row = 64 * 3 + 64 + 32 + 36;
    let logits_row = 64 + (32 + 64) + (100 + 50);
    assert_eq!(held.tensors, 4 * (40 * token_row + 8 * logits_row));
    assert_eq!(limits.kv.page_bytes(16), 2 * 2 * 16 * 16 * 4);
    assert_eq!(held.times(2).weights, 2 * held.weights);
}

/// One sum behind the table, two in a layer, and the columns of the head.
#[test]
fn ranks_meet_twice_in_a_layer() {
    for architecture in ["GPTNeoXForCausalLM", "Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM"] {
        let spec = of(architecture);
        let rank = Rank { index: 0, of: 2 };
        let mut limits = limits(&spec);
        limits.kv = Shard::new(&spec, rank).unwrap().kv_shape(&spec, &limits.kv);
        let (mut trace, mut decoder) =
            counted(&spec, &WeightSource::Dummy, &limits, DType::F32, rank).unwrap();
        decoder.step(&mut trace, &full_step(&limits, limits.sequence_pages())).unwrap();
        let launches = trace.take_launches();
        let count = |op: &str| launches.iter().filter(|launch| launch.op == op).count();
        assert_eq!(count("all_reduce"), 1 + 2 * spec.layers, "{architecture}");
        assert_eq!(count("all_gather"), 1, "{architecture}");
    }
}

#[test]
fn pages_of_eight_bits_are_twice_as_many() {
    let spec = llama();
    let device = DeviceInfo {
        kind: DeviceKind::Gpu { product: "test".into() },
        name: "cuda:0".to_string(),
        total_bytes: 1 << 30,
        free_bytes: 1 << 30,
        depth: 2,
        experts_of_codes: true,
    };
    let pages = |kv| {
        let mut limits = limits(&spec);
        limits.kv = spec.kv_shape(Some(kv)).unwrap();
        let (held, _) = footprint(&spec, &WeightSource::Dummy, &limits, DType::BF16).unwrap();
        assert_eq!(held.pages, 100 * 2 * 2 * 2 * 16 * 16 * kv.bytes() as u64);
        gpu_pool(&device, &Held { pages: 0, ..held }, &SHARE, &limits).unwrap().pages
    };
    let halves = pages(KvType::BF16);
    for kv in [KvType::E4m3, KvType::E5m2] {
        assert!((2 * halves..=2 * halves + 1).contains(&pages(kv)), "{kv:?}");
    }
}

#[test]
fn gpu_share_and_its_refusals() {
    let spec = llama();
    let limits = limits(&spec);
    let page = limits.kv.page_bytes(16);
    let held = Held { weights: 10 * page, tensors: 5 * page, ..Default::default() };
    let device = |total, free| DeviceInfo {
        kind: DeviceKind::Gpu { product: "test".into() },
        name: "cuda:0".to_string(),
        total_bytes: total * page,
        free_bytes: free * page,
        depth: 2,
        experts_of_codes: true,
    };
    let pool = gpu_pool(&device(200, 150), &held, &SHARE, &limits).unwrap();
    assert_eq!(pool.pages, 100 - 15);
    let refused = |total, free, options: &PoolOptions| {
        gpu_pool(&device(total, free), &held, options, &limits).unwrap_err().message().to_string()
    };

    assert!(refused(200, 99, &SHARE).starts_with("Free memory on device cuda:0 ("));
    assert!(refused(20, 20, &SHARE).starts_with("No available memory for the cache blocks."));
    let text = refused(60, 60, &SHARE);
    assert!(text.contains("max seq len (512)") && text.contains("model length is 224."), "{text}");
    let exact = PoolOptions { num_gpu_blocks_override: Some(33), ..SHARE };
    assert_eq!(gpu_pool(&device(200, 150), &held, &exact, &limits).unwrap().pages, 33);
    let exact = PoolOptions { num_gpu_blocks_override: Some(32), ..SHARE };
    assert!(refused(200, 150, &exact).contains("model length is 496."));
    let fit = PoolOptions { fit_max_model_len: true, ..exact };
    let pool = gpu_pool(&device(200, 150), &held, &fit, &limits).unwrap();
    assert_eq!(longest_request(&pool, 16, 512), 496);
    let bytes = PoolOptions { kv_cache_memory_bytes: Some(50 * page + 1), ..SHARE };
    assert_eq!(gpu_pool(&device(200, 150), &held, &bytes, &limits).unwrap().pages, 50);
}

fn machine(total_bytes: u64, free_bytes: u64) -> Memory {
    Memory { total_bytes, free_bytes, of: "the machine".into() }
}

#[test]
fn cpu_pool_stays_small() {
    let spec = llama();
    let mut limits = limits(&spec);
    let held = Held::default();
    let pages = |total_gib: u64, limits: &DeviceLimits| {
        let memory = machine(total_gib << 30, total_gib << 30);
        cpu_pool(&memory, &held, &SHARE, limits).unwrap().0.pages
    };
    // All slots at full length are under 64 MiB: take them all.
    assert_eq!(pages(16, &limits), 1 + 8 * 32);
    limits.slots = 4096;
    let page = limits.kv.page_bytes(16) as usize + 128;
    assert_eq!(pages(64, &limits), (1 + 4096 * 32) / 4);
    assert_eq!(pages(1, &limits), (256 << 20) / page);
    let pool = PoolSize { pages: 5, available_bytes: 0, slots: 1, snapshots: 0 };
    assert_eq!(longest_request(&pool, 16, 512), 64);
}

/// States of sequences come before pages, copies of them take a part of what is left.
#[test]
fn states_bound_the_sequences_that_run() {
    let limits = std::cell::RefCell::new(limits(&llama()));
    let page = limits.borrow().kv.page_bytes(16);
    let pool = |mib: u64, options: &PoolOptions| {
        let held = Held { state: 1 << 20, ..Held::default() };
        let options = PoolOptions { kv_cache_memory_bytes: Some(mib << 20), ..*options };
        let gpu = DeviceInfo {
            kind: DeviceKind::Trace,
            name: String::new(),
            total_bytes: 0,
            free_bytes: 0,
            depth: 1,
            experts_of_codes: true,
        };
        gpu_pool(&gpu, &held, &options, &limits.borrow())
    };

    let roomy = pool(100, &SHARE).unwrap();
    assert_eq!((roomy.slots, roomy.snapshots), (8, 11));
    assert_eq!(roomy.pages as u64, (81 << 20) / page);
    let without = pool(100, &PoolOptions { keep_states: false, ..SHARE }).unwrap();
    assert_eq!((without.slots, without.snapshots), (8, 0));
    let tight = pool(10, &SHARE).unwrap();
    assert_eq!((tight.slots, tight.snapshots), (5, 0));
    let error = pool(1, &SHARE).unwrap_err().to_string();
    assert!(error.contains("The state of one sequence takes"), "{error}");

    // With three more of each sequence, behind its drafts.
    limits.borrow_mut().spares = 3;
    let drafting = pool(100, &SHARE).unwrap();
    assert_eq!((drafting.slots, drafting.snapshots), (8, 8));
    assert_eq!(drafting.pages as u64, (60 << 20) / page);
    assert_eq!(pool(20, &SHARE).unwrap().slots, 2);
    let error = pool(7, &SHARE).unwrap_err().to_string();
    assert!(error.contains("behind each of 3 drafts"), "{error}");
    assert!(error.contains("num_speculative_tokens"), "{error}");
}

/// What is too large is refused with what it needs, what is free, and what to lower.
#[test]
fn cpu_memory_is_judged_as_a_whole() {
    const GIB: u64 = 1 << 30;
    let spec = llama();
    let limits = limits(&spec);
    let held = Held { weights: 10 * GIB, tensors: GIB, ..Held::default() };
    let pool = |free_gib: u64, options: &PoolOptions| {
        cpu_pool(&machine(64 * GIB, free_gib * GIB), &held, options, &limits)
    };
    let bytes = |gib: u64| PoolOptions { kv_cache_memory_bytes: Some(gib * GIB), ..SHARE };
    let (found, taken) = pool(20, &bytes(4)).unwrap();
    assert_eq!(found.available_bytes, 4 * GIB);
    assert!((15 * GIB..16 * GIB).contains(&taken), "{taken}");
    let refused = |outcome: Result<(PoolSize, u64)>, words: &[&str]| {
        let error = outcome.unwrap_err();
        let Error::Unavailable(text) = &error else { panic!("{error:?}") };
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    };
    let all = ["211.25 GiB are needed", "weights 10.00", "KV cache 200.00", "20.00 of 64.00 GiB"];
    refused(pool(20, &bytes(200)), &all);
    refused(pool(20, &bytes(200)), &["Lower kv_cache_memory_bytes", "max_model_len"]);
    refused(pool(20, &bytes(u64::MAX >> 30)), &["KV cache"]);
    let blocks = PoolOptions { num_gpu_blocks_override: Some(u64::MAX), ..SHARE };
    refused(pool(20, &blocks), &["KV cache"]);
    // Weights alone.
    refused(pool(10, &SHARE), &["weights 10.00", "10.00 of 64.00 GiB"]);
    // A pool that nobody asked for takes what is left.
    let many = DeviceLimits { slots: 1 << 16, ..limits.clone() };
    let memory = machine(64 * GIB, 12 * GIB);
    let (found, taken) = cpu_pool(&memory, &held, &SHARE, &many).unwrap();
    assert_eq!((found.available_bytes, taken), (GIB * 3 / 4, 12 * GIB - (GIB / 4)));
    assert!(cpu_encoder(&memory, &held).is_ok());
    refused(cpu_encoder(&machine(64 * GIB, GIB), &held).map(|_| (found, 0)), &["weights 10.00"]);
}

/// Sizes that no number holds are too large, not small.
#[test]
fn a_model_beyond_all_numbers_is_too_large() {
    let huge = 1 << 20;
    // The most that config.json may say: more layers or wider heads are refused there.
    let config = json!({"architectures": ["LlamaForCausalLM"], "hidden_size": huge,
        "num_hidden_layers": 8, "num_attention_heads": 1 << 14, "num_key_value_heads": 1 << 14,
        "intermediate_size": huge, "hidden_act": "silu", "max_position_embeddings": huge,
        "vocab_size": huge, "head_dim": 64});
    let options = SpecOptions { supported: &[DType::F32], ..Default::default() };
    let spec = ModelSpec::from_config(config.as_object().unwrap(), None, &options).unwrap();
    let limits =
        DeviceLimits { step_tokens: huge, slots: 1 << 16, max_model_len: huge, ..limits(&spec) };
    let held = held(&spec, &WeightSource::Dummy, &limits, DType::F32, Rank::ALONE).unwrap();
    let error = cpu_pool(&machine(1 << 40, 1 << 40), &held, &SHARE, &limits).unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
}
