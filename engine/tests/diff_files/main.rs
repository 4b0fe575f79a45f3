//! `diff --files` beside walks of the kernel's mounts: what is told turns the one tree into the
//! other, exactly, whatever was done between them.

#[path = "../support/mod.rs"]
mod common;

mod cases;
mod damage;
mod disks;
mod fixture;
mod logical;
#[path = "../support/logical.rs"]
mod logical_disk;
mod operations;
mod random;
mod subvolumes;
mod truth;
