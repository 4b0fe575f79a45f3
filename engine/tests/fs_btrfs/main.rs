//! btrfs as the kernel's own mount shows it. The filesystems are made by mkfs.btrfs, filled
//! through the kernel, and read back by the engine; nothing of the truth is the engine's.

#[path = "../fs_ext/fill.rs"]
#[allow(dead_code)]
mod basics;
#[path = "../support/mod.rs"]
mod common;
#[path = "../support/everything.rs"]
mod everything;
#[path = "../support/survey.rs"]
mod surveyed;
#[path = "../fs_ext/truth.rs"]
#[allow(dead_code)]
mod truth;

mod damage;
mod devices;
mod fill;
mod fixture;
mod free;
mod large;
mod log;
mod order;
mod sums;
mod survey;
mod variants;
