//! In what two files differ: attributes and content of a pair.

use super::change::{Aspect, Aspects, Brief, ChangeKind, FileChange, Side};
use super::content::{Contents, SideError};
use crate::base::{Error, ErrorKind};
use crate::fs::{FileId, FileType, Metadata, Protection, Xattr};

/// Two files that are to be compared: one path on both disks, or a file that was renamed.
#[derive(Debug)]
pub(super) struct Pair {
    /// The path on the second disk.
    pub path: Vec<u8>,
    /// The path on the first, where it is another.
    pub old_path: Option<Vec<u8>>,
    pub files: [FileId; 2],
    /// Whether the path changed by itself, and not only a folder's above.
    pub is_renamed: bool,
    /// Of folders, whether entries came or went, which explains their time.
    pub has_new_entries: bool,
}

/// What came of a comparison: a change if there is one, and what could not be compared.
pub(super) struct Compared {
    pub change: Option<FileChange>,
    pub lost: Vec<SideError>,
    /// It is encrypted, and nothing but its content may be another.
    pub is_sealed: bool,
}

/// Compares the files of one volume.
pub(super) struct Comparer<'a> {
    pub contents: Contents<'a>,
    /// Whether both sides are one filesystem, so that a file's number means something.
    pub is_same_filesystem: bool,
}

impl Comparer<'_> {
    /// Compares a pair.
    pub fn compare(&self, pair: &Pair) -> Compared {
        let mut told = Compared { change: None, lost: Vec::new(), is_sealed: false };
        let [before, after] = Side::BOTH.map(|side| {
            let filesystem = self.contents.filesystems[side.index()];
            filesystem.metadata(pair.files[side.index()]).map_err(|error| (side, error))
        });
        let (before, after) = match (before, after) {
            (Ok(before), Ok(after)) => (before, after),
            (before, after) => {
                told.lost.extend(before.err().into_iter().chain(after.err()));
                return told;
            }
        };
        let mut aspects = attributes(&before, &after, pair.has_new_entries);
        if before.file_type == after.file_type {
            match self.body(pair.files, [&before, &after]) {
                Ok(aspect) => aspect.into_iter().for_each(|aspect| aspects.add_if(true, aspect)),
                Err((_, error)) if is_sealed([&before, &after], &error) => {
                    let is_moved = before.size != after.size;
                    aspects.add_if(is_moved, Aspect::Content);
                    told.is_sealed = !is_moved;
                }
                Err(lost) => told.lost.push(lost),
            }
        }
        match self.xattrs(pair.files) {
            Ok([one, other]) => aspects.add_if(one != other, Aspect::Xattrs),
            Err(lost) => told.lost.push(lost),
        }
        if pair.is_renamed || !aspects.is_empty() {
            let kind = if pair.is_renamed { ChangeKind::Renamed } else { ChangeKind::Changed };
            let brief = |metadata: &Metadata| {
                Some(Brief { file_type: metadata.file_type, size: metadata.size })
            };
            told.change = Some(FileChange {
                kind,
                path: pair.path.clone(),
                old_path: pair.old_path.clone(),
                aspects,
                before: brief(&before),
                after: brief(&after),
            });
        }
        told
    }

    /// In what two files of one type differ besides their attributes.
    fn body(
        &self,
        files: [FileId; 2],
        [before, after]: [&Metadata; 2],
    ) -> Result<Option<Aspect>, SideError> {
        match after.file_type {
            FileType::Regular => {
                // Whatever the kernel does to a file's map changes one of its times.
                let is_settled = self.is_same_filesystem
                    && files[0] == files[1]
                    && before.changed.is_some()
                    && (before.changed, before.modified) == (after.changed, after.modified);
                let differ =
                    before.size != after.size || self.contents.differ(files, is_settled)?;
                Ok(differ.then_some(Aspect::Content))
            }
            FileType::Symlink => {
                let [one, other] = Side::BOTH.map(|side| {
                    let filesystem = self.contents.filesystems[side.index()];
                    filesystem.link_target(files[side.index()]).map_err(|error| (side, error))
                });
                Ok((one? != other?).then_some(Aspect::Target))
            }
            _ => Ok((before.device != after.device).then_some(Aspect::Device)),
        }
    }

    fn xattrs(&self, files: [FileId; 2]) -> Result<[Vec<Xattr>; 2], SideError> {
        let [one, other] = Side::BOTH.map(|side| {
            let filesystem = self.contents.filesystems[side.index()];
            let mut xattrs =
                filesystem.xattrs(files[side.index()]).map_err(|error| (side, error))?;
            xattrs.sort_by(|one, other| one.name.cmp(&other.name));
            Ok(xattrs)
        });
        Ok([one?, other?])
    }
}

/// In which attributes two files differ. When they were read, when their inode changed and how
/// many names they have are none: reading, renaming and linking a file do not make it another.
fn attributes(before: &Metadata, after: &Metadata, has_new_entries: bool) -> Aspects {
    let mut aspects = Aspects::default();
    aspects.add_if(before.file_type != after.file_type, Aspect::Type);
    aspects.add_if(before.mode != after.mode, Aspect::Mode);
    aspects.add_if((before.uid, before.gid) != (after.uid, after.gid), Aspect::Owner);
    let is_folder = after.file_type == FileType::Directory;
    let is_explained = is_folder && has_new_entries;
    aspects.add_if(before.modified != after.modified && !is_explained, Aspect::Modified);
    aspects.add_if(before.protection != after.protection, Aspect::Protection);
    aspects
}

/// Whether `error` says no more than that a content is encrypted, or not on the disk.
fn is_sealed(metadata: [&Metadata; 2], error: &Error) -> bool {
    let is_sealed =
        |one: &Metadata| matches!(one.protection, Protection::Encrypted | Protection::Elsewhere);
    error.kind() == ErrorKind::Unsupported && metadata.into_iter().any(is_sealed)
}
