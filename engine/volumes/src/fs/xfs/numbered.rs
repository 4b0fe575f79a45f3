//! Files by their numbers: all chunks of inodes, and what each inode leads to.

use std::ops::ControlFlow;

use super::Xfs;
use super::chunks::{CHUNK_INODES, Chunk};
use super::inode::{Fork, Form, Inode};
use super::map::{self, Map};
use super::units::{BlockNumber, GroupNumber, InodeNumber, bytes, index};
use crate::base::fields::{be16, be32, u8_at};
use crate::base::{ByteRange, Error, ErrorKind, Result, limits};
use crate::fs::{FileId, FileType, Filesystem, InUse, Numbered, Part, Visit};

impl Numbered for Xfs {
    fn basis(&self) -> Vec<u64> {
        let Self { superblock, .. } = self;
        let geometry = self.geometry();
        let sizes = [
            geometry.block_size,
            geometry.group_blocks,
            geometry.group_count,
            geometry.inode_size.into(),
            geometry.folder_blocks,
        ];
        let forms = [
            superblock.is_v5(),
            superblock.has_ftype(),
            superblock.has_unwritten(),
            superblock.ignores_case(),
        ];
        let uuid = superblock.metadata_uuid();
        let uuid =
            uuid.chunks(8).map(|half| half.iter().fold(0, |all, one| all << 8 | u64::from(*one)));
        let others = [geometry.block_count, superblock.sb_rootino];
        let all = sizes.into_iter().map(u64::from).chain(forms.into_iter().map(u64::from));
        all.chain(others).chain(uuid).collect()
    }

    fn each_file(&self, after: Option<FileId>, visit: Visit<'_, InUse>) -> Result<()> {
        let first = after.map_or(0, |after| after.number.saturating_add(1));
        let (group, mut from) = self.geometry().split_inode(InodeNumber(first));
        for group in (group.0..self.geometry().group_count).map(GroupNumber) {
            let flow = self.files_of_group(group, from, visit);
            if flow.map_err(|error| error.within(group))?.is_break() {
                break;
            }
            from = 0;
        }
        Ok(())
    }

    fn parts(&self, file: FileId, visit: Visit<'_, Part>) -> Result<()> {
        let _ = self.parts_of(&self.file(file)?)?.into_iter().try_for_each(visit);
        Ok(())
    }

    fn folders_of(&self, file: FileId) -> Result<Option<Vec<FileId>>> {
        let inode = self.file(file)?;
        if inode.file_type()? != FileType::Directory {
            return Ok(None);
        }
        if file == self.root() {
            return Ok(Some(Vec::new()));
        }
        Ok(Some(vec![FileId::new(self.parent(&inode)?.0)]))
    }
}

impl Xfs {
    /// The parts of the file of `inode`.
    pub(super) fn parts_of(&self, inode: &Inode) -> Result<Vec<Part>> {
        let place = self.inode_place(inode.number)?;
        let is_folder = inode.file_type()? == FileType::Directory;
        let mut parts = match is_folder && inode.data_fork()?.form == Form::Local {
            true => vec![Part::Structure(place)],
            false => vec![Part::Record(place)],
        };
        if let Some(fork) = inode.attribute_fork()? {
            self.structure_parts(inode, &fork, &mut parts)?;
        }
        self.data_parts(inode, &mut parts)?;
        Ok(parts)
    }

    /// Visits the files of `group` from its inode `from` on.
    fn files_of_group(
        &self,
        group: GroupNumber,
        from: u64,
        visit: Visit<'_, InUse>,
    ) -> Result<ControlFlow<()>> {
        let mut buffer = Vec::new();
        self.each_chunk(group, from, &mut |chunk| {
            let places = self.read_chunk(group, chunk, &mut buffer)?;
            let size = index(self.geometry().inode_size);
            for (bytes, place) in buffer.chunks(size).zip(places) {
                let within = chunk.first.saturating_add(place.into());
                if !chunk.has(place) || within < from {
                    continue;
                }
                let number = self.geometry().inode_in(group, within)?;
                let file = self.in_use(number, bytes, chunk.is_free(place));
                let Some(file) = file.map_err(|error| error.within(number))? else { continue };
                if visit(file).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    /// Fills `buffer` with a chunk, from its first inode that exists to its last, and says which
    /// those are.
    pub(super) fn read_chunk(
        &self,
        group: GroupNumber,
        chunk: &Chunk,
        buffer: &mut Vec<u8>,
    ) -> Result<std::ops::RangeInclusive<u32>> {
        let geometry = self.geometry();
        let mut all = (0..CHUNK_INODES).filter(|place| chunk.has(*place));
        let (first, last) = (all.next(), all.next_back());
        let Some((first, last)) = first.map(|first| (first, last.unwrap_or(first))) else {
            return Err(Error::corrupt("tree of inodes", "a chunk of some", format!("{chunk:?}")));
        };
        let place = |place: u32| {
            let within = chunk.first.saturating_add(place.into());
            self.inode_place(geometry.inode_in(group, within)?)
        };
        let (start, end) = (place(first)?.start, place(last)?.end);
        let size = CHUNK_INODES.saturating_mul(geometry.inode_size.into());
        buffer.resize(index(end.saturating_sub(start).min(size.into())), 0);
        self.blocks.read_bytes(start, buffer).map_err(|error| error.within("inodes"))?;
        Ok(first..=last)
    }

    /// What inode `number` is, if it is a file that can have a name: one that was removed while it
    /// was open has no links any more.
    fn in_use(&self, number: InodeNumber, bytes: &[u8], is_free: bool) -> Result<Option<InUse>> {
        let di_mode = check_mode(bytes, is_free)?;
        if is_free {
            return Ok(None);
        }
        self.check_inode(number, bytes)?;
        let links = match u8_at(bytes, 0x4) {
            Some(1) => be16(bytes, 0x6).map(u32::from),
            _ => be32(bytes, 0x10),
        };
        let is_own = self.superblock.own_files().contains(&number.0);
        let file = InUse { file: FileId::new(number.0), is_folder: di_mode & 0xf000 == 0x4000 };
        Ok((links != Some(0) && !is_own).then_some(file))
    }

    /// Where inode `number` is.
    fn inode_place(&self, number: InodeNumber) -> Result<ByteRange> {
        let geometry = self.geometry();
        let (block, within) = geometry.locate(number)?;
        let start = geometry.offset(block).saturating_add(bytes(within));
        Ok(ByteRange::new(start, geometry.inode_size.into()))
    }

    /// What the fork of content leads to.
    fn data_parts(&self, inode: &Inode, parts: &mut Vec<Part>) -> Result<()> {
        let fork = inode.data_fork()?;
        match inode.file_type()? {
            FileType::Regular if inode.is_realtime() => {
                let context = format!("{}: its content is on the realtime device", inode.number);
                Err(Error::new(ErrorKind::Unsupported, context))
            }
            FileType::Regular => {
                let mut map = Map::new(inode, &fork)?;
                self.map_parts(&map, parts)?;
                let end = self.geometry().blocks_of(inode.di_size).min(map::END);
                self.each_run(&mut map, end, &mut |first, count| {
                    add(parts, Part::Content(self.geometry().range(first, count)))
                })
            }
            FileType::Directory | FileType::Symlink => self.structure_parts(inode, &fork, parts),
            _ => Ok(()),
        }
    }

    /// Every block that belongs to `fork`, if it has any.
    fn structure_parts(&self, inode: &Inode, fork: &Fork<'_>, parts: &mut Vec<Part>) -> Result<()> {
        if fork.form == Form::Local {
            return Ok(());
        }
        let mut map = Map::new(inode, fork)?;
        self.map_parts(&map, parts)?;
        self.each_run(&mut map, map::END, &mut |first, count| {
            add(parts, Part::Structure(self.geometry().range(first, count)))
        })
    }

    /// The blocks of a map itself.
    fn map_parts(&self, map: &Map, parts: &mut Vec<Part>) -> Result<()> {
        let structure = |block: BlockNumber| Part::Structure(self.geometry().range(block, 1));
        parts.extend(self.map_blocks(map)?.into_iter().map(structure));
        Ok(())
    }
}

/// Checks that an inode is what the tree of inodes says, and returns its `di_mode`.
///
/// # Errors
/// `Corrupt` if it is not.
pub(super) fn check_mode(inode: &[u8], is_free: bool) -> Result<u16> {
    let di_mode = be16(inode, 0x2).unwrap_or_default();
    if is_free == (di_mode == 0) {
        return Ok(di_mode);
    }
    let expected = if is_free { "a free inode" } else { "an inode in use" };
    Err(Error::corrupt("di_mode", expected, format!("{di_mode:#o}")))
}

/// Adds a part, if there are not too many of one file.
fn add(parts: &mut Vec<Part>, part: Part) -> Result<()> {
    if parts.len() >= limits::MAX_COMPARED_EXTENTS {
        let context = format!("a file of more than {} parts", limits::MAX_COMPARED_EXTENTS);
        return Err(Error::new(ErrorKind::Limit, context));
    }
    parts.push(part);
    Ok(())
}
