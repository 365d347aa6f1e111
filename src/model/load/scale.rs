//! Factors of a product's outputs, folded into the values of its weight. Part of `load`, which
//! stacks parts; it knows no layer.

use crate::device::{Bytes, DType, HostTensor, QuantPart, Source};
use crate::error::Result;
use crate::internal;

/// Each part times its factor; without factors, or where all are 1, as they are. Made-up values
/// stay so.
pub(super) fn parts<'a>(source: Source<'a>, factors: &[f32]) -> Result<Source<'a>> {
    if factors.iter().all(|&factor| factor == 1.0) {
        return Ok(source);
    }
    let fits = |count: usize| {
        if count == factors.len() {
            Ok(())
        } else {
            Err(internal!("{} factors of {count} parts", factors.len()))
        }
    };

    Ok(match source {
        Source::Parts(parts) => {
            fits(parts.len())?;
            Source::Parts(all_plain(parts, factors)?)
        }
        Source::Quantise { parts, over } => {
            fits(parts.len())?;
            Source::Quantise { parts: all_plain(parts, factors)?, over }
        }
        Source::Codes { mut parts, order } => {
            fits(parts.len())?;
            for (QuantPart { scales, offsets, .. }, factor) in parts.iter_mut().zip(factors) {
                scales.iter_mut().chain(offsets).for_each(|x| *x *= factor);
            }
            Source::Codes { parts, order }
        }
        other => other,
    })
}

fn all_plain<'a>(parts: Vec<HostTensor<'a>>, factors: &[f32]) -> Result<Vec<HostTensor<'a>>> {
    parts.into_iter().zip(factors).map(|(part, &factor)| plain(part, factor)).collect()
}

fn plain(part: HostTensor<'_>, factor: f32) -> Result<HostTensor<'_>> {
    if factor == 1.0 {
        return Ok(part);
    }
    let values = part.values()?;
    let bytes: Vec<u8> = values.iter().flat_map(|x| (x * factor).to_le_bytes()).collect();
    Ok(HostTensor { dtype: DType::F32, bytes: Bytes::Shared(bytes.into()), ..part })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_factors_of_their_own() {
        let bytes: Vec<u8> = [1.0f32, -2.0, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let part = |rows: usize| HostTensor {
            dtype: DType::F32,
            rows,
            cols: 1,
            bytes: Bytes::InMemory(&bytes[..4 * rows]),
        };
        let source = Source::Parts(vec![part(3), part(2)]);
        let Source::Parts(scaled) = parts(source, &[0.5, 1.0]).unwrap() else { panic!() };
        assert_eq!(scaled[0].values().unwrap(), [0.5, -1.0, 2.0]);
        assert_eq!(scaled[1].values().unwrap(), [1.0, -2.0]);
        assert!(parts(Source::Parts(vec![part(3)]), &[0.5, 1.0]).is_err());
    }
}
