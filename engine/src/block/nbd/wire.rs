//! What goes over the wire: numbers and layouts of NBD's `doc/proto.md`. All fields are
//! big-endian.

use std::io;

use nix::libc;

use crate::base::fields::{array, be32, be64};

/// `NBDMAGIC`, the first bytes of a server.
pub const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`: a newstyle server's second bytes, and the start of each option.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Starts a reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Starts a request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Starts a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Starts a chunk of a structured reply.
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// `NBD_FLAG_FIXED_NEWSTYLE`, of server and client.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1;
/// `NBD_FLAG_NO_ZEROES`, of server and client.
pub const FLAG_NO_ZEROES: u16 = 1 << 1;

/// `NBD_OPT_ABORT`.
pub const OPT_ABORT: u32 = 2;
/// `NBD_OPT_GO`.
pub const OPT_GO: u32 = 7;
/// `NBD_OPT_STRUCTURED_REPLY`.
pub const OPT_STRUCTURED_REPLY: u32 = 8;
/// `NBD_OPT_LIST_META_CONTEXT`.
pub const OPT_LIST_META_CONTEXT: u32 = 9;
/// `NBD_OPT_SET_META_CONTEXT`.
pub const OPT_SET_META_CONTEXT: u32 = 10;

/// `NBD_REP_ACK`.
pub const REP_ACK: u32 = 1;
/// `NBD_REP_INFO`.
pub const REP_INFO: u32 = 3;
/// `NBD_REP_META_CONTEXT`.
pub const REP_META_CONTEXT: u32 = 4;
/// The bit that all refusals of options have.
pub const REP_ERROR: u32 = 1 << 31;
/// `NBD_REP_ERR_UNSUP`.
pub const REP_ERR_UNSUP: u32 = REP_ERROR | 1;
/// `NBD_REP_ERR_POLICY`.
pub const REP_ERR_POLICY: u32 = REP_ERROR | 2;
/// `NBD_REP_ERR_TLS_REQD`.
pub const REP_ERR_TLS_REQD: u32 = REP_ERROR | 5;
/// `NBD_REP_ERR_UNKNOWN`.
pub const REP_ERR_UNKNOWN: u32 = REP_ERROR | 6;

/// `NBD_INFO_EXPORT`: size (8 bytes), transmission flags (2).
pub const INFO_EXPORT: u16 = 0;
/// `NBD_INFO_BLOCK_SIZE`: minimum, preferred, maximum (4 bytes each).
pub const INFO_BLOCK_SIZE: u16 = 3;

/// `NBD_FLAG_HAS_FLAGS` of an export.
pub const EXPORT_HAS_FLAGS: u16 = 1;
/// `NBD_FLAG_SEND_DF` of an export: it understands [`FLAG_DF`].
pub const EXPORT_SEND_DF: u16 = 1 << 7;
/// `NBD_FLAG_CAN_MULTI_CONN` of an export.
pub const EXPORT_CAN_MULTI_CONN: u16 = 1 << 8;

/// `NBD_CMD_READ`.
pub const CMD_READ: u16 = 0;
/// `NBD_CMD_FLAG_DF`: data is to come in one piece.
pub const FLAG_DF: u16 = 1 << 2;
/// What has to fit in one piece.
pub const LEAST_PIECE: usize = 64 * 1024;
/// `NBD_CMD_DISC`.
pub const CMD_DISC: u16 = 2;
/// `NBD_CMD_BLOCK_STATUS`.
pub const CMD_BLOCK_STATUS: u16 = 7;

/// `NBD_REPLY_FLAG_DONE`: a reply's last chunk.
pub const CHUNK_DONE: u16 = 1;
/// `NBD_REPLY_TYPE_NONE`.
pub const CHUNK_NONE: u16 = 0;
/// `NBD_REPLY_TYPE_OFFSET_DATA`: offset (8 bytes), data.
pub const CHUNK_OFFSET_DATA: u16 = 1;
/// `NBD_REPLY_TYPE_OFFSET_HOLE`: offset (8 bytes), length (4).
pub const CHUNK_OFFSET_HOLE: u16 = 2;
/// `NBD_REPLY_TYPE_BLOCK_STATUS`: context (4 bytes), then length and flags (4 each) of extents.
pub const CHUNK_BLOCK_STATUS: u16 = 5;
/// The bit that all chunks with errors have: error (4 bytes), length of a text (2), the text.
pub const CHUNK_ERROR: u16 = 1 << 15;

/// The context that says what is allocated.
pub const ALLOCATION: &str = "base:allocation";
/// `NBD_STATE_ZERO` of `base:allocation`.
pub const STATE_ZERO: u32 = 1 << 1;
/// What contexts of QEMU's dirty bitmaps begin with.
pub const DIRTY_BITMAP: &str = "qemu:dirty-bitmap:";
/// The only bit of such a context: it is dirty.
pub const STATE_DIRTY: u32 = 1;

/// Bytes of a request.
pub const REQUEST_SIZE: usize = 28;

/// A request: magic, command's flags (2 bytes), type (2), cookie (8), offset (8), length (4).
#[must_use]
pub fn request(
    (flags, command): (u16, u16),
    cookie: u64,
    offset: u64,
    length: u32,
) -> [u8; REQUEST_SIZE] {
    let mut bytes = [0; REQUEST_SIZE];
    bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
    bytes[4..6].copy_from_slice(&flags.to_be_bytes());
    bytes[6..8].copy_from_slice(&command.to_be_bytes());
    bytes[8..16].copy_from_slice(&cookie.to_be_bytes());
    bytes[16..24].copy_from_slice(&offset.to_be_bytes());
    bytes[24..].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// What follows the magic of a simple reply: error (4 bytes), cookie (8).
#[derive(Debug, Clone, Copy)]
pub struct SimpleReply {
    /// Zero, or an error's number.
    pub error: u32,
    /// The request's.
    pub cookie: u64,
}

impl SimpleReply {
    /// Bytes of it.
    pub const SIZE: usize = 12;

    /// Takes it apart.
    #[must_use]
    pub fn parse(bytes: &[u8; Self::SIZE]) -> Self {
        let error = be32(bytes, 0).unwrap_or_default();
        Self { error, cookie: be64(bytes, 4).unwrap_or_default() }
    }
}

/// What follows the magic of a structured reply's chunk: flags (2 bytes), type (2), cookie (8),
/// length (4).
#[derive(Debug, Clone, Copy)]
pub struct ChunkHeader {
    /// `NBD_REPLY_FLAG_*`.
    pub flags: u16,
    /// `NBD_REPLY_TYPE_*`.
    pub kind: u16,
    /// The request's.
    pub cookie: u64,
    /// Bytes that follow.
    pub length: u32,
}

impl ChunkHeader {
    /// Bytes of it.
    pub const SIZE: usize = 16;

    /// Takes it apart.
    #[must_use]
    pub fn parse(bytes: &[u8; Self::SIZE]) -> Self {
        Self {
            flags: be16(bytes, 0).unwrap_or_default(),
            kind: be16(bytes, 2).unwrap_or_default(),
            cookie: be64(bytes, 4).unwrap_or_default(),
            length: be32(bytes, 12).unwrap_or_default(),
        }
    }
}

/// The 16-bit field at `at`.
#[must_use]
pub fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

/// A string after its length (4 bytes).
pub fn put_string(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend(text.as_bytes());
}

/// An error that a server answered with. Those of Linux keep their number, which decides what is
/// done about them.
#[must_use]
pub fn error_of(number: u32, text: &str) -> io::Error {
    const KNOWN: [i32; 4] = [libc::EIO, libc::ENOMEM, libc::EINVAL, libc::EOVERFLOW];
    match KNOWN.into_iter().find(|known| u32::try_from(*known) == Ok(number)) {
        Some(known) => io::Error::from_raw_os_error(known),
        None => io::Error::other(format!("the server answers with error {number} {text}")),
    }
}

/// An answer that breaks the protocol, after which nothing more can be understood.
#[must_use]
pub fn violation(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the server breaks the protocol: {what}"))
}
