//! Linux md: RAID arrays of every level, read from the bytes of their members.
//!
//! [`superblock`] finds what a member says of its array, [`Array::assemble`] puts an array together
//! of those that it is given. Nothing is written: no event counted, no member marked, nothing
//! resynchronized. So what the kernel would first repair is refused where it could show wrong
//! bytes, and said which member is why.

mod array;
mod geometry;
mod member;
mod members;
mod mirrors;
mod read;
mod rebuild;
mod rows;
mod superblock;
mod version_0;
mod version_1;
mod whole_rows;
mod zones;

pub use array::Array;
pub use members::Refused;
pub(super) use superblock::find;
pub use superblock::{Features, Level, Reshape, Role, Superblock, Version, superblock};
