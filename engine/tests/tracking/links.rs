//! Epochs hang together: what is missing, exchanged or somebody else's is noticed.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use imgx_engine::base::ErrorKind;
use imgx_engine::sys::bpf::{BpfFolder, FoundFolder, Map, MapKind};
use imgx_engine::track::{Tracker, Tracking, Verdict};
use nix::fcntl::{Flock, FlockArg};

use super::epochs::{pages, write_page};
use super::support::{Tracked, follows, stored};

const WAIT: Duration = Duration::from_secs(10);

fn folder(disk: &Tracked) -> BpfFolder {
    BpfFolder::existing(disk.folder()).and_then(FoundFolder::closed).expect("read").expect("there")
}

fn path(disk: &Tracked, pin: &str) -> PathBuf {
    Path::new("/sys/fs/bpf").join(disk.folder()).join(pin)
}

/// The pins of open epochs, in order, the running one last.
fn epochs(disk: &Tracked) -> Vec<String> {
    let names = folder(disk).names().expect("listed").into_iter();
    let mut pins: Vec<String> = names.filter(|name| name.starts_with("epoch_")).collect();
    pins.sort_by_key(|pin| pin.rsplit('_').next().and_then(|number| number.parse::<u64>().ok()));
    pins
}

fn is_tainted(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Tainted(_))
}

/// Writes a page in each of some epochs, which stay open.
fn open_some(disk: &Tracked) -> Tracker {
    let mut tracker = disk.tracker();
    let first = tracker.checkpoint().expect("checkpoint");
    stored(&mut tracker, &first);
    for page in 1..5 {
        write_page(disk.device.path(), page);
        let told = tracker.checkpoint().expect("checkpoint");
        assert!(!is_tainted(&told.verdict), "{:?}", told.verdict);
    }
    write_page(disk.device.path(), 5);
    tracker
}

/// Whatever was lost: once everything was read, all is well again.
fn recovers(disk: &Tracked, tracker: &mut Tracker, what: &str) {
    let whole = tracker.checkpoint().expect("checkpoint");
    assert!(is_tainted(&whole.verdict), "{what}: {:?}", whole.verdict);
    // What was read after it is known from there on, before anything was stored of it.
    write_page(disk.device.path(), 77);
    let since = tracker.checkpoint_since(whole.evidence.epoch).expect("checkpoint");
    assert!(!is_tainted(&since.verdict), "{what}: {:?}", since.verdict);
    assert_eq!(pages(&since.changes), [77], "{what}");
    stored(tracker, &since);
    write_page(disk.device.path(), 78);
    let next = tracker.checkpoint().expect("checkpoint");
    assert!(!is_tainted(&next.verdict), "{what}: {:?}", next.verdict);
    assert_eq!(pages(&next.changes), [78], "{what}");
    assert_eq!(follows(&next.evidence, &since.evidence), Ok(()), "{what}");
}

#[test]
fn an_epoch_that_is_missing_anywhere_is_noticed() {
    let Some(disk) = Tracked::new(16 << 20, 4096) else { return };
    for position in 0..5 {
        let mut tracker = open_some(&disk);
        let pins = epochs(&disk);
        assert_eq!(pins.len(), 5);
        folder(&disk).unpin(&pins[position]).expect("removed");
        let status = disk.tracking().status().expect("status");
        assert!(is_tainted(&status[0].verdict), "{position}: {status:?}");
        recovers(&disk, &mut tracker, &pins[position]);
    }
}

#[test]
fn pins_that_were_exchanged_are_noticed() {
    let Some(disk) = Tracked::new(16 << 20, 4096) else { return };
    for (one, other) in [(0, 1), (1, 2), (2, 4), (0, 3)] {
        let mut tracker = open_some(&disk);
        let pins = epochs(&disk);
        let (one, other) = (path(&disk, &pins[one]), path(&disk, &pins[other]));
        let aside = path(&disk, "aside");
        fs::rename(&one, &aside).expect("renamed");
        fs::rename(&other, &one).expect("renamed");
        fs::rename(&aside, &other).expect("renamed");
        recovers(&disk, &mut tracker, &format!("{one:?} and {other:?}"));
    }
    for position in 0..5 {
        let mut tracker = open_some(&disk);
        let pin = &epochs(&disk)[position];
        let before = Map::adopt(folder(&disk).get(pin).expect("pinned"), MapKind::Words);
        let entries = before.facts().expect("asked").entries;
        let empty = Map::create(MapKind::Words, entries, "imgx_epoch").expect("made");
        folder(&disk).unpin(pin).expect("removed");
        folder(&disk).pin(pin, empty.descriptor()).expect("pinned");
        recovers(&disk, &mut tracker, &format!("an empty map as {pin}"));
    }
    // Something that is no map at all.
    let mut tracker = open_some(&disk);
    let pin = &epochs(&disk)[2];
    let program = folder(&disk).get("imgx_queue").expect("pinned");
    folder(&disk).unpin(pin).expect("removed");
    folder(&disk).pin(pin, &program).expect("pinned");
    recovers(&disk, &mut tracker, "a program");
}

#[test]
fn what_was_met_before_a_checkpoint_is_no_doubt_of_what_came_after_it() {
    /// Where a page counts commands past the block layer.
    const PASS_THROUGH: usize = 2048 / 8 + 5;
    let Some(disk) = Tracked::new(16 << 20, 4096) else { return };
    let kind = MapKind::Array { value: 8192 };
    let pages_map = Map::adopt(folder(&disk).get("pages").expect("pinned"), kind);
    let page = pages_map.words(1024).expect("mapped");
    let raise = || page.store(PASS_THROUGH, page.load(PASS_THROUGH) + 1);
    let mut tracker = open_some(&disk);
    raise();
    recovers(&disk, &mut tracker, "a command past the block layer");
    raise();
    let whole = tracker.checkpoint().expect("checkpoint");
    assert!(is_tainted(&whole.verdict));
    raise();
    let since = tracker.checkpoint_since(whole.evidence.epoch).expect("checkpoint");
    assert!(is_tainted(&since.verdict), "one that came after it");
    // Nothing was stored: it is still to be told.
    assert!(is_tainted(&tracker.checkpoint().expect("checkpoint").verdict));
}

#[test]
fn another_map_of_epochs_is_noticed() {
    let Some(disk) = Tracked::new(16 << 20, 4096) else { return };
    let mut tracker = open_some(&disk);
    let like = Map::create(MapKind::Words, 1, "imgx_epoch").expect("made");
    let kind = MapKind::ArrayOfMaps { like: like.descriptor().as_raw_fd() };
    let other = Map::create(kind, 64, "imgx_epochs").expect("made");
    folder(&disk).unpin("epochs").expect("removed");
    folder(&disk).pin("epochs", other.descriptor()).expect("pinned");
    let refused = tracker.checkpoint().map(drop).map_err(|error| error.kind());
    assert_eq!(refused, Err(ErrorKind::Unsupported));
    assert!(disk.tracking().status().is_err());
    assert!(disk.tracking().start(disk.device.path(), None).expect("started"), "it was believed");
    assert!(!is_tainted(&disk.tracking().status().expect("status")[0].verdict));
}

#[test]
fn an_image_of_an_earlier_checkpoint_takes_over_only_what_came_before() {
    let Some(disk) = Tracked::new(16 << 20, 4096) else { return };
    let mut tracker = open_some(&disk);
    let (mut one, mut other) = (disk.tracker(), disk.tracker());
    let early = one.checkpoint().expect("checkpoint");
    write_page(disk.device.path(), 9);
    let late = other.checkpoint().expect("checkpoint");
    assert_eq!(pages(&late.changes), [1, 2, 3, 4, 5, 9]);
    stored(&mut one, &early);
    let next = tracker.checkpoint().expect("checkpoint");
    assert_eq!(pages(&next.changes), [9]);
    assert_eq!(follows(&next.evidence, &early.evidence), Ok(()));
    assert!(follows(&next.evidence, &late.evidence).is_err());
    // And the other way round there is nothing left to take.
    stored(&mut other, &late);
    assert_eq!(
        one.commit(early.evidence.epoch, [0; 16]).map_err(|error| error.kind()),
        Err(ErrorKind::Conflict)
    );
    let next = tracker.checkpoint().expect("checkpoint");
    assert_eq!(pages(&next.changes), [0_u64; 0]);
    assert_eq!(follows(&next.evidence, &late.evidence), Ok(()));
}

#[test]
fn a_map_is_good_for_the_image_only_that_was_stored_with_it() {
    let Some(disk) = Tracked::new(16 << 20, 4096) else { return };
    let mut tracker = disk.tracker();
    let first = tracker.checkpoint().expect("checkpoint");
    // Nobody said that it was stored.
    let next = tracker.checkpoint().expect("checkpoint");
    assert_eq!(next.evidence.image, None);
    assert!(follows(&next.evidence, &first.evidence).is_err());
    tracker.commit(next.evidence.epoch, [9; 16]).expect("committed");
    let after = tracker.checkpoint().expect("checkpoint");
    assert_eq!(after.evidence.follows(&"09".repeat(16), &next.evidence), Ok(()));
    assert!(after.evidence.follows(&"0a".repeat(16), &next.evidence).is_err());
}

#[test]
fn a_folder_that_others_could_write_to_is_not_believed_and_replaced() {
    let Some(disk) = Tracked::new(16 << 20, 4096) else { return };
    let device = disk.device.path();
    let own = Path::new("/sys/fs/bpf").join(disk.folder());
    let mode = || fs::symlink_metadata(&own).expect("there").mode() & 0o7777;
    assert_eq!(mode(), 0o700);
    // An earlier version's, which root alone could write to.
    fs::set_permissions(&own, fs::Permissions::from_mode(0o755)).expect("changed");
    assert!(disk.try_tracker().expect("opened").is_some());
    assert_eq!(mode(), 0o700);
    let open_to_all = || {
        fs::set_permissions(&own, fs::Permissions::from_mode(0o777)).expect("changed");
    };
    let of_somebody = || std::os::unix::fs::chown(&own, Some(65_534), None).expect("changed");
    // bpffs takes no dots.
    let aside = Path::new("/sys/fs/bpf").join(format!("{}-aside", disk.folder()));
    let linked = || {
        fs::rename(&own, &aside).expect("renamed");
        symlink(&aside, &own).expect("linked");
    };
    for spoil in [&open_to_all as &dyn Fn(), &of_somebody, &linked] {
        spoil();
        let kind = disk.try_tracker().map_err(|error| error.kind()).err();
        assert_eq!(kind, Some(ErrorKind::Unsupported));
        assert!(disk.tracking().status().is_err());
        assert!(disk.tracking().start(device, None).expect("started"), "it was believed");
        assert_eq!(mode(), 0o700);
        assert_eq!(fs::metadata(&own).expect("there").uid(), 0);
        assert!(disk.try_tracker().expect("opened").is_some());
    }
    open_to_all();
    assert!(disk.tracking().stop(device).expect("stopped"));
    assert!(disk.try_tracker().expect("asked").is_none());
    fs::read_dir(&aside).expect("listed").flatten().for_each(|pin| {
        fs::remove_file(pin.path()).expect("removed");
    });
    fs::remove_dir(aside).expect("removed");
}

#[test]
fn whoever_holds_the_folder_is_waited_for_a_while_only() {
    let Some(disk) = Tracked::new(16 << 20, 4096) else { return };
    let mut tracker = disk.tracker();
    let told = tracker.checkpoint().expect("checkpoint");
    let own = Path::new("/sys/fs/bpf").join(disk.folder());
    let holder = File::open(&own).expect("opened");
    let held = Flock::lock(holder, FlockArg::LockExclusive).map_err(|(_, errno)| errno);
    let held = held.expect("locked");
    let refused = tracker.checkpoint_since(told.evidence.epoch).expect_err("it is held");
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    assert!(refused.to_string().contains(disk.folder()), "{refused}");
    let kind = folder(&disk).lock(Duration::ZERO).map(drop).map_err(|error| error.kind());
    assert_eq!(kind, Err(ErrorKind::Conflict));
    drop(held);
    folder(&disk).lock(WAIT).expect("it is free again");
    tracker.checkpoint_since(told.evidence.epoch).expect("checkpoint");
}

#[test]
fn what_another_version_installed_is_refused_and_replaced() {
    let Some(disk) = Tracked::new(16 << 20, 4096) else { return };
    let device = disk.device.path();
    let earlier = || fs::rename(path(&disk, "pages"), path(&disk, "stats")).expect("renamed");
    let smaller = || {
        let pages = Map::create(MapKind::Array { value: 4096 }, 64, "imgx_stats").expect("made");
        folder(&disk).unpin("pages").expect("removed");
        folder(&disk).pin("pages", pages.descriptor()).expect("pinned");
    };
    for spoil in [&earlier as &dyn Fn(), &smaller] {
        spoil();
        let refused = disk.try_tracker().map(drop).expect_err("another version's");
        assert_eq!(refused.kind(), ErrorKind::Unsupported);
        assert!(refused.to_string().contains("another version"), "{refused}");
        assert!(disk.tracking().start(device, None).expect("started"), "it was believed");
        assert!(disk.try_tracker().expect("opened").is_some());
        let status = Tracking::named(disk.folder()).status().expect("status");
        assert!(!is_tainted(&status[0].verdict), "{status:?}");
    }
    earlier();
    assert!(disk.tracking().stop(device).expect("stopped"));
    assert_eq!(folder(&disk).names().expect("listed"), Vec::<String>::new());
}
