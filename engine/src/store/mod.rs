//! The repository: where images live. FORMAT.md at the project's root is its normative text.
//!
//! From the bottom: [`storage`] (named objects, immutable once published), [`frame`] and [`pack`]
//! (stored blocks and nodes), [`node`] and [`tree`] (an image's block map), [`manifest`] (an
//! image's small root object), [`index`] (where a digest is stored; derived, local),
//! [`repository`], which ties them together, and [`writer`] and [`reader`].
//!
//! Invariants:
//! - A published object never changes.
//! - A pack with its final name was synced whole before it got that name.
//! - A manifest is published only after every pack that it needs.
//! - Every content that leaves this layer matched the digest that led to it.

pub mod codec;
pub mod config;
pub mod content;
pub mod damage;
pub mod difference;
pub mod digest;
pub mod frame;
pub mod index;
mod json;
pub mod lock;
pub mod manifest;
pub mod memo;
pub mod mend;
pub mod node;
pub mod pack;
pub mod parent;
pub mod reader;
mod reference;
pub mod repository;
pub mod salvage;
pub mod storage;
pub mod tree;
pub mod writer;

pub use codec::{Compression, Decoder, Encoder};
pub use config::Config;
pub use content::ContentReader;
pub use difference::difference;
pub use digest::{Digest, DigestKeys, ImageId, PackId, RepositoryId};
pub use frame::{FrameKind, Place};
pub use lock::LockKind;
pub use manifest::Manifest;
pub use node::{Entry, StoredEntry};
pub use parent::Parent;
pub use reader::{FrameReader, ImageReader};
pub use repository::Repository;
pub use storage::{LocalStorage, Storage};
pub use tree::{LeafBuilder, TakeEntries, TreeBuilder, TreeRun, TreeWalk};
pub use writer::StoreWriter;
