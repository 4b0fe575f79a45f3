//! Maps: what programs and processes share.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use nix::errno::Errno;

use super::call::{
    Command, CreateMap, Element, Information, address, address_mut, bpf, bpf_descriptor, number,
    short_name,
};
use crate::base::{Error, ErrorContext, ErrorKind, Result, fields};

/// Bytes of `struct bpf_map_info` up to `name`.
const INFORMATION_SIZE: usize = 24;
/// `BPF_F_MMAPABLE`.
const MAPPABLE: u32 = 1 << 10;
/// `BPF_F_INNER_MAP`: maps in one map of maps may differ in size.
const INNER: u32 = 1 << 12;

/// What a map is to be.
#[derive(Debug, Clone, Copy)]
pub enum MapKind {
    /// Keys of some bytes to values of some bytes.
    Hash {
        /// Bytes of a key.
        key: u32,
        /// Bytes of a value.
        value: u32,
    },
    /// Values of some bytes, a multiple of 8, to be mapped into memory.
    Array {
        /// Bytes of a value.
        value: u32,
    },
    /// As `Array` of 8-byte words, of any length, to be put in an `ArrayOfMaps`.
    Words,
    /// Slots for maps like the one given by its descriptor.
    ArrayOfMaps {
        /// Descriptor of a map that shows what all of them are like.
        like: i32,
    },
}

/// What the kernel says of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapFacts {
    /// Its number, which no other map has had since boot.
    pub id: u32,
    /// Bytes of a key.
    pub key: u32,
    /// Bytes of a value.
    pub value: u32,
    /// Entries at most.
    pub entries: u32,
}

/// A map. It lives as long as a descriptor, a pin or a program that uses it.
#[derive(Debug)]
pub struct Map {
    descriptor: OwnedFd,
    key_size: usize,
    value_size: usize,
}

impl Map {
    /// Makes a map of `entries`, called `name` in the kernel's listings.
    ///
    /// # Errors
    /// The kernel's: `ENOMEM`, `EPERM` without `CAP_BPF`.
    pub fn create(kind: MapKind, entries: u32, name: &str) -> Result<Self> {
        let (number, key_size, value_size, flags, inner) = match kind {
            MapKind::Hash { key, value } => (1, key, value, 0, 0),
            MapKind::Array { value } => (2, 4, value, MAPPABLE, 0),
            MapKind::Words => (2, 4, 8, MAPPABLE | INNER, 0),
            MapKind::ArrayOfMaps { like } => (12, 4, 4, 0, like.cast_unsigned()),
        };
        let mut argument = CreateMap {
            kind: number,
            key_size,
            value_size,
            entries,
            flags,
            inner_map: inner,
            name: short_name(name),
            ..CreateMap::default()
        };
        let descriptor = bpf_descriptor(Command::MapCreate, &mut argument)
            .context(|| format!("make the BPF map {name} of {entries} entries"))?;
        Ok(Self::of(descriptor, key_size as usize, value_size as usize))
    }

    /// The map behind a descriptor that somebody else made, as `kind` was asked for then.
    #[must_use]
    pub fn adopt(descriptor: OwnedFd, kind: MapKind) -> Self {
        let (key, value) = match kind {
            MapKind::Hash { key, value } => (key, value),
            MapKind::Array { value } => (4, value),
            MapKind::Words => (4, 8),
            MapKind::ArrayOfMaps { .. } => (4, 4),
        };
        Self::of(descriptor, key as usize, value as usize)
    }

    fn of(descriptor: OwnedFd, key_size: usize, value_size: usize) -> Self {
        Self { descriptor, key_size, value_size }
    }

    /// Its descriptor.
    #[must_use]
    pub fn descriptor(&self) -> &OwnedFd {
        &self.descriptor
    }

    /// What the kernel says of it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn facts(&self) -> Result<MapFacts> {
        let mut information = [0; INFORMATION_SIZE];
        let mut argument = Information {
            descriptor: number(&self.descriptor),
            length: u32::try_from(INFORMATION_SIZE).expect("a small constant"),
            address: address_mut(&mut information),
        };
        bpf(Command::ObjectInfo, &mut argument).context(|| "ask about a BPF map")?;
        // Four fields of 32 bits after the kind, in this order.
        let field = |at| fields::le32(&information, at).unwrap_or(0);
        Ok(MapFacts { id: field(4), key: field(8), value: field(12), entries: field(16) })
    }

    /// The value of `key`, or `None`.
    ///
    /// # Errors
    /// The kernel's, or `Invalid` for a key of another size.
    pub fn lookup(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut value = vec![0; self.value_size];
        let mut argument = self.element(key)?;
        argument.value = address_mut(&mut value);
        match bpf(Command::MapLookup, &mut argument) {
            Ok(_) => Ok(Some(value)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(Error::io("look a BPF map's key up", errno.into())),
        }
    }

    /// Sets `key` to `value`. Of a map of maps, returns once no program uses the former map.
    ///
    /// # Errors
    /// The kernel's, or `Invalid` for a key or value of another size.
    pub fn update(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let mut argument = self.element(key)?;
        if value.len() != self.value_size {
            return Err(wrong_size());
        }
        argument.value = address(value);
        bpf(Command::MapUpdate, &mut argument).context(|| "update a BPF map").map(drop)
    }

    /// Removes `key`, if it is there.
    ///
    /// # Errors
    /// The kernel's, or `Invalid` for a key of another size.
    pub fn delete(&self, key: &[u8]) -> Result<()> {
        match bpf(Command::MapDelete, &mut self.element(key)?) {
            Ok(_) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(Error::io("delete a BPF map's key", errno.into())),
        }
    }

    /// Maps an array's `words` first 8-byte words into memory.
    ///
    /// # Errors
    /// The kernel's.
    pub fn words(&self, words: usize) -> Result<MappedWords> {
        let length = words.saturating_mul(8);
        let map = MmapOptions::new()
            .len(length)
            .map_raw(self.descriptor.as_raw_fd())
            .context(|| format!("map {length} bytes of a BPF array"))?;
        Ok(MappedWords { map, words })
    }

    fn element(&self, key: &[u8]) -> Result<Element> {
        if key.len() != self.key_size {
            return Err(wrong_size());
        }
        let map = number(&self.descriptor);
        Ok(Element { map, padding: 0, key: address(key), value: 0, flags: 0 })
    }
}

fn wrong_size() -> Error {
    Error::new(ErrorKind::Invalid, "a BPF map's key or value of another size")
}

/// An array's words in memory, which programs change at any time.
#[derive(Debug)]
pub struct MappedWords {
    map: MmapRaw,
    words: usize,
}

impl MappedWords {
    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.words
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words == 0
    }

    /// The word at `index`; 0 beyond the end.
    #[must_use]
    pub fn load(&self, index: usize) -> u64 {
        self.word(index).map_or(0, |word| word.load(Ordering::SeqCst))
    }

    /// Sets the word at `index`; nothing beyond the end.
    pub fn store(&self, index: usize, value: u64) {
        if let Some(word) = self.word(index) {
            word.store(value, Ordering::SeqCst);
        }
    }

    /// Sets the bits of `value` in the word at `index`; nothing beyond the end.
    pub fn set_bits(&self, index: usize, value: u64) {
        if let Some(word) = self.word(index) {
            word.fetch_or(value, Ordering::SeqCst);
        }
    }

    fn word(&self, index: usize) -> Option<&AtomicU64> {
        if index >= self.words {
            return None;
        }
        // SAFETY: the mapping is page-aligned, lives as long as `self`, and holds `words` words,
        // of which `index` is one. All access to it is atomic, the programs' too.
        Some(unsafe { AtomicU64::from_ptr(self.map.as_mut_ptr().cast::<u64>().add(index)) })
    }
}
