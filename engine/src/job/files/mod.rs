//! Files of a disk or an image: which filesystem, which file, and everything below a folder.
//!
//! [`FileDisk`] opens the filesystems of a disk's volumes; a [`FilePath`] says which file of which
//! volume is meant, [`resolve`] finds it, and [`Walk`] shows what lies below it.

mod beside;
mod disk;
mod members;
mod path;
mod resolve;
mod walk;
mod withheld;

pub(in crate::job) use disk::each_place;
pub use disk::{FileDisk, OpenVolume};
pub use path::FilePath;
pub use resolve::{Found, LastLink, resolve};
pub use walk::{Descend, Visited, Walk, list_sorted};
