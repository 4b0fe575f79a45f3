//! LUKS as cryptsetup, qemu-img and the kernel make it, and as somebody who means harm would.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod copies;
mod hostile;
mod kernel;
mod keyslots;
mod luks1;
mod luks2;
mod support;
