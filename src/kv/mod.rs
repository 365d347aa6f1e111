//! (room kv)
