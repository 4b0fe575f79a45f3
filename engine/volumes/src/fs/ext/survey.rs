//! All that files consist of: the inode tables, a share for each group.

use std::ops::ControlFlow;

use super::units::GroupNumber;
use super::{Ext, Numbered};
use crate::base::Result;
use crate::fs::{Show, Survey};

impl Survey for &Ext {
    fn shares(&self) -> usize {
        usize::try_from(self.geometry().group_count).unwrap_or(usize::MAX)
    }

    fn each_part(&self, share: usize, show: Show<'_>) -> Result<()> {
        let group = GroupNumber(u32::try_from(share).unwrap_or(u32::MAX));
        if group.0 >= self.geometry().group_count {
            return Ok(());
        }
        let mut damage = None;
        let _ = self.files_of_group(group, 0, &mut |one| {
            let shown = self.parts(one.file, &mut |part| {
                show(Some(one.file), part);
                ControlFlow::Continue(())
            });
            match shown {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    damage = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        damage.map_or(Ok(()), Err)
    }
}
