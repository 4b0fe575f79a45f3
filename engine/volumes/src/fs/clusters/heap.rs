//! Clusters: where they are.

use super::table::Table;
use crate::base::{ByteOffset, Error, ReadAt, Result};

/// The clusters of a volume, numbered from 2.
#[derive(Clone)]
pub(in crate::fs) struct Heap {
    pub(in crate::fs) table: Table,
    /// First byte of cluster 2.
    pub(in crate::fs) start: u64,
    /// Bytes of a cluster.
    pub(in crate::fs) cluster_size: u64,
}

impl Heap {
    /// The first byte of `cluster`.
    ///
    /// # Errors
    /// `Corrupt` when the volume has no such cluster.
    pub(in crate::fs) fn place(&self, cluster: u32) -> Result<u64> {
        let number = cluster.checked_sub(2).filter(|_| self.table.is_cluster(cluster));
        let offset = number.and_then(|number| u64::from(number).checked_mul(self.cluster_size));
        offset.and_then(|offset| self.start.checked_add(offset)).ok_or_else(|| {
            let expected = format!("a cluster from 2 to {}", self.table.end.saturating_sub(1));
            Error::corrupt("cluster number", expected, cluster)
        })
    }

    /// The cluster that byte `place` of the volume lies in.
    pub(in crate::fs) fn cluster_at(&self, place: u64) -> Option<u32> {
        let number = place.checked_sub(self.start)?.checked_div(self.cluster_size)?;
        let cluster = u32::try_from(number).ok()?.checked_add(2)?;
        self.table.is_cluster(cluster).then_some(cluster)
    }

    /// Fills `buffer` from byte `place` of the volume.
    ///
    /// # Errors
    /// `Corrupt` when the volume ends before; `Io`.
    pub(in crate::fs) fn read(&self, place: u64, buffer: &mut [u8]) -> Result<()> {
        let volume = &self.table.volume;
        let length = u64::try_from(buffer.len()).unwrap_or(u64::MAX);
        if place.saturating_add(length) > volume.size().0 {
            let expected = format!("{length} bytes at {place}");
            return Err(Error::corrupt(
                "volume",
                expected,
                format!("its end at {}", volume.size()),
            ));
        }
        volume.read_exact_at(ByteOffset(place), buffer)
    }
}
