//! Records taken apart into operations, and operations put together into transactions.
//!
//! The kernel's `fs/xfs/libxfs/xfs_log_format.h` (`struct xlog_op_header`,
//! `struct xfs_trans_header`) and `fs/xfs/xfs_log_recover.c`.

use std::collections::BTreeMap;

use super::head::Dirty;
use super::ring::{Lsn, Record, Ring};
use crate::base::fields::{be32, le16, le32, slice, u8_at};
use crate::base::{Error, ErrorKind, Result, limits};

/// Bytes of an operation's header.
const OPERATION: usize = 12;
/// `oh_clientid` of transactions, and of the log itself.
const CLIENTS: [u8; 2] = [0x69, 0xaa];
/// Bits of `oh_flags`.
const START: u8 = 0x1;
const COMMIT: u8 = 0x2;
const WAS_CONTINUED: u8 = 0x8;
const UNMOUNT: u8 = 0x20;
/// `th_magic`, and the bytes of the header that it starts.
const TRANSACTION_MAGIC: u32 = 0x5452_414e;
const TRANSACTION_HEADER: usize = 16;
/// Regions of an item at most.
const MAX_REGIONS: u16 = 8192;

/// One logged item: its format first, then what that tells of.
#[derive(Debug, Default)]
pub(super) struct Item {
    /// Regions that there should be; zero before the first is there.
    total: usize,
    pub regions: Vec<Vec<u8>>,
}

impl Item {
    /// The region that says what the item is.
    pub(super) fn format(&self) -> &[u8] {
        self.regions.first().map_or(&[], Vec::as_slice)
    }

    /// What sort of item it is.
    pub(super) fn kind(&self) -> u16 {
        le16(self.format(), 0).unwrap_or_default()
    }

    fn is_whole(&self) -> bool {
        self.total != 0 && self.regions.len() == self.total
    }
}

/// A transaction that is being put together.
struct Open {
    lsn: Lsn,
    /// Its header, as far as it has come.
    header: Vec<u8>,
    items: Vec<Item>,
}

/// What one pass over the log calls for each committed transaction, in the log's order.
pub(super) type Commit<'a> = &'a mut dyn FnMut(Lsn, Vec<Item>) -> Result<()>;

/// Calls `commit` for each committed transaction of `dirty`; returns what the pass was ended by
/// before its end, if it was.
///
/// # Errors
/// `commit`'s own; `Limit` when transactions take too much memory.
pub(super) fn each(ring: &Ring, dirty: Dirty, commit: Commit<'_>) -> Result<Option<Error>> {
    let mut open = BTreeMap::new();
    let mut held = 0;
    let (mut at, mut left) = (dirty.tail, ring.blocks);
    while at != dirty.head {
        let record = ring.record(at).and_then(|record| match record {
            Some(record) if record.blocks() <= left => Ok(record),
            _ => Err(Error::corrupt(format!("block {at} of the log"), "a record", "none")),
        });
        let content = record.and_then(|record| Ok((record, ring.content(&record, false)?)));
        let (record, content) = match content {
            Ok(both) => both,
            Err(error) => return Ok(Some(error)),
        };
        let mut pass = Pass { open: &mut open, held: &mut held, commit };
        if let Err(error) = pass.record(&record, &content) {
            return match error.kind() {
                ErrorKind::Corrupt => Ok(Some(error)),
                _ => Err(error),
            };
        }
        // Records that go round more than once make no history.
        left = left.saturating_sub(record.blocks());
        at = ring.after(at, record.blocks());
    }
    Ok(None)
}

struct Pass<'a, 'b> {
    open: &'a mut BTreeMap<u32, Open>,
    /// Bytes of all open transactions.
    held: &'a mut usize,
    commit: Commit<'b>,
}

impl Pass<'_, '_> {
    fn record(&mut self, record: &Record, content: &[u8]) -> Result<()> {
        let mut at = 0_usize;
        for number in 0..record.h_num_logops {
            let broken = || {
                let place = format!("record at block {}", record.at);
                Error::corrupt(place, format!("operation {number}"), "something else")
            };
            let header = slice(content, at, OPERATION).ok_or_else(broken)?;
            let tid = be32(header, 0).ok_or_else(broken)?;
            let length = be32(header, 4).and_then(|length| usize::try_from(length).ok());
            let client = u8_at(header, 8).ok_or_else(broken)?;
            let flags = u8_at(header, 9).ok_or_else(broken)?;
            at = at.saturating_add(OPERATION);
            let region = length.and_then(|length| slice(content, at, length));
            let region = region.filter(|_| CLIENTS.contains(&client)).ok_or_else(broken)?;
            at = at.saturating_add(region.len());
            self.operation(record.h_lsn, tid, flags, region)
                .map_err(|error| error.within(format!("record at block {}", record.at)))?;
        }
        Ok(())
    }

    fn operation(&mut self, lsn: Lsn, tid: u32, flags: u8, region: &[u8]) -> Result<()> {
        let Some(open) = self.open.get_mut(&tid) else {
            if flags & START != 0 {
                let items = Vec::new();
                self.open.insert(tid, Open { lsn, header: Vec::new(), items });
            }
            // Whatever else began before the tail, and is on the disk.
            return Ok(());
        };
        if flags & (COMMIT | UNMOUNT) != 0 {
            let Some(whole) = self.open.remove(&tid) else { return Ok(()) };
            *self.held = self.held.saturating_sub(whole.size());
            return match flags & COMMIT {
                0 => Ok(()),
                _ => (self.commit)(whole.lsn, whole.items),
            };
        }
        if flags & START != 0 {
            return Err(Error::corrupt(format!("transaction {tid:#x}"), "one start", "another"));
        }
        *self.held = self.held.saturating_add(region.len());
        if *self.held > limits::MAX_OPEN_TRANSACTIONS {
            let context = format!("transactions of over {} bytes", limits::MAX_OPEN_TRANSACTIONS);
            return Err(Error::new(ErrorKind::Limit, context));
        }
        // A region that goes on in the next record, and whose start is here, is one all the same.
        match flags & WAS_CONTINUED {
            0 => open.add(region),
            _ => open.go_on(region),
        }
    }
}

impl Open {
    fn size(&self) -> usize {
        let regions = self.items.iter().flat_map(|item| &item.regions);
        regions.fold(self.header.len(), |size, region| size.saturating_add(region.len()))
    }

    fn add(&mut self, region: &[u8]) -> Result<()> {
        if region.is_empty() {
            return Ok(());
        }
        if self.header.len() < TRANSACTION_HEADER {
            let magic = le32(region, 0);
            let fits = region.len() <= TRANSACTION_HEADER && self.header.is_empty();
            if !fits || magic.is_some_and(|magic| magic != TRANSACTION_MAGIC) {
                return Err(Error::corrupt("transaction", "its header", "something else"));
            }
            self.header.extend(region);
            return Ok(());
        }
        if self.items.last().is_none_or(Item::is_whole) {
            self.items.push(Item::default());
        }
        let Some(item) = self.items.last_mut() else { return Ok(()) };
        if item.total == 0 {
            let total = le16(region, 2).filter(|total| (1..=MAX_REGIONS).contains(total));
            let broken = || Error::corrupt("item", "a count of regions", "none");
            item.total = total.ok_or_else(broken)?.into();
        }
        item.regions.push(region.to_vec());
        Ok(())
    }

    /// Adds the rest of a region that began in an earlier record.
    fn go_on(&mut self, region: &[u8]) -> Result<()> {
        let part = match self.items.last_mut() {
            Some(item) => item.regions.last_mut(),
            None => Some(&mut self.header),
        };
        let broken = || Error::corrupt("transaction", "the start of a region", "none");
        part.ok_or_else(broken)?.extend(region);
        Ok(())
    }
}
