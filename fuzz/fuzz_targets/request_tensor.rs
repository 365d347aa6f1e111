//! libFuzzer on an input tensor of a request.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| triton_vllm::triton::read_any_tensor(data));
