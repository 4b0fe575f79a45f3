//! File extents: what a stretch of a file's content is.
//!
//! The kernel's `struct btrfs_file_extent_item` in `include/uapi/linux/btrfs_tree.h`, and its
//! checks in `fs/btrfs/tree-checker.c` (`check_extent_data_item`).

use std::ops::Range;

use super::Btrfs;
use super::compress::Compression;
use super::node::Item;
use super::root::Subvolume;
use super::tree::Tree;
use super::units::{Key, Logical, bytes, kinds, round_down, round_up};
use crate::base::fields::{le16, le64, u8_at};
use crate::base::{Error, ErrorKind, Result, limits};

/// Bytes of an item before inline content.
const INLINE_AT: usize = 21;
/// Bytes of an item without.
const SIZE: usize = 53;

/// What a stretch of a file is.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// Nothing, which reads as zeros.
    Hole,
    /// Reserved at these bytes, and not written.
    Unwritten(Logical),
    /// Bytes of the item itself, zeros behind.
    Inline(Inline),
    /// Bytes as they are; these are from the stretch's start on.
    Plain(Logical),
    /// A part of what is compressed.
    Packed(Packed),
}

/// Content within an item.
#[derive(Debug, Clone)]
pub(super) struct Inline {
    pub item: Item,
    pub compression: Option<Compression>,
    pub ram_bytes: u64,
}

impl Inline {
    /// The bytes as they are in the item.
    pub(super) fn stored(&self) -> &[u8] {
        self.item.data().get(INLINE_AT..).unwrap_or_default()
    }
}

/// A compressed extent, and which part of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packed {
    pub at: Logical,
    pub length: u64,
    pub compression: Compression,
    pub ram_bytes: u64,
    /// Where in what it unpacks to the stretch starts.
    pub offset: u64,
}

/// A stretch of a file.
#[derive(Debug, Clone)]
pub(super) struct Stretch {
    pub range: Range<u64>,
    pub content: Content,
}

impl Stretch {
    /// The part of it from `offset` on.
    pub(super) fn from(self, offset: u64) -> Self {
        let end = self.range.end;
        self.clipped(&(offset..end))
    }

    /// The part of it that `range` holds.
    fn clipped(mut self, range: &Range<u64>) -> Self {
        let start = self.range.start.max(range.start);
        let skipped = start.saturating_sub(self.range.start);
        match &mut self.content {
            Content::Plain(at) | Content::Unwritten(at) => *at = at.after(skipped),
            Content::Packed(packed) => packed.offset = packed.offset.saturating_add(skipped),
            // Whose bytes are counted from the file's start.
            Content::Inline(_) | Content::Hole => {}
        }
        self.range = start..self.range.end.min(range.end);
        self
    }

    /// The stretch that `item` describes.
    pub(super) fn parse(item: &Item, sectorsize: u64) -> Result<Self> {
        let data = item.data();
        let short = || item.corrupt("a file extent", format!("{} bytes", data.len()));
        let start = item.key.offset;
        let ram_bytes = le64(data, 0x8).ok_or_else(short)?;
        let (encryption, other) = (u8_at(data, 0x11), le16(data, 0x12).ok_or_else(short)?);
        if encryption != Some(0) || other != 0 {
            let context = format!("item {}: encrypted content", item.key);
            return Err(Error::new(ErrorKind::Unsupported, context));
        }
        let compression = Compression::of_type(u8_at(data, 0x10).ok_or_else(short)?)
            .map_err(|error| error.within(format!("item {}", item.key)))?;
        let kind = u8_at(data, 0x14).ok_or_else(short)?;
        if kind == 0 {
            let stored = data.len().checked_sub(INLINE_AT).ok_or_else(short)?;
            let is_other = compression.is_none() && bytes(stored) != ram_bytes;
            if start != 0 || is_other || ram_bytes > limits::MAX_UNPACKED_EXTENT {
                let found = format!("{ram_bytes} bytes at {start}");
                return Err(item.corrupt("inline content at the start", found));
            }
            let inline = Inline { item: item.clone(), compression, ram_bytes };
            let end = round_up(ram_bytes.max(1), sectorsize);
            return Ok(Self { range: 0..end, content: Content::Inline(inline) });
        }
        if data.len() != SIZE || kind > 2 {
            return Err(item.corrupt("a file extent", format!("kind {kind}, {} bytes", data.len())));
        }
        let fields = Fields {
            disk: Logical(le64(data, 0x15).ok_or_else(short)?),
            disk_bytes: le64(data, 0x1d).ok_or_else(short)?,
            offset: le64(data, 0x25).ok_or_else(short)?,
            length: le64(data, 0x2d).ok_or_else(short)?,
            ram_bytes,
            compression,
        };
        let range = fields.check(item, sectorsize)?;
        let content = match (kind, fields.disk.0) {
            (_, 0) => Content::Hole,
            (2, _) => Content::Unwritten(fields.disk.after(fields.offset)),
            _ => fields.content(item)?,
        };
        Ok(Self { range, content })
    }
}

/// The fields of an extent that is not inline.
struct Fields {
    disk: Logical,
    disk_bytes: u64,
    offset: u64,
    length: u64,
    ram_bytes: u64,
    compression: Option<Compression>,
}

impl Fields {
    /// The bytes of the file, if the fields make sense.
    fn check(&self, item: &Item, sectorsize: u64) -> Result<Range<u64>> {
        let start = item.key.offset;
        let all = [start, self.disk.0, self.disk_bytes, self.offset, self.length];
        let is_aligned = all.iter().all(|value| round_down(*value, sectorsize) == *value);
        let whole = if self.compression.is_some() { self.ram_bytes } else { self.disk_bytes };
        let end = self.offset.checked_add(self.length);
        let is_inside = self.disk.0 == 0 || end.is_some_and(|end| end <= whole);
        match start.checked_add(self.length) {
            Some(end) if is_aligned && is_inside && self.length > 0 => Ok(start..end),
            _ => {
                let found = format!("{} bytes from {} of {whole}", self.length, self.offset);
                Err(item.corrupt("a part of an extent, in sectors", found))
            }
        }
    }

    fn content(&self, item: &Item) -> Result<Content> {
        let Some(compression) = self.compression else {
            return Ok(Content::Plain(self.disk.after(self.offset)));
        };
        if self.ram_bytes.max(self.disk_bytes) > limits::MAX_UNPACKED_EXTENT {
            let context =
                format!("item {}: a compressed extent of {} bytes", item.key, self.ram_bytes);
            return Err(Error::new(ErrorKind::Limit, context));
        }
        Ok(Content::Packed(Packed {
            at: self.disk,
            length: self.disk_bytes,
            compression,
            ram_bytes: self.ram_bytes,
            offset: self.offset,
        }))
    }
}

impl Btrfs {
    /// The stretch of a file that `offset` is in. A hole may be followed by more of it.
    ///
    /// # Errors
    /// `Corrupt` where the way to it is damaged; `Unsupported` for content that is not understood.
    pub(super) fn stretch(
        &self,
        subvolume: &Subvolume,
        number: u64,
        offset: u64,
    ) -> Result<Stretch> {
        let mut free = 0..u64::MAX;
        let replayed = subvolume.replay.as_deref().and_then(|replay| {
            let first_lost = replay.cut(number)?;
            Some((replay.log, first_lost))
        });
        if let Some((log, first_lost)) = replayed {
            let (found, gap) = self.stretch_in(log, number, offset)?;
            match found {
                Some(found) => return Ok(found),
                None if offset >= first_lost => {
                    let range = gap.start.max(first_lost)..gap.end;
                    return Ok(Stretch { range, content: Content::Hole });
                }
                None => free = gap.start..gap.end.min(first_lost),
            }
        }
        let (found, gap) = self.stretch_in(subvolume.tree, number, offset)?;
        let hole = || Stretch { range: gap, content: Content::Hole };
        Ok(found.unwrap_or_else(hole).clipped(&free))
    }

    /// The stretch of one tree, or the gap between stretches, that `offset` is in.
    fn stretch_in(
        &self,
        tree: Tree,
        number: u64,
        offset: u64,
    ) -> Result<(Option<Stretch>, Range<u64>)> {
        let sectorsize = u64::from(self.superblock.sectorsize);
        let is_ours = |item: &Item| item.key.is_of(number, kinds::EXTENT_DATA);
        let key = Key::new(number, kinds::EXTENT_DATA, offset);
        let before = tree.at_or_below(&self.pool, key)?.filter(is_ours);
        let before = before.map(|item| Stretch::parse(&item, sectorsize)).transpose()?;
        let start = before.as_ref().map_or(0, |stretch| stretch.range.end);
        let mut cursor = tree.from(&self.pool, Key { offset: offset.saturating_add(1), ..key });
        cursor.limit(Key { offset: u64::MAX, ..key });
        let next = cursor.next()?.filter(is_ours).map_or(u64::MAX, |item| item.key.offset);
        if start > next {
            let place = format!("inode {number}");
            let expected = format!("an extent's end before byte {next}");
            return Err(Error::corrupt(place, expected, start));
        }
        match before {
            Some(stretch) if offset < start => Ok((Some(stretch), 0..0)),
            _ => Ok((None, start..next)),
        }
    }
}
