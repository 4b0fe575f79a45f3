//! Disks as the kernel shows them: files, loop devices, bad sectors, mounts. Each result is
//! compared with what `std::fs` or a system tool says. Tests that need root say so and pass
//! without.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod holes;
mod reading;
mod speed;
mod support;
mod unreadable;
mod uses;
mod writing;
mod zeroing;
