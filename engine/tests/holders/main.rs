//! What holds a disk is seen by all who ask: by restore, which refuses to write there, by capture,
//! which then knows that the disk is in use and what to freeze, and by track, which refuses what
//! is written past the device that it would watch.

mod cases;
#[path = "../support/mod.rs"]
mod support;
mod table;
