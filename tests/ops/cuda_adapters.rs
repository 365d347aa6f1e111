//! Low-rank adapters on the GPU against the CPU device: ranks from 1 to 64, parts that an adapter
//! leaves alone, rows of several adapters and of none, chunks and decode steps, padded and replayed
//! ones too. Part of `cuda_ops`.

use super::*;
use crate::grader::{encode, Graded, Random};
use triton_vllm::device::{AdapterCapacity, AdapterPart, Bytes, HostTensor, TablePart};
use triton_vllm::ids::{AdapterId, AdapterSlotId};
use triton_vllm::plan::SlotChange;

struct Shape {
    /// Outputs of each part.
    parts: &'static [usize],
    inputs: usize,
    gated: bool,
}

/// Parts whose ends are multiples of 8, and odd ones; inputs that no load of 16 bytes fits; more
/// columns than a block has.
const SHAPES: [Shape; 7] = [
    Shape { parts: &[64, 32, 32], inputs: 128, gated: false },
    Shape { parts: &[65, 7, 9], inputs: 31, gated: false },
    Shape { parts: &[200], inputs: 72, gated: false },
    Shape { parts: &[48, 48], inputs: 264, gated: true },
    Shape { parts: &[33, 33], inputs: 40, gated: true },
    Shape { parts: &[1100], inputs: 520, gated: false },
    Shape { parts: &[1024, 128, 128], inputs: 2048, gated: false },
];

const SLOTS: usize = 70;
/// Adapters of the slots, and the tokens that each feeds: chunks, then decode steps, enough of them
/// in one size (three rows, padded to four) that later ones are replayed, with other adapters each
/// time and with none. Adapter 4 takes the place of 1. Slots that are not named have none.
const STEPS: [(&[u16], &[usize]); 12] = [
    (&[1, 0, 2, 3, 0, 0], &[40, 7, 1, 33, 20]),
    (&[], &[5, 3]),
    (&[0, 0, 3, 0, 0, 0], &[1]),
    (&[0, 1, 2, 0, 0, 0], &[1, 1, 1]),
    (&[3, 0, 2, 0, 0, 0], &[1, 1, 1]),
    (&[2, 2, 0, 0, 0, 0], &[1, 1, 1]),
    (&[], &[1, 1, 1]),
    (&[0, 0, 1, 0, 0, 0], &[1, 1, 1]),
    (&[4, 2, 0, 0, 0, 0], &[1, 1, 1]),
    (&[0, 4, 3, 0, 0, 0], &[1, 1, 1]),
    (&[4, 3, 2, 0, 4, 3], &[1, 1, 1, 1, 1, 1]),
    (&[4, 2, 0, 3, 3, 3], &[90, 0, 12, 1, 1, 17]),
];

/// Fill an adapter slot with noise. Odd adapters leave every second part alone.
fn install<D: Graded>(
    b: &mut Bench<D>,
    weight: &mut D::Weight,
    shape: &Shape,
    (adapter_slot, adapter): (u16, u16),
    rank: usize,
) -> Result<()> {
    let dtype = b.dtype;
    let inputs = shape.inputs;
    let mut random = Random(u64::from(adapter) * 77 + rank as u64);
    let mut noise = |count: usize, size: f32| -> Vec<u8> {
        (0..count).flat_map(|_| encode(dtype, random.signed() * size)).collect()
    };
    // So that what an adapter adds is of the size of what it is added to.
    let small = if shape.gated { 0.3 } else { 1.0 } / (rank as f32).sqrt();
    let matrix = |&outputs: &usize| (noise(rank * inputs, 1.0), noise(rank * outputs, small));
    let matrices: Vec<_> = shape.parts.iter().map(matrix).collect();
    let parts = shape.parts.iter().zip(&matrices).enumerate().map(|(n, (&outputs, (a, b)))| {
        let tensor = |cols, bytes| {
            let bytes = Bytes::InMemory(bytes);
            HostTensor { dtype, rows: rank, cols, bytes }
        };
        let there = adapter % 2 == 0 || n % 2 == 0;
        there.then(|| AdapterPart { a: tensor(inputs, a), b: tensor(outputs, b) })
    });
    let parts: Vec<_> = parts.collect();
    let adapter_slot = AdapterSlotId(adapter_slot);
    b.dev.install(weight, adapter_slot, &parts)?;
    b.changes.push(SlotChange::Adapter { adapter_slot, adapter: AdapterId(adapter) });
    Ok(())
}

#[test]
fn linears_with_adapters() {
    each_type(|dtype| {
        for (shape, rank) in SHAPES.iter().flat_map(|s| [1, 8, 16, 64].map(|rank| (s, rank))) {
            let Shape { parts, inputs, gated } = *shape;
            let outputs: usize = parts.iter().sum();
            if grader::small_shapes() && outputs * inputs > 100_000 {
                continue;
            }
            let case = format!("rank {rank}, parts {parts:?} x {inputs}, gated {gated}");
            let setup = Setup { slots: SLOTS, ..Setup::default() };
            compare!(dtype, &setup, &case, 3.0, |b| {
                let width = if gated { parts[0] } else { outputs };
                let table = b.table(51, setup.step_tokens, inputs);
                let mut x = b.tensor(setup.step_tokens, inputs);
                let mut out = b.tensor(setup.step_tokens, width);
                let mut weight = if gated {
                    b.gate_up(52, parts[0], inputs)
                } else {
                    b.linear(52, outputs, inputs)
                };
                let bias = b.vector(53, outputs);
                b.dev.adapt(&mut weight, parts, AdapterCapacity { slots: 3, rank })?;
                for adapter_slot in 0..3 {
                    install(b, &mut weight, shape, (adapter_slot, adapter_slot + 1), rank)?;
                }
                b.dev.steady();
                let mut results = Vec::new();
                // Many streams, whose adapters take turns: in every 32 rows more tiles than one of
                // some adapter slots.
                let mixed: Vec<u16> =
                    (0..SLOTS as u16).map(|n| [2, 3, 3, 0, 4, 3][usize::from(n % 6)]).collect();
                let many = [(&mixed[..], &[1; SLOTS][..]), (&mixed[7..], &[1; 45][..])];
                for (adapters, lengths) in STEPS.into_iter().chain(many) {
                    if adapters.contains(&4) && !b.adapters.contains(&4) {
                        install(b, &mut weight, shape, (0, 4), rank)?;
                    }
                    b.adapters.fill(0);
                    b.adapters[..adapters.len()].copy_from_slice(adapters);
                    b.dev.poison(&mut out);
                    b.feed_new(lengths);
                    b.dev.embed(&table, 1.0, &mut x)?;
                    if gated {
                        let act = Activation::SiluGated;
                        b.dev.linear_act(&weight, Some(&bias), act, &x, &mut out)?;
                    } else {
                        b.dev.linear(&weight, Some(&bias), &x, &mut out)?;
                    }
                    results.push(("adapted", b.dev.read(&out, lengths.iter().sum())?));
                }
                Ok(results)
            });
        }
    });
}

/// The activation comes after what the adapter adds; a weight without room knows of none.
#[test]
fn activations_after_adapters() {
    each_type(|dtype| {
        let shape = Shape { parts: &[72], inputs: 96, gated: false };
        compare!(dtype, &Setup::default(), "relu", 3.0, |b| {
            let x = b.table(54, 20, shape.inputs);
            let rows = 20;
            let mut weight = b.linear(55, 72, shape.inputs);
            let other = b.linear(56, 72, shape.inputs);
            b.dev.adapt(&mut weight, shape.parts, AdapterCapacity { slots: 1, rank: 8 })?;
            install(b, &mut weight, &shape, (0, 1), 5)?;
            let mut hidden = b.tensor(rows, shape.inputs);
            let (mut out, mut plain) = (b.tensor(rows, 72), b.tensor(rows, 72));
            b.adapters = vec![0, 1, 0, 1];
            b.feed_new(&[3, 9, 1, 7]);
            b.dev.embed(&x, 1.0, &mut hidden)?;
            b.dev.linear_act(&weight, None, Activation::Relu, &hidden, &mut out)?;
            b.dev.linear_act(&other, None, Activation::Relu, &hidden, &mut plain)?;
            Ok(vec![("adapted", b.dev.read(&out, rows)?), ("plain", b.dev.read(&plain, rows)?)])
        });
    });
}

/// Fill an adapter slot of a table and of a head with noise. Adapter 2 leaves the table alone, 3
/// the head.
fn install_words<D: Graded>(
    b: &mut Bench<D>,
    (table, head): (&mut D::Weight, &mut D::Weight),
    (vocab, width): (usize, usize),
    (adapter_slot, adapter): (u16, u16),
    rank: usize,
) -> Result<()> {
    let dtype = b.dtype;
    let mut random = Random(u64::from(adapter) * 91 + rank as u64);
    let mut noise = |count: usize, size: f32| -> Vec<u8> {
        (0..count).flat_map(|_| encode(dtype, random.signed() * size)).collect()
    };

    let small = 1.0 / (rank as f32).sqrt();
    let of_table = (noise(vocab * rank, 1.0), noise(rank * width, small));
    let of_head = (noise(rank * width, 1.0), noise(rank * vocab, small));

    let tensor = |rows, cols, bytes| {
        let bytes = Bytes::InMemory(bytes);
        HostTensor { dtype, rows, cols, bytes }
    };
    let part = (adapter != 2).then(|| TablePart {
        a: tensor(vocab, rank, &of_table.0),
        b: tensor(rank, width, &of_table.1),
    });
    b.dev.install_table(table, AdapterSlotId(adapter_slot), part)?;

    let part = (adapter != 3).then(|| AdapterPart {
        a: tensor(rank, width, &of_head.0),
        b: tensor(rank, vocab, &of_head.1),
    });
    b.dev.install(head, AdapterSlotId(adapter_slot), &[part])?;

    b.changes.push(SlotChange::Adapter {
        adapter_slot: AdapterSlotId(adapter_slot),
        adapter: AdapterId(adapter),
    });
    Ok(())
}

/// Rows of a table, then logits rows, which are fewer and in other places than the token rows.
#[test]
fn tables_and_heads_with_adapters() {
    let shapes = [(203, 40), (1003, 31), (4096, 264)];
    each_type(|dtype| {
        for (shape, rank) in shapes.iter().flat_map(|s| [1, 8, 16, 64].map(|rank| (*s, rank))) {
            let (vocab, width) = shape;
            if grader::small_shapes() && vocab * width > 100_000 {
                continue;
            }
            let case = format!("rank {rank}, {vocab} tokens, {width} wide");
            let setup = Setup { slots: SLOTS, ..Setup::default() };
            compare!(dtype, &setup, &case, 3.0, |b| {
                let mut table = b.table(57, vocab, width);
                let mut head = b.linear(58, vocab, width);
                let mut x = b.tensor(setup.step_tokens, width);
                let mut picked = b.tensor(SLOTS, width);
                let mut logits = b.dev.logits_tensor(SLOTS, vocab)?;
                let room = AdapterCapacity { slots: 3, rank };
                b.dev.adapt_table(&mut table, room)?;
                b.dev.adapt(&mut head, &[vocab], room)?;
                for adapter_slot in 0..3 {
                    let both = (&mut table, &mut head);
                    install_words(b, both, shape, (adapter_slot, adapter_slot + 1), rank)?;
                }
                b.dev.steady();
                let mut results = Vec::new();
                for (adapters, lengths) in STEPS {
                    if adapters.contains(&4) && !b.adapters.contains(&4) {
                        // A smaller rank than the one before it.
                        let both = (&mut table, &mut head);
                        install_words(b, both, shape, (0, 4), rank.div_ceil(2))?;
                    }
                    b.adapters.fill(0);
                    b.adapters[..adapters.len()].copy_from_slice(adapters);
                    b.dev.poison(&mut x);
                    b.dev.poison(&mut logits);
                    b.feed_new(lengths);
                    b.dev.embed(&table, 1.5, &mut x)?;
                    b.dev.gather(&x, &mut picked)?;
                    b.dev.logits(&head, Some(30.0), &picked, &mut logits)?;
                    results.push(("embedded", b.dev.read(&x, lengths.iter().sum())?));
                    let sampled = lengths.iter().filter(|&&length| length > 0).count();
                    results.push(("logits", b.dev.read(&logits, sampled)?));
                }
                Ok(results)
            });
        }
    });
}
