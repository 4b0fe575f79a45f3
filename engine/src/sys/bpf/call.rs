//! The system call itself, and the layouts of its argument (`union bpf_attr`, `linux/bpf.h`).
#![allow(unsafe_code)]

use std::os::fd::{FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;

/// Commands of `bpf(2)` (`enum bpf_cmd`).
#[derive(Debug, Clone, Copy)]
#[repr(i32)]
pub(super) enum Command {
    MapCreate = 0,
    MapLookup = 1,
    MapUpdate = 2,
    MapDelete = 3,
    ProgramLoad = 5,
    ObjectPin = 6,
    ObjectGet = 7,
    ObjectInfo = 15,
    RawTracepointOpen = 17,
}

/// An argument of one command: plain integers, addresses among them.
///
/// # Safety
/// The type is `repr(C)` without padding, and the addresses that a value holds are valid for what
/// the kernel does with them while a call with it runs.
pub(super) unsafe trait Argument {}

/// `BPF_MAP_CREATE`, up to `map_name`.
#[derive(Default)]
#[repr(C)]
pub(super) struct CreateMap {
    pub kind: u32,
    pub key_size: u32,
    pub value_size: u32,
    pub entries: u32,
    pub flags: u32,
    pub inner_map: u32,
    pub numa_node: u32,
    pub name: [u8; 16],
}

/// `BPF_MAP_*_ELEM`.
#[repr(C)]
pub(super) struct Element {
    pub map: u32,
    pub padding: u32,
    pub key: u64,
    pub value: u64,
    pub flags: u64,
}

/// `BPF_PROG_LOAD`, up to `attach_btf_id`.
#[derive(Default)]
#[repr(C)]
pub(super) struct LoadProgram {
    pub kind: u32,
    pub instruction_count: u32,
    pub instructions: u64,
    pub license: u64,
    pub log_level: u32,
    pub log_size: u32,
    pub log: u64,
    pub kernel_version: u32,
    pub flags: u32,
    pub name: [u8; 16],
    pub interface: u32,
    pub expected_attach_type: u32,
    pub types: u32,
    pub function_record_size: u32,
    pub functions: u64,
    pub function_count: u32,
    pub line_record_size: u32,
    pub lines: u64,
    pub line_count: u32,
    pub attach_type_id: u32,
}

/// `BPF_OBJ_PIN` and `BPF_OBJ_GET`.
#[repr(C)]
pub(super) struct Pin {
    pub path: u64,
    pub descriptor: u32,
    pub flags: u32,
}

/// `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
pub(super) struct Information {
    pub descriptor: u32,
    pub length: u32,
    pub address: u64,
}

/// `BPF_RAW_TRACEPOINT_OPEN`.
#[repr(C)]
pub(super) struct OpenTracepoint {
    pub name: u64,
    pub program: u32,
    pub padding: u32,
}

// SAFETY: eleven 32-bit fields, the last four as 16 bytes: no padding. No addresses.
unsafe impl Argument for CreateMap {}
// SAFETY: two 32-bit fields, then 64-bit ones: no padding. Built only in `map`, from live buffers
// of the sizes that the map was made with.
unsafe impl Argument for Element {}
// SAFETY: 32-bit fields stand in pairs before every 64-bit one and at the end: no padding. Built
// only in `program`, from live buffers with their true lengths.
unsafe impl Argument for LoadProgram {}
// SAFETY: no padding. Built only from live C strings.
unsafe impl Argument for Pin {}
// SAFETY: no padding. Built only from a live buffer with its true length.
unsafe impl Argument for Information {}
// SAFETY: no padding. The name is null, which the kernel takes for a program that knows its own.
unsafe impl Argument for OpenTracepoint {}

/// Calls the kernel; its answer is not negative.
pub(super) fn bpf<A: Argument>(command: Command, argument: &mut A) -> nix::Result<i32> {
    // SAFETY: the kernel reads (and for some commands writes) `size_of::<A>()` bytes at
    // `argument`, which outlives the call; `Argument` promises the addresses within.
    let answer = unsafe {
        libc::syscall(libc::SYS_bpf, command as i32, std::ptr::from_mut(argument), size_of::<A>())
    };
    let answer = Errno::result(answer)?;
    i32::try_from(answer).map_err(|_| Errno::EOVERFLOW)
}

/// As [`bpf`], for commands that answer with a new descriptor.
pub(super) fn bpf_descriptor<A: Argument>(
    command: Command,
    argument: &mut A,
) -> nix::Result<OwnedFd> {
    let descriptor = bpf(command, argument)?;
    // SAFETY: the kernel has just made this descriptor (close-on-exec) for us, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// A descriptor as the kernel's argument wants it.
pub(super) fn number(descriptor: &impl std::os::fd::AsRawFd) -> u32 {
    descriptor.as_raw_fd().cast_unsigned()
}

/// The address of a buffer as the kernel's argument wants it.
pub(super) fn address<T>(buffer: &[T]) -> u64 {
    buffer.as_ptr() as u64
}

/// As [`address`], for a buffer that the kernel fills.
pub(super) fn address_mut<T>(buffer: &mut [T]) -> u64 {
    buffer.as_mut_ptr() as u64
}

/// A name of up to 15 bytes, as the kernel keeps it.
pub(super) fn short_name(name: &str) -> [u8; 16] {
    let mut short = [0; 16];
    let length = name.len().min(15);
    short[..length].copy_from_slice(&name.as_bytes()[..length]);
    short
}
