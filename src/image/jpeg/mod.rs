//! JPEG, sequential and progressive, with the bits of libjpeg as Pillow calls it: the slow whole
//! number transform, triangle filters for halved colours, its rules of which colours these are.
//! Crates round otherwise, and a difference of a few levels is one in a model's answer.
//!
//! | file | what |
//! |---|---|
//! | `header` | markers, tables, the frame and its components |
//! | `bits` | bits and Huffman codes of a scan |
//! | `scan` | a scan's blocks into coefficients |
//! | `block` | coefficients of a block to samples |
//! | `pixels` | components to the frame's size and to RGB |

mod bits;
mod block;
mod header;
mod pixels;
mod scan;

use super::rgb::{damaged, Rgb};
use crate::error::Result;
use crate::invalid;
use header::{Header, Segment};

/// A progressive file has about ten. Each goes over all blocks, whatever few bytes it has.
const SCANS_MAX: usize = 200;

pub(super) fn decode(bytes: &[u8]) -> Result<Rgb> {
    let mut header = Header::new(bytes);
    let mut frame = match header.next_segment()? {
        Segment::Frame(frame) => frame,
        Segment::Scan(_) => return Err(damaged("a scan before its frame")),
        Segment::End => return Err(damaged("it has no frame")),
    };

    let mut scans = 0;
    loop {
        match header.next_segment() {
            Ok(Segment::Scan(_)) if scans == SCANS_MAX => {
                return Err(invalid!("Unsupported JPEG: it has more than {SCANS_MAX} scans."));
            }
            Ok(Segment::Scan(scan)) => {
                scans += 1;
                frame.hold_tables(&scan, &header.quantisers)?;
                let at = scan::read(&mut frame, &scan, &header, bytes)?;
                header.seek(at);
            }
            Ok(Segment::Frame(_)) => return Err(damaged("a second frame")),
            Ok(Segment::End) => break,
            // Only the end of the file is missing.
            Err(_) if frame.is_complete() => break,
            Err(error) => return Err(error),
        }
    }
    pixels::to_rgb(frame, &header.notes)
}
