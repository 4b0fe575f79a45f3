//! Extended attributes: in the inode, in blocks sorted by hash, and values in blocks of their own.
//!
//! The kernel's `fs/xfs/libxfs/xfs_da_format.h`, "Attribute structures".

use super::Xfs;
use super::acl;
use super::content::REMOTE_HEADER;
use super::index::IndexBlock;
use super::inode::{Form, Inode};
use super::map::{Map, RunPlace};
use super::stamp::REMOTE;
use super::units::{BlockNumber, FileBlock, bytes, index};
use crate::base::fields::{be16, be32, has, slice, u8_at};
use crate::base::{Error, ErrorKind, Result, limits};
use crate::fs::Xattr;

/// Magic numbers of leaves, in versions 4 and 5.
const LEAF: [u16; 2] = [0xfbee, 0x3bee];
/// Bytes before a leaf's entries.
const LEAF_HEADER: usize = 32;
const LEAF_HEADER_V5: usize = 80;
/// Bytes of a leaf's entry.
const ENTRY_SIZE: usize = 8;
/// What the header of a block of a value starts with, in version 5.
const VALUE_MAGIC: &[u8] = b"XARM";

/// Bits of `flags` of an entry.
const LOCAL: u8 = 0x1;
const ROOT: u8 = 0x2;
const SECURE: u8 = 0x4;
const PARENT: u8 = 0x8;
const INCOMPLETE: u8 = 0x80;

impl Xfs {
    /// Every attribute that Linux lists.
    ///
    /// # Errors
    /// `Corrupt` where one is damaged.
    pub(super) fn attributes(&self, inode: &Inode) -> Result<Vec<Xattr>> {
        if let Some(what) = self.unfinished.get(&inode.number) {
            let context = format!("{}: {what}", inode.number);
            return Err(Error::new(ErrorKind::Unsupported, context));
        }
        let mut found = Found::default();
        match inode.attribute_fork()? {
            None => {}
            Some(fork) if fork.form == Form::Local => {
                let read = short_attributes(fork.bytes, &mut found);
                read.map_err(|error| error.within(inode.number))?;
            }
            Some(fork) => {
                let mut map = Map::new(inode, &fork)?;
                if fork.form == Form::Btree || fork.extents > 0 {
                    self.leaf_attributes(inode, &mut map, &mut found)?;
                }
            }
        }
        Ok(found.attributes)
    }

    /// The attributes of all leaves, which are a chain.
    fn leaf_attributes(&self, inode: &Inode, map: &mut Map, found: &mut Found) -> Result<()> {
        let first = (FileBlock(0), 1);
        let mut leaf = self.leaf_below(inode, map, first, &[LEAF], |_| 0)?;
        for _ in 0..limits::MAX_XATTR_BLOCKS {
            self.leaf_entries(inode, map, &leaf, found)?;
            if leaf.forw == 0 {
                return Ok(());
            }
            let next = FileBlock(leaf.forw.into());
            leaf = self.index_block(inode, map, (next, 1), &[LEAF])?;
        }
        let most = limits::MAX_XATTR_BLOCKS;
        let context = format!("{}: more than {most} blocks of attributes", inode.number);
        Err(Error::new(ErrorKind::Limit, context))
    }

    fn leaf_entries(
        &self,
        inode: &Inode,
        map: &mut Map,
        leaf: &IndexBlock,
        found: &mut Found,
    ) -> Result<()> {
        let start = self.header_size(LEAF_HEADER, LEAF_HEADER_V5);
        for place in 0..leaf.count {
            let at = place.saturating_mul(ENTRY_SIZE).saturating_add(start);
            let broken = || inode.corrupt("an attribute in its leaf", format!("entry {place}"));
            let entry = slice(&leaf.bytes, at, ENTRY_SIZE).ok_or_else(broken)?;
            let at = usize::from(be16(entry, 4).ok_or_else(broken)?);
            let flags = u8_at(entry, 6).ok_or_else(broken)?;
            let body = leaf.bytes.get(at..).unwrap_or_default();
            if flags & LOCAL != 0 {
                // `valuelen`, `namelen`, the name, the value.
                let length = be16(body, 0).ok_or_else(broken)?;
                let name_length = usize::from(u8_at(body, 2).ok_or_else(broken)?);
                let name = slice(body, 3, name_length).ok_or_else(broken)?;
                let value_at = name_length.saturating_add(3);
                let value = slice(body, value_at, length.into()).ok_or_else(broken)?;
                found.add(flags, name, || Ok(value.to_vec()))?;
            } else {
                // `valueblk`, `valuelen`, `namelen`, the name.
                let block = be32(body, 0).ok_or_else(broken)?;
                let length = index(be32(body, 4).ok_or_else(broken)?);
                let name_length = usize::from(u8_at(body, 8).ok_or_else(broken)?);
                let name = slice(body, 9, name_length).ok_or_else(broken)?;
                let first = FileBlock(block.into());
                found.add(flags, name, || self.remote_value(inode, map, first, length))?;
            }
        }
        Ok(())
    }

    /// A value of `length` bytes in blocks of the fork from `first`, each with a header in
    /// version 5.
    fn remote_value(
        &self,
        inode: &Inode,
        map: &mut Map,
        first: FileBlock,
        length: usize,
    ) -> Result<Vec<u8>> {
        if length > limits::MAX_XATTR_SIZE {
            let context = format!("{}: an extended attribute of {length} bytes", inode.number);
            return Err(Error::new(ErrorKind::Limit, context));
        }
        let mut value = Vec::new();
        let mut next = first;
        while value.len() < length {
            let run = self.part_of_run(map, next)?;
            let RunPlace::At(block) = run.place else {
                return Err(inode.corrupt(format!("an attribute's value in {next}"), "no block"));
            };
            for distance in 0..run.count {
                if value.len() >= length {
                    break;
                }
                let block = BlockNumber(block.0.saturating_add(distance));
                self.add_value(inode, block, length, &mut value)
                    .map_err(|error| error.within(block).within(inode.number))?;
            }
            next = FileBlock(run.end());
        }
        Ok(value)
    }

    /// Adds what one block has of a value.
    fn add_value(
        &self,
        inode: &Inode,
        block: BlockNumber,
        length: usize,
        value: &mut Vec<u8>,
    ) -> Result<()> {
        let content = self.blocks.read(block)?;
        let header = self.header_size(0, REMOTE_HEADER);
        let left = length.saturating_sub(value.len());
        let part = content.get(header..).unwrap_or_default();
        let part = part.get(..left).unwrap_or(part);
        if header > 0 {
            let place = (be32(&content, 4).map(u64::from), be32(&content, 8).map(u64::from));
            let expected = (Some(bytes(value.len())), Some(bytes(part.len())));
            if !has(&content, 0, VALUE_MAGIC) || place != expected {
                let expected = format!("bytes {expected:?} of an attribute's value");
                return Err(Error::corrupt("header", expected, format!("bytes {place:?} of one")));
            }
            self.check_stamp(&content, &REMOTE, block, inode.number.0)?;
        }
        value.extend(part);
        Ok(())
    }
}

/// Attributes in an inode: `totsize`, `count`, and of each `namelen`, `valuelen`, `flags`.
fn short_attributes(fork: &[u8], found: &mut Found) -> Result<()> {
    let broken = || Error::corrupt("attributes", "whole ones", "the end of the inode");
    let size = usize::from(be16(fork, 0).ok_or_else(broken)?);
    let count = u8_at(fork, 2).ok_or_else(broken)?;
    let bytes = slice(fork, 0, size).ok_or_else(broken)?;
    let mut at = 4_usize;
    for _ in 0..count {
        let header = slice(bytes, at, 3).ok_or_else(broken)?;
        let [name_length, length, flags] = header else { return Err(broken()) };
        let (name_length, length) = (usize::from(*name_length), usize::from(*length));
        let name_at = at.saturating_add(3);
        let value_at = name_at.saturating_add(name_length);
        let name = slice(bytes, name_at, name_length).ok_or_else(broken)?;
        let value = slice(bytes, value_at, length).ok_or_else(broken)?;
        found.add(*flags, name, || Ok(value.to_vec()))?;
        at = value_at.saturating_add(length);
    }
    Ok(())
}

/// The attributes that were found.
#[derive(Default)]
struct Found {
    attributes: Vec<Xattr>,
    /// Bytes of their names and values.
    bytes: usize,
}

impl Found {
    /// Adds an attribute, if it is one that Linux shows: not those in the making, nor those that
    /// say which folder a file is in. ACLs come by Linux's names only, not by the disk's as well.
    fn add(
        &mut self,
        flags: u8,
        name: &[u8],
        value: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<()> {
        if flags & (INCOMPLETE | PARENT) != 0 {
            return Ok(());
        }
        let list: Option<&[u8]> = match name {
            acl::ACCESS => Some(b"system.posix_acl_access"),
            acl::DEFAULT => Some(b"system.posix_acl_default"),
            _ => None,
        };
        let (name, value) = match (flags & (ROOT | SECURE), list) {
            (ROOT, Some(list)) => (list.to_vec(), acl::convert(&value()?)?),
            (ROOT, None) => ([b"trusted.", name].concat(), value()?),
            (SECURE, _) => ([b"security.", name].concat(), value()?),
            (0, _) => ([b"user.", name].concat(), value()?),
            _ => {
                let found = format!("flags {flags:#04x}");
                return Err(Error::corrupt("attribute", "one namespace", found));
            }
        };
        self.bytes = self.bytes.saturating_add(name.len()).saturating_add(value.len());
        if self.bytes > limits::MAX_XATTR_BYTES {
            let context = format!("more than {} bytes of attributes", limits::MAX_XATTR_BYTES);
            return Err(Error::new(ErrorKind::Limit, context));
        }
        self.attributes.push(Xattr { name, value });
        Ok(())
    }
}
