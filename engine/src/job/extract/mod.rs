//! Files out of an image into a folder: planned in whole, then written in parallel in the order
//! of the disk.
//!
//! What an image holds is not trusted, and others may be at work at the target at the same time.
//! Everything is made below the target folder through handles of its parents, no symbolic link on
//! the way is followed, and what was made is never looked up by its name again ([`tree`]). Nothing
//! that exists is replaced or changed unless that is asked for. Devices, set-user-id bits, file
//! capabilities and the like are left out unless that is asked for too.
//!
//! What cannot be read costs itself, and so does what the target cannot keep: an attribute, an
//! owner, a name. The report tells them apart ([`ExtractReport`]).

mod acl;
mod attributes;
mod copy;
#[cfg(test)]
mod exchanged;
mod folders;
mod handle;
mod large;
mod making;
mod names;
mod pieces;
mod plan;
mod report;
mod run;
mod spot;
mod tar;
mod target;
mod tree;
mod trouble;
mod workshop;

pub use self::tar::{LeftOut, LeftOutPart, TarReport};
pub use plan::{Extract, Failure};
pub use report::{ExtractReport, GivenName, NotKept, Property};

use std::num::NonZeroUsize;

/// How to extract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtractOptions {
    /// Replace files that exist.
    pub overwrite: bool,
    /// Make device nodes too, and keep what lends rights: set-user-id and set-group-id bits, and
    /// attributes beyond `user.` and access control lists.
    pub privileged: bool,
    /// Give other names to what the target cannot name as the image does, and list them.
    pub shorten_names: bool,
    /// Working threads.
    pub threads: NonZeroUsize,
}
