//! CPU and GPU agree in f32: the same random requests, alone and in a crowd, give the same tokens,
//! and the same logprobs within rounding. Skipped where there is no GPU; `TRITON_VLLM_REQUIRE_GPU`
//! makes that a failure. Logits differ in their last places, so a token may flip where two are as
//! good as equal, once in some ten thousand tokens.

use serde_json::json;
use triton_vllm::device::cuda::Cuda;
use triton_vllm::engine::{Answer, LogprobEntry, Output};

use crate::mixes::{seeds, REQUESTS};
use crate::requests::{requests, Request, MODEL};
use crate::served::{serve, Served};

/// Of a hundred sequences so many may differ.
const FLIPS_PERCENT: usize = 1;
/// Natural logarithms of f32 probabilities.
const LOGPROB_TOLERANCE: f32 = 2e-3;
/// Tokens of as good as equal logits change places.
const RANK_TOLERANCE: u32 = 3;

fn gpu() -> bool {
    let found = Cuda::count().expect("a driver that answers, or none") > 0;
    let wanted = std::env::var("TRITON_VLLM_REQUIRE_GPU").is_ok_and(|v| v == "1");
    assert!(found || !wanted, "TRITON_VLLM_REQUIRE_GPU is set, and there is no GPU");
    found
}

fn near(a: f32, b: f32) -> bool {
    a == b || (a - b).abs() <= LOGPROB_TOLERANCE
}

/// The same tokens with the same numbers, but for equals at the end of a list.
fn entries_agree(cpu: &[LogprobEntry], gpu: &[LogprobEntry]) -> bool {
    let least = gpu.iter().map(|entry| entry.logprob).fold(f32::INFINITY, f32::min);
    cpu.len() == gpu.len()
        && cpu.iter().all(|want| match gpu.iter().find(|got| got.token == want.token) {
            Some(got) => {
                near(got.logprob, want.logprob)
                    && got.rank.abs_diff(want.rank) <= RANK_TOLERANCE
                    && got.text == want.text
            }
            None => near(want.logprob, least),
        })
}

fn tokens(output: &Output) -> Vec<u32> {
    output.logprobs.iter().flatten().map(|position| position[0].token.0).collect()
}

/// None: the tokens differ. Otherwise all else must agree.
fn agree(cpu: &Output, gpu: &Output, what: &str) -> Option<()> {
    if tokens(cpu) != tokens(gpu) || cpu.tokens != gpu.tokens {
        return None;
    }
    assert_eq!((&cpu.text, cpu.finish_reason), (&gpu.text, gpu.finish_reason), "{what}");
    let sums = (cpu.cumulative_logprob, gpu.cumulative_logprob);
    let room = LOGPROB_TOLERANCE * cpu.tokens.max(1) as f32;
    assert!((sums.0 - sums.1).abs() <= room, "{what}: sums {sums:?}");
    let positions = cpu.logprobs.iter().flatten().zip(gpu.logprobs.iter().flatten());
    for (n, (want, got)) in positions.enumerate() {
        assert!(entries_agree(want, got), "{what}: position {n}\n  cpu {want:?}\n  gpu {got:?}");
    }
    Some(())
}

/// Every sequence reports its tokens; the whole vocabulary is more than a tolerance can judge.
fn reporting(request: &Request) -> Request {
    let mut request = request.clone();
    let sampling = &mut request.sampling;
    let given = sampling.get("logprob_token_ids").is_some();
    if !given && sampling.get("logprobs").is_none_or(|k| *k == json!(-1)) {
        sampling["logprobs"] = json!(5);
    }
    request
}

#[test]
fn the_gpu_says_what_the_cpu_says() {
    if !gpu() {
        eprintln!("skipped: no NVIDIA GPU here");
        return;
    }

    let on = |device: &str| serve(MODEL, json!({"device": device, "max_logprobs": -1}));
    let (cpu, gpu) = (on("cpu"), on("auto"));
    let ask = |served: &Served, request: &Request| {
        served.ask(&request.prompt, request.sampling.clone(), false)
    };

    let (mut all, mut flips) = (0, 0);
    for seed in seeds() {
        let (_, requests) = requests(seed, REQUESTS);
        let requests: Vec<Request> = requests.iter().map(reporting).collect();
        let expected: Vec<Answer> = requests.iter().map(|r| ask(&cpu, r).answer()).collect();
        let alone: Vec<Answer> = requests.iter().map(|r| ask(&gpu, r).answer()).collect();
        let crowd: Vec<_> = requests.iter().map(|r| ask(&gpu, r)).collect();
        let crowd: Vec<Answer> = crowd.into_iter().map(|told| told.answer()).collect();

        for (how, told) in [("alone", alone), ("in a crowd", crowd)] {
            for ((request, want), got) in requests.iter().zip(&expected).zip(&told) {
                assert_eq!(want.outputs.len(), got.outputs.len());
                for (index, (want, got)) in want.outputs.iter().zip(&got.outputs).enumerate() {
                    let Request { prompt, sampling } = request;
                    let what = format!(
                        "MIXES_SEED={seed}, {how}: sequence {index} of {prompt:?} {sampling}"
                    );
                    all += 1;
                    if agree(want, got, &what).is_none() {
                        flips += 1;
                        println!("{what}\n  cpu {:?}\n  gpu {:?}", tokens(want), tokens(got));
                    }
                }
            }
        }
    }
    assert!(flips * 100 <= all * FLIPS_PERCENT, "{flips} of {all} sequences differ");
}
