//! XFS as the kernel's own mount shows it. The filesystems are made by mkfs.xfs, filled through the
//! kernel, and read back by the engine; nothing of the truth is the engine's.

#[path = "../support/mod.rs"]
mod common;
#[path = "../support/everything.rs"]
mod everything;
#[path = "../support/survey.rs"]
mod surveyed;

#[path = "../fs_ext/fill.rs"]
#[allow(dead_code)]
mod common_fill;
#[path = "../fs_ext/truth.rs"]
#[allow(dead_code)]
mod truth;

mod damage;
mod fill;
mod fixture;
mod folders;
mod free;
mod log;
mod numbered;
mod order;
mod survey;
mod variants;
mod version4;
