//! `diff --files` beside walks of the kernel's and ntfs-3g's mounts: what is told turns the one
//! tree into the other, exactly, whatever was done between them.

#[path = "../support/mod.rs"]
mod common;
#[path = "../support/ntfs_3g.rs"]
mod ntfs_3g;

mod cases;
mod damage;
mod disks;
mod fixture;
mod logical;
#[path = "../support/logical.rs"]
mod logical_disk;
mod ntfs;
mod operations;
mod random;
mod streams_by_chance;
mod subvolumes;
mod truth;
