//! The block layer's ioctls (`linux/fs.h`, `linux/loop.h`), each as a safe function on an open
//! file. On anything but a fitting device they fail with `ENOTTY` or `EINVAL`.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;

use nix::libc::{c_int, c_uint, c_ulong};

use crate::base::ByteRange;

/// What the loop driver says about one device; the head of `struct loop_info64`.
#[derive(Debug, Clone, Copy)]
pub struct LoopStatus {
    /// `st_dev` of the backing file.
    pub device: u64,
    /// `st_ino` of the backing file.
    pub inode: u64,
    /// `st_rdev` of the backing file, if it is a device itself.
    pub raw_device: u64,
    /// Bytes of the backing file before the loop device's first.
    pub offset: u64,
    /// Bytes that the loop device shows at most; 0 for all.
    pub size_limit: u64,
}

/// `struct loop_info64` of `linux/loop.h`, 232 bytes.
#[repr(C)]
struct LoopInfo64 {
    lo_device: u64,
    lo_inode: u64,
    lo_rdevice: u64,
    lo_offset: u64,
    lo_sizelimit: u64,
    lo_number: u32,
    lo_encrypt_type: u32,
    lo_encrypt_key_size: u32,
    lo_flags: u32,
    lo_file_name: [u8; 64],
    lo_crypt_name: [u8; 64],
    lo_encrypt_key: [u8; 32],
    lo_init: [u64; 2],
}

const _: () = assert!(size_of::<LoopInfo64>() == 232);

mod raw {
    use super::{LoopInfo64, c_int, c_uint};

    // The kernel defines BLKGETSIZE64 with size_t in its number, but always writes 64 bits.
    nix::ioctl_read_bad!(blkgetsize64, nix::request_code_read!(0x12, 114, size_of::<usize>()), u64);
    nix::ioctl_read!(blkgetdiskseq, 0x12, 128, u64);
    nix::ioctl_read_bad!(blksszget, nix::request_code_none!(0x12, 104), c_int);
    nix::ioctl_read_bad!(blkpbszget, nix::request_code_none!(0x12, 123), c_uint);
    nix::ioctl_read_bad!(blkroget, nix::request_code_none!(0x12, 94), c_int);
    nix::ioctl_none!(blkflsbuf, 0x12, 97);
    nix::ioctl_none!(blkrrpart, 0x12, 95);
    nix::ioctl_write_ptr_bad!(blkzeroout, nix::request_code_none!(0x12, 127), [u64; 2]);
    nix::ioctl_read_bad!(loop_get_status64, 0x4c05, LoopInfo64);
}

const _: () = assert!(size_of::<c_ulong>() >= size_of::<usize>());

/// The device's size in bytes (`BLKGETSIZE64`).
///
/// # Errors
/// The kernel's error.
pub fn size(device: &File) -> nix::Result<u64> {
    let mut size = 0;
    // SAFETY: the kernel writes one u64 to `size`, which outlives the call.
    unsafe { raw::blkgetsize64(device.as_raw_fd(), &raw mut size) }?;
    Ok(size)
}

/// The device's sequence number (`BLKGETDISKSEQ`, Linux 5.15): no two disks that were ever
/// attached since boot share one.
///
/// # Errors
/// The kernel's error.
pub fn disk_sequence(device: &File) -> nix::Result<u64> {
    let mut sequence = 0;
    // SAFETY: the kernel writes one u64 to `sequence`, which outlives the call.
    unsafe { raw::blkgetdiskseq(device.as_raw_fd(), &raw mut sequence) }?;
    Ok(sequence)
}

/// The logical sector size in bytes (`BLKSSZGET`): the unit of its addresses.
///
/// # Errors
/// The kernel's error.
pub fn logical_sector_size(device: &File) -> nix::Result<u32> {
    let mut size = 0;
    // SAFETY: the kernel writes one int to `size`, which outlives the call.
    unsafe { raw::blksszget(device.as_raw_fd(), &raw mut size) }?;
    u32::try_from(size).map_err(|_| nix::errno::Errno::ERANGE)
}

/// The physical sector size in bytes (`BLKPBSZGET`): what it writes without reading first.
///
/// # Errors
/// The kernel's error.
pub fn physical_sector_size(device: &File) -> nix::Result<u32> {
    let mut size = 0;
    // SAFETY: the kernel writes one unsigned int to `size`, which outlives the call.
    unsafe { raw::blkpbszget(device.as_raw_fd(), &raw mut size) }?;
    Ok(size)
}

/// Whether the device refuses writes (`BLKROGET`).
///
/// # Errors
/// The kernel's error.
pub fn read_only(device: &File) -> nix::Result<bool> {
    let mut flag: c_int = 0;
    // SAFETY: the kernel writes one int to `flag`, which outlives the call.
    unsafe { raw::blkroget(device.as_raw_fd(), &raw mut flag) }?;
    Ok(flag != 0)
}

/// Writes the device's cached pages back and forgets them (`BLKFLSBUF`); needs `CAP_SYS_ADMIN`.
///
/// # Errors
/// The kernel's error.
pub fn flush_buffers(device: &File) -> nix::Result<()> {
    // SAFETY: the call takes no pointer.
    unsafe { raw::blkflsbuf(device.as_raw_fd()) }.map(drop)
}

/// Has the kernel read the partition table again (`BLKRRPART`).
///
/// # Errors
/// The kernel's error; `EBUSY` while a partition is in use, `EINVAL` without partitions.
pub fn reread_partitions(device: &File) -> nix::Result<()> {
    // SAFETY: the call takes no pointer.
    unsafe { raw::blkrrpart(device.as_raw_fd()) }.map(drop)
}

/// Makes `range` read as zero without giving up its space (`BLKZEROOUT`): the device does it, or
/// the kernel writes zeros. Both ends are multiples of the logical sector size.
///
/// # Errors
/// The kernel's error.
pub fn zero_out(device: &File, range: ByteRange) -> nix::Result<()> {
    let argument = [range.start, range.len()];
    // SAFETY: the kernel reads two u64 from `argument`, which outlives the call.
    unsafe { raw::blkzeroout(device.as_raw_fd(), &raw const argument) }.map(drop)
}

/// What a loop device, or the one that a partition is on, is attached to (`LOOP_GET_STATUS64`).
///
/// # Errors
/// The kernel's error; `ENXIO` if nothing is attached.
pub fn loop_status(device: &File) -> nix::Result<LoopStatus> {
    let mut info = LoopInfo64 {
        lo_device: 0,
        lo_inode: 0,
        lo_rdevice: 0,
        lo_offset: 0,
        lo_sizelimit: 0,
        lo_number: 0,
        lo_encrypt_type: 0,
        lo_encrypt_key_size: 0,
        lo_flags: 0,
        lo_file_name: [0; 64],
        lo_crypt_name: [0; 64],
        lo_encrypt_key: [0; 32],
        lo_init: [0; 2],
    };
    // SAFETY: the kernel writes at most one `struct loop_info64`, which `info` is by layout (its
    // size is asserted above), and any bytes are valid in its integer fields.
    unsafe { raw::loop_get_status64(device.as_raw_fd(), &raw mut info) }?;
    Ok(LoopStatus {
        device: info.lo_device,
        inode: info.lo_inode,
        raw_device: info.lo_rdevice,
        offset: info.lo_offset,
        size_limit: info.lo_sizelimit,
    })
}
