//! Files by their numbers: the master file table from end to end, and what each record leads to.
//!
//! A folder lists the streams of its files beside them, so these are shown with their file. What
//! is below `$Extend` belongs to the filesystem and is left out, since no folder that is listed
//! leads there.

use std::collections::HashSet;
use std::ops::ControlFlow;

use super::attribute::{Form, kind};
use super::index::{I30, Index};
use super::mft::File;
use super::name::FileName;
use super::nature::{Nature, WOF_STREAM};
use super::record::Record;
use super::reparse::{self, Reparse};
use super::units::{RecordNumber, Reference, bytes, index};
use super::{FIRST_USER, Ntfs, ROOT};
use crate::base::limits::{MAX_OWN_FOLDERS, MAX_REPARSE};
use crate::base::{ByteRange, Error, ErrorKind, Result};
use crate::fs::{FileId, FileType, InUse, Numbered, Part, Visit};

/// Bytes of the table that are read at once: few enough for the cache of an image, from which the
/// other side and what looks at the parts have them again.
pub(super) const READ_AT_ONCE: u64 = 64 << 10;

impl Numbered for Ntfs {
    fn basis(&self) -> Vec<u64> {
        let space = &self.mft.space;
        let sizes = [space.cluster_size, space.clusters, bytes(self.mft.record_size)];
        sizes.into_iter().chain(self.upcase.numbers()).collect()
    }

    /// As the table has them: by the record's number, then by how often it was used.
    fn order(&self, file: FileId) -> (u64, u64) {
        (file.number.rotate_left(u16::BITS), file.tree)
    }

    fn each_file(&self, after: Option<FileId>, visit: Visit<'_, InUse>) -> Result<()> {
        let after_order = after.map(|after| self.order(after));
        let visit = &mut |one: InUse| match after_order {
            Some(after) if self.order(one.file) <= after => ControlFlow::Continue(()),
            _ => visit(one),
        };
        let size = bytes(self.mft.record_size);
        let count = self.check_table()?;
        let at_once = READ_AT_ONCE.checked_div(size).unwrap_or_default().max(1);
        // Streams of the same file may be left.
        let mut next = after.map_or(ROOT, |after| Reference(after.number)).number().0;
        let mut buffer = Vec::new();
        while next < count {
            let records = at_once.min(count.saturating_sub(next));
            buffer.resize(index(records.saturating_mul(size)), 0);
            let start = next.saturating_mul(size);
            self.mft.table().read_once(&self.mft.space, start, &mut buffer)?;
            for (bytes, number) in buffer.chunks_exact(index(size)).zip(next..) {
                if number < FIRST_USER && number != ROOT.number().0 {
                    continue;
                }
                let record = Record::parse_used(RecordNumber(number), bytes)?;
                let Some(record) = record.filter(|record| record.base.0 == 0) else { continue };
                if self.files_of(record, visit)?.is_break() {
                    return Ok(());
                }
            }
            next = next.saturating_add(records);
        }
        Ok(())
    }

    fn parts(&self, file: FileId, visit: Visit<'_, Part>) -> Result<()> {
        let found = self.file(file)?;
        let name = self.stream_name(&found, file.tree)?;
        let mut parts = Shown { visit, is_over: false };
        match (file.tree, found.record.is_folder) {
            (0, true) => self.folder_parts(&found, &mut parts)?,
            _ => {
                self.record_parts(&found, Part::Record, &mut parts)?;
                self.value_parts(&found, (kind::DATA, &name), Part::Content, &mut parts)?;
            }
        }
        self.value_parts(&found, (kind::EA, b""), Part::Structure, &mut parts)?;
        self.value_parts(&found, (kind::REPARSE_POINT, b""), Part::Structure, &mut parts)?;
        if file.tree == 0 {
            self.point_parts(&found, &mut parts)?;
        }
        Ok(())
    }

    fn folders_of(&self, file: FileId) -> Result<Option<Vec<FileId>>> {
        let found = self.file(file)?;
        if found.reference() == ROOT {
            // It lists its own streams.
            let folders = if file.tree == 0 { Vec::new() } else { vec![FileId::new(ROOT.0)] };
            return Ok(Some(folders));
        }
        let mut folders = Vec::new();
        for folder in self.named_in(&found)? {
            let folder = self.mft.file(folder)?;
            if !folder.record.is_folder {
                return Err(found.corrupt("a name in a folder", "one in a file"));
            }
            folders.push(FileId::new(folder.reference().0));
        }
        match folders.is_empty() {
            true => Err(found.corrupt("a name in a folder", "none")),
            false => Ok(Some(folders)),
        }
    }

    fn stream_names(&self, file: FileId) -> Result<Vec<Vec<u8>>> {
        match file.tree {
            0 => self.streams(&self.file(file)?),
            _ => Ok(Vec::new()),
        }
    }
}

/// Parts that are shown to `visit` until it breaks.
struct Shown<'a> {
    visit: Visit<'a, Part>,
    is_over: bool,
}

impl Shown<'_> {
    fn show(&mut self, mut parts: impl Iterator<Item = Part>) {
        self.is_over = self.is_over || parts.try_for_each(&mut *self.visit).is_break();
    }
}

impl Ntfs {
    /// How many records the table has. It has no holes, so that what it claims to be it takes.
    ///
    /// # Errors
    /// `Corrupt` when that is more than the volume.
    pub(super) fn check_table(&self) -> Result<u64> {
        let table = self.mft.table().size;
        if table > self.mft.space.volume_size() {
            return Err(Error::corrupt("file table", "no more than the volume", table));
        }
        Ok(table.checked_div(bytes(self.mft.record_size)).unwrap_or_default())
    }

    /// Shows the file whose first record is `record`, and its streams.
    fn files_of(&self, record: Record, visit: Visit<'_, InUse>) -> Result<ControlFlow<()>> {
        let file = self.mft.file_of(record)?;
        if self.is_own(&file)? {
            return Ok(ControlFlow::Continue(()));
        }
        let is_folder = file.record.is_folder
            && matches!(self.nature(&file)?, Nature::Plain(FileType::Directory));
        let number = file.reference().0;
        if visit(InUse { file: FileId::new(number), is_folder }).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let streams = self.streams(&file)?;
        let mut streams = (1_u64..).zip(streams).map(|(tree, _)| FileId { tree, number });
        Ok(streams.try_for_each(|file| visit(InUse { file, is_folder: false })))
    }

    /// Whether all names of `file` are where nobody is led to. What has no names at all is not, so
    /// that it is missed.
    fn is_own(&self, file: &File) -> Result<bool> {
        let (mut names, mut listed) = (0_u64, 0_u64);
        self.each_parent(file, &mut |is_listed, _| {
            names = names.saturating_add(1);
            listed = listed.saturating_add(u64::from(is_listed));
        })?;
        Ok(names > 0 && listed == 0)
    }

    /// The folders that name `file` and are led to, once for each name.
    fn named_in(&self, file: &File) -> Result<Vec<Reference>> {
        let mut folders = Vec::new();
        self.each_parent(file, &mut |is_listed, folder| {
            folders.extend(is_listed.then_some(folder));
        })?;
        Ok(folders)
    }

    /// Shows the folder of each name of `file` but the short ones to `visit`, and whether it is
    /// none of the filesystem's own.
    fn each_parent(&self, file: &File, visit: &mut dyn FnMut(bool, Reference)) -> Result<()> {
        let own = self.own_folders()?;
        self.mft.each_attribute(file, kind::FILE_NAME, None, &mut |attribute| {
            let name = match attribute.form {
                Form::Resident(value) => FileName::parse(value),
                Form::NonResident(_) => None,
            };
            let name = name.ok_or_else(|| file.corrupt("a sound name", "another"))?;
            if !name.is_short() {
                visit(!own.contains(&name.parent), name.parent);
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    /// The folders among the first records, but the root, and all below them.
    fn own_folders(&self) -> Result<&HashSet<Reference>> {
        if let Some(known) = self.own_folders.get() {
            return Ok(known);
        }
        let mut own = HashSet::new();
        let mut next = Vec::new();
        let mut record = vec![0; self.mft.record_size];
        for number in (0..FIRST_USER).filter(|number| *number != ROOT.number().0) {
            let start = number.saturating_mul(bytes(record.len()));
            self.mft.table().read_metadata(&self.mft.space, start, &mut record)?;
            let found = Record::parse_used(RecordNumber(number), &record)?;
            let folder = found.filter(|record| record.is_folder && record.base.0 == 0);
            next.extend(folder.map(|record| Reference::new(number, record.sequence)));
        }
        while let Some(folder) = next.pop() {
            if !own.insert(folder) {
                continue;
            }
            if own.len() > MAX_OWN_FOLDERS {
                let context =
                    format!("more than {MAX_OWN_FOLDERS} folders of the filesystem's own");
                return Err(Error::new(ErrorKind::Limit, context));
            }
            let folder = self.mft.file(folder)?;
            let mut lost = None;
            Index::open(&self.mft, &folder)?.each_entry(&mut |entry| {
                match entry {
                    Ok(entry) if entry.name.is_folder() => next.push(entry.file),
                    Ok(_) => {}
                    Err(error) => lost = Some(error),
                }
                ControlFlow::Continue(())
            });
            lost.map_or(Ok(()), Err)?;
        }
        Ok(self.own_folders.get_or_init(|| own))
    }

    /// The records of `file`, of which the first is a part of the sort `first`; and the clusters of
    /// the list that leads to the others.
    fn record_parts(
        &self,
        file: &File,
        first: fn(ByteRange) -> Part,
        parts: &mut Shown<'_>,
    ) -> Result<()> {
        parts.show(self.mft.places(file.record.number.0)?.into_iter().map(first));
        for number in file.later_records() {
            parts.show(self.mft.places(number)?.into_iter().map(Part::Structure));
        }
        for attribute in file.record.attributes() {
            let attribute = attribute?;
            if attribute.kind == kind::ATTRIBUTE_LIST {
                let list = super::Stream::begin(&attribute, &self.mft.space)?;
                parts.show(list.places(&self.mft.space).map(Part::Structure));
            }
        }
        Ok(())
    }

    /// The clusters of a value of `file`.
    fn value_parts(
        &self,
        file: &File,
        (kind, name): (u32, &[u8]),
        sort: fn(ByteRange) -> Part,
        parts: &mut Shown<'_>,
    ) -> Result<()> {
        let stream = self.mft.stream(file, kind, name)?;
        parts.show(stream.iter().flat_map(|stream| stream.places(&self.mft.space)).map(sort));
        Ok(())
    }

    /// What a folder's entries are in. The record is of those: it holds the first of them, and says
    /// which blocks hold others; either may change by itself.
    fn folder_parts(&self, folder: &File, parts: &mut Shown<'_>) -> Result<()> {
        self.record_parts(folder, Part::Structure, parts)?;
        for kind in [kind::INDEX_ROOT, kind::INDEX_ALLOCATION, kind::BITMAP] {
            self.value_parts(folder, (kind, I30), Part::Structure, parts)?;
        }
        Ok(())
    }

    /// What decides besides over what a file with a reparse point is.
    fn point_parts(&self, file: &File, parts: &mut Shown<'_>) -> Result<()> {
        let point = self.mft.value(file, kind::REPARSE_POINT, b"", MAX_REPARSE)?;
        match point.map(|point| reparse::parse(&point)).transpose()? {
            Some(Reparse::Overlay(_)) => {
                self.value_parts(file, (kind::DATA, WOF_STREAM), Part::Content, parts)
            }
            Some(Reparse::Absolute(target)) => {
                self.each_on_the_way(file, &target, &mut |folder, is_searched| match is_searched {
                    true => self.folder_parts(folder, parts),
                    false => self.record_parts(folder, Part::Structure, parts),
                })
            }
            _ => Ok(()),
        }
    }
}
