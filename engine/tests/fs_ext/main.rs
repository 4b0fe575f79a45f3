//! ext2, ext3 and ext4 as the kernel's own mount shows them. The filesystems are made by mke2fs,
//! filled through the kernel, and read back by the engine; nothing of the truth is the engine's.

#[path = "../support/mod.rs"]
mod common;
#[path = "../support/everything.rs"]
mod everything;
#[path = "../support/numbered.rs"]
mod numbered;
#[path = "../diff_files/operations.rs"]
#[allow(dead_code, reason = "other trees are changed here")]
mod operations;
#[path = "../support/survey.rs"]
mod surveyed;

mod backup;
mod by_number;
mod damage;
mod fast_commit;
mod fill;
mod fixture;
mod folders;
mod free;
mod journal;
mod order;
mod special;
mod survey;
mod truth;
mod variants;
