//! All that files consist of: every record of the master file table, and every value that a record
//! leads to, of the filesystem's own files as well.

use super::attribute::{Attribute, kind};
use super::mft::File;
use super::numbered::READ_AT_ONCE;
use super::record::Record;
use super::stream::{Body, Stream};
use super::units::{RecordNumber, bytes, index};
use super::{FIRST_USER, Ntfs};
use crate::base::{Error, Result};
use crate::fs::{FileId, Part, Show, Survey};

/// Records of a share.
const SHARE: u64 = 2048;

impl Survey for &Ntfs {
    fn shares(&self) -> usize {
        // Whose table is no table was found out before.
        index(self.check_table().unwrap_or_default().div_ceil(SHARE))
    }

    fn each_part(&self, share: usize, show: Show<'_>) -> Result<()> {
        let first = bytes(share).saturating_mul(SHARE);
        let end = first.saturating_add(SHARE).min(self.check_table()?);
        let size = bytes(self.mft.record_size);
        let at_once = READ_AT_ONCE.checked_div(size).unwrap_or_default().max(1);
        let mut buffer = Vec::new();
        let mut next = first;
        while next < end {
            let records = at_once.min(end.saturating_sub(next));
            buffer.resize(index(records.saturating_mul(size)), 0);
            let start = next.saturating_mul(size);
            self.mft.table().read_once(&self.mft.space, start, &mut buffer)?;
            for (bytes, number) in buffer.chunks_exact(index(size)).zip(next..) {
                let record = Record::parse_used(RecordNumber(number), bytes)?;
                // What goes on with a file is found by way of the file.
                if let Some(record) = record.filter(|record| record.base.0 == 0) {
                    let file = self.mft.file_of(record)?;
                    self.show_values(&file, &mut *show)
                        .map_err(|error| error.within(RecordNumber(number)))?;
                }
            }
            next = next.saturating_add(records);
        }
        Ok(())
    }
}

impl Ntfs {
    /// Shows the clusters of all values of `file`. Those of the table itself are among them.
    fn show_values(&self, file: &File, show: Show<'_>) -> Result<()> {
        let Some(listed) = file.listed() else {
            for attribute in file.record.attributes() {
                let attribute = attribute?;
                let value = Stream::begin(&attribute, &self.mft.space)?;
                self.show_value(file, (attribute.kind, attribute.name), &value, &mut *show)?;
            }
            return Ok(());
        };
        for attribute in file.record.attributes() {
            let attribute: Attribute<'_> = attribute?;
            if attribute.kind == kind::ATTRIBUTE_LIST {
                let list = Stream::begin(&attribute, &self.mft.space)?;
                self.show_value(file, (attribute.kind, attribute.name), &list, &mut *show)?;
            }
        }
        for (kind, name) in listed {
            // A file has several names, and they are in records.
            if kind == kind::FILE_NAME {
                let names = &mut |_: &Attribute<'_>| Ok(std::ops::ControlFlow::Continue(()));
                self.mft.each_attribute(file, kind, Some(name), names)?;
                continue;
            }
            if let Some(value) = self.mft.stream(file, kind, name)? {
                self.show_value(file, (kind, name), &value, &mut *show)?;
            }
        }
        Ok(())
    }

    fn show_value(
        &self,
        file: &File,
        (kind, name): (u32, &[u8]),
        value: &Stream,
        show: Show<'_>,
    ) -> Result<()> {
        let Body::Mapped(runs) = &value.body else { return Ok(()) };
        let held = runs.end().saturating_mul(self.mft.space.cluster_size);
        if held < value.valid {
            let expected = format!("clusters for {} bytes", value.valid);
            return Err(Error::corrupt(format!("attribute {kind:#x}"), expected, held));
        }
        let is_own = file.record.number.0 < FIRST_USER;
        let is_content = kind == kind::DATA && name.is_empty() && !is_own;
        let sort = if is_content { Part::Content } else { Part::Structure };
        let id = FileId::new(file.reference().0);
        value.places(&self.mft.space).for_each(|place| show(Some(id), sort(place)));
        Ok(())
    }
}
