//! Shared and exclusive locks on a repository, and telling a dead owner's lock from a live one.
//!
//! Each owner creates its own object and only then looks at the others', so two owners can both
//! give way, but never both proceed past a conflict.

use std::fs;
use std::time::Duration;

use nix::libc;
use serde::{Deserialize, Serialize};

use super::digest::random_bytes;
use super::storage::{Folder, ObjectName, Storage};
use crate::base::bytes::to_hex;
use crate::base::limits::MAX_LOCK_SIZE;
use crate::base::{Error, ErrorKind, Event, Observer, Result};

const ATTEMPTS: u32 = 10;

/// What a lock allows beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LockKind {
    /// Other shared locks: captures, verifications, restores.
    Shared,
    /// Nothing: what removes objects.
    Exclusive,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    kind: LockKind,
    purpose: String,
    host: String,
    machine_id: String,
    boot_id: String,
    pid: u32,
    since: String,
}

impl Record {
    fn here(kind: LockKind, purpose: &str) -> Self {
        Self {
            kind,
            purpose: purpose.to_owned(),
            host: host_name(),
            machine_id: word_of("/etc/machine-id"),
            boot_id: word_of("/proc/sys/kernel/random/boot_id"),
            pid: std::process::id(),
            since: jiff::Timestamp::now().to_string(),
        }
    }
}

/// This machine's name.
#[must_use]
pub fn host_name() -> String {
    nix::unistd::gethostname()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_else(|_| "unknown".to_owned())
}

fn word_of(path: &str) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// A lock, held until dropped.
pub struct Lock {
    own: ObjectName,
    _held: Box<dyn Send + Sync>,
}

impl Lock {
    /// Takes a lock of `kind` for `purpose`, removing locks whose owners are dead.
    ///
    /// # Errors
    /// `Conflict` naming the owner that is in the way; `Io`.
    pub fn acquire(storage: &dyn Storage, kind: LockKind, purpose: &str) -> Result<Self> {
        let record = Record::here(kind, purpose);
        let content = serde_json::to_vec_pretty(&record).expect("a lock is plain JSON");
        let mut attempt = 0;
        loop {
            let own = ObjectName::new(Folder::Locks, to_hex(&random_bytes::<8>()?));
            let held = storage.hold(&own, &content)?;
            let Some(conflict) = find_conflict(storage, &own, &record)? else {
                return Ok(Self { own, _held: held });
            };
            drop(held);
            attempt += 1;
            if attempt == ATTEMPTS {
                return Err(conflict);
            }
            let [jitter] = random_bytes::<1>()?;
            std::thread::sleep(Duration::from_millis(50 + u64::from(jitter)));
        }
    }

    /// Whether nobody else alive holds a lock now. Whoever comes later sees this one.
    ///
    /// # Errors
    /// `Io`; `Corrupt` when another's lock cannot be read.
    pub fn is_alone(&self, storage: &dyn Storage) -> Result<bool> {
        let as_if_exclusive = Record::here(LockKind::Exclusive, "look around");
        Ok(find_conflict(storage, &self.own, &as_if_exclusive)?.is_none())
    }
}

/// What a job that only reads holds: a shared lock, or the reason why it could have none. A full
/// or read-only repository must still be readable.
pub enum ReadLock {
    /// A shared lock.
    Held(Lock),
    /// There can be no lock, and nobody held an exclusive one.
    Impossible(Error),
}

impl ReadLock {
    /// Takes a shared lock for `purpose`, if the storage takes one.
    ///
    /// # Errors
    /// `Conflict` naming the owner of an exclusive lock; `Io`.
    pub fn acquire(storage: &dyn Storage, purpose: &str) -> Result<Self> {
        const NO_WRITING: [i32; 5] =
            [libc::ENOSPC, libc::EDQUOT, libc::EROFS, libc::EACCES, libc::EPERM];
        let error = match Lock::acquire(storage, LockKind::Shared, purpose) {
            Ok(lock) => return Ok(Self::Held(lock)),
            Err(error) => error,
        };
        if !error.raw_os_error().is_some_and(|number| NO_WRITING.contains(&number)) {
            return Err(error);
        }
        let nobody = ObjectName::new(Folder::Locks, "");
        match find_conflict(storage, &nobody, &Record::here(LockKind::Shared, purpose))? {
            Some(conflict) => Err(conflict),
            None => Ok(Self::Impossible(error)),
        }
    }

    /// Tells of a lock that could not be taken.
    pub fn warn(&self, observer: &dyn Observer) {
        if let Self::Impossible(error) = self {
            let message = format!("the repository is read without a lock: {error}");
            observer.event(&Event::Warning { message: &message });
        }
    }
}

fn find_conflict(storage: &dyn Storage, own: &ObjectName, mine: &Record) -> Result<Option<Error>> {
    for object in storage.list(Folder::Locks)? {
        let name = ObjectName::new(Folder::Locks, object.name);
        if name == *own || name.name.ends_with(".new") {
            continue;
        }
        let outcome = check(storage, &name, mine);
        match outcome {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(Some(conflict)) => return Ok(Some(conflict)),
            Ok(None) => {}
        }
    }
    Ok(None)
}

/// The conflict with another's lock, if there is one; a dead owner's lock is removed.
fn check(storage: &dyn Storage, name: &ObjectName, mine: &Record) -> Result<Option<Error>> {
    let bytes = storage.open(name)?.read_all(MAX_LOCK_SIZE)?;
    let theirs: Record = serde_json::from_slice(&bytes).map_err(|error| {
        Error::corrupt(format!("{}/{name}", storage.describe()), "a lock's record", error)
    })?;
    if is_dead(storage, name, &theirs, mine)? {
        let _dead_wherever_it_stays = storage.remove(name);
        return Ok(None);
    }
    if mine.kind == LockKind::Shared && theirs.kind == LockKind::Shared {
        return Ok(None);
    }
    Ok(Some(Error::new(
        ErrorKind::Conflict,
        format!(
            "repository {} is in use: {} by process {} on {} since {} ({name})",
            storage.describe(),
            theirs.purpose,
            theirs.pid,
            theirs.host,
            theirs.since
        ),
    )))
}

/// Whether the owner surely ended: on this boot nobody holds the object any more, or this very
/// machine was booted again since. Of another machine's owner nothing is known, so it lives.
fn is_dead(
    storage: &dyn Storage,
    name: &ObjectName,
    theirs: &Record,
    mine: &Record,
) -> Result<bool> {
    if !mine.boot_id.is_empty() && theirs.boot_id == mine.boot_id {
        return Ok(!storage.is_held(name)?);
    }
    let same_machine = theirs.machine_id == mine.machine_id && theirs.host == mine.host;
    Ok(!mine.machine_id.is_empty() && same_machine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::storage::LocalStorage;

    fn storage() -> (tempfile::TempDir, LocalStorage) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let storage = LocalStorage::create(&folder.path().join("repo")).expect("new");
        (folder, storage)
    }

    fn leave_behind(storage: &dyn Storage, change: impl Fn(&mut Record)) {
        let mut record = Record::here(LockKind::Exclusive, "prune");
        change(&mut record);
        let bytes = serde_json::to_vec(&record).expect("JSON");
        let mut writer = storage.create(&ObjectName::new(Folder::Locks, "old")).expect("free");
        writer.append(&bytes).expect("written");
    }

    #[test]
    fn shared_locks_share_and_exclusive_ones_do_not() {
        let (_folder, storage) = storage();
        let one = Lock::acquire(&storage, LockKind::Shared, "capture").expect("free");
        let two = Lock::acquire(&storage, LockKind::Shared, "verify").expect("shared");
        let error = Lock::acquire(&storage, LockKind::Exclusive, "prune").err();
        let error = error.expect("in use");
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        drop((one, two));
        let only = Lock::acquire(&storage, LockKind::Exclusive, "prune").expect("free again");
        assert!(Lock::acquire(&storage, LockKind::Shared, "capture").is_err());
        drop(only);
    }

    #[test]
    fn a_dead_owners_lock_is_removed() {
        let (_folder, storage) = storage();
        leave_behind(&storage, |_killed_on_this_boot| {});
        Lock::acquire(&storage, LockKind::Shared, "capture").expect("owner is dead");
        leave_behind(&storage, |record| record.boot_id = "an earlier boot".to_owned());
        Lock::acquire(&storage, LockKind::Shared, "capture").expect("machine was rebooted");
        assert!(storage.list(Folder::Locks).expect("listed").is_empty());
    }

    #[test]
    fn another_machines_lock_is_believed() {
        let (_folder, storage) = storage();
        leave_behind(&storage, |record| {
            record.boot_id = "theirs".to_owned();
            record.machine_id = "theirs".to_owned();
        });
        assert!(Lock::acquire(&storage, LockKind::Shared, "capture").is_err());
    }
}
