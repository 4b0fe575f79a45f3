//! Tracking changes in the kernel: what really changed is in the map, whatever happens.
//!
//! The truth is the file behind a loop device: it has what reached the medium.

mod epochs;
mod hammer;
mod identity;
mod links;
mod support;
