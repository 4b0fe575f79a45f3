//! Files whose contents an image does not have, because they were left out when it was captured:
//! they would read as zeros.

use super::resolve::{LastLink, resolve};
use crate::base::{ByteRange, Error, ErrorKind, Result};
use crate::fs::{
    DirEntry, Doubts, FileContent, FileId, Filesystem, FilesystemInfo, Metadata, Numbered, Visit,
    Xattr,
};
use crate::store::manifest::VolumeUse;

/// The paths of such files of one volume.
#[derive(Debug, Clone)]
pub(super) struct LeftOut {
    pub volume: String,
    paths: Vec<String>,
}

impl LeftOut {
    /// Those that an image's manifest names.
    pub(super) fn all(allocation: &[VolumeUse]) -> Vec<Self> {
        let of_volume = |volume: &VolumeUse| {
            let files = volume.skipped.iter().filter(|file| file.bytes > 0);
            let paths: Vec<String> = files.map(|file| file.path.clone()).collect();
            (!paths.is_empty()).then(|| Self { volume: volume.volume.clone(), paths })
        };
        allocation.iter().filter_map(of_volume).collect()
    }
}

/// A filesystem that refuses to open some of its files.
pub(super) struct Withheld {
    inner: Box<dyn Filesystem>,
    files: Vec<FileId>,
}

impl Withheld {
    /// `inner` without the contents of the files that `left_out` names.
    pub(super) fn new(inner: Box<dyn Filesystem>, left_out: &LeftOut) -> Self {
        let find = |path: &String| resolve(inner.as_ref(), path.as_bytes(), LastLink::Keep).ok();
        let files = left_out.paths.iter().filter_map(find).map(|found| found.file).collect();
        Self { inner, files }
    }

    /// The files.
    pub(super) fn files(&self) -> Vec<FileId> {
        self.files.clone()
    }
}

impl Filesystem for Withheld {
    fn info(&self) -> &FilesystemInfo {
        self.inner.info()
    }

    fn doubts(&self) -> &Doubts {
        self.inner.doubts()
    }

    fn root(&self) -> FileId {
        self.inner.root()
    }

    fn lookup(&self, folder: FileId, name: &[u8]) -> Result<Option<FileId>> {
        self.inner.lookup(folder, name)
    }

    fn list(&self, folder: FileId, visit: Visit<'_, Result<DirEntry>>) -> Result<()> {
        self.inner.list(folder, visit)
    }

    fn metadata(&self, file: FileId) -> Result<Metadata> {
        self.inner.metadata(file)
    }

    fn open(&self, file: FileId) -> Result<Box<dyn FileContent + '_>> {
        if self.files.contains(&file) {
            let context = "its content was left out by --skip-swap when the image was captured";
            return Err(Error::new(ErrorKind::Io, context));
        }
        self.inner.open(file)
    }

    fn link_target(&self, file: FileId) -> Result<Vec<u8>> {
        self.inner.link_target(file)
    }

    fn each_xattr(&self, file: FileId, visit: Visit<'_, Result<Xattr>>) -> Result<()> {
        self.inner.each_xattr(file, visit)
    }

    fn may_share(&self, file: FileId) -> Result<bool> {
        self.inner.may_share(file)
    }

    fn unused(&self, visit: Visit<'_, ByteRange>) -> Result<()> {
        self.inner.unused(visit)
    }

    fn likely_free_space(&self, visit: Visit<'_, ByteRange>) -> Result<()> {
        self.inner.likely_free_space(visit)
    }

    fn replayed(&self) -> &[ByteRange] {
        self.inner.replayed()
    }

    fn numbered(&self) -> Option<&dyn Numbered> {
        self.inner.numbered()
    }
}
