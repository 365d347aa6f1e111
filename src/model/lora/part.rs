//! A linear of a layer as adapters see it: its parts, and what ranks hold of them. Made by
//! `projections`, read by all that puts adapters somewhere.

use std::ops::Range;

use super::rows::Rows;
use crate::model::config::AdapterOptions;
use crate::model::shard::{Cut, Slice};

/// What an adapter treats on its own of a linear: a module, or some of its outputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Behind `<layers>.<i>.`
    pub module: String,
    /// Of the module, of which some may be another part's.
    pub module_outputs: usize,
    /// Of the part.
    pub outputs: usize,
    /// Slices of the linear's cut that it is made of.
    slices: usize,
    pub(super) rows: Rows,
}

impl Part {
    /// A module that is a part as it is.
    pub(super) fn whole(module: impl Into<String>, outputs: usize) -> Part {
        let module = module.into();
        let rows = Rows::default();
        Part { module, module_outputs: outputs, outputs, slices: 1, rows }
    }

    /// The same, cut in so many slices by ranks.
    pub(super) fn of_slices(self, slices: usize) -> Part {
        Part { slices, ..self }
    }

    /// The same with all outputs times a factor.
    pub(super) fn times(mut self, factor: f32) -> Part {
        self.rows.factors = vec![factor];
        self
    }

    /// The same of rows that are picked or put in order.
    pub(super) fn of_rows(self, rows: Rows) -> Part {
        let outputs = match &rows.picked[..] {
            [] => self.module_outputs,
            picked => picked.iter().map(Range::len).sum(),
        };
        Part { outputs, rows, ..self }
    }
}

/// One linear of a layer as adapters see it: of one part, or of several that are stacked along
/// the outputs. Without parts the layer has none.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Projection {
    /// In the order in which they are stacked.
    pub parts: Vec<Part>,
    /// Of all parts alike.
    pub inputs: usize,
    /// What the Python backend calls all parts together.
    packed: &'static str,
}

impl Projection {
    pub(super) fn new(parts: Vec<Part>, inputs: usize, packed: &'static str) -> Projection {
        Projection { parts, inputs, packed }
    }

    /// Of each part the outputs that a rank holds, as places among all that the part has.
    pub(super) fn held(&self, cut: &Cut) -> Vec<Vec<Range<usize>>> {
        let Cut::Outputs(slices) = cut else {
            let whole = |part: &Part| std::iter::once(0..part.outputs).collect();
            return self.parts.iter().map(whole).collect();
        };
        let mut slices = slices.iter();
        let of_part = |part: &Part| {
            let mut start = 0;
            let own = slices.by_ref().take(part.slices);
            let place = |Slice { of, range }: &Slice| {
                start += of;
                start - of + range.start..start - of + range.end
            };
            own.map(place).collect()
        };
        self.parts.iter().map(of_part).collect()
    }

    /// Outputs of each part that a rank holds.
    pub fn outputs_of(&self, cut: &Cut) -> Vec<usize> {
        let held = self.held(cut).into_iter();
        held.map(|ranges| ranges.iter().map(Range::len).sum()).collect()
    }
}

/// How many linears of a layer take adapters, in the order of [`Place`].
pub const PROJECTIONS: usize = 10;

/// Which linear of a layer it is. Where one layer has the first name, another may have the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// q, k and v; or what makes q of latent attention, or what that is made of.
    Query,
    /// Attention's output.
    Out,
    /// Gate and up.
    Up,
    /// The MLP's second product.
    Down,
    /// The gate of attention's output; or the second product of q of latent attention.
    Gate,
    /// Latent vectors; or what a layer with a state multiplies its input by.
    Input,
    /// Rates of a delta rule; or what those of a scan of channels are made of.
    Rates,
    /// B and C of a scan of channels.
    Columns,
    /// Rates of a scan of channels.
    ChannelRates,
    /// The output of what keeps a state.
    StateOut,
}

impl AdapterOptions {
    /// Whether adapters may change some module of the projection.
    pub fn reaches(&self, projection: &Projection) -> bool {
        projection.parts.iter().any(|part| self.allows(projection, &part.module))
    }

    /// Whether adapters may change this module of the projection.
    pub fn allows(&self, projection: &Projection, module: &str) -> bool {
        let packed = |allowed: &Vec<String>| allowed.iter().any(|name| name == projection.packed);
        self.allows_name(module) || self.modules.as_ref().is_some_and(packed)
    }
}
