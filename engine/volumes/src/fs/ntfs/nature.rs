//! What a file is: its type, times and size, and what it stands for if it is more than a file.

use std::ops::ControlFlow;

use super::Ntfs;
use super::attribute::{Form, flags, kind};
use super::mft::File;
use super::name::{self, FileName};
use super::reparse::{self, Reparse};
use super::time::timestamp;
use crate::base::Result;
use crate::base::fields::{has, le32, le64};
use crate::base::limits::MAX_REPARSE;
use crate::fs::{FileType, Metadata, Protection, Timestamp};

/// The data stream in which Windows' overlay filter keeps a file's content: `WofCompressedData`.
pub(super) const WOF_STREAM: &[u8] = b"W\0o\0f\0C\0o\0m\0p\0r\0e\0s\0s\0e\0d\0D\0a\0t\0a\0";

/// What Interix, and ntfs-3g after it, puts into system files that stand for something.
const LINK: &[u8] = b"IntxLNK\x01";
const CHARACTER_DEVICE: &[u8] = b"IntxCHR\0";
const BLOCK_DEVICE: &[u8] = b"IntxBLK\0";
/// Bytes of such a link at most: a path of 4,096 characters.
const MAX_LINK: u64 = 8 + 2 * 4096;
/// Bytes of such a device.
const DEVICE: usize = 24;
/// `FileAttributes`.
const HIDDEN: u32 = 0x2;
const SPARSE: u32 = 0x200;
/// The content is not here, but will be fetched when it is read.
const OFFLINE: u32 = 0x1000 | 0x4_0000 | 0x40_0000;

/// The bits of a mode that are not the file's type.
const MODE: u32 = 0o7777;

/// What a file is.
pub(super) enum Nature {
    /// What its type says.
    Plain(FileType),
    /// A symbolic link, and what it says.
    Link(Vec<u8>),
    /// A device, and its numbers if they are known.
    Device(FileType, Option<(u32, u32)>),
    /// A file that is compressed by Windows' overlay filter, with this algorithm.
    Overlaid(u32),
    /// A file whose content something else than the filesystem provides, with its reparse tag.
    Elsewhere(u32),
}

/// `STANDARD_INFORMATION`.
struct Standard {
    created: Timestamp,
    modified: Timestamp,
    changed: Timestamp,
    accessed: Timestamp,
    attributes: u32,
}

/// What is known of a data stream without its runs.
struct Head {
    size: u64,
    is_encrypted: bool,
}

impl Ntfs {
    /// The attributes of `file`, or of one of its data streams.
    ///
    /// # Errors
    /// See [`Filesystem`](crate::fs::Filesystem).
    pub(super) fn describe(&self, file: &File, stream: &[u8]) -> Result<Metadata> {
        let standard = self.standard(file)?;
        let head = self.head(file, stream)?;
        let nature = match stream {
            [] => self.nature(file)?,
            _ => Nature::Plain(FileType::Regular),
        };
        let (mut size, mut device, mut protection) = (0, None, Protection::None);
        let file_type = match nature {
            Nature::Plain(file_type) => file_type,
            Nature::Link(target) => {
                size = super::bytes(target.len());
                FileType::Symlink
            }
            Nature::Device(file_type, numbers) => {
                device = numbers;
                file_type
            }
            Nature::Overlaid(_) => FileType::Regular,
            Nature::Elsewhere(_) => {
                protection = Protection::Elsewhere;
                FileType::Regular
            }
        };
        let is_encrypted =
            file_type == FileType::Regular && head.as_ref().is_some_and(|head| head.is_encrypted);
        if file_type == FileType::Regular {
            size = head.map_or(0, |head| head.size);
        }
        if is_encrypted {
            protection = Protection::Encrypted;
        }
        let standard = standard.as_ref();
        // Damage there costs itself only, and is told with the attributes.
        let linux = self.linux(file).unwrap_or_default();
        Ok(Metadata {
            file_type,
            size,
            mode: linux.mode.and_then(|mode| u16::try_from(mode & MODE).ok()),
            uid: linux.uid,
            gid: linux.gid,
            links: if stream.is_empty() { self.links(file)? } else { 1 },
            device,
            modified: standard.map(|standard| standard.modified),
            accessed: standard.map(|standard| standard.accessed),
            changed: standard.map(|standard| standard.changed),
            created: standard.map(|standard| standard.created),
            protection,
        })
    }

    /// What `file` is.
    ///
    /// # Errors
    /// `Corrupt` when what it stands for is damaged; see [`Filesystem`](crate::fs::Filesystem).
    pub(super) fn nature(&self, file: &File) -> Result<Nature> {
        let is_folder = file.record.is_folder;
        let plain = if is_folder { FileType::Directory } else { FileType::Regular };
        let attributes = self.standard(file)?.map_or(0, |standard| standard.attributes);
        if let Some(point) = self.mft.value(file, kind::REPARSE_POINT, b"", MAX_REPARSE)? {
            let parsed =
                reparse::parse(&point).map_err(|error| error.within(file.record.number))?;
            return Ok(match parsed {
                Reparse::Link(target) => Nature::Link(target),
                Reparse::Absolute(target) => Nature::Link(self.resolve(file, target)),
                Reparse::Special(file_type) => Nature::Plain(file_type),
                Reparse::Device(file_type, numbers) => {
                    Nature::Device(file_type, numbers.or(self.linux(file)?.device))
                }
                Reparse::Overlay(algorithm) => Nature::Overlaid(algorithm),
                Reparse::Cloud if is_folder || attributes & OFFLINE == 0 => Nature::Plain(plain),
                // A folder's entries are here, whatever else is.
                Reparse::Other(_) if is_folder => Nature::Plain(plain),
                Reparse::Cloud => Nature::Elsewhere(reparse::CLOUD),
                Reparse::Other(tag) if self.is_content_here(file, tag, attributes)? => {
                    Nature::Plain(plain)
                }
                Reparse::Other(tag) => Nature::Elsewhere(tag),
            });
        }
        if attributes & name::SYSTEM != 0
            && !is_folder
            && let Some(nature) = self.interix(file, attributes)?
        {
            return Ok(nature);
        }
        Ok(Nature::Plain(plain))
    }

    /// Whether the content of a file with a tag that is not understood is on the disk: nothing says
    /// that it is not, and no part of it is left out. One without content has all of it.
    fn is_content_here(&self, file: &File, tag: u32, attributes: u32) -> Result<bool> {
        let may_be = reparse::elsewhere(tag).is_none() && attributes & OFFLINE == 0;
        let is_whole = attributes & SPARSE == 0 || self.size(file)? == 0;
        Ok(may_be && is_whole)
    }

    /// What a system file stands for, if anything.
    fn interix(&self, file: &File, attributes: u32) -> Result<Option<Nature>> {
        let Some(head) = self.head(file, b"")? else { return Ok(None) };
        if head.size > MAX_LINK || head.is_encrypted {
            return Ok(None);
        }
        let stream = self.mft.stream(file, kind::DATA, b"")?;
        let Some(stream) = stream.filter(|stream| stream.compressed().is_none()) else {
            return Ok(None);
        };
        let value = stream.whole(&self.mft.space, MAX_LINK)?;
        let device = |file_type| {
            let number = |at| le64(&value, at).and_then(|number| u32::try_from(number).ok());
            let numbers = number(8).zip(number(16)).filter(|_| value.len() == DEVICE);
            numbers.map(|numbers| Nature::Device(file_type, Some(numbers)))
        };
        Ok(match value.as_slice() {
            [] if attributes & HIDDEN == 0 => Some(Nature::Plain(FileType::Fifo)),
            [0] if attributes & HIDDEN == 0 => Some(Nature::Plain(FileType::Socket)),
            value if has(value, 0, LINK) => {
                Some(Nature::Link(name::text(value.get(LINK.len()..).unwrap_or_default())))
            }
            value if has(value, 0, CHARACTER_DEVICE) => device(FileType::CharDevice),
            value if has(value, 0, BLOCK_DEVICE) => device(FileType::BlockDevice),
            _ => None,
        })
    }

    fn standard(&self, file: &File) -> Result<Option<Standard>> {
        let mut standard = None;
        self.mft.each_attribute(file, kind::STANDARD_INFORMATION, None, &mut |attribute| {
            if let Form::Resident(value) = attribute.form {
                standard = Standard::parse(value);
            }
            Ok(ControlFlow::Break(()))
        })?;
        Ok(standard)
    }

    /// Bytes of the content of `file`.
    ///
    /// # Errors
    /// `Corrupt` when its attributes are damaged.
    pub(super) fn size(&self, file: &File) -> Result<u64> {
        Ok(self.head(file, b"")?.map_or(0, |head| head.size))
    }

    /// What the first part of a data stream says.
    fn head(&self, file: &File, stream: &[u8]) -> Result<Option<Head>> {
        let mut head = None;
        self.mft.each_attribute(file, kind::DATA, Some(stream), &mut |attribute| {
            let size = match attribute.form {
                Form::Resident(value) => super::bytes(value.len()),
                Form::NonResident(mapping) => mapping.size,
            };
            let is_encrypted = attribute.flags & flags::ENCRYPTED != 0;
            head = Some(Head { size, is_encrypted });
            Ok(ControlFlow::Break(()))
        })?;
        Ok(head)
    }

    /// Names that lead to `file`, without the short ones of DOS.
    fn links(&self, file: &File) -> Result<u32> {
        let mut links = 0_u32;
        self.mft.each_attribute(file, kind::FILE_NAME, None, &mut |attribute| {
            if let Form::Resident(value) = attribute.form {
                let is_name = FileName::parse(value).is_some_and(|name| !name.is_short());
                links = links.saturating_add(u32::from(is_name));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(links.max(1))
    }
}

impl Standard {
    fn parse(value: &[u8]) -> Option<Self> {
        let time = |at| le64(value, at).map(timestamp);
        Some(Self {
            created: time(0)?,              // CreationTime
            modified: time(8)?,             // LastModificationTime
            changed: time(0x10)?,           // LastChangeTime
            accessed: time(0x18)?,          // LastAccessTime
            attributes: le32(value, 0x20)?, // FileAttributes
        })
    }
}
