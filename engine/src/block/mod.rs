//! Bytes at an offset: the one view that disks, files and images share. And the disks themselves:
//! [`Disk`] to read from (a device, a file, or an export of an NBD server), [`Target`] to write to, both with many large operations in flight.

mod cache;
mod disk;
mod extents;
mod files;
mod held;
mod info;
mod joined;
mod nbd;
mod origin;
mod queue;
mod recover;
mod stream;
mod target;
mod writer;
mod zero;

pub use crate::sys::{Buffer, BufferPool};
pub use cache::Cached;
pub use disk::{Disk, OpenOptions};
pub use extents::{Extent, ExtentKind};
pub use info::{SourceInfo, SourceKind};
pub use joined::Joined;
pub use nbd::{ImageFormat, NbdExport, NbdServer, NbdUri, Patience};
pub use queue::IoMode;
pub use stream::{Chunk, ReadRequest};
pub use target::{FileMode, Target};
pub use writer::TargetWriter;
pub use zero::Zeroing;
