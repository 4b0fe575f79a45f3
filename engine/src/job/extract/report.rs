//! What an extraction did, and what it could not do.

use super::plan::Failure;
use super::trouble::Trouble;
use crate::base::limits::MAX_NAMED;
use crate::base::{Error, ErrorKind};

/// What an extraction did. What it could not do stands apart by whose fault it was.
#[derive(Debug, Default)]
pub struct ExtractReport {
    /// Regular files, links and others that were made.
    pub files: u64,
    /// Folders that were made or used.
    pub folders: u64,
    /// Of these, folders that were there before and keep their own attributes.
    pub folders_kept: u64,
    /// Bytes of data that were written.
    pub written: u64,
    /// Device nodes that were left out.
    pub devices_left_out: u64,
    /// Files whose rights (set-id bits, capabilities) were left out.
    pub rights_left_out: u64,
    /// Files and folders that were made, but of which the target could not keep some attributes.
    pub attributes_left_out: u64,
    /// Files and folders that were made without attributes of theirs that are damaged.
    pub attributes_lost: Vec<Failure>,
    /// Files and folders that were not made, because the target cannot have such a name or such a
    /// kind of file.
    pub refused: u64,
    /// Files and folders that were not made because the folder that they are in, or the file that
    /// they are another name of, was not; only that one is named.
    pub beneath: u64,
    /// What the image could not give.
    pub failures: Vec<Failure>,
    /// What could not be made because the target failed or has something there already.
    pub target_failures: Vec<Failure>,
    /// What the target could not keep: the first [`MAX_NAMED`](crate::base::limits::MAX_NAMED).
    pub not_kept: Vec<NotKept>,
    /// The names that were given in the place of names that the target cannot have.
    pub names: Vec<GivenName>,
    /// The file in the target folder that lists them, if there are any.
    pub names_file: Option<String>,
    /// Why it ended before its end: the target can take no more.
    pub stopped: Option<Error>,
}

/// Something of a file that the target could not keep.
#[derive(Debug)]
pub struct NotKept {
    /// The file's path on the volume.
    pub path: Vec<u8>,
    /// What of it.
    pub property: Property,
    /// Why.
    pub error: Error,
}

/// What of a file a target may be unable to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Property {
    /// Its name; the file was not made.
    Name,
    /// What kind of file it is: a link, device, pipe or socket; the file was not made.
    Kind,
    /// Its owner or group.
    Owner,
    /// Its permission bits.
    Mode,
    /// When it was read and written.
    Times,
    /// Its access control list, or a folder's default one.
    AccessList,
    /// The extended attribute of this name.
    Attribute(Vec<u8>),
}

/// A name that was given in the place of one that the target cannot have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenName {
    /// The path of the file below what was extracted.
    pub path: Vec<u8>,
    /// Its path below the target folder.
    pub given: Vec<u8>,
}

impl ExtractReport {
    /// Notes why the file at `path` was not made.
    pub(super) fn note(&mut self, path: Vec<u8>, trouble: Trouble) {
        match trouble {
            Trouble::Image(error) => self.failures.push(Failure { path, error }),
            Trouble::Name(error) => {
                self.refused += 1;
                self.note_not_kept(path, Property::Name, error);
            }
            Trouble::Kind(error) => {
                self.refused += 1;
                self.note_not_kept(path, Property::Kind, error);
            }
            Trouble::Target(error) | Trouble::End(error) => {
                self.target_failures.push(Failure { path, error });
            }
            Trouble::Elsewhere => {
                let error = Error::new(ErrorKind::Conflict, "its folder is moved about");
                self.target_failures.push(Failure { path, error });
            }
        }
    }

    /// Notes what of the file at `path` the target could not keep.
    pub(super) fn note_not_kept(&mut self, path: Vec<u8>, property: Property, error: Error) {
        if self.not_kept.len() < MAX_NAMED {
            self.not_kept.push(NotKept { path, property, error });
        }
    }

    /// Whether the target could not keep something of what was to be extracted.
    #[must_use]
    pub fn has_losses_at_target(&self) -> bool {
        self.refused > 0 || self.attributes_left_out > 0
    }
}
