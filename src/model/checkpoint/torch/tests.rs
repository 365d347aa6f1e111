//! Archives made here by hand, good and evil, and the fixture with its bytes changed at random:
//! tensors or one line, never a crash.

use std::path::Path;

use safetensors::Dtype;

use super::*;

fn entry(name: &str, data: &[u8]) -> (String, Vec<u8>) {
    (name.to_string(), data.to_vec())
}

/// A zip archive of stored entries.
fn zip(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let local = file.len() as u32;
        let (size, length) = (data.len() as u32, name.len() as u16);
        let mut common = [0u8; 22];
        common[14..18].copy_from_slice(&size.to_le_bytes());
        common[18..22].copy_from_slice(&size.to_le_bytes());
        file.extend(b"PK\x03\x04");
        file.extend(common);
        file.extend(length.to_le_bytes());
        file.extend([0, 0]);
        file.extend(name.as_bytes());
        file.extend(data);
        directory.extend(b"PK\x01\x02\0\0");
        directory.extend(common);
        directory.extend(length.to_le_bytes());
        directory.extend([0u8; 12]);
        directory.extend(local.to_le_bytes());
        directory.extend(name.as_bytes());
    }

    let (start, count) = (file.len() as u32, entries.len() as u16);
    file.extend(&directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend(count.to_le_bytes());
    file.extend(count.to_le_bytes());
    file.extend((directory.len() as u32).to_le_bytes());
    file.extend(start.to_le_bytes());
    file.extend([0, 0]);
    file
}

fn text(s: &str) -> Vec<u8> {
    [b"X".as_slice(), &(s.len() as u32).to_le_bytes(), s.as_bytes()].concat()
}

fn long(n: i64) -> Vec<u8> {
    [[0x8a, 8].as_slice(), &n.to_le_bytes()].concat()
}

fn tuple(items: &[i64]) -> Vec<u8> {
    let items: Vec<u8> = items.iter().flat_map(|&n| long(n)).collect();
    [b"(".as_slice(), &items, b"t"].concat()
}

/// `{"w": tensor}`
fn tensor(elements: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    [
        b"\x80\x02}".to_vec(),
        text("w"),
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text("0"),
        text("cpu"),
        long(elements),
        b"tQ".to_vec(),
        long(offset),
        tuple(shape),
        tuple(strides),
        b"\x89ccollections\nOrderedDict\n)RtRs.".to_vec(),
    ]
    .concat()
}

fn archive(pickle: &[u8], data: &[u8]) -> Vec<u8> {
    zip(&[entry("a/data.pkl", pickle), entry("a/byteorder", b"little"), entry("a/data/0", data)])
}

#[track_caller]
fn refused(file: &[u8], wanted: &str) {
    let error = match tensors(&file.into()) {
        Ok(_) => panic!("must be refused with {wanted:?}"),
        Err(error) => error.message().to_string(),
    };
    assert!(error.contains(wanted), "lacks {wanted:?}: {error}");
    assert!(!error.contains('\n') && error.len() < 300, "not one line: {error}");
}

#[track_caller]
fn refused_pickle(pickle: &[u8], wanted: &str) {
    refused(&archive(pickle, &[0; 48]), wanted);
}

#[test]
fn tensors_lie_where_strides_say() {
    let file = archive(&tensor(12, 4, &[2, 3], &[3, 1]), &(0..48).collect::<Vec<u8>>());
    let [found] = &tensors(&(&file).into()).unwrap()[..] else { panic!("one tensor") };
    assert_eq!((found.name.as_str(), found.dtype), ("w", Dtype::F32));
    assert_eq!((&found.shape[..], found.contiguous), (&[2, 3][..], true));
    assert_eq!(file[found.bytes.clone()], (16..40).collect::<Vec<u8>>());

    let layout = |shape: &[i64], strides: &[i64]| {
        let file = archive(&tensor(12, 0, shape, strides), &[0; 48]);
        let found = tensors(&(&file).into()).unwrap().remove(0);
        (found.contiguous, found.bytes.len())
    };
    assert_eq!(layout(&[4, 3], &[3, 1]), (true, 48));
    assert_eq!(layout(&[4, 1, 3], &[3, 77, 1]), (true, 48), "a stride that is never used");
    assert_eq!(layout(&[], &[]), (true, 4), "a scalar");
    assert_eq!(layout(&[5, 0], &[1, 9]), (true, 0), "no elements");
    assert_eq!(layout(&[3, 4], &[1, 3]), (false, 0), "a transpose");
    assert_eq!(layout(&[1000, 12], &[0, 1]), (false, 0), "an expanded row");
    assert_eq!(layout(&[2, 3], &[6, 1]), (false, 0), "gaps");
}

#[test]
fn tensors_beyond_their_storage() {
    for (elements, offset, shape, strides) in [
        (12, 0, &[4, 4][..], &[4, 1][..]),
        (12, 9, &[2, 2], &[2, 1]),
        (12, 13, &[0], &[1]),
        (12, 0, &[2, 3], &[10, 1]),
        (12, i64::MAX, &[2], &[1]),
        (12, 0, &[i64::MAX, i64::MAX], &[i64::MAX, 1]),
        (12, 0, &[1 << 40], &[1]),
    ] {
        refused_pickle(&tensor(elements, offset, shape, strides), "beyond its storage");
    }
    refused_pickle(&tensor(13, 0, &[2], &[1]), "48 bytes, expected 13 elements of 4");
    refused_pickle(&tensor(i64::MAX, 0, &[2], &[1]), "48 bytes, expected");
    refused_pickle(&tensor(-1, 0, &[2], &[1]), "of -1 elements");
    refused_pickle(&tensor(12, -1, &[2], &[1]), "a size or stride of -1");
    refused_pickle(&tensor(12, 0, &[2, 2], &[1]), "with strides");
    refused_pickle(&tensor(12, 0, &[1; 9], &[1; 9]), "9 dimensions");
    let missing = zip(&[entry("a/data.pkl", &tensor(12, 0, &[2], &[1]))]);
    refused(&missing, "storage '0' is not in the file");
}

#[test]
fn pickles_that_call_something() {
    for (module, name) in [
        ("os", "system"),
        ("builtins", "eval"),
        ("posix", "system"),
        ("torch", "load"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("collections", "defaultdict"),
    ] {
        let call = format!("\u{2}c{module}\n{name}\n(X\u{4}\0\0\0evil");
        let pickle = [b"\x80".as_slice(), call.as_bytes(), b"tR."].concat();
        refused_pickle(&pickle, &format!("{module}.{name}"));
    }
    refused_pickle(b"\x80\x02ctorch\nFloatStorage\n)R.", "a storage is called");
    refused_pickle(b"\x80\x02})R.", "no callable");
    refused_pickle(b"\x80\x02K\x01}b.", "state is set");
    // Opcodes that make or call objects by other ways: INST, OBJ, NEWOBJ, EXT1, STACK_GLOBAL.
    for (opcode, spelled) in
        [(b'i', "0x69"), (b'o', "0x6f"), (0x81, "0x81"), (0x82, "0x82"), (0x93, "0x93")]
    {
        refused_pickle(&[b"\x80\x02(".as_slice(), &[opcode], b"os\nsystem\n."].concat(), spelled);
    }
    refused_pickle(b"\x80\x04}.", "protocol 4");
}

#[test]
fn pickles_that_make_no_sense() {
    for (pickle, wanted) in [
        (&b"\x80\x02"[..], "ends in the middle"),
        (b"\x80\x02.", "takes more"),
        (b"\x80\x02}.", "without a single tensor"),
        (b"\x80\x02K\x01.", "not a dictionary"),
        (b"\x80\x02t.", "takes more"),
        (b"\x80\x02(}K\x01s.", "takes more"),
        (b"\x80\x02}(K\x01u.", "no dictionary"),
        (b"\x80\x02h\x07.", "value 7 was never stored"),
        (b"\x80\x02X\xff\xff\xff\xff", "ends in the middle"),
        (b"\x80\x02X\x01\0\0\0\xff.", "not UTF-8"),
        (b"\x80\x02\x8a\x09123456789.", "an integer of 9 bytes"),
        (b"\x80\x02cos", "a name without an end"),
        (b"\x80\x02)Q.", "persistent id"),
    ] {
        refused_pickle(pickle, wanted);
    }
    // A dictionary that holds itself, and a nest a million deep.
    refused_pickle(b"\x80\x02}q\0X\x01\0\0\0wh\0s.", "without a single tensor");
    let deep = [b"\x80\x02)".as_slice(), &vec![0x85; 1_000_000], b"."].concat();
    refused_pickle(&deep, "not a dictionary");
    refused_pickle(&[b"\x80\x02".as_slice(), &vec![b'N'; 3 << 20]].concat(), "more than 2097152");
    refused_pickle(&vec![b'('; (16 << 20) + 1], "the limit is 16777216");
}

#[test]
fn broken_archives() {
    let good = archive(&tensor(12, 0, &[4, 3], &[3, 1]), &[0; 48]);
    for length in 0..good.len() {
        let error = tensors(&good[..length].into()).err().expect("cut short").message().to_string();
        assert!(!error.contains('\n'), "{error}");
    }
    let twice = [entry("a/data.pkl", b""), entry("a/data.pkl", b"")];
    refused(&zip(&twice), "is twice in the zip archive");
    refused(&zip(&[entry("a/data/0", b"")]), "no data.pkl");
    refused(&zip(&[entry("a/data.pkl", b""), entry("a/byteorder", b"big")]), "big-endian");
    let directory = good.len() - 22 - 3 * 46 - "a/data.pkla/byteordera/data/0".len();
    let with = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    refused(&with(directory + 10, &[8, 0]), "is compressed");
    refused(&with(directory + 24, &[0xff, 0xff, 0xff, 0x7f]), "entry 'a/data.pkl' does not fit");
    refused(&with(directory + 42, &[0xfe, 0xff, 0xff, 0xff]), "entry 'a/data.pkl' does not fit");
    refused(&with(directory + 42, &[0xff; 4]), "its directory does not fit");
    refused(&with(good.len() - 6, &[0xff; 4]), "its end record does not fit");
}

/// The fixture's bytes changed at random, mostly in the pickle and the directory.
#[test]
fn changed_bytes_never_crash() {
    let path = "tests/fixtures/models/opt-bin/pytorch_model.bin";
    let good = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let whole = tensors(&(&good).into()).unwrap();
    assert!(whole.len() > 30 && whole.iter().all(|t| t.contiguous));
    let pickle = Archive::open(&(&good).into()).unwrap().single("/data.pkl").unwrap().1;
    let mut state = 7u64;
    let mut below = |limit: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % limit as u64) as usize
    };
    let mut refusals = 0;

    for round in 0..6000 {
        let mut file = good.clone();
        for _ in 0..1 + below(4) {
            let at = match round % 3 {
                0 => pickle.start + below(pickle.len()),
                1 => file.len() - 1 - below(5000),
                _ => below(file.len()),
            };
            file[at] = below(256) as u8;
        }
        match tensors(&(&file).into()) {
            Ok(found) => assert!(found.iter().all(|t| t.bytes.end <= file.len())),
            Err(error) => {
                refusals += 1;
                assert!(!error.message().contains('\n'), "{error}");
            }
        }
    }
    assert!(refusals > 1000, "{refusals}");
}
