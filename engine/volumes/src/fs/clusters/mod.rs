//! What FAT and exFAT share: a heap of clusters, a table that links them into chains, and records
//! of 32 bytes in folders.
//!
//! Sources: Microsoft's "FAT32 File System Specification" 1.03 (2000) and "exFAT file system
//! specification" (2019).

mod chain;
mod content;
mod heap;
mod names;
mod records;
mod serial;
mod table;
mod time;

pub(super) use chain::Start;
pub(super) use content::ChainContent;
pub(super) use heap::Heap;
pub(super) use names::{same_name, wtf8};
pub(super) use records::{Record, each_record, read_record, show};
pub(super) use serial::serial_number;
pub(super) use table::{Table, Width, Window};
pub(super) use time::WallTime;
