//! The kernel: I/O rings, aligned memory, device ioctls, mounts. The only layer with unsafe code,
//! and that only in [`ring`], [`ioctl`], [`freeze`] and [`bpf`].

pub mod bpf;
pub mod buffer;
pub mod device;
pub mod freeze;
pub mod ioctl;
pub mod loops;
pub mod mounts;
mod output;
pub mod ring;
pub mod sparse;

pub use buffer::{Buffer, BufferPool};
pub use device::DeviceFacts;
pub use loops::LoopBacking;
pub use output::Output;
pub use ring::{Completion, Ring};
