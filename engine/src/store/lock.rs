//! Shared and exclusive locks on a repository, and telling a dead owner's lock from a live one.
//!
//! Each owner creates its own object and only then looks at the others', so two owners can both
//! give way, but never both proceed past a conflict. A lock gets its name when it is whole, so what
//! cannot be read is no living owner's, unless it was damaged since: it keeps nobody from sharing,
//! and what removes objects from going on.

use std::fs;
use std::time::Duration;

use nix::libc;
use serde::{Deserialize, Serialize};

use super::digest::random_bytes;
use super::storage::{Folder, ObjectName, Storage};
use crate::base::bytes::{from_hex, to_hex};
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
    /// `Io`.
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
    // Foreign names are ignored; `from_hex` takes capitals too.
    let is_lock = |name: &str| from_hex::<8>(name).is_some_and(|id| to_hex(&id) == name);
    for object in storage.list(Folder::Locks, &|name| is_lock(name) && name != own.name)? {
        let name = ObjectName::new(Folder::Locks, object.name);
        if let Some(conflict) = check(storage, &name, mine)? {
            return Ok(Some(conflict));
        }
    }
    Ok(None)
}

/// The conflict with another's lock, if there is one; a dead owner's lock is removed.
fn check(storage: &dyn Storage, name: &ObjectName, mine: &Record) -> Result<Option<Error>> {
    let theirs = match read(storage, name) {
        Ok(theirs) => theirs,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Ok(conflict_with_unknown(storage, name, mine, &error)),
    };
    match is_dead(storage, name, &theirs, mine) {
        Ok(true) => {
            let _dead_wherever_it_stays = storage.remove(name);
            return Ok(None);
        }
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        // Whoever cannot be asked lives.
        Ok(false) | Err(_) => {}
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

fn read(storage: &dyn Storage, name: &ObjectName) -> Result<Record> {
    let bytes = storage.open(name)?.read_all(MAX_LOCK_SIZE)?;
    serde_json::from_slice(&bytes).map_err(|error| Error::corrupt(name, "a lock's record", error))
}

/// The conflict with a lock of which nothing is known: what shares goes on beside it, unless
/// somebody on this system holds it.
fn conflict_with_unknown(
    storage: &dyn Storage,
    name: &ObjectName,
    mine: &Record,
    error: &Error,
) -> Option<Error> {
    if mine.kind == LockKind::Shared && !storage.is_held(name).unwrap_or(false) {
        return None;
    }
    let place = storage.describe();
    Some(Error::new(
        ErrorKind::Conflict,
        format!(
            "repository {place}: {name} cannot be read, so it may be somebody's who uses it now; \
             if nobody does, remove that file ({error})"
        ),
    ))
}

/// Whether the owner surely ended: nobody on this system holds the object, and either it was made
/// on this boot, or on an earlier one of this very machine, and no other system can reach it. A
/// machine's name and id alone say nothing: rescue media and clones share them, and live.
fn is_dead(
    storage: &dyn Storage,
    name: &ObjectName,
    theirs: &Record,
    mine: &Record,
) -> Result<bool> {
    let is_same_boot = !mine.boot_id.is_empty() && theirs.boot_id == mine.boot_id;
    let is_same_machine = !mine.machine_id.is_empty()
        && theirs.machine_id == mine.machine_id
        && theirs.host == mine.host;
    if is_same_boot || is_same_machine && storage.is_of_this_system() {
        return Ok(!storage.is_held(name)?);
    }
    Ok(false)
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
        leave_bytes(storage, LEFT, &bytes);
    }

    fn leave_bytes(storage: &dyn Storage, name: &str, bytes: &[u8]) {
        let mut writer = storage.create(&ObjectName::new(Folder::Locks, name)).expect("free");
        writer.append(bytes).expect("written");
    }

    /// The name of a lock that is left behind.
    const LEFT: &str = "00112233445566aa";

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
        assert!(storage.list(Folder::Locks, &|_| true).expect("listed").is_empty());
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

    #[test]
    fn a_living_clones_lock_stays() {
        let (_folder, storage) = storage();
        // The same machine id and host name, another boot, and somebody holds it.
        let mut record = Record::here(LockKind::Exclusive, "prune");
        record.boot_id = "a clone's".to_owned();
        let bytes = serde_json::to_vec(&record).expect("JSON");
        let name = ObjectName::new(Folder::Locks, LEFT);
        let held = storage.hold(&name, &bytes).expect("free");
        let error = Lock::acquire(&storage, LockKind::Shared, "capture").err().expect("in use");
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert_eq!(storage.list(Folder::Locks, &|_| true).expect("listed").len(), 1);
        drop(held);
    }

    #[test]
    fn what_is_no_lock_keeps_nobody_from_sharing() {
        let (_folder, storage) = storage();
        for foreign in ["README", "0011223344556677.new", "0011223344556677~", "001122334455667"] {
            leave_bytes(&storage, foreign, b"garbage");
        }
        drop(Lock::acquire(&storage, LockKind::Exclusive, "prune").expect("foreign names"));
        for (number, garbled) in
            [&b""[..], b"{", b"\0\0\0\0", b"[1]", b"{\"kind\": \"odd\"}"].into_iter().enumerate()
        {
            leave_bytes(&storage, &format!("00112233445566{number:02x}"), garbled);
        }
        let lock = Lock::acquire(&storage, LockKind::Shared, "capture").expect("shared");
        assert!(!lock.is_alone(&storage).expect("looked at"), "an unread lock may be somebody's");
        drop(lock);
        let error = Lock::acquire(&storage, LockKind::Exclusive, "prune").err().expect("unknown");
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert!(error.to_string().contains("locks/00112233445566"), "{error}");
    }
}
