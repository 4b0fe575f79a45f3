//! Files by their numbers: the inode tables from end to end, and what each inode leads to.

use std::ops::ControlFlow;

use super::features::incompat;
use super::inode::{Inode, flags};
use super::map::RunPlace;
use super::units::{BlockNumber, FileBlock, GroupNumber, InodeNumber, ROOT_INODE, index};
use super::{Ext, id};
use crate::base::fields::{le16, le32};
use crate::base::{ByteRange, Error, Result};
use crate::fs::{FileId, FileType, InUse, Numbered, Part, Visit};

/// Bytes of an inode table that are read at once.
const READ_AT_ONCE: u64 = 128 * 1024;

impl Numbered for Ext {
    fn basis(&self) -> Vec<u64> {
        let geometry = self.geometry();
        let Self { superblock, .. } = self;
        let features = superblock.s_feature_incompat & !incompat::RECOVER;
        let sizes = [
            geometry.block_size,
            geometry.cluster_blocks,
            geometry.group_inodes,
            geometry.inode_count,
            geometry.inode_size.into(),
            features,
        ];
        sizes.into_iter().map(u64::from).chain([geometry.block_count]).collect()
    }

    fn each_file(&self, after: Option<FileId>, visit: Visit<'_, InUse>) -> Result<()> {
        let geometry = self.geometry();
        let after = after.map_or(0, |after| u32::try_from(after.number).unwrap_or(u32::MAX));
        let first = InodeNumber(after.saturating_add(1));
        if first.0 > geometry.inode_count {
            return Ok(());
        }
        self.check_tables()?;
        let (group, mut place) = geometry.locate(first)?;
        for group in (group.0..geometry.group_count).map(GroupNumber) {
            if self.files_of_group(group, place, visit)?.is_break() {
                break;
            }
            place = 0;
        }
        Ok(())
    }

    fn parts(&self, file: FileId, visit: Visit<'_, Part>) -> Result<()> {
        let inode = self.file(file)?;
        let place = self.inode_place(inode.number)?;
        let is_folder = inode.file_type()? == FileType::Directory;
        let record = match is_folder && inode.has(flags::INLINE_DATA) {
            true => Part::Structure(place),
            false => Part::Record(place),
        };
        if visit(record).is_continue() && self.attribute_parts(&inode, visit)?.is_continue() {
            let _ = self.map_parts(&inode, visit)?;
        }
        Ok(())
    }

    fn folders_of(&self, file: FileId) -> Result<Option<Vec<FileId>>> {
        let inode = self.file(file)?;
        if inode.file_type()? != FileType::Directory {
            return Ok(None);
        }
        if inode.number == ROOT_INODE {
            return Ok(Some(Vec::new()));
        }
        Ok(Some(vec![id(self.parent(&inode)?)]))
    }
}

impl Ext {
    /// Checks that the tables of inodes may lie apart, so that what they claim to be they take.
    pub(super) fn check_tables(&self) -> Result<()> {
        let geometry = self.geometry();
        let size = u64::from(geometry.inode_size);
        let tables = u64::from(geometry.inode_count).saturating_mul(size);
        match tables <= self.blocks.volume_size() {
            true => Ok(()),
            false => Err(Error::corrupt("inode tables", "no more than the volume", tables)),
        }
    }

    pub(super) fn files_of_group(
        &self,
        group: GroupNumber,
        first: u32,
        visit: Visit<'_, InUse>,
    ) -> Result<ControlFlow<()>> {
        let geometry = self.geometry();
        let descriptor = self.group(group)?;
        let count = self.inodes_in(&descriptor);
        let size = u64::from(geometry.inode_size);
        let table = geometry.offset(descriptor.bg_inode_table);
        let number_of = |place: u32| {
            let before = group.0.saturating_mul(geometry.group_inodes);
            InodeNumber(before.saturating_add(place).saturating_add(1))
        };
        let at_once = READ_AT_ONCE.checked_div(size).unwrap_or(1);
        let at_once = u32::try_from(at_once).unwrap_or(1).max(1);
        let mut buffer = Vec::new();
        let mut place = first;
        while place < count {
            let inodes = at_once.min(count.saturating_sub(place));
            buffer.resize(index(u64::from(inodes).saturating_mul(size)), 0);
            let start = table.saturating_add(u64::from(place).saturating_mul(size));
            let read = self.blocks.read_bytes(start, &mut buffer);
            read.map_err(|error| error.within(format!("inode table of {group}")))?;
            for (bytes, place) in buffer.chunks(index(size)).zip(place..) {
                let Some(file) = self.in_use(number_of(place), bytes) else { continue };
                if visit(file).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            place = place.saturating_add(inodes);
        }
        Ok(ControlFlow::Continue(()))
    }

    /// What inode `number` is, if it is a file that can have a name: what was removed has no links
    /// any more, or no mode.
    fn in_use(&self, number: InodeNumber, bytes: &[u8]) -> Option<InUse> {
        let i_mode = le16(bytes, 0x0)?;
        let is_removed = i_mode == 0 || le16(bytes, 0x1a)? == 0;
        let is_value = le32(bytes, 0x20)? & flags::EA_INODE != 0;
        let is_own = self.superblock.is_own(number);
        let file = InUse { file: id(number), is_folder: i_mode & 0xf000 == 0x4000 };
        (!is_removed && !is_value && !is_own).then_some(file)
    }

    /// Where inode `number` is.
    fn inode_place(&self, number: InodeNumber) -> Result<ByteRange> {
        let geometry = self.geometry();
        let (group, place) = geometry.locate(number)?;
        let table = geometry.offset(self.group(group)?.bg_inode_table);
        let size = u64::from(geometry.inode_size);
        let before = u64::from(place).saturating_mul(size);
        Ok(ByteRange::new(table.saturating_add(before), size))
    }

    /// The block of extended attributes, and the inodes that hold single values.
    fn attribute_parts(&self, inode: &Inode, visit: Visit<'_, Part>) -> Result<ControlFlow<()>> {
        let mut flow = ControlFlow::Continue(());
        if inode.i_file_acl.0 != 0 {
            flow = visit(self.structure(inode.i_file_acl));
        }
        for value in self.values_in_inodes(inode)? {
            if flow.is_break() {
                break;
            }
            let value = self.inode(value)?;
            flow = visit(Part::Structure(self.inode_place(value.number)?));
            if flow.is_continue() {
                flow = self.map_parts(&value, visit)?;
            }
        }
        Ok(flow)
    }

    fn structure(&self, block: BlockNumber) -> Part {
        Part::Structure(self.geometry().range(block, 1))
    }

    /// The blocks that a file's map leads to, and those of the map itself.
    fn map_parts(&self, inode: &Inode, visit: Visit<'_, Part>) -> Result<ControlFlow<()>> {
        let file_type = inode.file_type()?;
        let has_map = match file_type {
            FileType::Regular | FileType::Directory => !inode.has(flags::INLINE_DATA),
            FileType::Symlink => !inode.has(flags::INLINE_DATA) && !self.is_fast_link(inode),
            _ => false,
        };
        if !has_map {
            return Ok(ControlFlow::Continue(()));
        }
        let nodes = match inode.has(flags::EXTENTS) {
            true => self.extent_nodes(inode)?,
            false => self.indirect_blocks(inode)?,
        };
        let mut flow = nodes.into_iter().try_for_each(|block| visit(self.structure(block)));
        let geometry = self.geometry();
        let is_content = file_type == FileType::Regular && !inode.has(flags::EA_INODE);
        let end = geometry.blocks_of(inode.i_size);
        let (mut next, mut mapped) = (FileBlock(0), 0_u64);
        while next.0 < end && flow.is_continue() {
            let run = self.run(inode, next, end)?;
            next = FileBlock(run.end());
            let RunPlace::At(first) = run.place else { continue };
            let count = run.count.min(end.saturating_sub(run.first.0));
            mapped = mapped.saturating_add(count);
            if mapped > geometry.block_count {
                return Err(inode.corrupt("fewer blocks than the filesystem has", mapped));
            }
            let range = geometry.range(first, count);
            flow = visit(if is_content { Part::Content(range) } else { Part::Structure(range) });
        }
        Ok(flow)
    }
}
