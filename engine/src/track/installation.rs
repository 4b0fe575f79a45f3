//! What is installed in the kernel: maps, programs and their links, pinned in bpffs so that
//! tracking goes on with no process running.

use std::os::fd::{AsRawFd, OwnedFd};

use super::layout::{
    DISKS, DiskEntry, IN_FLIGHT, PAGE_LENGTH, PAGE_WORDS, SLOTS, STATS, WRITES, word,
};
use super::page::{Own, Page};
use super::programs::{Hook, Maps};
use crate::base::{Error, ErrorKind, Result};
use crate::sys::bpf::{BpfFolder, KernelTypes, Map, MapKind, MappedWords, Program};

const DISKS_PIN: &str = "disks";
const PAGES_PIN: &str = "pages";
/// What earlier versions called the pages, which were others.
const EARLIER_PAGES_PIN: &str = "stats";
const EPOCHS_PIN: &str = "epochs";
const IN_FLIGHT_PIN: &str = "in_flight";

/// The maps and programs.
#[derive(Debug)]
pub struct Installation {
    folder: BpfFolder,
    disks: Map,
    stats: Map,
    epochs: Map,
    in_flight: Map,
    pages: MappedWords,
}

impl Installation {
    /// The one in `folder`, if there is one.
    ///
    /// # Errors
    /// `Unsupported` when pieces of it are gone: nothing that it says can be believed then.
    pub fn existing(folder: &BpfFolder) -> Result<Option<Self>> {
        let names = folder.names()?;
        if names.is_empty() {
            return Ok(None);
        }
        if names.iter().any(|name| name == EARLIER_PAGES_PIN) {
            return Err(other_version());
        }
        let get = |name: &str| {
            folder.get(name).map_err(|error| match error.kind() {
                ErrorKind::NotFound => broken(name),
                _ => error,
            })
        };
        for hook in Hook::ALL {
            if hook != Hook::Bio || names.iter().any(|name| name == hook.name()) {
                get(hook.name())?;
                get(&link_pin(hook))?;
            }
        }
        let disks = Map::adopt(get(DISKS_PIN)?, DISKS);
        let stats = Map::adopt(get(PAGES_PIN)?, STATS);
        let facts = stats.facts()?;
        if (facts.value, facts.entries) != (PAGE_LENGTH, SLOTS) {
            return Err(other_version());
        }
        let epochs = Map::adopt(get(EPOCHS_PIN)?, MapKind::ArrayOfMaps { like: -1 });
        let in_flight = Map::adopt(get(IN_FLIGHT_PIN)?, IN_FLIGHT);
        let found = Self::of(folder, disks, stats, epochs, in_flight)?;
        // Where the programs mark must be where the processes look.
        let id = u64::from(found.epochs_id()?);
        if found.slots().any(|slot| found.page(slot).get(Own::EpochsMap) != id) {
            return Err(broken(EPOCHS_PIN));
        }
        Ok(Some(found))
    }

    /// A new one in the empty `folder`.
    ///
    /// # Errors
    /// `Unsupported` saying what the kernel lacks; the kernel's.
    pub fn create(folder: &BpfFolder) -> Result<Self> {
        let disks = Map::create(DISKS, SLOTS, "imgx_disks")?;
        let stats = Map::create(STATS, SLOTS, "imgx_stats")?;
        let like = Map::create(MapKind::Words, 1, "imgx_epoch")?;
        let kind = MapKind::ArrayOfMaps { like: like.descriptor().as_raw_fd() };
        let epochs = Map::create(kind, SLOTS, "imgx_epochs")?;
        let in_flight = Map::create(IN_FLIGHT, WRITES, "imgx_in_flight")?;
        let new = Self::of(folder, disks, stats, epochs, in_flight)?;
        let install = || {
            folder.pin(DISKS_PIN, new.disks.descriptor())?;
            folder.pin(PAGES_PIN, new.stats.descriptor())?;
            folder.pin(EPOCHS_PIN, new.epochs.descriptor())?;
            folder.pin(IN_FLIGHT_PIN, new.in_flight.descriptor())?;
            new.attach(Hook::Queue)?;
            new.attach(Hook::Request)
        };
        // Half an installation would be worse than none.
        install().inspect_err(|_failed| remove_all(folder))?;
        Ok(new)
    }

    fn of(folder: &BpfFolder, disks: Map, stats: Map, epochs: Map, in_flight: Map) -> Result<Self> {
        let slots = usize::try_from(SLOTS).unwrap_or(usize::MAX);
        let pages = stats.words(slots * PAGE_WORDS)?;
        Ok(Self { folder: folder.clone(), disks, stats, epochs, in_flight, pages })
    }

    /// Sees to it that the program of `hook` runs.
    ///
    /// # Errors
    /// `Unsupported` saying what the kernel lacks; the kernel's.
    pub fn attach(&self, hook: Hook) -> Result<()> {
        if self.folder.get(&link_pin(hook)).is_ok() {
            return Ok(());
        }
        let types = KernelTypes::of_running_kernel()?;
        let maps = Maps {
            disks: &self.disks,
            stats: &self.stats,
            epochs: &self.epochs,
            in_flight: &self.in_flight,
        };
        let program = hook.load(&types, maps)?;
        let link = program.attach()?;
        self.folder.pin(hook.name(), program.descriptor())?;
        self.folder.pin(&link_pin(hook), link.descriptor())
    }

    /// How often programs were not run because they interrupted themselves.
    ///
    /// # Errors
    /// The kernel's.
    pub fn misses(&self) -> Result<u64> {
        let mut misses = 0;
        for hook in Hook::ALL {
            match self.folder.get(hook.name()) {
                Ok(descriptor) => misses += Program::adopt(descriptor).recursion_misses()?,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(misses)
    }

    /// The kernel's number of the map of epochs.
    ///
    /// # Errors
    /// The kernel's.
    pub fn epochs_id(&self) -> Result<u32> {
        self.epochs.facts().map(|facts| facts.id)
    }

    /// Where it is pinned.
    #[must_use]
    pub fn folder(&self) -> &BpfFolder {
        &self.folder
    }

    /// The page of `slot`.
    #[must_use]
    pub fn page(&self, slot: u32) -> Page<'_> {
        Page::new(&self.pages, slot)
    }

    /// The slots in use.
    pub fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        (0..SLOTS).filter(|slot| self.page(*slot).is(Own::Version))
    }

    /// Has writes to the disk `device` marked from now on, as its `entry` says.
    ///
    /// # Errors
    /// The kernel's.
    pub fn watch(&self, device: u32, entry: &DiskEntry) -> Result<()> {
        self.disks.update(&word(device), &entry.encode())
    }

    /// Has writes to it not marked any more.
    ///
    /// # Errors
    /// The kernel's.
    pub fn forget(&self, device: u32) -> Result<()> {
        self.disks.delete(&word(device))
    }

    /// Has the writes of `slot` marked in another bitmap; returns once no program uses the former.
    ///
    /// # Errors
    /// The kernel's.
    pub fn switch(&self, slot: u32, bitmap: &OwnedFd) -> Result<()> {
        let descriptor = bitmap.as_raw_fd().cast_unsigned();
        self.epochs.update(&word(slot), &word(descriptor))
    }
}

/// Ends everything that is pinned in `folder`.
pub fn remove_all(folder: &BpfFolder) {
    // The links first: programs must not outlive what they mark in.
    let mut names = folder.names().unwrap_or_default();
    names.sort_by_key(|name| !name.ends_with(LINK_SUFFIX));
    for name in names {
        let _reported_by_what_comes_next = folder.unpin(&name);
    }
}

const LINK_SUFFIX: &str = "_link";

fn link_pin(hook: Hook) -> String {
    format!("{}{LINK_SUFFIX}", hook.name())
}

fn other_version() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "tracking was begun by another version, whose counters are others; stop it and start it \
         again",
    )
}

fn broken(what: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!(
            "tracking was broken off: '{what}' is not what was pinned any more, so that changes \
             were missed; stop it and start it again"
        ),
    )
}
