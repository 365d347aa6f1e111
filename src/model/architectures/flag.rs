//! What rows say of a feature that some models of a family have. It never touches a file.

/// A `config.json` flag that switches a feature, or a fixed answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flag {
    /// On in every model of the family.
    Always,
    /// Off in every model of the family.
    Never,
    /// As this key says; it must be there, if only by the row's defaults.
    Key(&'static str),
}
