//! Files and folders that are small enough to be within their inodes.
//!
//! Kernel documentation, `filesystems/ext4/ifork.rst`, "Inline Data", and `directory.rst`.

use std::ops::ControlFlow;

use super::Ext;
use super::dirent::{Dirent, each_entry};
use super::inode::Inode;
use super::units::index;
use crate::base::Result;

/// Bytes before a folder's first entry: the parent's inode number, in place of `.` and `..`.
const PARENT_SIZE: usize = 4;

impl Ext {
    /// The whole content of a file that is within its inode.
    ///
    /// # Errors
    /// `Corrupt` if there is less of it than the size says.
    pub(super) fn inline_content(&self, inode: &Inode) -> Result<Vec<u8>> {
        let mut content = inode.i_block.to_vec();
        content.extend(self.inline_rest(inode)?);
        let size = index(inode.i_size);
        if content.len() < size {
            return Err(inode.corrupt(format!("{size} bytes inline"), content.len()));
        }
        content.truncate(size);
        Ok(content)
    }

    /// The entries of a folder that is within its inode: of the map's room and of the rest, which
    /// no entry crosses.
    ///
    /// # Errors
    /// `Corrupt` where the attributes that hold the rest are damaged.
    pub(super) fn inline_entries(
        &self,
        folder: &Inode,
        visit: &mut dyn FnMut(Result<Dirent<'_>>) -> ControlFlow<()>,
    ) -> Result<()> {
        let rest = self.inline_rest(folder);
        let first = folder.i_block.get(PARENT_SIZE..).unwrap_or_default();
        let mut within =
            |entry: Result<Dirent<'_>>| visit(entry.map_err(|error| error.within(folder.number)));
        if each_entry(first, self.layout(), &mut within).is_break() {
            return Ok(());
        }
        match rest {
            // Either way there is nothing after it.
            Ok(rest) => {
                let _ = each_entry(&rest, self.layout(), &mut within);
            }
            Err(error) => {
                let _ = within(Err(error));
            }
        }
        Ok(())
    }
}
