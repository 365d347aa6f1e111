//! Adapters of the table of tokens and of the head, merged into the checkpoint. Part of `adapters`.

use super::{Noise, Tensors, RANK, SCALE};
use triton_vllm::model::ModelSpec;

/// Add both to an adapter and to the checkpoint with it merged in. Not where the model ties the
/// two: peft adapts each for itself, which no tied checkpoint can say.
pub fn add(
    spec: &ModelSpec,
    prefix: &str,
    noise: &mut Noise,
    adapter: &mut Tensors,
    merged: &mut Tensors,
) {
    if spec.tied {
        return;
    }
    let names = &spec.family.names;
    let (vocab, width) = (spec.vocab_size, spec.embed_width);
    let mut small =
        |count: usize| -> Vec<f32> { noise.values(count).iter().map(|x| x * 0.2).collect() };

    // Row t of the table is B times column t of A.
    let (a, b) = (small(RANK * vocab), small(width * RANK));
    let table = weight(merged, &format!("{prefix}{}.weight", names.embed));
    for t in 0..vocab {
        for i in 0..width {
            let sum: f32 = (0..RANK).map(|j| b[i * RANK + j] * a[j * vocab + t]).sum();
            table[t * width + i] += SCALE * sum;
        }
    }
    let module = format!("base_model.model.{}{}", spec.family.prefixes[0], names.embed);
    adapter.insert(format!("{module}.lora_embedding_A"), (vec![RANK, vocab], a));
    adapter.insert(format!("{module}.lora_embedding_B"), (vec![width, RANK], b));

    let (a, b) = (small(RANK * width), small(vocab * RANK));
    let head = weight(merged, &format!("{}.weight", names.head));
    for o in 0..vocab {
        for i in 0..width {
            let sum: f32 = (0..RANK).map(|j| b[o * RANK + j] * a[j * width + i]).sum();
            head[o * width + i] += SCALE * sum;
        }
    }
    let module = format!("base_model.model.{}", names.head);
    adapter.insert(format!("{module}.lora_A.weight"), (vec![RANK, width], a));
    adapter.insert(format!("{module}.lora_B.weight"), (vec![vocab, RANK], b));
}

fn weight<'a>(tensors: &'a mut Tensors, name: &str) -> &'a mut Vec<f32> {
    &mut tensors.get_mut(name).unwrap_or_else(|| panic!("{name}")).1
}
