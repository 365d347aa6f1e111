//! What a head that drafts has beside a decoder's weights: norms and the product in front of its
//! layer, which tokens it can say; and what a model multiplies for it. Part of `load`.

use super::loader::{Loader, Upload};
use crate::device::{Bytes, DType, Device, HostTensor, Join, Source, WeightKind};
use crate::error::{Error, Result};
use crate::internal;
use crate::model::checkpoint::{StoredType, WeightSource};
use crate::model::config::{DraftHead, HeadKind};
use crate::model::quant::unpack::Values;
use crate::model::shard::Cut;
use crate::model::weights::{DraftHeadWeights, Linear};

/// EAGLE's product.
const PROJECT: &str = "fc";
/// Of each token that a head says how much is added to its number.
const OFFSETS: &str = "d2t";
const INTEGERS: [StoredType; 2] = [StoredType::I64, StoredType::I32];

impl<D: Device> Loader<'_, D> {
    pub(super) fn draft_head(&mut self, head: &DraftHead) -> Result<DraftHeadWeights<D::Weight>> {
        let hidden = self.spec.hidden;
        let (norms, project) = match (head.kind, &self.spec.family.next_token) {
            (HeadKind::Eagle, _) => (None, Some(PROJECT)),
            (HeadKind::Eagle3 { .. }, _) => {
                let token = self.layer_name(0, "input_layernorm");
                (Some([token, self.layer_name(0, "hidden_norm")]), None)
            }
            (HeadKind::NextToken { .. }, Some(names)) => {
                let norms = [names.token_norm, names.hidden_norm].map(|name| self.name(name));
                (Some(norms), Some(names.project))
            }
            (HeadKind::NextToken { .. }, None) => {
                return Err(internal!("a layer for further tokens without its names"));
            }
        };

        let norms = match norms {
            Some([token, hidden]) => Some([self.norm(&token, 1.0)?, self.norm(&hidden, 1.0)?]),
            None => None,
        };
        let project = match project {
            Some(name) => {
                let name = self.name(name);
                Some(self.linear(&[name], &[hidden], 2 * hidden, false, &Cut::Whole)?)
            }
            None => None,
        };
        let places = head.few.map(|few| self.places_of_few(few)).transpose()?;
        Ok(DraftHeadWeights { norms, project, places })
    }

    /// What the model multiplies the inputs of its layers by.
    pub(super) fn tapped_product(&mut self, head: &DraftHead) -> Result<Linear<D::Weight>> {
        let inputs = head.taps.len() * head.target_hidden;
        let name = self.name(PROJECT);
        self.linear(&[name], &[self.spec.hidden], inputs, false, &Cut::Whole)
    }

    /// The matrix of the tokens that a head can say.
    pub(super) fn head_of_few(&mut self, few: usize) -> Result<D::Weight> {
        let name = self.names.head.to_string();
        Ok(self.linear(&[name], &[few], self.spec.hidden, false, &Cut::Whole)?.weight)
    }

    /// Of each token of the vocabulary its place among those that a head can say, or -1.
    fn places_of_few(&mut self, few: usize) -> Result<D::Weight> {
        let vocab = self.spec.vocab_size;
        let tokens = match self.format {
            WeightSource::Files(checkpoint) if !self.shapes_only => {
                let raw = checkpoint.raw(OFFSETS, &INTEGERS, &[&[few]])?;
                let said = |(place, offset): (usize, i64)| {
                    let token = usize::try_from((place as i64).saturating_add(offset)).ok();
                    let token = token.filter(|&token| token < vocab);
                    token.ok_or_else(|| {
                        raw.wrong(format!("names a token beyond the {vocab} of the model"))
                    })
                };
                let tokens = raw.integers()?.into_iter().enumerate().map(said);
                tokens.collect::<Result<Vec<usize>>>()?
            }
            _ => (0..few).collect(),
        };
        let mut places = vec![-1f32; vocab];
        for (place, token) in tokens.into_iter().enumerate() {
            let before = std::mem::replace(&mut places[token], place as f32);
            if before >= 0.0 {
                return Err(Error::InvalidArgument(format!(
                    "tensor '{OFFSETS}' names token {token} twice."
                )));
            }
        }

        let bytes: Vec<u8> = places.iter().flat_map(|place| place.to_le_bytes()).collect();
        let (dtype, rows, cols, bytes) = (DType::F32, vocab, 1, Bytes::InMemory(&bytes));
        self.upload(Upload {
            name: OFFSETS,
            kind: WeightKind::Vector,
            outputs: vocab,
            inputs: 1,
            transposed: false,
            join: Join::None,
            values: Values::plain(Source::Parts(vec![HostTensor { dtype, rows, cols, bytes }])),
        })
    }
}
