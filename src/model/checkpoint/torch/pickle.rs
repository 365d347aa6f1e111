//! A pickle machine that can build tensors and nothing else. It knows the opcodes of protocol 2
//! and a list of callables, none of which is called: each is a rule here. A pickle that names any
//! other is refused by that name. Called by its parent with the bytes of `data.pkl`.
//!
//! Values live in one vector and refer to each other by index: a cycle or a deep nest in the file
//! costs nothing to drop. Memory is bounded by [`MAX_PICKLE_BYTES`] and [`MAX_VALUES`].

use std::collections::{BTreeMap, HashMap};

use safetensors::Dtype;

use crate::error::{Error, Result};
use crate::invalid;

/// Real ones take about 200 bytes a tensor.
const MAX_PICKLE_BYTES: usize = 16 << 20;
/// About 20 values a tensor, 40 bytes a value.
const MAX_VALUES: usize = 2 << 20;
const MAX_DIMENSIONS: usize = 8;

/// An array of elements in the file: an entry of the archive.
#[derive(Clone)]
pub(super) struct Storage<'a> {
    pub key: &'a str,
    pub dtype: Dtype,
    pub elements: u64,
}

/// Numbers as in the file: not yet checked against the storage.
#[derive(Clone)]
pub(super) struct Tensor<'a> {
    pub storage: Storage<'a>,
    /// In elements, as the strides.
    pub offset: u64,
    pub shape: Vec<u64>,
    pub strides: Vec<u64>,
}

impl Storage<'_> {
    pub fn element_bytes(&self) -> usize {
        STORAGES.iter().find(|row| row.1 == self.dtype).map_or(1, |row| row.2)
    }
}

impl Tensor<'_> {
    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }

    /// One past the last element of the storage that it reaches; None beyond 64 bits.
    pub fn end(&self) -> Option<u64> {
        if self.is_empty() {
            return Some(self.offset);
        }
        let mut last = self.offset;
        for (&size, &stride) in self.shape.iter().zip(&self.strides) {
            last = last.checked_add((size - 1).checked_mul(stride)?)?;
        }
        last.checked_add(1)
    }

    /// Row after row without gaps. The stride of a dimension of one is never used.
    pub fn is_contiguous(&self) -> bool {
        let mut dense = Some(1u64);
        let dimensions = self.shape.iter().zip(&self.strides).rev();
        self.is_empty()
            || dimensions.filter(|(&size, _)| size != 1).all(|(&size, &stride)| {
                let fits = dense == Some(stride);
                dense = stride.checked_mul(size);
                fits
            })
    }
}

/// Class in `torch`, element type, its bytes.
const STORAGES: [(&str, Dtype, usize); 10] = [
    ("FloatStorage", Dtype::F32, 4),
    ("HalfStorage", Dtype::F16, 2),
    ("BFloat16Storage", Dtype::BF16, 2),
    ("DoubleStorage", Dtype::F64, 8),
    ("LongStorage", Dtype::I64, 8),
    ("IntStorage", Dtype::I32, 4),
    ("ShortStorage", Dtype::I16, 2),
    ("CharStorage", Dtype::I8, 1),
    ("ByteStorage", Dtype::U8, 1),
    ("BoolStorage", Dtype::BOOL, 1),
];

#[derive(Clone, Copy)]
enum Callable {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Dtype),
}

impl Callable {
    fn named(module: &str, name: &str) -> Result<Callable> {
        let storage = STORAGES.iter().find(|row| row.0 == name).map(|row| row.1);
        match (module, name, storage) {
            ("collections", "OrderedDict", _) => Ok(Callable::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2", _) => Ok(Callable::RebuildTensor),
            ("torch._utils", "_rebuild_parameter", _) => Ok(Callable::RebuildParameter),
            ("torch", _, Some(dtype)) => Ok(Callable::Storage(dtype)),
            _ => Err(invalid!(
                "it names {:?}, which no checkpoint of plain tensors needs: refused; convert it \
                 to safetensors if you trust it.",
                format!("{module}.{name}")
            )),
        }
    }
}

type Id = u32;

enum Value<'a> {
    /// Something that no rule looks at: None, a float, a list.
    Other,
    Int(i64),
    Text(&'a str),
    Tuple(Box<[Id]>),
    Dict(Vec<(Id, Id)>),
    Callable(Callable),
    Storage(Box<Storage<'a>>),
    Tensor(Box<Tensor<'a>>),
}

/// All tensors of the dictionary that the pickle holds, by name.
///
/// # Errors
/// InvalidArgument, one line: what was found and where.
pub(super) fn read(pickle: &[u8]) -> Result<BTreeMap<&str, Tensor<'_>>> {
    if pickle.len() > MAX_PICKLE_BYTES {
        return Err(invalid!("{} bytes, the limit is {MAX_PICKLE_BYTES}.", pickle.len()));
    }
    let mut machine = Machine { pickle, ..Machine::default() };
    while machine.step()? {}
    let root = machine.pop()?;
    let Some(Value::Dict(pairs)) = machine.values.get(root as usize) else {
        return Err(invalid!("not a dictionary of tensors."));
    };
    let mut tensors = BTreeMap::new();
    for &(key, value) in pairs {
        if let (Value::Text(name), Value::Tensor(tensor)) = (machine.at(key)?, machine.at(value)?) {
            tensors.insert(*name, Tensor::clone(tensor));
        }
    }
    if tensors.is_empty() {
        return Err(invalid!("a dictionary without a single tensor."));
    }
    Ok(tensors)
}

#[derive(Default)]
struct Machine<'a> {
    pickle: &'a [u8],
    /// The next byte.
    at: usize,
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack at each open mark.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    /// One opcode; false at the end.
    fn step(&mut self) -> Result<bool> {
        let start = self.at;
        match self.u8()? {
            b'.' => return Ok(false),
            0x80 => match self.u8()? {
                2 => {}
                other => return Err(invalid!("pickle protocol {other}, expected 2.")),
            },
            // Marks, and values that stand for themselves.
            b'(' => self.marks.push(self.stack.len()),
            b'N' | 0x88 | 0x89 | b']' => self.push(Value::Other)?,
            b'G' => {
                self.take(8)?;
                self.push(Value::Other)?;
            }
            b'J' => {
                let value = self.u32()? as i32;
                self.push(Value::Int(value.into()))?;
            }
            b'K' => {
                let value = self.u8()?;
                self.push(Value::Int(value.into()))?;
            }
            b'M' => {
                let value = u16::from_le_bytes([self.u8()?, self.u8()?]);
                self.push(Value::Int(value.into()))?;
            }
            0x8a => self.long()?,
            b'X' => self.text()?,
            // Dictionaries and tuples, and what is remembered of them.
            b'}' => self.push(Value::Dict(Vec::new()))?,
            b')' => self.tuple(self.stack.len())?,
            b't' => {
                let mark = self.mark()?;
                self.tuple(mark)?;
            }
            code @ 0x85..=0x87 => {
                let mark = self.stack.len().checked_sub(usize::from(code - 0x84));
                self.tuple(mark.ok_or_else(underflow)?)?;
            }
            b'q' | b'r' | b'h' | b'j' => self.memory(start)?,
            b's' => {
                let from = self.stack.len().checked_sub(2).ok_or_else(underflow)?;
                self.set_items(from)?;
            }
            b'u' => {
                let mark = self.mark()?;
                self.set_items(mark)?;
            }
            b'a' => drop(self.pop()?),
            b'e' => {
                let mark = self.mark()?;
                self.stack.truncate(mark);
            }
            // Tensors: the only things that are built.
            b'c' => self.global()?,
            b'Q' => self.storage()?,
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            code => {
                return Err(invalid!(
                    "opcode {code:#04x} at byte {start} builds something other than tensors: \
                     refused."
                ))
            }
        }
        Ok(true)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(count);
        let bytes = end.and_then(|end| self.pickle.get(self.at..end));
        self.at = self.at.saturating_add(count);
        bytes.ok_or_else(|| invalid!("it ends in the middle ({} bytes).", self.pickle.len()))
    }

    fn u8(&mut self) -> Result<u8> {
        Ok(self.take(1)?.first().copied().unwrap_or_default())
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes([self.u8()?, self.u8()?, self.u8()?, self.u8()?]))
    }

    fn push(&mut self, value: Value<'a>) -> Result<()> {
        if self.values.len() >= MAX_VALUES {
            return Err(invalid!("more than {MAX_VALUES} values."));
        }
        self.stack.push(self.values.len() as Id);
        self.values.push(value);
        Ok(())
    }

    /// The value on top, which must lie above the last mark.
    fn pop(&mut self) -> Result<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(underflow());
        }
        self.stack.pop().ok_or_else(underflow)
    }

    fn mark(&mut self) -> Result<usize> {
        self.marks.pop().filter(|&mark| mark <= self.stack.len()).ok_or_else(underflow)
    }

    fn at(&self, id: Id) -> Result<&Value<'a>> {
        self.values.get(id as usize).ok_or_else(underflow)
    }

    /// A little-endian integer of up to 8 bytes: no size of a tensor needs more.
    fn long(&mut self) -> Result<()> {
        let length = usize::from(self.u8()?);
        let bytes = self.take(length)?;
        if length > 8 {
            return Err(invalid!("an integer of {length} bytes."));
        }
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        self.push(Value::Int(i64::from_le_bytes(wide)))
    }

    fn text(&mut self) -> Result<()> {
        let length = self.u32()? as usize;
        let text = std::str::from_utf8(self.take(length)?);
        self.push(Value::Text(text.map_err(|_| invalid!("a string that is not UTF-8."))?))
    }

    /// Everything from this height of the stack on.
    fn tuple(&mut self, from: usize) -> Result<()> {
        let items = self.stack.split_off(from.min(self.stack.len()));
        self.push(Value::Tuple(items.into()))
    }

    /// Put the top under a number, or push what lies there.
    fn memory(&mut self, start: usize) -> Result<()> {
        let code = self.pickle.get(start).copied().unwrap_or_default();
        let number = if matches!(code, b'q' | b'h') { self.u8()?.into() } else { self.u32()? };
        if matches!(code, b'q' | b'r') {
            let top = *self.stack.last().ok_or_else(underflow)?;
            self.memo.insert(number, top);
        } else {
            let found = self.memo.get(&number).copied();
            self.stack.push(found.ok_or_else(|| invalid!("value {number} was never stored."))?);
        }
        Ok(())
    }

    fn set_items(&mut self, from: usize) -> Result<()> {
        let items = self.stack.split_off(from.min(self.stack.len()));
        let target = *self.stack.last().ok_or_else(underflow)?;
        let (pairs, rest) = items.as_chunks::<2>();
        match self.values.get_mut(target as usize) {
            Some(Value::Dict(into)) if rest.is_empty() => {
                into.extend(pairs.iter().map(|&[key, value]| (key, value)));
                Ok(())
            }
            _ => Err(invalid!("items are set on something that is no dictionary.")),
        }
    }

    /// `module\nname\n`
    fn global(&mut self) -> Result<()> {
        let (module, name) = (self.line()?, self.line()?);
        self.push(Value::Callable(Callable::named(module, name)?))
    }

    fn line(&mut self) -> Result<&'a str> {
        const LONGEST: usize = 200;
        let rest = self.pickle.get(self.at..).unwrap_or_default();
        let end = rest.iter().take(LONGEST).position(|&byte| byte == b'\n');
        let end = end.ok_or_else(|| invalid!("a name without an end at byte {}.", self.at))?;
        let line = self.take(end + 1)?;
        std::str::from_utf8(&line[..end]).map_err(|_| invalid!("a name that is not UTF-8."))
    }

    /// `('storage', class, key, device, elements)`
    fn storage(&mut self) -> Result<()> {
        let id = self.pop()?;
        let items = self.tuple_at(id)?;
        if let [kind, class, key, _, elements] = items {
            let parts = (self.at(*kind)?, self.at(*class)?, self.at(*key)?, self.at(*elements)?);
            if let (
                Value::Text("storage"),
                Value::Callable(Callable::Storage(dtype)),
                Value::Text(key),
                Value::Int(elements),
            ) = parts
            {
                let elements = u64::try_from(*elements)
                    .map_err(|_| invalid!("storage '{key}' of {elements} elements."))?;
                let storage = Storage { key, dtype: *dtype, elements };
                return self.push(Value::Storage(Box::new(storage)));
            }
        }
        Err(invalid!("a persistent id that is no storage of a known type."))
    }

    fn tuple_at(&self, id: Id) -> Result<&[Id]> {
        match self.at(id)? {
            Value::Tuple(items) => Ok(items),
            _ => Err(invalid!("a tuple was expected.")),
        }
    }

    fn reduce(&mut self) -> Result<()> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        let items = self.tuple_at(arguments)?;
        let Value::Callable(callable) = *self.at(callable)? else {
            return Err(invalid!("a call of something that is no callable: refused."));
        };
        match (callable, items) {
            (Callable::OrderedDict, []) => self.push(Value::Dict(Vec::new())),
            (Callable::RebuildTensor, [storage, offset, shape, strides, ..]) => {
                let tensor = self.tensor(*storage, *offset, *shape, *strides)?;
                self.push(Value::Tensor(Box::new(tensor)))
            }
            (Callable::RebuildParameter, &[tensor, ..]) => match self.at(tensor)? {
                Value::Tensor(_) => {
                    self.stack.push(tensor);
                    Ok(())
                }
                _ => Err(invalid!("a parameter of something that is no tensor.")),
            },
            (Callable::Storage(_), _) => Err(invalid!("a storage is called: refused.")),
            _ => Err(invalid!("a tensor or dictionary is built from {} values.", items.len())),
        }
    }

    fn tensor(&self, storage: Id, offset: Id, shape: Id, strides: Id) -> Result<Tensor<'a>> {
        let numbers = |id: Id| -> Result<Vec<u64>> {
            let items = self.tuple_at(id)?;
            if items.len() > MAX_DIMENSIONS {
                return Err(invalid!("a tensor of {} dimensions.", items.len()));
            }
            items.iter().map(|&item| self.size(item)).collect()
        };
        let Value::Storage(storage) = self.at(storage)? else {
            return Err(invalid!("a tensor without a storage."));
        };
        let (shape, strides) = (numbers(shape)?, numbers(strides)?);
        if shape.len() != strides.len() {
            return Err(invalid!("a tensor of shape {shape:?} with strides {strides:?}."));
        }
        let storage = Storage::clone(storage);
        Ok(Tensor { storage, offset: self.size(offset)?, shape, strides })
    }

    fn size(&self, id: Id) -> Result<u64> {
        match self.at(id)? {
            Value::Int(n) => {
                u64::try_from(*n).map_err(|_| invalid!("a tensor with a size or stride of {n}."))
            }
            _ => Err(invalid!("a tensor with a size that is no integer.")),
        }
    }

    /// State of a dictionary (torch keeps versions of modules there): nothing a tensor needs.
    fn build(&mut self) -> Result<()> {
        self.pop()?;
        let target = *self.stack.last().ok_or_else(underflow)?;
        match self.at(target)? {
            Value::Dict(_) => Ok(()),
            _ => Err(invalid!("state is set on something that is no dictionary: refused.")),
        }
    }
}

fn underflow() -> Error {
    invalid!("it takes more values than it makes.")
}
