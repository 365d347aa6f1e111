//! model.json: vLLM's EngineArgs, parsed once. The door reads the file, this page knows the keys.

/// Placeholder of the contract; filled by the args work.
#[derive(Debug, Clone)]
pub struct EngineArgs {}
