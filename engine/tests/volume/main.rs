//! Partition tables, signatures and GPT moves, against the system's own tools.

mod hostile;
mod over;
mod relocate;
mod signatures;
mod stacked;
mod support;
mod tables;
