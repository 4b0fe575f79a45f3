//! Device mapper's table of a device (`linux/dm-ioctl.h`).
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;

use nix::sys::stat::makedev;

/// Bytes of `struct dm_ioctl`.
const HEAD: usize = 312;
/// Bytes of a table at most; longer ones count as none.
const MOST: usize = 1 << 20;
/// The table is wanted, not the state (`DM_STATUS_TABLE_FLAG`).
const TABLE: u32 = 1 << 4;
/// The buffer was too short (`DM_BUFFER_FULL_FLAG`).
const FULL: u32 = 1 << 8;

mod raw {
    // `DM_TABLE_STATUS` has the size of the whole head in its number.
    nix::ioctl_readwrite!(dm_table_status, 0xfd, 12, [u8; super::HEAD]);
}

/// The table that the device with the number `major:minor` goes by, as the kernel tells it; none
/// if there is none, or it may not be asked for. It may hold keys.
#[must_use]
pub fn table(number: &str) -> Option<Vec<u8>> {
    let (major, minor) = number.split_once(':')?;
    let device = makedev(major.parse().ok()?, minor.parse().ok()?);
    let control = File::options().read(true).write(true).open("/dev/mapper/control").ok()?;
    let mut length = 16 * 1024;
    while length <= MOST {
        let mut buffer = vec![0_u8; length];
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(place) = buffer.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        };
        // `struct dm_ioctl`: version at 0, data_size at 12, data_start at 16, flags at 28, dev at
        // 40. Version 4 is the only one there is.
        put(0, &4_u32.to_le_bytes());
        put(12, &u32::try_from(length).ok()?.to_le_bytes());
        put(16, &u32::try_from(HEAD).ok()?.to_le_bytes());
        put(28, &TABLE.to_le_bytes());
        put(40, &device.to_le_bytes());
        let pointer = buffer.as_mut_ptr().cast::<[u8; HEAD]>();
        // SAFETY: the kernel reads and writes `data_size` bytes at the pointer at most, which is
        // the buffer's length, and the buffer outlives the call.
        unsafe { raw::dm_table_status(control.as_raw_fd(), pointer) }.ok()?;
        let word = |at: usize| {
            let bytes = buffer.get(at..at + 4)?;
            Some(u32::from_le_bytes(bytes.try_into().ok()?))
        };
        if word(28)? & FULL == 0 {
            let end = usize::try_from(word(12)?).ok()?;
            return Some(buffer.get(HEAD..end)?.to_vec());
        }
        length *= 4;
    }
    None
}
