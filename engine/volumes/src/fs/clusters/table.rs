//! The file allocation table: for each cluster the one that follows it.

use std::sync::Arc;

use crate::base::fields::{le16, le32};
use crate::base::{ByteOffset, Error, ReadAt, Result};
use crate::fs::Doubts;

/// Bytes of the table that are read at once; a multiple of 3, so that no entry of 12 bits, in
/// pairs of three bytes, lies across two of them.
const WINDOW: u64 = 3 * 1024;

/// Bits of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fs) enum Width {
    /// FAT12.
    Twelve,
    /// FAT16.
    Sixteen,
    /// FAT32: 28 bits, the upper four are not the table's.
    TwentyEight,
    /// exFAT.
    ThirtyTwo,
}

impl Width {
    /// The first of the values that end a chain or mark a bad cluster.
    fn bad(self) -> u32 {
        match self {
            Self::Twelve => 0xff7,
            Self::Sixteen => 0xfff7,
            Self::TwentyEight => 0x0fff_fff7,
            Self::ThirtyTwo => 0xffff_fff7,
        }
    }

    /// Entries that `bytes` of table hold.
    pub(in crate::fs) fn entries(self, bytes: u64) -> u64 {
        match self {
            Self::Twelve => bytes.saturating_mul(2) / 3,
            Self::Sixteen => bytes / 2,
            Self::TwentyEight | Self::ThirtyTwo => bytes / 4,
        }
    }
}

/// What the table says of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fs) enum Link {
    /// Nothing uses it.
    Free,
    /// This one follows it; it may be none of the volume's.
    Next(u32),
    /// It is a chain's last.
    End,
    /// It cannot be used.
    Bad,
}

/// The table in all its copies, the one that counts first.
#[derive(Clone)]
pub(in crate::fs) struct Table {
    pub(in crate::fs) volume: Arc<dyn ReadAt>,
    pub(in crate::fs) width: Width,
    /// First byte of each copy.
    pub(in crate::fs) copies: Vec<u64>,
    /// Bytes of one copy.
    pub(in crate::fs) length: u64,
    /// Cluster numbers end before this one.
    pub(in crate::fs) end: u32,
    /// What is met that is damaged, for which a copy is read.
    pub(in crate::fs) doubts: Arc<Doubts>,
}

/// A piece of the table that is kept while a chain is followed.
#[derive(Default)]
pub(in crate::fs) struct Window {
    /// First byte within the table, and the copy.
    of: Option<(u64, usize)>,
    bytes: Vec<u8>,
}

impl Table {
    /// What the first copy that can be read and makes sense says of `cluster`.
    ///
    /// # Errors
    /// `Corrupt` when the table has no such cluster; `Io` when no copy can be read.
    pub(in crate::fs) fn link(&self, cluster: u32, window: &mut Window) -> Result<Link> {
        let mut first = None;
        for copy in 0..self.copies.len() {
            match self.link_in(copy, cluster, window) {
                Ok(Link::Next(next)) if !self.is_cluster(next) => {
                    first.get_or_insert(Ok(Link::Next(next)));
                }
                Ok(link) => {
                    if first.is_some() {
                        self.doubts.add("The allocation table is damaged; a copy of it is used.");
                    }
                    return Ok(link);
                }
                Err(error) => {
                    first.get_or_insert(Err(error));
                }
            }
        }
        first.unwrap_or_else(|| Err(Error::corrupt("allocation table", "a copy", "none")))
    }

    /// Whether the volume has such a cluster.
    pub(in crate::fs) fn is_cluster(&self, cluster: u32) -> bool {
        (2..self.end).contains(&cluster)
    }

    /// What one copy says.
    pub(in crate::fs) fn link_in(
        &self,
        copy: usize,
        cluster: u32,
        window: &mut Window,
    ) -> Result<Link> {
        let number = u64::from(cluster);
        let (at, length) = match self.width {
            Width::Twelve => (number.saturating_add(number / 2), 2),
            Width::Sixteen => (number.saturating_mul(2), 2),
            Width::TwentyEight | Width::ThirtyTwo => (number.saturating_mul(4), 4),
        };
        let wrong = || Error::corrupt("allocation table", format!("cluster {cluster}"), "its end");
        if at.saturating_add(length) > self.length {
            return Err(wrong());
        }
        self.load(copy, at, window)?;
        let within = usize::try_from(at % WINDOW).map_err(|_| wrong())?;
        let value = match self.width {
            Width::Twelve => {
                let pair = u32::from(le16(&window.bytes, within).ok_or_else(wrong)?);
                if cluster.is_multiple_of(2) { pair & 0xfff } else { pair >> 4 }
            }
            Width::Sixteen => u32::from(le16(&window.bytes, within).ok_or_else(wrong)?),
            Width::TwentyEight => le32(&window.bytes, within).ok_or_else(wrong)? & 0x0fff_ffff,
            Width::ThirtyTwo => le32(&window.bytes, within).ok_or_else(wrong)?,
        };
        let bad = self.width.bad();
        Ok(match value {
            0 => Link::Free,
            value if value == bad => Link::Bad,
            value if value > bad => Link::End,
            next => Link::Next(next),
        })
    }

    fn load(&self, copy: usize, at: u64, window: &mut Window) -> Result<()> {
        let start = at.saturating_sub(at % WINDOW);
        if window.of == Some((start, copy)) {
            return Ok(());
        }
        let length = WINDOW.min(self.length.saturating_sub(start));
        window.of = None;
        window.bytes.clear();
        window.bytes.resize(usize::try_from(length).unwrap_or_default(), 0);
        let base = self.copies.get(copy).copied().unwrap_or_default();
        let place = ByteOffset(base.saturating_add(start));
        self.volume
            .read_exact_at(place, &mut window.bytes)
            .map_err(|error| error.within("allocation table"))?;
        window.of = Some((start, copy));
        Ok(())
    }

    /// Whether every copy says that `cluster` is free.
    pub(in crate::fs) fn is_free(&self, cluster: u32, windows: &mut [Window]) -> Result<bool> {
        for (copy, window) in windows.iter_mut().enumerate().take(self.copies.len()) {
            if self.link_in(copy, cluster, window)? != Link::Free {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
