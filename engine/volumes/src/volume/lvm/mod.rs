//! LVM2: volume groups on physical volumes, and the logical volumes in them.
//!
//! [`Label`] knows a physical volume, [`Group`] reads what groups there are and opens their
//! volumes, each as a [`Layer`](super::Layer) on the physical ones. Nothing that is told by a
//! text, a superblock, a tree or a store is believed before it is checked.

mod cache;
mod description;
mod group;
mod label;
mod layers;
mod metadata;
mod mirror;
mod persistent;
mod raid;
mod segment;
mod snapshot;
mod text;
mod thin;

pub use group::{Group, Groups, LogicalVolume, Missing};
pub use label::Label;
pub use segment::{Kind, RaidLevel};

/// LVM's CRC: CRC32 from its own start value, without the final complement.
fn checksum(bytes: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new_with_initial(!0xf597_a6cf);
    sum.update(bytes);
    !sum.finalize()
}
