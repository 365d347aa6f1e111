//! From arguments to a running engine.

use super::{Engine, EngineArgs, EngineOptions};
use crate::error::Result;

pub(super) fn load(_args: EngineArgs, _options: EngineOptions) -> Result<Engine> {
    Err(crate::internal!("the model room is not there yet"))
}
