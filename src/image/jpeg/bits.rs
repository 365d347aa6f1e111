//! Bits of a scan, and the Huffman codes in them.

/// Codes up to this length are looked up, longer ones are searched for.
const LOOKED_UP: u32 = 9;

/// A table of codes.
pub(super) struct Huffman {
    /// By the next bits: the code's length (0: it is longer) and its symbol.
    short: Vec<(u8, u8)>,
    /// By length: the first code that is longer, with 16 bits.
    ends: [u32; 17],
    /// By length: what is added to a code for its symbol's place.
    shifts: [i32; 17],
    symbols: Vec<u8>,
}

impl Huffman {
    /// None: more codes than there are.
    pub fn new(counts: &[u8], symbols: &[u8]) -> Option<Huffman> {
        let mut table = Huffman {
            short: vec![(0, 0); 1 << LOOKED_UP],
            ends: [0; 17],
            shifts: [0; 17],
            symbols: symbols.to_vec(),
        };
        let (mut code, mut place) = (0u32, 0usize);
        for length in 1..=16u32 {
            let count = u32::from(counts[length as usize - 1]);
            if code + count > 1 << length {
                return None;
            }
            table.shifts[length as usize] = place as i32 - code as i32;

            for _ in 0..count {
                if length <= LOOKED_UP {
                    let spare = LOOKED_UP - length;
                    let from = (code << spare) as usize;
                    table.short[from..from + (1 << spare)].fill((length as u8, symbols[place]));
                }
                code += 1;
                place += 1;
            }
            table.ends[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Some(table)
    }
}

/// The bits of a scan up to its next marker, behind which there are zeros without end.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The next bits, at the lower end.
    held: u64,
    count: u32,
    /// Zeros that the file does not have were taken because it ends.
    pub past_end: bool,
}

impl<'a> Bits<'a> {
    pub fn new(bytes: &'a [u8], at: usize) -> Bits<'a> {
        Bits { bytes, at, held: 0, count: 0, past_end: false }
    }

    /// Where the next marker is looked for.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Throw away what is left up to the next marker, and the marker too if it is a restart.
    pub fn restart(&mut self) {
        (self.held, self.count) = (0, 0);
        while let Some(&[a, b]) = self.bytes.get(self.at..self.at + 2) {
            match (a, b) {
                (0xff, 0xd0..=0xd7) => {
                    self.at += 2;
                    return;
                }
                (0xff, 1..=0xfe) => return,
                _ => self.at += 1,
            }
        }
        self.past_end = true;
    }

    /// The next `n` bits, at most 16, as a number.
    #[inline]
    pub fn take(&mut self, n: u32) -> i32 {
        if n == 0 {
            return 0;
        }
        self.need(n);
        self.count -= n;
        (self.held >> self.count) as i32 & ((1 << n) - 1)
    }

    /// A number of `n` bits whose first bit is its sign.
    #[inline]
    pub fn signed(&mut self, n: u32) -> i32 {
        let bits = self.take(n);
        if n == 0 || bits >> (n - 1) != 0 {
            return bits;
        }
        bits - (1 << n) + 1
    }

    /// The symbol of the next code; 0 for a code that there is not.
    #[inline]
    pub fn symbol(&mut self, table: &Huffman) -> u8 {
        self.need(16);
        let next = (self.held >> (self.count - 16)) as u32 & 0xffff;
        let (length, symbol) = table.short[(next >> (16 - LOOKED_UP)) as usize];
        if length > 0 {
            self.count -= u32::from(length);
            return symbol;
        }
        for length in LOOKED_UP + 1..=16 {
            if next < table.ends[length as usize] {
                self.count -= length;
                let place = (next >> (16 - length)) as i32 + table.shifts[length as usize];
                return table.symbols.get(place as usize).copied().unwrap_or(0);
            }
        }
        self.count -= 16;
        0
    }

    #[inline]
    fn need(&mut self, n: u32) {
        if self.count < n {
            self.fill();
        }
    }

    fn fill(&mut self) {
        while self.count <= 48 {
            let byte = match self.bytes.get(self.at..self.at + 2) {
                Some(&[0xff, 0]) => {
                    self.at += 2;
                    0xff
                }
                // A marker, whatever fills the room before it.
                Some(&[0xff, _]) => 0,
                Some(&[byte, _]) => {
                    self.at += 1;
                    byte
                }
                _ => match self.bytes.get(self.at) {
                    Some(&byte) if byte != 0xff => {
                        self.at += 1;
                        byte
                    }
                    _ => {
                        self.past_end |= self.count < 16;
                        0
                    }
                },
            };
            self.held = self.held << 8 | u64::from(byte);
            self.count += 8;
        }
    }
}
