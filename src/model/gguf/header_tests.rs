//! Headers that are sound, and headers that lie about each thing that they say.

use super::*;

/// A file under construction.
#[derive(Clone, Default)]
struct File {
    version: u32,
    /// In place of how many there are.
    tensor_count: Option<u64>,
    key_count: Option<u64>,
    keys: Vec<u8>,
    keys_written: u64,
    tensors: Vec<u8>,
    tensors_written: u64,
    alignment: usize,
    data: usize,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

impl File {
    /// One tensor of 2 x 32 in Q8_0.
    fn good() -> File {
        let file = File { version: 3, alignment: 32, data: 68, ..File::default() };
        file.key("general.architecture", kind::TEXT, &text("llama")).tensor("a", &[32, 2], 8, 0)
    }

    fn key(mut self, name: &str, kind: u32, value: &[u8]) -> File {
        self.keys.extend([&text(name)[..], &kind.to_le_bytes(), value].concat());
        self.keys_written += 1;
        self
    }

    fn tensor(mut self, name: &str, dimensions: &[u64], kind: u32, offset: u64) -> File {
        self.tensors.extend(text(name));
        self.tensors.extend((dimensions.len() as u32).to_le_bytes());
        dimensions.iter().for_each(|n| self.tensors.extend(n.to_le_bytes()));
        self.tensors.extend(kind.to_le_bytes());
        self.tensors.extend(offset.to_le_bytes());
        self.tensors_written += 1;
        self
    }

    fn without_tensors(mut self) -> File {
        (self.tensors, self.tensors_written) = (Vec::new(), 0);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend(self.tensor_count.unwrap_or(self.tensors_written).to_le_bytes());
        file.extend(self.key_count.unwrap_or(self.keys_written).to_le_bytes());
        file.extend(&self.keys);
        file.extend(&self.tensors);
        file.resize(file.len().next_multiple_of(self.alignment) + self.data, 7);
        file
    }

    fn read(&self) -> Result<Header> {
        Header::read(&Bytes::InMemory(&self.bytes()))
    }

    #[track_caller]
    fn refused(&self, word: &str) {
        let error = self.read().err().expect("must be refused").to_string();
        assert!(error.contains(word) && !error.contains('\n'), "lacks {word:?}: {error}");
    }
}

#[test]
fn a_sound_file() {
    for version in [2, 3] {
        let header = File { version, ..File::good() }.read().unwrap();
        assert_eq!(header.keys.text("general.architecture"), Ok(Some("llama")));
        let [tensor] = &header.tensors[..] else { panic!("{:?}", header.tensors) };
        assert_eq!((tensor.rows, tensor.cols, &tensor.shape[..]), (2, 32, &[2, 32][..]));
        assert_eq!((tensor.kind.name, tensor.bytes(), tensor.at % 32), ("Q8_0", 68, 0));
    }
    let aligned = File { alignment: 64, ..File::good() };
    let aligned = aligned.key("general.alignment", kind::U32, &64u32.to_le_bytes());
    assert_eq!(aligned.read().unwrap().tensors[0].at % 64, 0);
}

#[test]
fn values_of_every_kind() {
    let array = |kind: u32, count: u64, bytes: &[u8]| {
        [&kind.to_le_bytes()[..], &count.to_le_bytes(), bytes].concat()
    };
    let nested = array(kind::ARRAY, 1, &array(kind::U8, 2, &[1, 2]));
    let file = File::good()
        .key("u8", kind::U8, &[200])
        .key("i8", kind::I8, &[200])
        .key("f64", kind::F64, &0.5f64.to_le_bytes())
        .key("nan", kind::F32, &f32::NAN.to_le_bytes())
        .key("flag", kind::BOOL, &[1])
        .key("numbers", kind::ARRAY, &array(kind::I16, 2, &[1, 0, 0xff, 0xff]))
        .key("equal", kind::ARRAY, &array(kind::U16, 2, &[8, 0, 8, 0]))
        .key("flags", kind::ARRAY, &array(kind::BOOL, 3, &[1, 0, 1]))
        .key("texts", kind::ARRAY, &array(kind::TEXT, 2, &[text("a"), text("")].concat()))
        .key("broken", kind::ARRAY, &array(kind::TEXT, 1, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff]))
        .key("nested", kind::ARRAY, &nested);
    let keys = file.read().unwrap().keys;
    assert_eq!(keys.count("u8"), Ok(Some(200)));
    assert_eq!(keys.number("i8"), Ok(Some(-56.0)));
    assert_eq!(keys.number("f64"), Ok(Some(0.5)));
    assert_eq!(keys.flag("flag"), Ok(Some(true)));
    assert_eq!(keys.numbers("numbers"), Ok(Some(vec![1.0, -1.0])));
    assert_eq!(keys.count("equal"), Ok(Some(8)));
    assert_eq!(keys.texts("texts"), Ok(Some(vec!["a", ""])));
    assert_eq!(keys.flags("flags"), Ok(Some(vec![true, false, true])));
    assert_eq!(keys.flags("u8"), Ok(None));
    assert_eq!(keys.text("absent"), Ok(None));

    for (said, word) in [
        (keys.count("i8").map(|_| ()), "'i8' must be an integer from 0 on, got -56"),
        (keys.count("numbers").map(|_| ()), "'numbers' differs from layer to layer"),
        (keys.count("texts").map(|_| ()), "an array of 2 values"),
        (keys.number("nan").map(|_| ()), "'nan' must be a number"),
        (keys.text("flag").map(|_| ()), "'flag' must be a text, got true"),
        (keys.flag("u8").map(|_| ()), "'u8' must be true or false, got 200"),
        (keys.texts("numbers").map(|_| ()), "must be an array of texts"),
        (keys.flags("numbers").map(|_| ()), "must be an array of flags"),
        (keys.texts("broken").map(|_| ()), "text 0 of 'broken' is not UTF-8"),
        (keys.numbers("nested").map(|_| ()), "must be an array of numbers"),
    ] {
        let error = said.unwrap_err().to_string();
        assert!(error.contains(word), "lacks {word:?}: {error}");
    }
}

#[test]
fn other_files() {
    let said = |bytes: &[u8]| Header::read(&Bytes::InMemory(bytes)).err().unwrap().to_string();
    assert!(said(b"").contains("the file ends at 0"));
    assert!(said(b"GGML\x03\0\0\0").contains("does not begin with 'GGUF'"));
    File { version: 1, ..File::good() }.refused("version 1 of GGUF");
    File { version: 3u32.swap_bytes(), ..File::good() }.refused("of another byte order");
    let good = File::good().bytes();
    for length in 0..good.len() {
        let error = said(&good[..length]);
        assert!(error.contains("cut short"), "{length}: {error}");
    }
}

#[test]
fn counts_and_lengths_that_lie() {
    let good = File::good;
    File { tensor_count: Some(u64::MAX), ..good() }.refused("it has 18446744073709551615 tensors");
    File { tensor_count: Some(1000), ..good() }.refused("a list of 1000 tensors takes 24000 bytes");
    File { key_count: Some(1 << 40), ..good() }.refused("at most 65536 are read");
    File { key_count: Some(60_000), ..good() }.refused("a list of 60000 keys takes");
    good().key("x", 13, &[]).refused("key 'x' has a value of kind 13");
    good().key("x", kind::TEXT, &u64::MAX.to_le_bytes()).refused("key 'x'");
    good().key("x", kind::TEXT, &1000u64.to_le_bytes()).refused("key 'x' takes 1000 bytes");
    good().key("x", kind::TEXT, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff]).refused("is not UTF-8");
    good().key(&"k".repeat(2000), kind::U8, &[1]).refused("a text of 2000 bytes, at most 1024");
    good().key("general.architecture", kind::U8, &[1]).refused("is there twice");
    for kind in [kind::U64, kind::TEXT, kind::ARRAY] {
        let array = [kind.to_le_bytes().to_vec(), u64::MAX.to_le_bytes().to_vec()].concat();
        good().key("x", kind::ARRAY, &array).refused("an array of 18446744073709551615 values");
    }
    let mut deep = Vec::new();
    for _ in 0..50 {
        deep.extend(kind::ARRAY.to_le_bytes());
        deep.extend(1u64.to_le_bytes());
    }
    good().key("x", kind::ARRAY, &deep).refused("arrays in arrays");
}

#[test]
fn tensors_that_lie() {
    let empty = || File::good().without_tensors();
    let one =
        |dimensions: &[u64], kind: u32, offset: u64| empty().tensor("t", dimensions, kind, offset);
    one(&[2, 32], 8, 0).refused("tensor 't' of [2, 32]: rows of Q8_0 must be multiples of 32");
    one(&[], 0, 0).refused("tensor 't' has 0 dimensions");
    one(&[1; 5], 0, 0).refused("tensor 't' has 5 dimensions");
    one(&[32, 0], 8, 0).refused("has no elements");
    one(&[1 << 40, 1 << 40], 0, 0).refused("larger than any file");
    one(&[32, u64::MAX / 34], 8, 0).refused("the file ends at");
    one(&[1 << 60], 8, 0).refused("tensor 't' has");
    one(&[32, 3], 8, 0).refused("tensor 't' has 102 bytes from 0 on");
    one(&[32, 1], 8, 64).refused("the file ends at");
    one(&[32, 1], 8, u64::MAX - 31).refused("the file ends at");
    one(&[32, 1], 8, 16).refused("begins at 16, no multiple of 32");
    one(&[32], 23, 0).refused("tensor 't' has GGUF type IQ4_XS; supported: F32, F16, Q4_0");
    one(&[32], 77, 0).refused("GGUF type number 77");
    one(&[32, 2], 8, 0).tensor("t", &[4], 0, 32).refused("tensor 't' is there twice");
    one(&[32, 2], 8, 0).tensor("u", &[4], 0, 32).refused("'t' and 'u' lie over each other");
    one(&[32, 1], 8, 0).tensor(&"n".repeat(1025), &[4], 0, 64).refused("at most 1024");

    let align = |n: u32| empty().key("general.alignment", kind::U32, &n.to_le_bytes());
    for n in [0, 3, 48, 1 << 30] {
        align(n).refused("'general.alignment' must be a power of two");
    }
    empty().key("general.alignment", kind::TEXT, &text("32")).refused("'general.alignment' must");
}
