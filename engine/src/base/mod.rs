//! What every layer shares: errors, units, events, limits and byte reading. No I/O happens here.

pub mod bytes;
pub mod change_map;
pub mod error;
pub mod event;
pub mod fields;
pub mod limits;
pub mod path;
pub mod ranges;
pub mod units;

pub use change_map::{ChangeMap, Granule};
pub use error::{Error, ErrorContext, ErrorKind, Result};
pub use event::{Event, Observer, Phase, Progress, Silent};
pub use units::{BlockCount, BlockIndex, BlockSize, ByteCount, ByteOffset, ByteRange};
