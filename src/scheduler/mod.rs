//! (room scheduler)
