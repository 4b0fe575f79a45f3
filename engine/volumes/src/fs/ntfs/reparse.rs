//! Reparse points: links, and files that something else than the filesystem completes.
//!
//! Source: Microsoft, "[MS-FSCC] File System Control Codes", section 2.1.2; of the aliases of
//! programs, which that does not describe, Cygwin's `winsup/cygwin/path.cc` (`check_reparse_point_target`).

use super::Ntfs;
use super::attribute::{Form, kind};
use super::index::Index;
use super::mft::File;
use super::name::{self, FileName};
use super::units::Reference;
use crate::base::fields::{le16, le32, slice};
use crate::base::limits::MAX_LINKED_DEPTH;
use crate::base::{Error, Result};
use crate::fs::FileType;

/// `ReparseTag`s.
const MOUNT_POINT: u32 = 0xa000_0003;
const SYMLINK: u32 = 0xa000_000c;
const LX_SYMLINK: u32 = 0xa000_001d;
const AF_UNIX: u32 = 0x8000_0023;
const LX_FIFO: u32 = 0x8000_0024;
const LX_CHR: u32 = 0x8000_0025;
const LX_BLK: u32 = 0x8000_0026;
const WOF: u32 = 0x8000_0017;
const NFS: u32 = 0x8000_0014;
/// The alias of a program from Windows' store.
const APP_EXEC_LINK: u32 = 0x8000_001b;
/// One of sixteen that cloud storage uses, which differ in four bits.
pub(super) const CLOUD: u32 = 0x9000_001a;
const CLOUD_BITS: u32 = 0x0000_f000;
/// `Flags` of a symbolic link.
const RELATIVE: u32 = 1;
/// The overlay filter's provider for single files, and the version of both structures.
const WOF_FILE: u32 = 2;
const WOF_VERSION: u32 = 1;
/// The version of such an alias, and which of its texts is the program's path.
const ALIAS_VERSION: u32 = 3;
const ALIAS_TARGET: usize = 2;
/// Tags of files that have their content somewhere else, whatever is on the disk.
const ELSEWHERE: [(u32, &str); 12] = [
    (0xc000_0004, "hierarchical storage"),
    (0x8000_0006, "hierarchical storage"),
    (0x8000_0007, "single instance storage"),
    (0x8000_0008, "a WIM image"),
    (0x8000_0013, "deduplication"),
    (0x8000_0015, "cloud storage"),
    (0x8000_0017, "an overlaid image"),
    (0x8000_0018, "a container's layer"),
    (0x9000_1018, "a container's layer"),
    (0xa000_0027, "a container's layer"),
    (0x9000_001c, "a projected filesystem"),
    (0x8000_0020, "a virtual filesystem of Git's"),
];

/// What a reparse point means.
pub(super) enum Reparse {
    /// A link to a path.
    Link(Vec<u8>),
    /// A link to a path of Windows' from a drive on.
    Absolute(Vec<u8>),
    /// A pipe or socket of Linux's.
    Special(FileType),
    /// A device of Linux's, and its numbers if they stand here.
    Device(FileType, Option<(u32, u32)>),
    /// A file compressed by Windows' overlay filter, with this algorithm.
    Overlay(u32),
    /// A file of cloud storage, whose content may not be here.
    Cloud,
    /// Anything else.
    Other(u32),
}

/// What the value of a reparse point says.
///
/// # Errors
/// `Corrupt` when it is damaged.
pub(super) fn parse(point: &[u8]) -> Result<Reparse> {
    let wrong = |what: &str| Error::corrupt("reparse point", what, "another");
    let tag = le32(point, 0).ok_or_else(|| wrong("a tag"))?;
    let length = le16(point, 4).map(usize::from).unwrap_or_default(); // ReparseDataLength
    let data = slice(point, 8, length).ok_or_else(|| wrong("a length within it"))?;
    Ok(match tag {
        MOUNT_POINT => link(data, 8, false).ok_or_else(|| wrong("a sound target"))?,
        SYMLINK => {
            let flags = le32(data, 8).unwrap_or_default();
            link(data, 12, flags & RELATIVE != 0).ok_or_else(|| wrong("a sound target"))?
        }
        // A version comes before the target.
        LX_SYMLINK => Reparse::Link(data.get(4..).ok_or_else(|| wrong("a sound target"))?.to_vec()),
        AF_UNIX => Reparse::Special(FileType::Socket),
        LX_FIFO => Reparse::Special(FileType::Fifo),
        LX_CHR => Reparse::Device(FileType::CharDevice, None),
        LX_BLK => Reparse::Device(FileType::BlockDevice, None),
        NFS => special_of_nfs(data).unwrap_or(Reparse::Other(tag)),
        APP_EXEC_LINK => alias(data).unwrap_or(Reparse::Other(tag)),
        WOF => match [le32(data, 0), le32(data, 4), le32(data, 8)] {
            [Some(WOF_VERSION), Some(WOF_FILE), Some(WOF_VERSION)] => {
                Reparse::Overlay(le32(data, 12).ok_or_else(|| wrong("an algorithm"))?)
            }
            _ => Reparse::Other(tag),
        },
        tag if tag & !CLOUD_BITS == CLOUD => Reparse::Cloud,
        tag => Reparse::Other(tag),
    })
}

/// Where files with this tag have their content, if it is known that it is not on the disk.
pub(super) fn elsewhere(tag: u32) -> Option<&'static str> {
    if tag & !CLOUD_BITS == CLOUD {
        return Some("cloud storage");
    }
    ELSEWHERE.iter().find(|(known, _)| *known == tag).map(|(_, place)| *place)
}

/// What Windows' NFS server keeps of files that Windows has none of: `NFS_SPECFILE` types, in
/// letters from the last to the first.
fn special_of_nfs(data: &[u8]) -> Option<Reparse> {
    let rest = data.get(8..)?;
    let device = |file_type| {
        let numbers = le32(rest, 0).zip(le32(rest, 4));
        Some(Reparse::Device(file_type, Some(numbers?)))
    };
    match slice(data, 0, 8)? {
        b"LNK\x01\0\0\0\0" => Some(Reparse::Link(name::text(rest))),
        b"CHR\0\0\0\0\0" => device(FileType::CharDevice),
        b"BLK\0\0\0\0\0" => device(FileType::BlockDevice),
        b"FIFO\0\0\0\0" => Some(Reparse::Special(FileType::Fifo)),
        b"SOCK\0\0\0\0" => Some(Reparse::Special(FileType::Socket)),
        _ => None,
    }
}

/// The alias of a program: a version, and texts that each end with a NUL: package, entry point,
/// path of the program, and its kind.
fn alias(data: &[u8]) -> Option<Reparse> {
    let texts = data.get(4..).filter(|_| le32(data, 0) == Some(ALIAS_VERSION))?;
    let units: Vec<&[u8]> = texts.chunks_exact(2).collect();
    let target = units.split(|unit| *unit == [0, 0]).nth(ALIAS_TARGET)?.concat();
    (!target.is_empty()).then(|| absolute(&with_slashes(name::text(&target))))
}

fn with_slashes(mut target: Vec<u8>) -> Vec<u8> {
    for byte in &mut target {
        if *byte == b'\\' {
            *byte = b'/';
        }
    }
    target
}

fn absolute(target: &[u8]) -> Reparse {
    // The object manager's name for what a program calls a drive or volume.
    Reparse::Absolute(target.strip_prefix(b"/??/").unwrap_or(target).to_vec())
}

/// The target of a link, whose texts begin at `start`.
fn link(data: &[u8], start: usize, is_relative: bool) -> Option<Reparse> {
    let texts = data.get(start..)?;
    let (at, length) = (le16(data, 0)?, le16(data, 2)?); // SubstituteNameOffset, -Length
    let target = with_slashes(name::text(slice(texts, usize::from(at), usize::from(length))?));
    Some(if is_relative { Reparse::Link(target) } else { absolute(&target) })
}

/// What is called for each folder on a way.
type VisitFolder<'a> = &'a mut dyn FnMut(&File) -> Result<()>;

impl Ntfs {
    /// What a link to a path of Windows' means here: if there is such a path on this volume, the
    /// way to it from the link's folder, as drivers have it; else the path as it is, with the drive.
    pub(super) fn resolve(&self, link: &File, target: Vec<u8>) -> Vec<u8> {
        let Some(path) = on_a_drive(&target) else { return target };
        let is_here = matches!(self.is_here(path, &mut |_| Ok(())), Ok(true));
        let depth = self.depth(link, &mut |_| Ok(())).ok().flatten().filter(|_| is_here);
        let Some(depth) = depth else { return target };
        let path = path.strip_suffix(b"/").unwrap_or(path);
        let mut way = b"../".repeat(depth);
        way.extend_from_slice(path);
        match way.as_slice() {
            [] => b".".to_vec(),
            [way @ .., b'/'] => way.to_vec(),
            _ => way,
        }
    }

    /// Shows the folders by which [`resolve`](Self::resolve) finds out what a link means to `visit`:
    /// first those that the path leads through, then, with `false`, those that the link is in.
    ///
    /// # Errors
    /// Those of `visit`; `Corrupt` when a folder is damaged; the volume's own.
    pub(super) fn each_on_the_way(
        &self,
        link: &File,
        target: &[u8],
        visit: &mut dyn FnMut(&File, bool) -> Result<()>,
    ) -> Result<()> {
        if let Some(path) = on_a_drive(target) {
            self.is_here(path, &mut |folder| visit(folder, true))?;
            self.depth(link, &mut |folder| visit(folder, false))?;
        }
        Ok(())
    }

    /// Whether there is such a path; shows the folders that it leads through.
    fn is_here(&self, path: &[u8], visit: VisitFolder<'_>) -> Result<bool> {
        let mut folder = super::ROOT;
        let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        for name in names.take(MAX_LINKED_DEPTH) {
            let Some(name) = name::from_text(name) else { return Ok(false) };
            let file = self.mft.file(folder)?;
            visit(&file)?;
            let is_folder = file.record.is_folder;
            let found = match is_folder {
                true => Index::open(&self.mft, &file)?.find(&name, &self.upcase)?,
                false => None,
            };
            let Some(found) = found else { return Ok(false) };
            folder = found;
        }
        Ok(true)
    }

    /// Folders between the root and `file`, which are shown; `None` if they do not lead there.
    fn depth(&self, file: &File, visit: VisitFolder<'_>) -> Result<Option<usize>> {
        let mut parent = self.parent(file)?;
        for depth in 0..MAX_LINKED_DEPTH {
            let Some(above) = parent else { return Ok(None) };
            if above.number() == super::ROOT.number() {
                return Ok(Some(depth));
            }
            let above = self.mft.file(above)?;
            visit(&above)?;
            parent = self.parent(&above)?;
        }
        Ok(None)
    }

    fn parent(&self, file: &File) -> Result<Option<Reference>> {
        let mut parent = None;
        self.mft.each_attribute(file, kind::FILE_NAME, None, &mut |attribute| {
            if let Form::Resident(value) = attribute.form {
                parent = FileName::parse(value).map(|name| name.parent);
            }
            Ok(std::ops::ControlFlow::Break(()))
        })?;
        Ok(parent)
    }
}

/// The path of a target on a drive, from the drive's root on.
fn on_a_drive(target: &[u8]) -> Option<&[u8]> {
    match target {
        [drive, b':', b'/', path @ ..] if drive.is_ascii_alphabetic() => Some(path),
        _ => None,
    }
}
