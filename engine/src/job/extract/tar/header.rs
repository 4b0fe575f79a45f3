//! An entry of an archive: its header of 512 bytes, and before it, as an entry of its own, the pax
//! records of what that has no room for.
//!
//! Source: POSIX.1-2001, `pax`, "ustar Interchange Format".

use tar::{EntryType, Header};

use super::records::Records;
use super::sparse::DataMap;
use super::{BLOCK, acl};
use crate::base::{Error, ErrorKind, Result};
use crate::fs::{FileType, Metadata, Timestamp, Xattr};
use crate::job::extract::attributes::mode_or_private;

/// Largest number of a field of eight bytes (mode, owner, group, device), in octal and with an end.
const LARGEST_ID: u32 = 0o7_777_777;
/// Largest number of a field of twelve bytes (size, time).
const LARGEST: u64 = 0o77_777_777_777;
/// Bytes of a header's fields.
const NAME: usize = 100;
const PREFIX: usize = 155;
/// What unpackers that know no pax records call these.
const RECORDS_NAME: &[u8] = b"././@PaxHeader";
/// Access control lists as attributes, and the records of their texts.
const ACCESS_LIST: &[u8] = b"system.posix_acl_access";
const ACCESS_RECORD: &[u8] = b"SCHILY.acl.access";
const DEFAULT_LIST: &[u8] = b"system.posix_acl_default";
const DEFAULT_RECORD: &[u8] = b"SCHILY.acl.default";
/// The permission bits of a symbolic link.
const LINK_MODE: u16 = 0o777;

/// An entry before its content.
pub(super) struct Entry {
    header: Header,
    path: Vec<u8>,
    is_folder: bool,
    records: Records,
}

impl Entry {
    /// The entry of a file, so far without what only its type has.
    pub(super) fn new(path: Vec<u8>, metadata: &Metadata) -> Self {
        let mut header = Header::new_ustar();
        header.set_entry_type(match metadata.file_type {
            FileType::Directory => EntryType::Directory,
            FileType::Symlink => EntryType::Symlink,
            FileType::CharDevice => EntryType::Char,
            FileType::BlockDevice => EntryType::Block,
            FileType::Fifo | FileType::Socket => EntryType::Fifo,
            FileType::Regular => EntryType::Regular,
        });
        let is_folder = metadata.file_type == FileType::Directory;
        let mut entry = Self { header, path, is_folder, records: Records::default() };
        let mode = match metadata.file_type {
            FileType::Symlink => metadata.mode.unwrap_or(LINK_MODE),
            _ => mode_or_private(metadata),
        };
        entry.header.set_mode(mode.into());
        let (uid, gid) = (metadata.uid.unwrap_or(0), metadata.gid.unwrap_or(0));
        let (uid, gid) = (entry.small(b"uid", uid), entry.small(b"gid", gid));
        entry.header.set_uid(uid.into());
        entry.header.set_gid(gid.into());
        entry.header.set_size(0);
        entry.set_times(metadata);
        entry
    }

    /// `number` if a field of eight bytes holds it; else it gets a record.
    fn small(&mut self, keyword: &[u8], number: u32) -> u32 {
        if number > LARGEST_ID {
            self.records.put(keyword, number.to_string().as_bytes());
        }
        number.min(LARGEST_ID)
    }

    fn set_times(&mut self, metadata: &Metadata) {
        let modified = metadata.modified.unwrap_or(Timestamp { seconds: 0, nanoseconds: 0 });
        let whole = u64::try_from(modified.seconds).ok().filter(|seconds| *seconds <= LARGEST);
        self.header.set_mtime(whole.unwrap_or(0));
        if whole.is_none() || modified.nanoseconds != 0 {
            self.records.put_time(b"mtime", modified);
        }
        for (keyword, time) in [(b"atime", metadata.accessed), (b"ctime", metadata.changed)] {
            if let Some(time) = time {
                self.records.put_time(keyword, time);
            }
        }
    }

    /// Makes it another name of the file at `path`.
    pub(super) fn set_link_of(&mut self, path: &[u8]) {
        self.header.set_entry_type(EntryType::Link);
        self.set_target(path);
    }

    /// What it leads to.
    pub(super) fn set_target(&mut self, target: &[u8]) {
        put(&mut self.header.as_old_mut().linkname, target);
        if target.len() > NAME {
            self.records.put_name(b"linkpath", target);
        }
    }

    /// The numbers of a device.
    pub(super) fn set_device(&mut self, (major, minor): (u32, u32)) {
        let major = self.small(b"SCHILY.devmajor", major);
        let minor = self.small(b"SCHILY.devminor", minor);
        // The fields are there in a ustar header, so both can be set.
        let _ = self.header.set_device_major(major);
        let _ = self.header.set_device_minor(minor);
    }

    /// The size of a content, and its holes if it has any.
    ///
    /// # Errors
    /// `Limit` when no file on Linux can be as large.
    pub(super) fn set_content(&mut self, map: &DataMap) -> Result<()> {
        if i64::try_from(map.size).is_err() {
            let context = format!("{} bytes are more than a file can have", map.size);
            return Err(Error::new(ErrorKind::Limit, context));
        }
        let mut size = map.size;
        if let Some(encoded) = &map.encoded {
            size = map.data_size() + encoded.len() as u64;
            self.records.put(b"GNU.sparse.major", b"1");
            self.records.put(b"GNU.sparse.minor", b"0");
            self.records.put_name(b"GNU.sparse.name", &self.path);
            self.records.put(b"GNU.sparse.realsize", map.size.to_string().as_bytes());
            // Unpackers that know no such holes must not take the map for the content.
            self.path = sparse_path(&self.path);
        }
        if size > LARGEST {
            self.records.put(b"size", size.to_string().as_bytes());
        }
        self.header.set_size(if size > LARGEST { 0 } else { size });
        Ok(())
    }

    /// Adds extended attributes, and returns why some could not be.
    pub(super) fn add_attributes(&mut self, attributes: &[Xattr]) -> Vec<Error> {
        let has = |name: &[u8]| attributes.iter().any(|attribute| attribute.name == name);
        if has(DEFAULT_LIST) && !has(ACCESS_LIST) {
            // As GNU tar has it, which clears the list of a folder that is there already.
            let mode = self.header.mode().ok().and_then(|mode| u16::try_from(mode).ok());
            let text = acl::of_mode(mode.unwrap_or(0));
            self.records.put(ACCESS_RECORD, text.as_bytes());
        }
        let added = attributes.iter().map(|attribute| self.add_attribute(attribute));
        added.filter_map(Result::err).collect()
    }

    /// Adds an extended attribute; an access control list also as unpackers take it.
    ///
    /// # Errors
    /// `Corrupt` when a list is none.
    fn add_attribute(&mut self, attribute: &Xattr) -> Result<()> {
        let Xattr { name, value } = attribute;
        let list = match name.as_slice() {
            ACCESS_LIST => Some(ACCESS_RECORD),
            DEFAULT_LIST => Some(DEFAULT_RECORD),
            _ => None,
        };
        self.records.put_attribute(name, value);
        if let Some(keyword) = list {
            let text = acl::text(value).ok_or_else(|| {
                let name = String::from_utf8_lossy(name);
                Error::corrupt(name, "an access control list", "another value")
            })?;
            if !text.is_empty() {
                self.records.put(keyword, text.as_bytes());
            }
        }
        if name == b"security.selinux" {
            let context = value.strip_suffix(&[0]).unwrap_or(value);
            self.records.put(b"RHT.security.selinux", context);
        }
        Ok(())
    }

    /// The bytes before the content.
    pub(super) fn encode(mut self) -> Vec<u8> {
        if self.is_folder {
            self.path.push(b'/');
        }
        if !put_path(&mut self.header, &self.path) {
            self.records.put_name(b"path", &self.path);
        }
        self.header.set_cksum();
        let mut bytes = Vec::new();
        let records = self.records.bytes();
        if !records.is_empty() {
            let mut header = Header::new_ustar();
            header.set_entry_type(EntryType::XHeader);
            put(&mut header.as_old_mut().name, RECORDS_NAME);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(records.len() as u64);
            header.set_cksum();
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(records);
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        }
        bytes.extend_from_slice(self.header.as_bytes());
        bytes
    }
}

/// Puts as much of `value` into `field` as it takes.
fn put(field: &mut [u8], value: &[u8]) {
    let count = value.len().min(field.len());
    field[..count].copy_from_slice(&value[..count]);
}

/// Puts a path into the header, in two parts if need be; if it does not fit, as much of it as
/// does, and returns false.
fn put_path(header: &mut Header, path: &[u8]) -> bool {
    let fields = header.as_ustar_mut().expect("the header was made as one of ustar");
    if path.len() <= NAME {
        put(&mut fields.name, path);
        return true;
    }
    // The first slash behind which the rest fits; a folder's path ends with one of its own.
    let first = path.len() - NAME - 1;
    let slash = (first..path.len() - 1).find(|at| path[*at] == b'/' && *at > 0);
    match slash.filter(|at| *at <= PREFIX) {
        Some(at) => {
            put(&mut fields.prefix, &path[..at]);
            put(&mut fields.name, &path[at + 1..]);
            true
        }
        None => {
            put(&mut fields.name, path);
            false
        }
    }
}

/// The path of a file with holes for those who do not know them: GNU tar's, with a process that
/// there is not.
fn sparse_path(path: &[u8]) -> Vec<u8> {
    let name = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    [&path[..name], b"GNUSparseFile.0/", &path[name..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ByteRange;

    #[test]
    fn a_path_is_cut_where_both_parts_fit() {
        let cases = [
            (vec![b'a'; 100], true),
            (vec![b'a'; 101], false),
            ([&[b'a'; 155][..], b"/", &[b'b'; 100]].concat(), true),
            ([&[b'a'; 156][..], b"/", &[b'b'; 99]].concat(), false),
            ([&[b'a'; 155][..], b"/", &[b'b'; 101]].concat(), false),
            ([&[b'a'; 155][..], b"/", &[b'b'; 99], b"/"].concat(), true),
            ([&[b'a'; 100][..], b"/"].concat(), false),
        ];
        for (path, fits) in cases {
            let mut header = Header::new_ustar();
            let shown = String::from_utf8_lossy(&path).into_owned();
            assert_eq!(put_path(&mut header, &path), fits, "{shown}");
            if fits {
                assert_eq!(header.path_bytes().as_ref(), path, "{shown}");
            }
        }
    }

    #[test]
    fn numbers_that_a_field_cannot_hold_are_records() {
        let metadata = Metadata {
            file_type: FileType::Regular,
            size: 0,
            mode: None,
            uid: Some(u32::MAX),
            gid: Some(LARGEST_ID),
            links: 1,
            device: None,
            modified: Some(Timestamp { seconds: LARGEST as i64 + 1, nanoseconds: 0 }),
            accessed: None,
            changed: None,
            created: None,
            protection: crate::fs::Protection::None,
        };
        let mut entry = Entry::new(b"file".to_vec(), &metadata);
        let dense = |size| {
            let data = vec![ByteRange::new(0, size)];
            DataMap { size, data, encoded: None, failure: None }
        };
        entry.set_content(&dense(LARGEST)).expect("it fits");
        assert_eq!(entry.header.size().expect("a number"), LARGEST);
        entry.set_content(&dense(LARGEST + 1)).expect("it has a record");
        entry.set_device((LARGEST_ID + 1, 7));
        let records = String::from_utf8(entry.records.bytes().to_vec()).expect("text");
        let expected = "18 uid=4294967295\n20 mtime=8589934592\n19 size=8589934592\n\
                        27 SCHILY.devmajor=2097152\n";
        assert_eq!(records, expected);
        assert_eq!(entry.header.mode().expect("a number"), 0o600, "for the owner alone");
        assert_eq!(entry.header.size().expect("a number"), 0);
        assert!(entry.set_content(&dense(u64::MAX)).is_err(), "no file can be as large");
    }

    #[test]
    fn the_path_of_a_sparse_file_stays_in_its_folder() {
        assert_eq!(sparse_path(b"a/b"), b"a/GNUSparseFile.0/b");
        assert_eq!(sparse_path(b"b"), b"GNUSparseFile.0/b");
    }
}
