//! Everything on this machine that uses block devices or files as storage, with the bytes that
//! each uses.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use super::Holding;
use super::filesystems::{Filesystems, Use};
use super::processes::{self, Tables};
use super::storage::{Extent, Place, Storage, place_of};
use crate::sys::mounts::{Mount, parse_swaps};

/// One user of storage.
#[derive(Debug, Clone)]
pub struct User {
    /// What it uses.
    pub on: Place,
    /// A path of that, where its device node does not say it.
    pub shown: Option<PathBuf>,
    pub kind: Holding,
    /// The bytes that it uses.
    pub extents: Vec<Extent>,
    /// The device that it makes of what it uses, if it makes one.
    pub device: Option<u64>,
}

/// All users, and what could not be looked at.
#[derive(Debug, Clone, Default)]
pub struct System {
    pub users: Vec<User>,
    pub unseen: Vec<String>,
}

impl System {
    /// As it is now. `names` are the last parts of the paths of files that matter: others are not
    /// looked at, since to ask for each mount's source could hang on a dead server.
    pub fn read(storage: &Storage, names: &[Vec<u8>]) -> Self {
        let Tables { mounts, mut unseen } = processes::mounts();
        let mut users = Vec::new();
        let filesystems = Filesystems { storage, names, mounts: &mounts };
        for Use { place, kind } in filesystems.uses() {
            users.push(User::of(storage, place, kind));
        }
        // Kernels without swap have no such file.
        let swaps = fs::read("/proc/swaps").unwrap_or_default();
        for path in parse_swaps(&swaps) {
            if let Some(place) = place_of(&path) {
                users.push(User::of(storage, place, Holding::Swap));
            }
        }
        unseen.extend_from_slice(&storage.unseen);
        users.extend(devices(storage));
        Self { users: without_copies(users), unseen }
    }
}

impl User {
    fn of(storage: &Storage, on: Place, kind: Holding) -> Self {
        Self { on, shown: None, kind, extents: storage.extents(on), device: None }
    }
}

/// Loop devices, and what other drivers make of devices.
fn devices(storage: &Storage) -> Vec<User> {
    let mut blocks: Vec<_> = storage.blocks().collect();
    blocks.sort_by_key(|(number, _)| *number);
    let mut users = Vec::new();
    for (number, block) in blocks {
        let node = storage.node(number);
        if let Some(backing) = &block.backing {
            users.push(User {
                on: backing.place,
                shown: Some(backing.path.clone()),
                kind: Holding::Loop(node.clone()),
                extents: storage.extents(Place::Device(number)),
                device: Some(number),
            });
        }
        for slave in &block.slaves {
            let below = storage.extents(Place::Device(*slave)).into_iter();
            users.push(User {
                on: Place::Device(*slave),
                shown: None,
                kind: Holding::Stacked(node.clone()),
                // Its other slaves are uses of their own; what it is itself is for its holders.
                extents: below.map(Extent::mapped).collect(),
                device: Some(number),
            });
        }
    }
    users
}

/// Leaves out mounts of other namespaces of filesystems that are known to be mounted: a new
/// namespace begins as a copy of another.
fn without_copies(users: Vec<User>) -> Vec<User> {
    let mut seen: HashMap<(Place, String), Option<u32>> = HashMap::new();
    let mut is_new = |user: &User| {
        let Some(Mount { number, process, .. }) = user.kind.mount() else { return true };
        let first = seen.entry((user.on, number.clone())).or_insert(*process);
        process.is_none() || first == process
    };
    users.into_iter().filter(|user| is_new(user)).collect()
}
