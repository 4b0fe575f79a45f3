//! Volumes: what partition tables and superblocks say that a disk holds.
//!
//! A [`Stack`] opens what a disk holds, volumes within volumes; [`probe`] tells its layout for an
//! image's manifest; [`plan_gpt_move`] makes a GPT right on a larger disk. All of it is hostile ground: the bytes may be damaged or made to harm, so
//! nothing here panics, every loop and allocation has a limit, and bad content ends in a note,
//! never in an error.
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::as_conversions)]

mod apm;
mod bsd;
mod extent;
mod gpt;
mod layer;
mod layout;
mod leftover;
pub mod luks;
pub mod lvm;
mod mbr;
pub mod md;
mod probe;
mod relocate;
mod select;
mod signature;
mod stack;
mod tables;
mod types;
mod verdict;

pub use crate::content::Content;
pub use crate::kind::{Kind, Nature};
pub use layer::Layer;
pub use layout::{DiskLayout, PartitionTable, Volume};
pub use leftover::{Leftover, leftovers};
pub use probe::probe;
pub use relocate::{GptMove, plan_gpt_move};
pub use stack::{Ask, Keys, Placed, Stack};
