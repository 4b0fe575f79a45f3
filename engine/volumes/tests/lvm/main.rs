//! Logical volumes of all kinds, made by Linux itself in a virtual machine and by the tools that
//! write their metadata into files.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test may panic")]

mod caches;
mod groups;
mod linux;
mod snapshots;
mod support;
mod thin;
