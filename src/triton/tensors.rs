//! Bytes of input tensors as texts, booleans and numbers. A client can lie about lengths and
//! shapes: every length is checked against what is there. Called by `request` and `inputs`.

use serde_json::Value;

use super::handles::Tensor;
use super::sys;
use crate::error::Result;
use crate::invalid;

/// Number of elements that the shape promises.
fn elements(tensor: &Tensor) -> Result<usize> {
    let count = tensor.shape.iter().try_fold(1usize, |product, &dim| {
        usize::try_from(dim).ok().and_then(|dim| product.checked_mul(dim))
    });
    count.ok_or_else(|| {
        invalid!("input '{}' has the impossible shape {:?}", tensor.name, tensor.shape)
    })
}

/// The elements of a BYTES tensor: each is a length (4 bytes, little endian) and so many bytes.
///
/// # Errors
/// InvalidArgument: another type, a length beyond the end, or more or fewer elements than the shape
/// says.
pub(super) fn byte_strings(tensor: &Tensor) -> Result<Vec<&[u8]>> {
    let name = &tensor.name;
    if tensor.datatype != sys::TRITONSERVER_TYPE_BYTES {
        return Err(invalid!("input '{name}' must have the type BYTES"));
    }
    let expected = elements(tensor)?;
    // Each element needs its length at least: a lying shape must not make us reserve memory.
    if expected > tensor.bytes.len() / 4 {
        return Err(wrong_count(tensor, expected));
    }
    let mut strings = Vec::with_capacity(expected);
    let mut rest = tensor.bytes.as_slice();
    while !rest.is_empty() {
        let at = tensor.bytes.len() - rest.len();
        let Some((length, after)) = rest.split_first_chunk::<4>() else {
            return Err(invalid!("input '{name}': no room for a length at byte {at}"));
        };
        let length = u32::from_le_bytes(*length) as usize;
        let Some((string, after)) = after.split_at_checked(length) else {
            return Err(invalid!(
                "input '{name}': element at byte {at} claims {length} bytes, {} are left",
                after.len()
            ));
        };
        strings.push(string);
        rest = after;
    }
    if strings.len() != expected {
        return Err(wrong_count(tensor, expected));
    }
    Ok(strings)
}

/// The elements of a BOOL tensor.
///
/// # Errors
/// InvalidArgument: another type, or not as many bytes as the shape says.
pub(super) fn booleans(tensor: &Tensor) -> Result<Vec<bool>> {
    if tensor.datatype != sys::TRITONSERVER_TYPE_BOOL {
        return Err(invalid!("input '{}' must have the type BOOL", tensor.name));
    }
    let expected = elements(tensor)?;
    if tensor.bytes.len() != expected {
        return Err(wrong_count(tensor, expected));
    }
    Ok(tensor.bytes.iter().map(|byte| *byte != 0).collect())
}

/// The elements of a tensor of texts, booleans or numbers, by the interface's numbers of types.
///
/// # Errors
/// InvalidArgument: another type, not as many bytes as the shape says, a text that is no UTF-8, a
/// number that is not finite.
pub(super) fn values(tensor: &Tensor) -> Result<Vec<Value>> {
    fn numbers<const N: usize>(tensor: &Tensor, read: fn([u8; N]) -> Value) -> Result<Vec<Value>> {
        let expected = elements(tensor)?;
        let (numbers, rest) = tensor.bytes.as_chunks::<N>();
        if numbers.len() != expected || !rest.is_empty() {
            return Err(wrong_count(tensor, expected));
        }
        Ok(numbers.iter().map(|bytes| read(*bytes)).collect())
    }

    let values = match tensor.datatype {
        sys::TRITONSERVER_TYPE_BOOL => booleans(tensor)?.into_iter().map(Value::from).collect(),
        sys::TRITONSERVER_TYPE_BYTES => {
            let texts = byte_strings(tensor)?.into_iter().map(|text| utf8(text).map(Value::from));
            texts.collect::<Result<_>>()?
        }
        // UINT8 to UINT64, INT8 to INT64, FP32, FP64.
        2 => numbers(tensor, |b| u8::from_le_bytes(b).into())?,
        3 => numbers(tensor, |b| u16::from_le_bytes(b).into())?,
        4 => numbers(tensor, |b| u32::from_le_bytes(b).into())?,
        5 => numbers(tensor, |b| u64::from_le_bytes(b).into())?,
        6 => numbers(tensor, |b| i8::from_le_bytes(b).into())?,
        7 => numbers(tensor, |b| i16::from_le_bytes(b).into())?,
        8 => numbers(tensor, |b| i32::from_le_bytes(b).into())?,
        9 => numbers(tensor, |b| i64::from_le_bytes(b).into())?,
        11 => numbers(tensor, |b| f32::from_le_bytes(b).into())?,
        12 => numbers(tensor, |b| f64::from_le_bytes(b).into())?,
        other => {
            let name = &tensor.name;
            return Err(invalid!("input '{name}' has the type {other}, which is no parameter's"));
        }
    };

    if values.iter().any(Value::is_null) {
        return Err(invalid!("input '{}' must hold finite numbers", tensor.name));
    }
    Ok(values)
}

fn wrong_count(tensor: &Tensor, expected: usize) -> crate::error::Error {
    invalid!(
        "input '{}' has {} bytes, which are not the {expected} elements of its shape {:?}",
        tensor.name,
        tensor.bytes.len(),
        tensor.shape
    )
}

/// UTF-8 or the refusal that Python's decoder would give.
pub(super) fn utf8(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|e| {
        let at = e.valid_up_to();
        let byte = bytes.get(at).copied().unwrap_or_default();
        let why = match (e.error_len(), byte) {
            (None, _) => "unexpected end of data",
            (_, 0xC2..=0xF4) => "invalid continuation byte",
            _ => "invalid start byte",
        };
        invalid!("'utf-8' codec can't decode byte 0x{byte:02x} in position {at}: {why}")
    })
}

/// All that is done with a tensor of a client: for `fuzz/` and the test below. The first bytes are
/// type, number of dimensions and dimensions; the rest are contents.
#[cfg(any(test, fuzzing))]
pub fn read_any_tensor(bytes: &[u8]) {
    let Some((&[kind, dims, ..], _)) = bytes.split_first_chunk::<2>() else { return };
    let (shape, contents) = bytes[2..].split_at(usize::from(dims % 4).min(bytes.len() - 2));
    let wide = |&dim: &u8| if dim == 0xff { i64::MAX } else { i64::from(dim as i8) };
    let datatype = match kind % 3 {
        0 => sys::TRITONSERVER_TYPE_BYTES,
        1 => sys::TRITONSERVER_TYPE_BOOL,
        _ => u32::from(kind),
    };
    let shape = shape.iter().map(wide).collect();
    let tensor = Tensor { name: "x".into(), datatype, shape, bytes: contents.to_vec() };
    for text in byte_strings(&tensor).unwrap_or_default() {
        let _ = utf8(text);
    }
    let _ = booleans(&tensor);
    let _ = values(&tensor);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `fuzz/` calls stays callable. Spoiled requests are in `request/tests.rs`.
    #[test]
    fn any_tensor_is_read() {
        for bytes in
            [&b"\0\x01\x02\x05\0\0\0Hello\x06\0\0\0w\xc3\xb6rld"[..], b"\x01\x01\xff\x01", b""]
        {
            read_any_tensor(bytes);
        }
    }

    fn tensor(datatype: u32, shape: &[i64], bytes: &[u8]) -> Tensor {
        Tensor { name: "x".into(), datatype, shape: shape.to_vec(), bytes: bytes.to_vec() }
    }

    fn text(shape: &[i64], bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let tensor = tensor(sys::TRITONSERVER_TYPE_BYTES, shape, bytes);
        byte_strings(&tensor).map(|list| list.into_iter().map(<[u8]>::to_vec).collect())
    }

    fn refused<T>(result: Result<T>) -> String {
        match result {
            Ok(_) => panic!("accepted"),
            Err(e) => e.message().to_string(),
        }
    }

    #[test]
    fn honest_tensors_are_read() {
        assert_eq!(
            text(&[2], b"\x01\0\0\0a\x02\0\0\0bc").unwrap(),
            [b"a".to_vec(), b"bc".to_vec()]
        );
        assert_eq!(text(&[1, 1], b"\0\0\0\0").unwrap(), [b"".to_vec()]);
        assert_eq!(text(&[0], b"").unwrap(), Vec::<Vec<u8>>::new());
        let flags = tensor(sys::TRITONSERVER_TYPE_BOOL, &[2, 1], &[0, 1]);
        assert_eq!(booleans(&flags).unwrap(), [false, true]);
    }

    #[test]
    fn lies_are_refused() {
        for (shape, bytes, expected) in [
            (&[1][..], &b"\xff\xff\xff\xffa"[..], "claims 4294967295 bytes, 1 are left"),
            (&[1], b"\x01\0\0\0", "claims 1 bytes, 0 are left"),
            (&[1], b"\x01\0", "not the 1 elements"),
            (&[1], b"\x01\0\0\0a\x01\0", "no room for a length at byte 5"),
            (&[2], b"\x04\0\0\0abcd", "not the 2 elements"),
            (&[1], b"\0\0\0\0\0\0\0\0", "not the 1 elements"),
            (&[-1], b"\0\0\0\0", "impossible shape [-1]"),
            (&[i64::MAX, 3], b"\0\0\0\0", "impossible shape"),
            (&[1 << 40], b"\0\0\0\0", "not the 1099511627776 elements"),
        ] {
            let got = refused(text(shape, bytes));
            assert!(got.contains(expected), "{shape:?} {bytes:?}: {got}");
        }
        let flags = tensor(sys::TRITONSERVER_TYPE_BOOL, &[2], &[1]);
        assert!(refused(booleans(&flags)).contains("not the 2 elements"));
        assert!(refused(byte_strings(&flags)).contains("type BYTES"));
        assert!(
            refused(booleans(&tensor(sys::TRITONSERVER_TYPE_BYTES, &[1], &[1]))).contains("BOOL")
        );
    }

    #[test]
    fn numbers_are_read_by_their_type() {
        for (datatype, bytes, value) in [
            (1, &[1u8][..], Value::from(true)),
            (2, &[200], Value::from(200)),
            (5, &[0xff; 8], Value::from(u64::MAX)),
            (6, &[0xff], Value::from(-1)),
            (7, &[0xfe, 0xff], Value::from(-2)),
            (8, &[0xfe, 0xff, 0xff, 0xff], Value::from(-2)),
            (9, &[2, 0, 0, 0, 0, 0, 0, 0], Value::from(2)),
            (11, &0.5f32.to_le_bytes(), Value::from(0.5)),
            (12, &0.7f64.to_le_bytes(), Value::from(0.7)),
            (13, b"\x03\0\0\0e\0z", Value::from("e\0z")),
        ] {
            assert_eq!(values(&tensor(datatype, &[1], bytes)).unwrap(), [value], "{datatype}");
            assert!(values(&tensor(datatype, &[2], bytes)).is_err(), "{datatype}");
            assert!(values(&tensor(datatype, &[1], &bytes[1..])).is_err(), "{datatype}");
        }
        for (datatype, bytes) in
            [(11, &f32::NAN.to_le_bytes()[..]), (12, &f64::INFINITY.to_le_bytes()), (10, &[0, 0])]
        {
            assert!(values(&tensor(datatype, &[1], bytes)).is_err(), "{datatype}");
        }
    }

    #[test]
    fn text_that_is_no_utf8_is_told_as_python_does() {
        for (bytes, expected) in [
            (&b"\xff\xfeabc"[..], "byte 0xff in position 0: invalid start byte"),
            (b"a\xc3(", "byte 0xc3 in position 1: invalid continuation byte"),
            (b"ab\xe2\x82", "byte 0xe2 in position 2: unexpected end of data"),
        ] {
            let got = refused(utf8(bytes));
            assert!(got.ends_with(expected), "{got}");
        }
    }
}
