//! Tests of the machine code in this build: each cubin has exactly the kernels of the table, and
//! each takes as many bytes of parameters as the struct that the host passes. They read the ELF
//! files that NVRTC made and need no GPU.

use std::collections::BTreeMap;

use object::read::elf::ElfFile64;
use object::{Object, ObjectSection};

use super::{symbol, Binary, BINARIES, TABLE};

/// `.nv.info.<kernel>` is a run of attributes: a format, a number, then two bytes that are the
/// value, or for formats of their own size the length of what follows.
const FORMAT_SIZED: u8 = 4;
/// EIATTR_KPARAM_INFO: one for each parameter. In its last four bytes stands the parameter's size,
/// from bit 18 on. (What EIATTR_CBANK_PARAM_SIZE says has what aligns a struct in it.)
const PARAMETER: u8 = 0x17;
const SIZE_FROM_BIT: u32 = 18;

/// Number of parameters and their bytes.
fn parameters(info: &[u8]) -> (usize, usize) {
    let (mut count, mut bytes) = (0, 0);
    let mut rest = info;
    while let [format, attribute, low, high, tail @ ..] = rest {
        let value = usize::from(u16::from_le_bytes([*low, *high]));
        let (own, behind) = tail.split_at(if *format == FORMAT_SIZED { value } else { 0 });
        if let (PARAMETER, Some(last)) = (*attribute, own.last_chunk()) {
            count += 1;
            bytes += (u32::from_le_bytes(*last) >> SIZE_FROM_BIT) as usize;
        }
        rest = behind;
    }
    (count, bytes)
}

/// Of every kernel in a cubin, by symbol.
fn kernels(binary: &Binary) -> BTreeMap<String, (usize, usize)> {
    let elf = ElfFile64::<object::LittleEndian>::parse(binary.image).expect("an ELF file");
    let mut kernels = BTreeMap::new();
    for section in elf.sections() {
        let name = section.name().expect("a name");
        if let Some(symbol) = name.strip_prefix(".nv.info.") {
            let info = section.data().expect("contents");
            kernels.insert(symbol.to_string(), parameters(info));
        }
    }
    kernels
}

#[test]
fn kernels_take_the_structs_of_the_table() {
    let cubins: Vec<&Binary> = BINARIES.iter().filter(|binary| !binary.ptx).collect();
    assert!(!cubins.is_empty(), "this build has no machine code");
    for cubin in cubins {
        let wanted: BTreeMap<String, (usize, usize)> = TABLE
            .iter()
            .filter(|(file, ..)| *file == cubin.file)
            .map(|&(_, name, parameters, bytes)| (symbol(name, parameters), (1, bytes)))
            .collect();
        let (file, act, capability) = (cubin.file, cubin.act, cubin.capability);
        assert_eq!(kernels(cubin), wanted, "{file}.cu of {act} for {capability}");
    }
}

#[test]
fn every_source_has_its_kernels_in_the_table() {
    for binary in BINARIES {
        assert!(TABLE.iter().any(|(file, ..)| *file == binary.file), "{}.cu", binary.file);
    }
}

#[test]
fn attributes_are_read() {
    let whole = [4, 0x0a, 8, 0, 1, 0, 0, 0, 0x10, 2, 72, 0, 3, 0x19, 72, 0];
    // At 32, of 40 bytes.
    let parameter = [4, 0x17, 12, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0xf0, 0xa1, 0];
    assert_eq!(parameters(&[whole, parameter].concat()), (1, 40));
    assert_eq!(parameters(&[parameter, parameter].concat()), (2, 80));
}
