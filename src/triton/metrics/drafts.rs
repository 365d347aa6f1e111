//! Series of drafts, under vLLM's names; only of a model that has some. Called by `metrics`; it
//! counts only.

use super::registry::{Kind, Labels, Metric};
use crate::engine::{DraftStats, EngineArgs};
use crate::error::Result;

/// The series of one instance.
pub(super) struct DraftSeries {
    drafts: Metric,
    draft_tokens: Metric,
    accepted_tokens: Metric,
    /// By place in the draft.
    accepted_by_place: Vec<Metric>,
}

impl DraftSeries {
    /// None: the model has no drafts.
    pub(super) fn new(labels: &Labels, args: &EngineArgs) -> Result<Option<DraftSeries>> {
        let Some(speculation) = &args.speculation else { return Ok(None) };
        let counter = |name, help| Metric::new(name, help, labels, Kind::Counter);
        let place = |place: usize| {
            Metric::new(
                c"vllm:spec_decode_num_accepted_tokens_per_pos_total",
                c"Accepted tokens per draft position.",
                &labels.with(c"position", &place.to_string()),
                Kind::Counter,
            )
        };

        Ok(Some(DraftSeries {
            drafts: counter(
                c"vllm:spec_decode_num_drafts_total",
                c"Number of spec decoding drafts.",
            )?,
            draft_tokens: counter(
                c"vllm:spec_decode_num_draft_tokens_total",
                c"Number of draft tokens.",
            )?,
            accepted_tokens: counter(
                c"vllm:spec_decode_num_accepted_tokens_total",
                c"Number of accepted tokens.",
            )?,
            accepted_by_place: (0..speculation.lengths.most()).map(place).collect::<Result<_>>()?,
        }))
    }

    pub(super) fn add(&self, new: &DraftStats) {
        self.drafts.add(new.drafts as f64);
        self.draft_tokens.add(new.draft_tokens as f64);
        self.accepted_tokens.add(new.accepted_tokens as f64);
        let places = self.accepted_by_place.iter().zip(&new.accepted_by_place);
        places
            .filter(|(_, &count)| count > 0)
            .for_each(|(series, &count)| series.add(count as f64));
    }
}
