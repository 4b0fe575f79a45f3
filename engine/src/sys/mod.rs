//! The kernel: I/O rings, aligned memory, device ioctls, mounts. The only layer with unsafe code,
//! and that only in [`ring`], [`ioctl`], [`dm`], [`watchdog`], [`threads`] and [`bpf`].

pub mod bpf;
pub mod buffer;
pub mod device;
pub mod dm;
pub mod freeze;
pub mod holders;
pub mod identity;
pub mod ioctl;
pub mod loops;
pub mod mounts;
mod output;
pub mod ring;
pub mod sparse;
pub mod threads;
pub mod watchdog;

pub use buffer::{Buffer, BufferPool};
pub use device::DeviceFacts;
pub use holders::{Holder, Holders, Holding};
pub use loops::LoopBacking;
pub use output::Output;
pub use ring::{Completion, Ring};
