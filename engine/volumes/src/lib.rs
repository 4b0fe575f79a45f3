//! Volumes and filesystems, read from the bytes of a disk: nothing is mounted, nothing is written.
//!
//! [`volume`] opens what a disk holds (partitions, RAID arrays, logical volumes, encrypted ones),
//! [`fs`] reads the files of a filesystem. Both see bytes through [`ReadAt`](base::ReadAt) alone,
//! whatever gives them.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::cast_possible_truncation))]

pub use imgx_base as base;

mod content;
pub mod fs;
mod kind;
mod text;
pub mod volume;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
