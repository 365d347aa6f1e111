//! (room triton)
