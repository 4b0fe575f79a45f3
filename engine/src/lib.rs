//! The imgx engine: whole disks in, whole disks out, never silently wrong.
//!
//! Layers, each a folder, each importing only those before it: [`base`] (errors, units, events;
//! no I/O), [`sys`] (the kernel: rings, ioctls; the only unsafe code), [`block`] (bytes at an
//! offset: disks, buffers, streams), then [`track`] (what was written), [`store`] (the repository),
//! [`volume`] (partition tables, signatures) and [`fs`] (filesystems), which never import one
//! another, and [`job`] (capture, restore, verify).
//! The engine prints nothing: it speaks through [`base::Observer`].

#![cfg_attr(test, allow(clippy::cast_possible_truncation))]

pub use imgx_base as base;
pub use imgx_volumes::{fs, volume};

pub mod block;
pub mod job;
pub mod store;
pub mod sys;
pub mod track;
