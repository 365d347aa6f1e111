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

use super::rgb::{damaged, GoOn, Rgb};
use crate::error::Result;
use crate::invalid;
use header::{Header, Segment};

/// A progressive file has about ten. Each goes over all blocks, whatever few bytes it has.
const SCANS_MAX: usize = 200;
/// Blocks that all scans go over, counted each time. The largest picture has 1.4 million a colour,
/// and what libjpeg writes goes over each of four colours six times at most.
const VISITS_MAX: usize = 36 << 20;

pub(super) fn decode(bytes: &[u8], go_on: GoOn) -> Result<Rgb> {
    decode_within(bytes, VISITS_MAX, go_on)
}

fn decode_within(bytes: &[u8], visits_max: usize, go_on: GoOn) -> Result<Rgb> {
    let mut header = Header::new(bytes);
    let mut frame = match header.next_segment()? {
        Segment::Frame(frame) => frame,
        Segment::Scan(_) => return Err(damaged("a scan before its frame")),
        Segment::End => return Err(damaged("it has no frame")),
    };

    let (mut scans, mut visits) = (0, 0);
    loop {
        match header.next_segment() {
            Ok(Segment::Scan(_)) if scans == SCANS_MAX => {
                return Err(invalid!("Unsupported JPEG: it has more than {SCANS_MAX} scans."));
            }
            Ok(Segment::Scan(scan)) => {
                scans += 1;
                visits += frame.blocks(&scan);
                if visits > visits_max {
                    return Err(invalid!(
                        "Unsupported JPEG: its scans go over more than {visits_max} blocks of 8 x \
                         8 pixels: save it with fewer scans, or smaller."
                    ));
                }
                frame.hold_tables(&scan, &header.quantisers)?;
                let at = scan::read(&mut frame, &scan, &header, bytes, go_on)?;
                header.seek(at);
            }
            Ok(Segment::Frame(_)) => return Err(damaged("a second frame")),
            Ok(Segment::End) => break,
            // Only the end of the file is missing.
            Err(_) if frame.is_complete() => break,
            Err(error) => return Err(error),
        }
    }
    pixels::to_rgb(frame, &header.notes, go_on)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    /// Grey and progressive, of 64 x 64 pixels, with so many scans of whose bits none is set.
    fn scans(count: usize) -> Vec<u8> {
        let segment = |marker: u8, body: &[u8]| {
            [&[0xff, marker], &(body.len() as u16 + 2).to_be_bytes()[..], body].concat()
        };
        // One code each: no DC, and the end of a block.
        let table = |class: u8| [&[class, 1][..], &[0; 16]].concat();
        let mut file = vec![0xff, 0xd8];
        file.extend(segment(0xdb, &[&[0][..], &[1; 64]].concat()));
        file.extend(segment(0xc2, &[8, 0, 64, 0, 64, 1, 1, 0x11, 0]));
        file.extend(segment(0xc4, &table(0)));
        file.extend(segment(0xc4, &table(0x10)));
        for n in 0..count {
            let range = if n == 0 { [0, 0, 0] } else { [1, 63, 0] };
            file.extend(segment(0xda, &[&[1, 1, 0][..], &range].concat()));
            file.extend([0; 8]);
        }
        [&file[..], &[0xff, 0xd9]].concat()
    }

    #[test]
    fn blocks_of_all_scans_are_limited() {
        let decode = |count, visits| decode_within(&scans(count), visits, &|| Ok(()));
        assert!(decode(20, 20 * 64).is_ok());
        let error = decode(21, 20 * 64).unwrap_err();
        assert!(error.message().contains("more than 1280 blocks"), "{error}");
        assert!(decode(201, VISITS_MAX).unwrap_err().message().contains("200 scans"));
    }

    #[test]
    fn who_no_longer_wants_it_ends_a_picture_between_scans() {
        for after in [1, 10, 20] {
            let asked = std::cell::Cell::new(0);
            let go_on = || match asked.replace(asked.get() + 1) {
                n if n == after => Err(Error::Cancelled("left".into())),
                _ => Ok(()),
            };
            assert_eq!(decode(&scans(20), &go_on), Err(Error::Cancelled("left".into())));
            assert_eq!(asked.get(), after + 1);
        }
    }
}
