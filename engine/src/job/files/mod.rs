//! Files of a disk or an image: which filesystem, which file, and everything below a folder.
//!
//! [`FileDisk`] opens the filesystems of a disk's volumes; a [`FilePath`] says which file of which
//! volume is meant, [`resolve`] finds it, and [`Walk`] shows what lies below it.

mod disk;
mod path;
mod resolve;
mod walk;

pub(in crate::job) use disk::is_filesystem;
pub use disk::{FileDisk, OpenVolume};
pub use path::FilePath;
pub use resolve::{Found, LastLink, resolve};
pub use walk::{Descend, Visited, Walk, list_sorted};
