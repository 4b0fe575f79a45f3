//! Volumes and filesystems, read from the bytes of a disk: nothing is mounted, nothing is written.
//!
//! [`volume`] finds out what a disk holds (partition tables, RAID arrays, logical volumes,
//! signatures), [`fs`] reads the files of a filesystem. Both see bytes through
//! [`ReadAt`](base::ReadAt) alone, whatever gives them.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::cast_possible_truncation))]

pub use imgx_base as base;

pub mod fs;
mod kind;
pub mod volume;
