//! Whether the log (`$LogFile`) was closed: if not, what it holds is missing from the volume.

use super::attribute::kind;
use super::fixup;
use super::mft::Mft;
use super::units::{Reference, index};
use crate::base::fields::{has, le16, le32, le64, slice};
use crate::base::{Error, Result};

/// The record of the log, which never is another's.
const LOG_FILE: u64 = 2;
/// Bytes of a page that the log begins with twice; whatever it says, not more.
const PAGE: u64 = 4096;
const MAX_PAGE: u64 = 64 << 10;
/// `Flags` of the restart area: the volume was closed.
const CLEAN: u16 = 2;
/// No client has the log open.
const NO_CLIENT: u16 = 0xffff;

/// What a restart page says.
struct Restart {
    lsn: u64,
    is_clean: bool,
}

/// Whether the log is closed.
///
/// # Errors
/// `Corrupt` when that is not to be told.
pub(super) fn is_clean(mft: &Mft) -> Result<bool> {
    let file = mft.file(Reference::new(LOG_FILE, 0))?;
    let stream = mft.stream(&file, kind::DATA, b"")?;
    let Some(stream) = stream.filter(|stream| stream.size >= 2 * PAGE) else {
        return Err(Error::corrupt("log", "two pages", "fewer"));
    };
    let mut first = vec![0; index(PAGE)];
    stream.read_metadata(&mft.space, 0, &mut first)?;
    // A log that was never used, or was emptied.
    if first.iter().all(|byte| *byte == 0xff) {
        return Ok(true);
    }
    // Whoever wrote it had pages of this size.
    let size = le32(&first, 0x10).map_or(PAGE, u64::from); // SystemPageSize
    let size = if (512..=MAX_PAGE).contains(&size) && size.is_power_of_two() { size } else { PAGE };
    let pages = [0, size].map(|at| {
        let mut page = vec![0; index(size)];
        stream.read_metadata(&mft.space, at, &mut page)?;
        restart(page)
    });
    let newest = pages.into_iter().filter_map(Result::ok).max_by_key(|restart| restart.lsn);
    let newest = newest.ok_or_else(|| Error::corrupt("log", "a sound restart page", "none"))?;
    Ok(newest.is_clean)
}

/// Reads a restart page.
fn restart(mut page: Vec<u8>) -> Result<Restart> {
    // A checker leaves another name.
    let magic = if has(&page, 0, b"CHKD") { b"CHKD" } else { b"RSTR" };
    fixup::apply(&mut page, magic)?;
    let area = usize::from(le16(&page, 0x18).unwrap_or_default()); // RestartOffset
    let area = slice(&page, area, 0x30);
    let restart = area.and_then(|area| {
        let clients = le16(area, 0x0c)?; // ClientInUseList
        let flags = le16(area, 0x0e)?; // Flags
        let is_clean = clients == NO_CLIENT || flags & CLEAN != 0;
        Some(Restart { lsn: le64(area, 0)?, is_clean }) // CurrentLsn
    });
    restart.ok_or_else(|| Error::corrupt("log", "a restart area", "none"))
}
