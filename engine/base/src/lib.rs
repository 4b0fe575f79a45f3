//! What every layer of imgx shares: errors, units, events, limits, byte reading, and [`ReadAt`], the
//! one view of whatever holds bytes. No I/O happens here.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::cast_possible_truncation))]

pub mod bytes;
pub mod change_map;
pub mod error;
pub mod event;
pub mod fields;
pub mod limits;
pub mod parity;
pub mod path;
pub mod ranges;
mod read_at;
pub mod units;
mod window;

pub use change_map::{ChangeMap, Granule};
pub use error::{Error, ErrorContext, ErrorKind, Result};
pub use event::{Event, Observer, Phase, Progress, Silent};
pub use read_at::{ReadAt, WriteAt};
pub use units::{BlockCount, BlockIndex, BlockSize, ByteCount, ByteOffset, ByteRange};
pub use window::{Window, check_range};
