//! One scan of a JPEG file into the coefficients of its components: whole blocks, or what a
//! progressive file adds to them.

use super::super::rgb::{damaged, GoOn};
use super::bits::{Bits, Huffman};
use super::block::ZIGZAG;
use super::header::{Component, Frame, Header, Scan};
use crate::error::Result;

/// Coefficients that are known of a component when a block is read.
struct State<'a> {
    bits: Bits<'a>,
    /// The last DC of each part.
    dc: [i32; 4],
    /// Blocks that end at once.
    end_run: u32,
}

/// Tables of one part of a scan.
struct Tables<'a> {
    dc: Option<&'a Huffman>,
    ac: Option<&'a Huffman>,
}

/// Units between two questions whether to go on.
const ASKED_EVERY: usize = 4096;

/// Read a scan; returns where the next marker is.
pub(super) fn read(
    frame: &mut Frame,
    scan: &Scan,
    header: &Header,
    bytes: &[u8],
    go_on: GoOn,
) -> Result<usize> {
    check(frame, scan)?;
    let mut parts = Vec::new();
    let mut tables = Vec::new();
    for &(id, dc, ac) in &scan.parts {
        let at = frame.components.iter().position(|c| usize::from(c.id) == id);
        let at = at.ok_or_else(|| damaged("a scan of no component"))?;
        if parts.contains(&at) {
            return Err(damaged("a scan has a component twice"));
        }
        parts.push(at);
        tables.push(Tables { dc: header.dc[dc].as_ref(), ac: header.ac[ac].as_ref() });
    }

    let mut state = State { bits: Bits::new(bytes, scan.at), dc: [0; 4], end_run: 0 };
    let (columns, rows) = match parts[..] {
        // One alone has its own blocks only, not those that fill a unit.
        [one] => {
            let c = &frame.components[one];
            (c.width.div_ceil(8), c.height.div_ceil(8))
        }
        _ => frame.units(),
    };
    let mut until_restart = header.restart;
    for unit in 0..columns * rows {
        if unit % ASKED_EVERY == 0 {
            go_on()?;
        }
        if header.restart > 0 && until_restart == 0 {
            state.bits.restart();
            (state.dc, state.end_run) = ([0; 4], 0);
            until_restart = header.restart;
        }
        until_restart = until_restart.saturating_sub(1);

        let (x, y) = (unit % columns, unit / columns);
        for (nth, &part) in parts.iter().enumerate() {
            let component = &mut frame.components[part];
            let (h, v) = if parts.len() == 1 { (1, 1) } else { (component.h, component.v) };
            for block in 0..h * v {
                let (bx, by) = (x * h + block % h, y * v + block / h);
                let coefficients = block_at(component, bx, by);
                read_block(&mut state, frame.progressive, scan, &tables[nth], nth, coefficients)?;
            }
        }
        if state.bits.past_end {
            return Err(damaged("it ends within its pixels"));
        }
    }
    Ok(state.bits.at())
}

fn check(frame: &Frame, scan: &Scan) -> Result<()> {
    let legal = if frame.progressive {
        let dc = scan.first == 0;
        let range = if dc { scan.last == 0 } else { scan.last < 64 && scan.first <= scan.last };
        let alone = dc || scan.parts.len() == 1;
        range && alone && scan.low <= 13 && (scan.high == 0 || scan.high == scan.low + 1)
    } else {
        // What a sequential scan says of its coefficients is not heeded.
        true
    };
    legal.then_some(()).ok_or_else(|| damaged("a scan's header is wrong"))
}

fn block_at(component: &mut Component, x: usize, y: usize) -> &mut [i16] {
    let at = 64 * (y * component.columns + x);
    &mut component.blocks[at..at + 64]
}

fn read_block(
    state: &mut State,
    progressive: bool,
    scan: &Scan,
    tables: &Tables,
    nth: usize,
    block: &mut [i16],
) -> Result<()> {
    let missing = || damaged("a Huffman table is missing");
    let dc = || tables.dc.ok_or_else(missing);
    let ac = || tables.ac.ok_or_else(missing);
    match (progressive, scan.first, scan.high) {
        (false, ..) => state.whole(nth, dc()?, ac()?, block),
        (true, 0, 0) => block[0] = state.next_dc(nth, dc()?).wrapping_shl(scan.low.into()) as i16,
        (true, 0, _) => block[0] |= (state.bits.take(1) << scan.low) as i16,
        (true, _, 0) => state.ac_first(scan, ac()?, block),
        (true, ..) => state.ac_more(scan, ac()?, block),
    }
    Ok(())
}

impl State<'_> {
    fn next_dc(&mut self, nth: usize, table: &Huffman) -> i32 {
        let length = self.bits.symbol(table);
        let difference = self.bits.signed(length.into());
        self.dc[nth] = self.dc[nth].wrapping_add(difference);
        self.dc[nth]
    }

    /// All coefficients of a block.
    fn whole(&mut self, nth: usize, dc: &Huffman, ac: &Huffman, block: &mut [i16]) {
        block[0] = self.next_dc(nth, dc) as i16;
        let mut k = 1;
        while k < 64 {
            let symbol = self.bits.symbol(ac);
            let (zeros, length) = (usize::from(symbol >> 4), u32::from(symbol & 15));
            if length == 0 && zeros != 15 {
                break;
            }
            k += zeros;
            if length > 0 {
                block[ZIGZAG[k.min(63)]] = self.bits.signed(length) as i16;
            }
            k += 1;
        }
    }

    /// How many blocks end here: a number of `length` bits, beyond the power of two.
    fn begin_run(&mut self, length: u32) {
        self.end_run = (1 << length) + self.bits.take(length) as u32;
    }

    /// The upper bits of some coefficients.
    fn ac_first(&mut self, scan: &Scan, table: &Huffman, block: &mut [i16]) {
        if self.end_run > 0 {
            self.end_run -= 1;
            return;
        }
        let mut k = scan.first;
        while k <= scan.last {
            let symbol = self.bits.symbol(table);
            let (zeros, length) = (usize::from(symbol >> 4), u32::from(symbol & 15));
            if length == 0 && zeros != 15 {
                self.begin_run(zeros as u32);
                self.end_run -= 1;
                break;
            }
            k += zeros;
            if length > 0 {
                let value = self.bits.signed(length).wrapping_shl(scan.low.into());
                block[ZIGZAG[k.min(63)]] = value as i16;
            }
            k += 1;
        }
    }

    /// One more bit of some coefficients, and those that begin with it.
    fn ac_more(&mut self, scan: &Scan, table: &Huffman, block: &mut [i16]) {
        let one = 1i16 << scan.low;
        let mut k = scan.first;
        while self.end_run == 0 && k <= scan.last {
            let symbol = self.bits.symbol(table);
            let (mut zeros, begins) = (symbol >> 4, symbol & 15 != 0);
            if !begins && zeros != 15 {
                self.begin_run(zeros.into());
                break;
            }
            let positive = begins && self.bits.take(1) == 1;

            while k <= scan.last {
                let coefficient = &mut block[ZIGZAG[k]];
                if *coefficient != 0 {
                    self.one_more_bit(coefficient, one);
                } else if zeros == 0 {
                    break;
                } else {
                    zeros -= 1;
                }
                k += 1;
            }
            if begins && k < 64 {
                block[ZIGZAG[k]] = if positive { one } else { -one };
            }
            k += 1;
        }

        if self.end_run > 0 {
            for place in ZIGZAG.iter().take(scan.last + 1).skip(k) {
                if block[*place] != 0 {
                    self.one_more_bit(&mut block[*place], one);
                }
            }
            self.end_run -= 1;
        }
    }

    fn one_more_bit(&mut self, coefficient: &mut i16, one: i16) {
        if self.bits.take(1) == 1 && *coefficient & one == 0 {
            let step = if *coefficient >= 0 { one } else { -one };
            *coefficient = coefficient.wrapping_add(step);
        }
    }
}
