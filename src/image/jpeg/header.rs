//! Markers of a JPEG file, up to each scan: tables, what the file says of its colours, the frame
//! and its components. Every size is judged here.

use super::super::rgb::{check_size, damaged, zeroed};
use super::bits::Huffman;
use super::block::ZIGZAG;
use crate::error::Result;
use crate::invalid;

/// Blocks of a component side by side in an interleaved scan, and one below the other.
const SAMPLING_MAX: u8 = 4;

/// What a file says of its colours.
#[derive(Default)]
pub(super) struct Notes {
    pub jfif: bool,
    /// Adobe's code of the colour transform.
    pub adobe: Option<u8>,
}

/// A file as far as it was read.
pub(super) struct Header<'a> {
    bytes: &'a [u8],
    at: usize,
    pub notes: Notes,
    pub quantisers: [Option<[u16; 64]>; 4],
    pub dc: [Option<Huffman>; 4],
    pub ac: [Option<Huffman>; 4],
    /// Units between two restart markers; 0: there are none.
    pub restart: usize,
}

/// What stops the reading of markers.
pub(super) enum Segment {
    Frame(Frame),
    Scan(Scan),
    End,
}

/// All blocks of a picture.
pub(super) struct Frame {
    pub width: usize,
    pub height: usize,
    pub progressive: bool,
    /// The largest sampling of any component.
    pub h: usize,
    pub v: usize,
    pub components: Vec<Component>,
}

/// One colour.
pub(super) struct Component {
    pub id: u8,
    pub h: usize,
    pub v: usize,
    table: usize,
    /// Taken when its first scan begins: a file may define others later.
    pub quantiser: Option<[u16; 64]>,
    /// Samples that mean something.
    pub width: usize,
    pub height: usize,
    /// Blocks of a row, and rows of blocks, whole units of an interleaved scan.
    pub columns: usize,
    pub rows: usize,
    /// 64 coefficients a block, in the order of rows.
    pub blocks: Vec<i16>,
}

/// A pass over some components.
pub(super) struct Scan {
    /// Component, DC table, AC table.
    pub parts: Vec<(usize, usize, usize)>,
    /// Which coefficients, by their place in the zigzag.
    pub first: usize,
    pub last: usize,
    /// Bits of a coefficient that earlier scans had (0: none), and that stay for later ones.
    pub high: u8,
    pub low: u8,
    pub at: usize,
}

impl<'a> Header<'a> {
    pub fn new(bytes: &'a [u8]) -> Header<'a> {
        let none = || [const { None }; 4];
        Header {
            bytes,
            at: 2,
            notes: Notes::default(),
            quantisers: [None; 4],
            dc: none(),
            ac: none(),
            restart: 0,
        }
    }

    /// Go on behind a scan.
    pub fn seek(&mut self, at: usize) {
        self.at = at;
    }

    pub fn next_segment(&mut self) -> Result<Segment> {
        loop {
            let marker = self.next_marker()?;
            match marker {
                0xd9 => return Ok(Segment::End),
                0xd0..=0xd7 | 0x01 | 0xd8 => continue,
                _ => {}
            }

            let body = self.body()?;
            match marker {
                0xc0..=0xc2 => return Frame::read(body, marker == 0xc2).map(Segment::Frame),
                0xc4 => self.huffman_tables(body)?,
                0xc3 | 0xc5..=0xcf => {
                    return Err(invalid!("Unsupported JPEG: its coding is 0x{marker:x}."));
                }
                0xda => return self.scan(body).map(Segment::Scan),
                0xdb => self.quantiser_tables(body)?,
                0xdd => match *body {
                    [a, b, ..] => self.restart = usize::from(u16::from_be_bytes([a, b])),
                    _ => return Err(damaged("a restart interval is cut off")),
                },
                0xe0 => self.notes.jfif |= body.len() >= 14 && body.starts_with(b"JFIF\0"),
                0xee if body.len() >= 12 && body.starts_with(b"Adobe") => {
                    self.notes.adobe = Some(body[11]);
                }
                _ => {}
            }
        }
    }

    /// Whatever stands before it is skipped.
    fn next_marker(&mut self) -> Result<u8> {
        loop {
            match self.bytes.get(self.at..self.at + 2) {
                Some(&[0xff, marker]) if marker != 0 && marker != 0xff => {
                    self.at += 2;
                    return Ok(marker);
                }
                Some(_) => self.at += 1,
                None => return Err(damaged("it ends before its end marker")),
            }
        }
    }

    fn body(&mut self) -> Result<&'a [u8]> {
        let cut_off = || damaged("a segment is cut off");
        let Some(&[a, b]) = self.bytes.get(self.at..self.at + 2) else { return Err(cut_off()) };
        let end = self.at + usize::from(u16::from_be_bytes([a, b])).max(2);
        let body = self.bytes.get(self.at + 2..end).ok_or_else(cut_off)?;
        self.at = end;
        Ok(body)
    }

    fn quantiser_tables(&mut self, mut body: &[u8]) -> Result<()> {
        while let Some((&head, rest)) = body.split_first() {
            let (wide, id) = (head >> 4 != 0, usize::from(head & 15));
            let size = if wide { 128 } else { 64 };
            let (Some(values), 0..4) = (rest.get(..size), id) else {
                return Err(damaged("a quantisation table is wrong"));
            };
            let mut table = [0; 64];
            for (k, &place) in ZIGZAG.iter().enumerate() {
                table[place] = if wide {
                    u16::from_be_bytes([values[2 * k], values[2 * k + 1]])
                } else {
                    values[k].into()
                };
            }
            self.quantisers[id] = Some(table);
            body = &rest[size..];
        }
        Ok(())
    }

    fn huffman_tables(&mut self, mut body: &[u8]) -> Result<()> {
        let wrong = || damaged("a Huffman table is wrong");
        while let Some((&head, rest)) = body.split_first() {
            let (class, id) = (head >> 4, usize::from(head & 15));
            let (Some(counts), 0..4) = (rest.get(..16), id) else { return Err(wrong()) };
            let total: usize = counts.iter().map(|&n| usize::from(n)).sum();
            let symbols = rest.get(16..16 + total).ok_or_else(wrong)?;
            if class > 1 || class == 0 && symbols.iter().any(|&s| s > 15) {
                return Err(wrong());
            }

            let table = Huffman::new(counts, symbols).ok_or_else(wrong)?;
            let tables = if class == 0 { &mut self.dc } else { &mut self.ac };
            tables[id] = Some(table);
            body = &rest[16 + total..];
        }
        Ok(())
    }

    fn scan(&self, body: &[u8]) -> Result<Scan> {
        let wrong = || damaged("a scan's header is wrong");
        let (&count, rest) = body.split_first().ok_or_else(wrong)?;
        let count = usize::from(count);
        let (Some(ids), Some(&[first, last, approx])) =
            (rest.get(..2 * count), rest.get(2 * count..2 * count + 3))
        else {
            return Err(wrong());
        };

        let part =
            |id: &[u8]| (usize::from(id[0]), usize::from(id[1] >> 4), usize::from(id[1] & 15));
        let scan = Scan {
            parts: ids.chunks_exact(2).map(part).collect(),
            first: first.into(),
            last: last.into(),
            high: approx >> 4,
            low: approx & 15,
            at: self.at,
        };
        let tables = scan.parts.iter().all(|&(_, dc, ac)| dc < 4 && ac < 4);
        if !(1..=4).contains(&count) || !tables {
            return Err(wrong());
        }
        Ok(scan)
    }
}

impl Frame {
    fn read(body: &[u8], progressive: bool) -> Result<Frame> {
        let wrong = || damaged("its frame header is wrong");
        let Some((&[bits, a, b, c, d, count], ids)) = body.split_first_chunk() else {
            return Err(wrong());
        };
        if bits != 8 || !matches!(count, 1 | 3 | 4) {
            return Err(invalid!(
                "Unsupported JPEG: {count} components of {bits} bits; read are 1, 3 or 4 of 8."
            ));
        }
        let height = usize::from(u16::from_be_bytes([a, b]));
        let width = usize::from(u16::from_be_bytes([c, d]));
        check_size(width as u64, height as u64)?;
        let ids = ids.get(..3 * usize::from(count)).ok_or_else(wrong)?;

        let legal = |n: u8| (1..=SAMPLING_MAX).contains(&n);
        let ids: Vec<&[u8]> = ids.chunks_exact(3).collect();
        if ids.iter().any(|c| !legal(c[1] >> 4) || !legal(c[1] & 15) || c[2] > 3) {
            return Err(wrong());
        }
        let h = ids.iter().map(|c| usize::from(c[1] >> 4)).max().unwrap_or(1);
        let v = ids.iter().map(|c| usize::from(c[1] & 15)).max().unwrap_or(1);
        let mut frame = Frame { width, height, progressive, h, v, components: Vec::new() };
        for c in ids {
            frame.components.push(frame.component(c)?);
        }
        Ok(frame)
    }

    fn component(&self, bytes: &[u8]) -> Result<Component> {
        let (h, v) = (usize::from(bytes[1] >> 4), usize::from(bytes[1] & 15));
        if !self.h.is_multiple_of(h) || !self.v.is_multiple_of(v) {
            return Err(invalid!("Unsupported JPEG: a colour is sampled {h} to {}.", self.h));
        }
        let columns = self.units().0 * h;
        let rows = self.units().1 * v;
        Ok(Component {
            id: bytes[0],
            h,
            v,
            table: bytes[2].into(),
            quantiser: None,
            width: (self.width * h).div_ceil(self.h),
            height: (self.height * v).div_ceil(self.v),
            columns,
            rows,
            blocks: zeroed(columns * rows * 64)?,
        })
    }

    /// Units of an interleaved scan side by side, and one below the other.
    pub fn units(&self) -> (usize, usize) {
        (self.width.div_ceil(8 * self.h), self.height.div_ceil(8 * self.v))
    }

    /// How many a scan goes over, about.
    pub fn blocks(&self, scan: &Scan) -> usize {
        let has = |c: &&Component| scan.parts.iter().any(|&(id, ..)| usize::from(c.id) == id);
        self.components.iter().filter(has).map(|c| c.columns * c.rows).sum()
    }

    /// All has been read that is needed.
    pub fn is_complete(&self) -> bool {
        !self.progressive && self.components.iter().all(|c| c.quantiser.is_some())
    }

    /// Give the components of a scan the tables that they are to be multiplied by.
    pub fn hold_tables(&mut self, scan: &Scan, quantisers: &[Option<[u16; 64]>; 4]) -> Result<()> {
        for &(id, ..) in &scan.parts {
            let component = self.components.iter_mut().find(|c| usize::from(c.id) == id);
            let component = component.ok_or_else(|| damaged("a scan of no component"))?;
            if component.quantiser.is_none() {
                let table = quantisers[component.table];
                component.quantiser =
                    Some(table.ok_or_else(|| damaged("a quantisation table is missing"))?);
            }
        }
        Ok(())
    }
}
