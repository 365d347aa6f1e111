//! Which adapters a model may get, and what they may change. Called by `engine`, which makes it of
//! model.json, and by whoever asks what adapters may change.

use crate::device::AdapterCapacity;

/// Which adapters a model may get, and what they may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterOptions {
    /// Adapter slots, and the largest rank that they hold.
    pub capacity: AdapterCapacity,
    /// Last parts of module names (`lora_target_modules`); None: every linear of a layer, the table
    /// of tokens and the head.
    pub modules: Option<Vec<String>>,
}

impl AdapterOptions {
    /// Whether adapters may change a module of this name, of which the last part counts.
    pub fn allows_name(&self, module: &str) -> bool {
        let last = module.rsplit('.').next().unwrap_or(module);
        self.modules.as_ref().is_none_or(|allowed| allowed.iter().any(|name| name == last))
    }
}
