//! Extended attributes: behind the inode's fields, in a block of their own, in inodes of their
//! own.
//!
//! Kernel documentation, `filesystems/ext4/attributes.rst`.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use super::Ext;
use super::acl;
use super::features::incompat;
use super::inode::{Inode, flags};
use super::units::{InodeNumber, bytes, index};
use crate::base::fields::{le16, le32, slice, u8_at};
use crate::base::{Error, ErrorKind, Result, limits};
use crate::fs::{Visit, Xattr};

const MAGIC: u32 = 0xea02_0000;
/// Bytes before the first entry: of the header in an inode, and of the one in a block.
const INODE_HEADER: usize = 4;
const BLOCK_HEADER: usize = 32;
/// Where a block's checksum is.
const CHECKSUM_AT: usize = 0x10;
/// Bytes of an entry before its name.
const ENTRY_SIZE: usize = 16;

/// `e_name_index` of POSIX ACLs, and of what holds the rest of inline data.
const ACCESS_ACL: u8 = 2;
const DEFAULT_ACL: u8 = 3;
const SYSTEM: u8 = 7;

/// A stretch of entries with the values they point to.
struct Table {
    bytes: Arc<[u8]>,
    /// Where the first entry is.
    entries: usize,
    /// From where values' places are counted.
    values: usize,
}

/// An entry, its name and value still elsewhere.
struct Entry {
    e_name_index: u8,
    name: Vec<u8>,
    e_value_offs: u16,
    e_value_inum: u32,
    e_value_size: u32,
}

/// What a table lists: the entries, where their list ends, and why it ends early if it does.
struct Listed {
    entries: Vec<Entry>,
    end: usize,
    damage: Option<Error>,
}

impl Table {
    /// Its entries, as far as they can be told apart.
    fn list(&self) -> Listed {
        let mut listed = Listed { entries: Vec::new(), end: self.entries, damage: None };
        // Each entry takes 16 bytes at least, so the table's own size bounds their number.
        loop {
            let at = listed.end;
            // Four zeros end the list; in an inode, it may fill the room exactly.
            if le32(&self.bytes, at).unwrap_or(0) == 0 {
                listed.end = at.saturating_add(4);
                return listed;
            }
            let Some(entry) = self.entry(at) else {
                let place = format!("extended attribute at byte {at}");
                listed.damage = Some(Error::corrupt(place, "an entry", "the end"));
                return listed;
            };
            let length = entry.name.len().next_multiple_of(4).saturating_add(ENTRY_SIZE);
            listed.end = at.saturating_add(length);
            listed.entries.push(entry);
        }
    }

    fn entry(&self, at: usize) -> Option<Entry> {
        let header = slice(&self.bytes, at, ENTRY_SIZE)?;
        let length = usize::from(u8_at(header, 0x0)?);
        Some(Entry {
            e_name_index: u8_at(header, 0x1)?,
            e_value_offs: le16(header, 0x2)?,
            e_value_inum: le32(header, 0x4)?,
            e_value_size: le32(header, 0x8)?,
            name: slice(&self.bytes, at.checked_add(ENTRY_SIZE)?, length)?.to_vec(),
        })
    }

    /// The bytes of the table that an entry's value is in, with its padding; none if it has no
    /// bytes, or if they are elsewhere.
    fn place(&self, entry: &Entry) -> Option<Range<usize>> {
        let size = index(entry.e_value_size);
        let start = self.values.saturating_add(usize::from(entry.e_value_offs));
        let padded = size.saturating_add(3) & !3;
        let is_here = entry.e_value_inum == 0 && size > 0;
        is_here.then(|| start..start.saturating_add(padded))
    }

    /// Checks that an entry's value lies behind the list and within the table, as the kernel's
    /// `check_xattrs` does, and that no other one takes its bytes.
    fn check_value(&self, listed: &Listed, number: usize) -> Result<()> {
        let Some(entry) = listed.entries.get(number) else { return Ok(()) };
        let Some(place) = self.place(entry) else { return Ok(()) };
        let wrong = |expected: String| {
            let name = String::from_utf8_lossy(&entry.name).into_owned();
            let found = format!("bytes {} to {}", place.start, place.end);
            Err(Error::corrupt(format!("extended attribute {name}"), expected, found))
        };
        if place.start < listed.end || place.end > self.bytes.len() {
            let end = self.bytes.len();
            return wrong(format!("a value between bytes {} and {end}", listed.end));
        }
        let others = listed.entries.iter().enumerate().filter(|(other, _)| *other != number);
        let mut others = others.filter_map(|(_, other)| self.place(other));
        match others.find(|other| other.start < place.end && place.start < other.end) {
            None => Ok(()),
            Some(other) => wrong(format!("a value apart from that at byte {}", other.start)),
        }
    }
}

impl Ext {
    /// Calls `visit` for every attribute that Linux lists, with an error for each one that is
    /// lost.
    pub(super) fn each_attribute(&self, inode: &Inode, visit: Visit<'_, Result<Xattr>>) {
        let within = |error: Error| error.within(inode.number);
        let in_block = match self.table_in_block(inode) {
            Ok(table) => table,
            Err(error) => match visit(Err(within(error))) {
                ControlFlow::Continue(()) => None,
                ControlFlow::Break(()) => return,
            },
        };
        for table in [self.table_in_inode(inode), in_block].iter().flatten() {
            let listed = table.list();
            for (number, entry) in listed.entries.iter().enumerate() {
                let Some(name) = full_name(entry) else { continue };
                let value = self.attribute_value(table, &listed, number).and_then(|value| {
                    match entry.e_name_index {
                        ACCESS_ACL | DEFAULT_ACL => acl::convert(&value),
                        _ => Ok(value),
                    }
                });
                if visit(value.map(|value| Xattr { name, value }).map_err(within)).is_break() {
                    return;
                }
            }
            if let Some(damage) = listed.damage
                && visit(Err(within(damage))).is_break()
            {
                return;
            }
        }
    }

    /// The inodes whose content is the value of an attribute.
    ///
    /// # Errors
    /// `Corrupt` where attributes are damaged.
    pub(super) fn values_in_inodes(&self, inode: &Inode) -> Result<Vec<InodeNumber>> {
        if !self.superblock.has_incompat(incompat::EA_INODE) {
            return Ok(Vec::new());
        }
        let read = || {
            let mut values = Vec::new();
            let tables = [self.table_in_inode(inode), self.table_in_block(inode)?];
            for table in tables.iter().flatten() {
                let listed = table.list();
                listed.damage.map_or(Ok(()), Err)?;
                let inodes = listed.entries.iter().map(|entry| entry.e_value_inum);
                values.extend(inodes.filter(|inode| *inode != 0));
            }
            Ok(values.into_iter().map(InodeNumber).collect())
        };
        read().map_err(|error: Error| error.within(inode.number))
    }

    /// What of a file's inline data the inode's map has no room for.
    ///
    /// # Errors
    /// `Corrupt` where attributes are damaged.
    pub(super) fn inline_rest(&self, inode: &Inode) -> Result<Vec<u8>> {
        let Some(table) = self.table_in_inode(inode) else { return Ok(Vec::new()) };
        let is_data = |entry: &Entry| entry.e_name_index == SYSTEM && entry.name == b"data";
        let read = || {
            let listed = table.list();
            match listed.entries.iter().position(is_data) {
                Some(number) => self.attribute_value(&table, &listed, number),
                // It may be among what is lost.
                None => listed.damage.map_or(Ok(Vec::new()), Err),
            }
        };
        read().map_err(|error| error.within(inode.number))
    }

    fn table_in_inode(&self, inode: &Inode) -> Option<Table> {
        let end = inode.fields_end();
        let rest = inode.bytes.get(end..).filter(|_| inode.i_extra_isize > 0)?;
        if le32(rest, 0)? != MAGIC {
            return None;
        }
        Some(Table { bytes: rest.into(), entries: INODE_HEADER, values: INODE_HEADER })
    }

    fn table_in_block(&self, inode: &Inode) -> Result<Option<Table>> {
        let block = inode.i_file_acl;
        if block.0 == 0 {
            return Ok(None);
        }
        let table = self.blocks.read(block)?;
        if le32(&table, 0) != Some(MAGIC) || le32(&table, 0x8) != Some(1) {
            let found = format!("{:#010x}", le32(&table, 0).unwrap_or_default());
            return Err(Error::corrupt(block, "extended attributes", found));
        }
        if self.superblock.has_checksums() {
            let seed = self.seed.add(&block.0.to_le_bytes());
            let expected = seed.add_without(&table, CHECKSUM_AT, 4).value();
            let found = le32(&table, CHECKSUM_AT).unwrap_or_default();
            if expected != found {
                let (expected, found) = (format!("{expected:#010x}"), format!("{found:#010x}"));
                return Err(Error::corrupt(block, format!("checksum {expected}"), found));
            }
        }
        Ok(Some(Table { bytes: table, entries: BLOCK_HEADER, values: 0 }))
    }

    /// The value of entry `number` of a table.
    fn attribute_value(&self, table: &Table, listed: &Listed, number: usize) -> Result<Vec<u8>> {
        table.check_value(listed, number)?;
        let Some(entry) = listed.entries.get(number) else { return Ok(Vec::new()) };
        let size = index(entry.e_value_size);
        if entry.e_value_inum != 0 {
            return self.value_of_inode(InodeNumber(entry.e_value_inum), size);
        }
        let Some(place) = table.place(entry) else { return Ok(Vec::new()) };
        Ok(slice(&table.bytes, place.start, size).unwrap_or_default().to_vec())
    }

    /// A value that is an inode's content.
    fn value_of_inode(&self, number: InodeNumber, size: usize) -> Result<Vec<u8>> {
        if !self.superblock.has_incompat(incompat::EA_INODE) {
            let expected = "a value here, without the feature ea_inode";
            return Err(Error::corrupt("extended attribute", expected, number));
        }
        if size > limits::MAX_XATTR_SIZE {
            let context = format!("{number}: an extended attribute of {size} bytes");
            return Err(Error::new(ErrorKind::Limit, context));
        }
        let inode = self.inode(number)?;
        if !inode.has(flags::EA_INODE) || inode.i_size != bytes(size) {
            let expected = format!("the {size} bytes of an extended attribute");
            return Err(inode.corrupt(expected, format!("a file of {} bytes", inode.i_size)));
        }
        self.whole_content(&inode)
    }
}

/// An attribute's name with its prefix; `None` for those that Linux does not show.
fn full_name(entry: &Entry) -> Option<Vec<u8>> {
    let prefix: &[u8] = match entry.e_name_index {
        1 => b"user.",
        ACCESS_ACL => b"system.posix_acl_access",
        DEFAULT_ACL => b"system.posix_acl_default",
        4 => b"trusted.",
        6 => b"security.",
        8 => b"system.richacl",
        10 => b"gnu.",
        _ => return None,
    };
    Some([prefix, &entry.name].concat())
}
