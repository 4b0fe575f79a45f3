//! The content of files and the targets of links.

use std::sync::Arc;

use super::Btrfs;
use super::extent::{Content, Inline, Packed, Stretch};
use super::inode::Inode;
use super::root::Subvolume;
use super::units::{Logical, bytes, index, round_down, round_up};
use crate::base::fields::slice;
use crate::base::{Error, ErrorKind, Result, limits};
use crate::fs::{Extent, FileContent, FileType, Place, Visit};

/// An open file.
pub(super) struct OpenFile<'a> {
    btrfs: &'a Btrfs,
    subvolume: Arc<Subvolume>,
    inode: Inode,
    /// The stretch that was read last: the next read is likely to go on there.
    stretch: Option<Stretch>,
    /// The compressed extent that was unpacked last, and what it holds.
    unpacked: Option<(Logical, Vec<u8>)>,
    /// The sector that was read last, as small reads come in a row.
    sector: Option<(Logical, Vec<u8>)>,
}

impl Btrfs {
    /// Opens the content of `inode`, whatever its type.
    pub(super) fn content(&self, subvolume: Arc<Subvolume>, inode: Inode) -> OpenFile<'_> {
        OpenFile { btrfs: self, subvolume, inode, stretch: None, unpacked: None, sector: None }
    }

    /// What a symbolic link says.
    ///
    /// # Errors
    /// `Invalid` if it is none; `Corrupt`.
    pub(super) fn target(&self, subvolume: Arc<Subvolume>, inode: Inode) -> Result<Vec<u8>> {
        let number = inode.number;
        if inode.file_type()? != FileType::Symlink {
            let context = format!("inode {number} is no symbolic link");
            return Err(Error::new(ErrorKind::Invalid, context));
        }
        let size = index(inode.size);
        if size > limits::MAX_XATTR_SIZE {
            let expected = format!("a target of {} bytes at most", limits::MAX_XATTR_SIZE);
            return Err(Error::corrupt(format!("inode {number}"), expected, size));
        }
        let mut target = vec![0; size];
        self.content(subvolume, inode).read_at(0, &mut target)?;
        let end = target.iter().position(|byte| *byte == 0).unwrap_or(size);
        target.truncate(end);
        Ok(target)
    }
}

impl OpenFile<'_> {
    fn stretch_at(&mut self, offset: u64) -> Result<Stretch> {
        if let Some(known) = self.stretch.as_ref().filter(|known| known.range.contains(&offset)) {
            return Ok(known.clone());
        }
        let found = self.btrfs.stretch(&self.subvolume, self.inode.number, offset)?;
        self.stretch = Some(found.clone());
        Ok(found)
    }

    fn within(&self, error: Error) -> Error {
        error.within(format!("inode {} of subvolume {}", self.inode.number, self.subvolume.id))
    }

    /// Fills the start of `buffer` from `offset`, within one stretch; returns how many bytes.
    fn read_stretch(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let stretch = self.stretch_at(offset)?;
        let length = index(stretch.range.end.saturating_sub(offset)).min(buffer.len());
        let part = buffer.get_mut(..length).unwrap_or_default();
        let skipped = offset.saturating_sub(stretch.range.start);
        match stretch.content {
            Content::Hole | Content::Unwritten(_) => part.fill(0),
            Content::Inline(inline) => self.read_inline(&inline, offset, part)?,
            Content::Plain(at) => return self.read_plain(at.after(skipped), part),
            Content::Packed(mut packed) => {
                packed.offset = packed.offset.saturating_add(skipped);
                self.read_packed(&packed, part)?;
            }
        }
        Ok(length)
    }

    fn read_inline(&self, inline: &Inline, offset: u64, part: &mut [u8]) -> Result<()> {
        let size = index(inline.ram_bytes);
        let sectorsize = index(self.btrfs.superblock.sectorsize);
        let stored = inline.stored();
        let unpacked;
        let content = match inline.compression {
            None => stored,
            Some(compression) => {
                unpacked = compression.unpack(stored, size, sectorsize)?;
                unpacked.as_slice()
            }
        };
        let content = content.get(..size).ok_or_else(|| {
            inline.item.corrupt(format!("{size} bytes of content"), content.len())
        })?;
        let content = content.get(index(offset)..).unwrap_or_default();
        part.fill(0);
        for (place, byte) in part.iter_mut().zip(content) {
            *place = *byte;
        }
        Ok(())
    }

    /// Fills `part` from `at`, or as much of it as goes at once; returns how many bytes.
    fn read_plain(&mut self, at: Logical, part: &mut [u8]) -> Result<usize> {
        let sector = u64::from(self.btrfs.superblock.sectorsize);
        let has_sums = !self.inode.is_unchecked();
        let start = Logical(round_down(at.0, sector));
        let whole = round_down(bytes(part.len()), sector);
        if start == at && whole > 0 {
            let part = part.get_mut(..index(whole)).unwrap_or_default();
            self.btrfs.read_data(at, part, has_sums)?;
            return Ok(part.len());
        }
        // A part of one sector, of which all has to be verified.
        if self.sector.as_ref().is_none_or(|(known, _)| *known != start) {
            let mut buffer = vec![0; index(sector)];
            self.btrfs.read_data(start, &mut buffer, has_sums)?;
            self.sector = Some((start, buffer));
        }
        let held = self.sector.as_ref().map(|(_, held)| held.as_slice()).unwrap_or_default();
        let held = held.get(index(at.0.saturating_sub(start.0))..).unwrap_or_default();
        let length = held.len().min(part.len());
        let part = part.get_mut(..length).unwrap_or_default();
        part.copy_from_slice(held.get(..length).unwrap_or_default());
        Ok(length)
    }

    fn read_packed(&mut self, packed: &Packed, part: &mut [u8]) -> Result<()> {
        if self.unpacked.as_ref().is_none_or(|(known, _)| *known != packed.at) {
            let mut stored = vec![0; index(packed.length)];
            self.btrfs.read_data(packed.at, &mut stored, !self.inode.is_unchecked())?;
            let (most, sectorsize) = (index(packed.ram_bytes), self.btrfs.superblock.sectorsize);
            let unpacked = packed.compression.unpack(&stored, most, index(sectorsize));
            let unpacked = unpacked.map_err(|error| error.within(packed.at))?;
            self.unpacked = Some((packed.at, unpacked));
        }
        let held = self.unpacked.as_ref().map(|(_, held)| held.as_slice()).unwrap_or_default();
        let content = slice(held, index(packed.offset), part.len()).ok_or_else(|| {
            let place = format!("compressed extent at {}", packed.at);
            let end = packed.offset.saturating_add(bytes(part.len()));
            Error::corrupt(place, format!("{end} bytes"), held.len())
        })?;
        part.copy_from_slice(content);
        Ok(())
    }

    /// Where a stretch is, and how many bytes of it lie together there. What lies on missing
    /// devices only has no place of which could be spoken.
    fn place(&self, stretch: &Stretch) -> Result<(Place, u64)> {
        let length = stretch.range.end.saturating_sub(stretch.range.start);
        Ok(match &stretch.content {
            Content::Hole => (Place::Hole, length),
            Content::Unwritten(at) => match self.btrfs.pool.place(*at)? {
                Some((piece, place)) => (Place::Unwritten(Some(place)), length.min(piece.length)),
                None => (Place::Unwritten(None), length),
            },
            Content::Inline(_) => (Place::Inline, length),
            Content::Plain(at) => match self.btrfs.pool.place(*at)? {
                Some((piece, place)) => (Place::At(place), length.min(piece.length)),
                None => (Place::Inline, length),
            },
            Content::Packed(packed) => match self.btrfs.pool.place(packed.at)? {
                Some((piece, place)) => {
                    let stored = packed.length.min(piece.length);
                    (Place::Encoded(place, stored), length)
                }
                None => (Place::Inline, length),
            },
        })
    }
}

impl FileContent for OpenFile<'_> {
    fn size(&self) -> u64 {
        self.inode.size
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let left = index(self.inode.size.saturating_sub(offset)).min(buffer.len());
        let mut done = 0_usize;
        while done < left {
            let rest = buffer.get_mut(done..left).unwrap_or_default();
            let read = self.read_stretch(offset.saturating_add(bytes(done)), rest);
            let count = read.map_err(|error| self.within(error))?;
            done = done.saturating_add(count.max(1));
        }
        Ok(left)
    }

    fn extents(&mut self, visit: Visit<'_, Extent>) -> Result<()> {
        let size = self.inode.size;
        let mut offset = 0;
        while offset < size {
            let stretch = self.btrfs.stretch(&self.subvolume, self.inode.number, offset);
            let stretch = stretch.map_err(|error| self.within(error))?.from(offset);
            let (place, length) = self.place(&stretch)?;
            let length = length.min(size.saturating_sub(offset)).max(1);
            if visit(Extent { offset, length, place }).is_break() {
                break;
            }
            offset = offset.saturating_add(length);
        }
        Ok(())
    }
}

/// Bytes that whole sectors of `size` bytes take.
pub(super) fn in_sectors(size: u64, sectorsize: u32) -> u64 {
    round_up(size, u64::from(sectorsize))
}
