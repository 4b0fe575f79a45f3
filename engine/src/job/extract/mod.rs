//! Files out of an image into a folder: planned in whole, then written in parallel in the order
//! of the disk.
//!
//! What an image holds is not trusted. Everything is made below the target folder through handles
//! of its parents, and no symbolic link on the way is followed, whether the image or somebody else
//! put it there. Nothing that exists is replaced unless that is asked for. Devices, set-user-id
//! bits, file capabilities and the like are left out unless that is asked for too.

mod attributes;
mod copy;
mod large;
mod pieces;
mod plan;
mod run;
mod tar;
mod tree;

pub use self::tar::{LeftOut, LeftOutPart, TarReport};
pub use plan::{Extract, Failure};
pub use run::ExtractReport;

use std::num::NonZeroUsize;

/// How to extract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtractOptions {
    /// Replace files that exist.
    pub overwrite: bool,
    /// Make device nodes too, and keep what lends rights: set-user-id and set-group-id bits, and
    /// attributes beyond `user.` and access control lists.
    pub privileged: bool,
    /// Working threads.
    pub threads: NonZeroUsize,
}
