//! NTFS volumes as ntfs-3g shows them. They are made by mkntfs, filled through ntfs-3g, and read
//! back by the engine; nothing of the truth is the engine's.

#[path = "../support/mod.rs"]
mod common;
#[path = "../support/everything.rs"]
mod everything;
#[path = "../support/ntfs_3g.rs"]
mod ntfs_3g;
#[path = "../diff_files/operations.rs"]
mod operations;
#[path = "../diff_files/streams_by_chance.rs"]
mod streams_by_chance;
#[path = "../support/survey.rs"]
mod surveyed;

mod by_number;
mod damage;
mod fixture;
mod folders;
mod free;
mod layouts;
mod links;
mod order;
mod speed;
mod streams;
mod survey;
mod truth;
mod wof;
