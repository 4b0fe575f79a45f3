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
use super::units::{BlockNumber, FileBlock, InodeNumber, bytes, index};
use crate::base::fields::{be16, be32, has, slice, u8_at};
use crate::base::{Error, ErrorKind, Result, limits};
use crate::fs::{Visit, Xattr};

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
    /// Calls `visit` for every attribute that Linux lists, with an error for each that is lost.
    ///
    /// # Errors
    /// `Unsupported` if the log has more to do to the file.
    pub(super) fn each_attribute(
        &self,
        inode: &Inode,
        visit: Visit<'_, Result<Xattr>>,
    ) -> Result<()> {
        if let Some(what) = self.unfinished.get(&inode.number) {
            let context = format!("{}: {what}", inode.number);
            return Err(Error::new(ErrorKind::Unsupported, context));
        }
        let mut shown = Shown { number: inode.number, visit, bytes: 0, is_over: false };
        if let Err(error) = self.attributes_of_fork(inode, &mut shown) {
            shown.lose(error);
        }
        Ok(())
    }

    fn attributes_of_fork(&self, inode: &Inode, shown: &mut Shown<'_>) -> Result<()> {
        match inode.attribute_fork()? {
            None => Ok(()),
            Some(fork) if fork.form == Form::Local => short_attributes(fork.bytes, shown),
            Some(fork) => {
                let mut map = Map::new(inode, &fork)?;
                match fork.form == Form::Btree || fork.extents > 0 {
                    true => self.leaf_attributes(inode, &mut map, shown),
                    false => Ok(()),
                }
            }
        }
    }

    /// The attributes of all leaves, which are a chain.
    fn leaf_attributes(&self, inode: &Inode, map: &mut Map, shown: &mut Shown<'_>) -> Result<()> {
        let first = (FileBlock(0), 1);
        let mut leaf = self.leaf_below(inode, map, first, &[LEAF], |_| 0)?;
        let mut last_hash = 0;
        for _ in 0..limits::MAX_XATTR_BLOCKS {
            self.leaf_entries(inode, map, (&leaf, &mut last_hash), shown);
            if leaf.forw == 0 || shown.is_over {
                return Ok(());
            }
            let next = FileBlock(leaf.forw.into());
            leaf = self.index_block(inode, map, (next, 1), &[LEAF])?;
        }
        let most = limits::MAX_XATTR_BLOCKS;
        Err(Error::new(ErrorKind::Limit, format!("more than {most} blocks of attributes")))
    }

    /// The attributes of a leaf, each of which may be lost by itself. They are sorted by the hash
    /// of their names, from leaf to leaf.
    fn leaf_entries(
        &self,
        inode: &Inode,
        map: &mut Map,
        (leaf, last_hash): (&IndexBlock, &mut u32),
        shown: &mut Shown<'_>,
    ) {
        let start = self.header_size(LEAF_HEADER, LEAF_HEADER_V5);
        let entries = || (0..leaf.count).map(|place| LeafEntry::parse(&leaf.bytes, start, place));
        let entries: Vec<Result<LeafEntry<'_>>> = entries().collect();
        // Where each one's name and value are, so that none takes another's.
        let mut places: Vec<(usize, usize)> =
            entries.iter().flatten().map(|one| one.place).collect();
        places.sort_unstable();
        for entry in entries {
            let read = entry.and_then(|entry| {
                entry.check(
                    *last_hash,
                    start.saturating_add(leaf.count.saturating_mul(ENTRY_SIZE)),
                )?;
                entry.check_apart(&places)?;
                *last_hash = entry.hash;
                let value = || match entry.body {
                    Body::Local(value) => Ok(value.to_vec()),
                    Body::Remote(first, length) => self.remote_value(inode, map, first, length),
                };
                attribute(entry.flags, entry.name, value)
            });
            match read {
                Ok(attribute) => shown.show(attribute),
                Err(error) => shown.lose(error),
            }
            if shown.is_over {
                return;
            }
        }
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
            let context = format!("an extended attribute of {length} bytes");
            return Err(Error::new(ErrorKind::Limit, context));
        }
        let mut value = Vec::new();
        let mut next = first;
        while value.len() < length {
            let run = self.part_of_run(map, next)?;
            let RunPlace::At(block) = run.place else {
                return Err(Error::corrupt(next, "an attribute's value", "no block"));
            };
            for distance in 0..run.count {
                if value.len() >= length {
                    break;
                }
                let block = BlockNumber(block.0.saturating_add(distance));
                self.add_value(inode, block, length, &mut value)
                    .map_err(|error| error.within(block))?;
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

/// An attribute as its leaf has it.
struct LeafEntry<'a> {
    hash: u32,
    flags: u8,
    name: &'a [u8],
    body: Body<'a>,
    /// Where its name and, if it is there too, its value start and end.
    place: (usize, usize),
}

/// A value: in the leaf, or from this block of the fork on with this many bytes.
enum Body<'a> {
    Local(&'a [u8]),
    Remote(FileBlock, usize),
}

impl<'a> LeafEntry<'a> {
    /// Entry `place` of a leaf whose entries begin at `start`.
    fn parse(leaf: &'a [u8], start: usize, place: usize) -> Result<Self> {
        let parse = || {
            let at = place.checked_mul(ENTRY_SIZE)?.checked_add(start)?;
            let entry = slice(leaf, at, ENTRY_SIZE)?;
            let at = usize::from(be16(entry, 4)?);
            let flags = u8_at(entry, 6)?;
            let body = leaf.get(at..)?;
            let (name, body, length) = match flags & LOCAL {
                0 => {
                    // `valueblk`, `valuelen`, `namelen`, the name.
                    let (block, length) = (be32(body, 0)?, index(be32(body, 4)?));
                    let name = slice(body, 9, usize::from(u8_at(body, 8)?))?;
                    (name, Body::Remote(FileBlock(block.into()), length), 9_usize)
                }
                _ => {
                    // `valuelen`, `namelen`, the name, the value.
                    let (length, name_length) = (be16(body, 0)?, usize::from(u8_at(body, 2)?));
                    let name = slice(body, 3, name_length)?;
                    let value = slice(body, name_length.checked_add(3)?, length.into())?;
                    (name, Body::Local(value), value.len().checked_add(3)?)
                }
            };
            let end = at.checked_add(length)?.checked_add(name.len())?;
            Some(Self { hash: be32(entry, 0)?, flags, name, body, place: (at, end) })
        };
        let broken = || Error::corrupt(format!("attribute {place}"), "one in its leaf", "another");
        parse().ok_or_else(broken)
    }

    /// Checks what the kernel's `xfs_attr3_leaf_verify_entry` does: the order of hashes, a name,
    /// and that it lies behind the entries, which end at `entries_end`.
    fn check(&self, last_hash: u32, entries_end: usize) -> Result<()> {
        let name = || format!("attribute {}", String::from_utf8_lossy(self.name));
        if self.hash < last_hash {
            let (expected, found) = (format!("a hash from {last_hash:#010x} on"), self.hash);
            return Err(Error::corrupt(name(), expected, format!("{found:#010x}")));
        }
        let is_nowhere = matches!(self.body, Body::Remote(FileBlock(0), _));
        if self.name.is_empty() || (is_nowhere && self.flags & INCOMPLETE == 0) {
            return Err(Error::corrupt(name(), "a name and a value", "none"));
        }
        if self.place.0 < entries_end {
            let expected = format!("a place behind byte {entries_end}");
            return Err(Error::corrupt(name(), expected, self.place.0));
        }
        Ok(())
    }

    /// Checks that none of the other `places`, which are sorted, has bytes of it.
    fn check_apart(&self, places: &[(usize, usize)]) -> Result<()> {
        let mut others =
            places.iter().filter(|other| other.0 < self.place.1 && other.1 > self.place.0);
        let _itself = others.next();
        match others.next() {
            None => Ok(()),
            Some(_) => {
                let name = format!("attribute {}", String::from_utf8_lossy(self.name));
                let found = format!("bytes {} to {}", self.place.0, self.place.1);
                Err(Error::corrupt(name, "a place of its own", found))
            }
        }
    }
}

/// Attributes in an inode: `totsize`, `count`, and of each `namelen`, `valuelen`, `flags`.
fn short_attributes(fork: &[u8], shown: &mut Shown<'_>) -> Result<()> {
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
        let name = slice(bytes, name_at, name_length).filter(|name| !name.is_empty());
        let name = name.ok_or_else(broken)?;
        let value = slice(bytes, value_at, length).ok_or_else(broken)?;
        match attribute(*flags, name, || Ok(value.to_vec())) {
            Ok(attribute) => shown.show(attribute),
            Err(error) => shown.lose(error),
        }
        at = value_at.saturating_add(length);
    }
    match at == bytes.len() {
        true => Ok(()),
        false => Err(Error::corrupt("attributes", format!("{size} bytes of them"), at)),
    }
}

/// An attribute, if it is one that Linux shows: not one in the making, nor one that says which
/// folder a file is in. ACLs come by Linux's names only, not by the disk's as well.
fn attribute(
    flags: u8,
    name: &[u8],
    value: impl FnOnce() -> Result<Vec<u8>>,
) -> Result<Option<Xattr>> {
    if flags & (INCOMPLETE | PARENT) != 0 {
        return Ok(None);
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
    Ok(Some(Xattr { name, value }))
}

/// Attributes as they are shown.
struct Shown<'a> {
    number: InodeNumber,
    visit: Visit<'a, Result<Xattr>>,
    /// Bytes of their names and values.
    bytes: usize,
    /// Whether no more are wanted.
    is_over: bool,
}

impl Shown<'_> {
    fn show(&mut self, attribute: Option<Xattr>) {
        let Some(attribute) = attribute.filter(|_| !self.is_over) else { return };
        let size = attribute.name.len().saturating_add(attribute.value.len());
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > limits::MAX_XATTR_BYTES {
            let context = format!("more than {} bytes of attributes", limits::MAX_XATTR_BYTES);
            self.lose(Error::new(ErrorKind::Limit, context));
            self.is_over = true;
            return;
        }
        self.is_over = (self.visit)(Ok(attribute)).is_break();
    }

    fn lose(&mut self, error: Error) {
        if !self.is_over {
            self.is_over = (self.visit)(Err(error.within(self.number))).is_break();
        }
    }
}
