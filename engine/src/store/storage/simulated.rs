//! Storage in memory that keeps only what was synced when its power is cut: for tests.
//!
//! Every operation that changes something is a step. A cut before step N fails that step and all
//! later ones, and [`SimulatedStorage::after_power_cut`] shows what a disk would hold then.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Folder, ObjectInfo, ObjectName, ObjectReader, ObjectWriter, Storage};
use crate::base::{Error, ErrorKind, Result};

/// What a power cut does to what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsynced {
    /// Names and bytes are lost.
    Lost,
    /// Names are kept, bytes are lost.
    Kept,
    /// Names are kept, and of an object's unsynced bytes the first half; the rest is garbage.
    Torn,
}

impl Unsynced {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Lost, Self::Kept, Self::Torn];
}

#[derive(Debug, Default, Clone)]
struct Content {
    bytes: Vec<u8>,
    synced: usize,
    /// Bytes that never reached the disk, whatever later syncs said.
    never: Vec<Range<usize>>,
}

impl Content {
    fn synced(bytes: Vec<u8>) -> Contents {
        Arc::new(Mutex::new(Self { synced: bytes.len(), bytes, never: Vec::new() }))
    }

    fn after_power_cut(&self, unsynced: Unsynced) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        for lost in &self.never {
            if let Some(lost) = bytes.get_mut(lost.clone()) {
                lost.fill(0);
            }
        }
        if unsynced == Unsynced::Torn {
            let kept = self.synced + (bytes.len() - self.synced) / 2;
            bytes[kept..].fill(0x5a);
        } else {
            bytes.truncate(self.synced);
        }
        bytes
    }
}

/// Promises that storage may fail to keep.
#[derive(Debug, Default, Clone, Copy)]
struct Lies {
    /// Syncs succeed and do nothing.
    ignored_syncs: bool,
    /// This sync from now fails with `EIO`, and what it was to sync never reaches the disk though
    /// it can be read, as Linux has it.
    failing_sync: Option<u64>,
}

type Contents = Arc<Mutex<Content>>;

#[derive(Default)]
struct State {
    names: BTreeMap<ObjectName, Contents>,
    synced_names: BTreeMap<ObjectName, Contents>,
    held: HashSet<ObjectName>,
    steps: u64,
    cut_before: Option<u64>,
    room: Option<u64>,
    lies: Lies,
}

/// A repository's objects in memory.
#[derive(Clone, Default)]
pub struct SimulatedStorage {
    state: Arc<Mutex<State>>,
}

impl SimulatedStorage {
    /// Empty storage.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Cuts the power before step `step`, counted from now.
    pub fn cut_before(&self, step: u64) {
        let mut state = self.lock();
        state.cut_before = Some(state.steps + step);
    }

    /// Lets `bytes` more be appended before the disk is full; `None` for any number.
    pub fn limit(&self, bytes: Option<u64>) {
        self.lock().room = bytes;
    }

    /// From now on syncs succeed without doing anything.
    pub fn ignore_syncs(&self) {
        self.lock().lies.ignored_syncs = true;
    }

    /// Fails the sync of an object that comes `number` syncs from now, counted from 0. As on
    /// Linux, its bytes can still be read and later syncs of it succeed, but a power cut shows
    /// that they are lost.
    pub fn fail_sync(&self, number: u64) {
        self.lock().lies.failing_sync = Some(number);
    }

    /// Steps taken so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.lock().steps
    }

    /// What the disk holds when the power comes back.
    #[must_use]
    pub fn after_power_cut(&self, unsynced: Unsynced) -> Self {
        let state = self.lock();
        let names = match unsynced {
            Unsynced::Lost => &state.synced_names,
            Unsynced::Kept | Unsynced::Torn => &state.names,
        };
        let survivors: BTreeMap<ObjectName, Contents> = names
            .iter()
            .map(|(name, content)| {
                let bytes = lock(content).after_power_cut(unsynced);
                (name.clone(), Content::synced(bytes))
            })
            .collect();
        let names = survivors.clone();
        Self {
            state: Arc::new(Mutex::new(State {
                names,
                synced_names: survivors,
                ..State::default()
            })),
        }
    }

    /// Changes an object behind everyone's back.
    pub fn tamper(&self, name: &ObjectName, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some(content) = self.lock().names.get(name) {
            change(&mut lock(content).bytes);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Counts a step, unless the power is cut.
    fn step(&self) -> Result<MutexGuard<'_, State>> {
        let mut state = self.lock();
        if state.cut_before.is_some_and(|cut| state.steps >= cut) {
            return Err(Error::new(ErrorKind::Io, "the power is cut"));
        }
        state.steps += 1;
        Ok(state)
    }
}

fn lock<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

fn missing(name: &ObjectName) -> Error {
    Error::new(ErrorKind::NotFound, format!("{name}: not found"))
}

impl Storage for SimulatedStorage {
    fn describe(&self) -> String {
        "simulated storage".to_owned()
    }

    fn list(&self, folder: Folder, is_wanted: &dyn Fn(&str) -> bool) -> Result<Vec<ObjectInfo>> {
        let state = self.lock();
        let is_inside = |name: &ObjectName| name.folder == folder && is_wanted(&name.name);
        let inside = state.names.iter().filter(|(name, _)| is_inside(name));
        Ok(inside
            .map(|(name, content)| ObjectInfo {
                name: name.name.clone(),
                size: lock(content).bytes.len() as u64,
            })
            .collect())
    }

    fn create(&self, object: &ObjectName) -> Result<Box<dyn ObjectWriter>> {
        let mut state = self.step()?;
        if state.names.contains_key(object) {
            return Err(Error::new(ErrorKind::Conflict, format!("{object}: exists already")));
        }
        let content = Contents::default();
        state.names.insert(object.clone(), Arc::clone(&content));
        Ok(Box::new(SimulatedWriter { storage: self.clone(), content }))
    }

    fn reopen(&self, object: &ObjectName, length: u64) -> Result<Box<dyn ObjectWriter>> {
        let state = self.step()?;
        let content = Arc::clone(state.names.get(object).ok_or_else(|| missing(object))?);
        drop(state);
        let mut bytes = lock(&content);
        bytes.bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        bytes.synced = bytes.synced.min(bytes.bytes.len());
        drop(bytes);
        Ok(Box::new(SimulatedWriter { storage: self.clone(), content }))
    }

    fn open(&self, object: &ObjectName) -> Result<Box<dyn ObjectReader>> {
        let state = self.lock();
        let content = state.names.get(object).ok_or_else(|| missing(object))?;
        Ok(Box::new(SimulatedReader { bytes: lock(content).bytes.clone() }))
    }

    fn rename(&self, from: &ObjectName, to: &str) -> Result<()> {
        let mut state = self.step()?;
        let new = ObjectName::new(from.folder, to);
        if state.names.contains_key(&new) {
            return Err(Error::new(ErrorKind::Conflict, format!("{new}: exists already")));
        }
        let content = state.names.remove(from).ok_or_else(|| missing(from))?;
        state.names.insert(new, content);
        Ok(())
    }

    fn replace(&self, from: &ObjectName, damaged: &str) -> Result<()> {
        let mut state = self.step()?;
        let content = state.names.remove(from).ok_or_else(|| missing(from))?;
        state.names.insert(ObjectName::new(from.folder, damaged), content);
        Ok(())
    }

    fn remove(&self, object: &ObjectName) -> Result<()> {
        object.check_removable()?;
        let mut state = self.step()?;
        state.names.remove(object).map(|_| ()).ok_or_else(|| missing(object))
    }

    fn sync_folder(&self, folder: Folder) -> Result<()> {
        let mut state = self.step()?;
        state.synced_names.retain(|name, _| name.folder != folder);
        let names: Vec<_> = state
            .names
            .iter()
            .filter(|(name, _)| name.folder == folder)
            .map(|(name, content)| (name.clone(), Arc::clone(content)))
            .collect();
        state.synced_names.extend(names);
        Ok(())
    }

    fn hold(&self, object: &ObjectName, content: &[u8]) -> Result<Box<dyn Send + Sync>> {
        let new = ObjectName::new(object.folder, format!("{}.new", object.name));
        let mut writer = self.create(&new)?;
        writer.append(content)?;
        writer.sync()?;
        self.rename(&new, &object.name)?;
        self.lock().held.insert(object.clone());
        Ok(Box::new(SimulatedHold { storage: self.clone(), object: object.clone() }))
    }

    fn is_held(&self, object: &ObjectName) -> Result<bool> {
        Ok(self.lock().held.contains(object))
    }

    fn is_of_this_system(&self) -> bool {
        true
    }
}

struct SimulatedHold {
    storage: SimulatedStorage,
    object: ObjectName,
}

impl Drop for SimulatedHold {
    fn drop(&mut self) {
        let mut state = self.storage.lock();
        state.held.remove(&self.object);
        state.names.remove(&self.object);
    }
}

struct SimulatedWriter {
    storage: SimulatedStorage,
    content: Contents,
}

impl ObjectWriter for SimulatedWriter {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let mut state = self.storage.step()?;
        if let Some(room) = state.room {
            let Some(left) = room.checked_sub(bytes.len() as u64) else {
                // What fits is written, as filesystems do.
                let fits = usize::try_from(room).unwrap_or(usize::MAX);
                lock(&self.content).bytes.extend_from_slice(&bytes[..fits]);
                state.room = Some(0);
                let full = std::io::Error::from_raw_os_error(nix::libc::ENOSPC);
                return Err(Error::io("write to simulated storage", full));
            };
            state.room = Some(left);
        }
        lock(&self.content).bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        let mut state = self.storage.step()?;
        if state.lies.ignored_syncs {
            return Ok(());
        }
        let mut content = lock(&self.content);
        let unsynced = content.synced..content.bytes.len();
        content.synced = content.bytes.len();
        match &mut state.lies.failing_sync {
            Some(0) => {
                state.lies.failing_sync = None;
                content.never.push(unsynced);
                let error = std::io::Error::from_raw_os_error(nix::libc::EIO);
                Err(Error::io("sync in simulated storage", error))
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

struct SimulatedReader {
    bytes: Vec<u8>,
}

impl ObjectReader for SimulatedReader {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        match self.bytes.get(start..start.saturating_add(buffer.len())) {
            Some(bytes) => buffer.copy_from_slice(bytes),
            None => {
                return Err(Error::corrupt(
                    format!("simulated object at {offset}"),
                    format!("{} bytes", buffer.len()),
                    "its end",
                ));
            }
        }
        Ok(())
    }
}
