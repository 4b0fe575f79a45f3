//! Data on the devices, verified by the checksums in the checksum tree.
//!
//! The kernel's `fs/btrfs/file-item.c` (`btrfs_lookup_bio_sums`).

use super::Btrfs;
use super::device::Proof;
use super::node::Item;
use super::units::{Key, Logical, bytes, index, kinds, objects};
use crate::base::bytes::to_hex;
use crate::base::{Error, Result};

/// The checksums of some sectors in a row.
struct Sums {
    item: Item,
    /// Where in the item the first one is.
    start: usize,
    /// How many there are from there on.
    count: usize,
}

impl Btrfs {
    /// Fills `buffer`, whole sectors, from `at`; verified if `has_sums`. Where a copy is damaged,
    /// the others are tried.
    ///
    /// # Errors
    /// `Corrupt` where no copy of a sector is sound; the devices' own.
    pub(super) fn read_data(&self, at: Logical, buffer: &mut [u8], has_sums: bool) -> Result<()> {
        let proof = if has_sums { Proof::Follows } else { Proof::None };
        let whole = self.pool.with_any_mirror(at, |mirror| {
            // All the copies of what has no checksums are equally good.
            self.pool.read(at, buffer, (mirror, proof))
        });
        if !has_sums {
            let sector = index(self.superblock.sectorsize);
            return whole.or_else(|_| self.read_each(at, buffer, sector));
        }
        if whole.is_err() {
            // Each sector fails by itself then, and is looked for elsewhere.
            buffer.fill(0);
        }
        self.verify(at, buffer)
    }

    /// Reads sector by sector from any copy.
    fn read_each(&self, at: Logical, buffer: &mut [u8], sector: usize) -> Result<()> {
        let mut at = at;
        for part in buffer.chunks_mut(sector.max(1)) {
            let read = |mirror| self.pool.read(at, part, (mirror, Proof::None));
            self.pool.with_any_mirror(at, read)?;
            at = at.after(bytes(part.len()));
        }
        Ok(())
    }

    /// Verifies the sectors in `buffer`, and replaces those that are wrong by sound copies.
    fn verify(&self, at: Logical, buffer: &mut [u8]) -> Result<()> {
        let sector = index(self.superblock.sectorsize).max(1);
        let size = self.superblock.checksum.size();
        let (mut at, mut rest) = (at, buffer);
        while !rest.is_empty() {
            let sums = self.sums(at)?.ok_or_else(|| {
                Error::corrupt(format!("data at {at}"), "a checksum of it", "none")
            })?;
            let length = sums.count.saturating_mul(sector).min(rest.len());
            let (part, after) = rest.split_at_mut_checked(length).unwrap_or_default();
            let stored = sums.item.data().get(sums.start..).unwrap_or_default();
            for (bytes, sum) in part.chunks_mut(sector).zip(stored.chunks(size)) {
                if !self.superblock.checksum.is(bytes, sum) {
                    self.repair(at, bytes, sum)?;
                }
                at = at.after(u64::from(self.superblock.sectorsize));
            }
            rest = after;
        }
        Ok(())
    }

    /// Fills `sector` from a copy whose checksum is `sum`.
    fn repair(&self, at: Logical, sector: &mut [u8], sum: &[u8]) -> Result<()> {
        let checksum = self.superblock.checksum;
        self.pool.with_any_mirror(at, |mirror| {
            self.pool.read(at, sector, (mirror, Proof::Follows))?;
            if checksum.is(sector, sum) {
                return Ok(());
            }
            let found = checksum.of(sector);
            let found = to_hex(found.get(..checksum.size()).unwrap_or_default());
            let place = match self.pool.place(at)? {
                Some((piece, _)) => format!("data at byte {} ({at})", piece.physical()),
                None => format!("data at {at}"),
            };
            Err(Error::corrupt(place, format!("checksum {}", to_hex(sum)), found))
        })
    }

    /// The checksums from `at` on, as far as one item has them: the log's if it has any, which
    /// are the younger ones.
    fn sums(&self, at: Logical) -> Result<Option<Sums>> {
        let key = Key::new(objects::EXTENT_CSUM, kinds::EXTENT_CSUM, at.0);
        let logs = self.replays.values().map(|replay| replay.log);
        for tree in logs.chain(self.csum_tree) {
            let item = tree.at_or_below(&self.pool, key)?;
            let item = item.filter(|item| item.key.is_of(key.objectid, key.kind));
            if let Some(sums) = item.and_then(|item| self.sums_in(item, at)) {
                return Ok(Some(sums));
            }
        }
        Ok(None)
    }

    fn sums_in(&self, item: Item, at: Logical) -> Option<Sums> {
        let distance = at.0.checked_sub(item.key.offset)?;
        let first = index(distance.checked_div(u64::from(self.superblock.sectorsize))?);
        let size = self.superblock.checksum.size();
        let count = item.data().len().checked_div(size)?.checked_sub(first)?;
        let start = first.checked_mul(size)?;
        (count > 0).then_some(Sums { item, start, count })
    }
}
