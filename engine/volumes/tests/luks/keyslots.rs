//! Keyslots: which are tried, in which order, and with what.

use std::fs;
use std::sync::Mutex;

use imgx_fixtures::pattern::MIB;
use imgx_volumes::base::{ByteCount, ByteOffset, ErrorKind, ReadAt, Result};
use imgx_volumes::volume::luks::{Priority, Secret};

use crate::need;
use crate::support::{Folder, PASSPHRASE, cryptsetup, edited, header, key, refused, secret};

/// Adds a keyslot to the volume by the passphrase that is there.
fn add(folder: &Folder, slot: &str, new: &[u8]) {
    let new = folder.write("new", new);
    let (old, volume) = (folder.path("passphrase"), folder.path("volume"));
    let quick = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    let rest = ["--batch-mode", "--key-slot", slot, "--key-file", &old, &volume, &new];
    cryptsetup(&[&["luksAddKey"][..], &quick, &rest].concat());
}

/// A device that remembers where it was read.
struct Watched(Vec<u8>, Mutex<Vec<u64>>);

impl ReadAt for Watched {
    fn size(&self) -> ByteCount {
        self.0.size()
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        self.1.lock().expect("no thread failed").push(offset.0);
        self.0.read_exact_at(offset, buffer)
    }
}

#[test]
fn each_keyslots_secret_opens_the_volume() {
    need!("cryptsetup");
    let folder = Folder::new();
    for kind in ["luks1", "luks2"] {
        folder.format("volume", 20 * MIB, &["--type", kind, "--pbkdf", "pbkdf2"]);
        // A key file counts with its newlines and zeros.
        let file = b"line\n\0\xff\xfe line\n";
        add(&folder, "1", file);
        add(&folder, "5", "ü".repeat(200).as_bytes());
        let bytes = folder.read("volume");
        let found = header(&bytes);
        let expected: Vec<u32> = vec![0, 1, 5];
        assert_eq!(found.keyslots().map(|slot| slot.0).collect::<Vec<_>>(), expected, "{kind}");
        for good in [PASSPHRASE.as_bytes(), file, "ü".repeat(200).as_bytes()] {
            let key = found.unlock(&bytes, &Secret::new(good.to_vec())).expect("it opens");
            found.check_key(&key).expect("it is the volume's");
        }
        for wrong in [&file[..file.len() - 1], b"line", b""] {
            let (kind, text) = refused(found.unlock(&bytes, &Secret::new(wrong.to_vec())));
            assert_eq!(kind, ErrorKind::Key, "{text}");
            assert!(text.contains("tried 0, 1, 5"), "{text}");
        }
    }
}

#[test]
fn preferred_keyslots_come_first_and_ignored_ones_only_when_asked_for() {
    need!("cryptsetup");
    let folder = Folder::new();
    let path = folder.format("volume", 20 * MIB, &["--type", "luks2", "--pbkdf", "pbkdf2"]);
    add(&folder, "1", b"second");
    add(&folder, "2", b"third");
    for (slot, priority) in [("0", "ignore"), ("2", "prefer")] {
        cryptsetup(&["config", "--key-slot", slot, "--priority", priority, &path]);
    }
    let bytes = folder.read("volume");
    let found = header(&bytes);
    let priorities: Vec<_> = found.keyslots().map(|slot| slot.2).collect();
    assert_eq!(priorities, [Priority::Ignore, Priority::Normal, Priority::Prefer]);
    let watched = Watched(bytes, Mutex::new(Vec::new()));
    let (kind, text) = refused(found.unlock(&watched, &secret(PASSPHRASE)));
    assert_eq!(kind, ErrorKind::Key);
    assert!(text.contains("tried 2, 1"), "{text}");
    let areas = watched.1.lock().expect("no thread failed").clone();
    assert_eq!(areas, [32_768 + 2 * 258_048, 32_768 + 258_048]);
    found.unlock(&watched.0, &secret("second")).expect("a normal one is tried");
    found.unlock_keyslot(&watched.0, &secret(PASSPHRASE), 0).expect("it was asked for");
    let other = found.unlock_keyslot(&watched.0, &secret(PASSPHRASE), 1);
    assert_eq!(refused(other).0, ErrorKind::Key);
    let none = found.unlock_keyslot(&watched.0, &secret(PASSPHRASE), 9);
    assert_eq!(refused(none).0, ErrorKind::NotFound);
}

#[test]
fn a_keyslot_of_another_key_is_not_tried() {
    need!("cryptsetup");
    let folder = Folder::new();
    let path = folder.format("volume", 20 * MIB, &["--type", "luks2", "--pbkdf", "pbkdf2"]);
    let other = folder.write("other", &[9; 64]);
    let new = folder.write("new", b"unbound");
    cryptsetup(&[
        "luksAddKey",
        "--batch-mode",
        "--unbound",
        "--key-size",
        "512",
        "--volume-key-file",
        &other,
        "--pbkdf",
        "pbkdf2",
        "--pbkdf-force-iterations",
        "1000",
        "--key-slot",
        "4",
        &path,
        &new,
    ]);
    let bytes = folder.read("volume");
    let (kind, text) = refused(header(&bytes).unlock(&bytes, &secret("unbound")));
    assert_eq!(kind, ErrorKind::Key);
    assert!(text.contains("tried 0)"), "{text}");
    assert_eq!(refused(header(&bytes).check_key(&key(&[9; 64]))).0, ErrorKind::Key);
}

#[test]
fn a_killed_keyslot_opens_nothing() {
    need!("cryptsetup");
    let folder = Folder::new();
    for kind in ["luks1", "luks2"] {
        let path = folder.format("volume", 20 * MIB, &["--type", kind, "--pbkdf", "pbkdf2"]);
        add(&folder, "1", b"second");
        cryptsetup(&["luksKillSlot", "--batch-mode", &path, "0"]);
        let bytes = fs::read(&path).expect("read");
        let found = header(&bytes);
        assert_eq!(refused(found.unlock(&bytes, &secret(PASSPHRASE))).0, ErrorKind::Key);
        found.unlock(&bytes, &secret("second")).expect("the other one opens it");
        // Without any keyslot, nothing is tried.
        cryptsetup(&["luksErase", "--batch-mode", &path]);
        let bytes = fs::read(&path).expect("read");
        let (kind, text) = refused(header(&bytes).unlock(&bytes, &secret("second")));
        assert_eq!(kind, ErrorKind::Key);
        assert!(text.contains("no keyslot"), "{text}");
    }
}

#[test]
fn one_keyslot_that_cannot_be_tried_leaves_the_others() {
    need!("cryptsetup");
    let folder = Folder::new();
    folder.format("volume", 20 * MIB, &["--type", "luks2", "--pbkdf", "pbkdf2"]);
    add(&folder, "1", b"second");
    let bytes = edited(&folder.read("volume"), &[("\"type\":\"pbkdf2\"", "\"type\":\"scrypt\"")]);
    let found = header(&bytes);
    assert_eq!(found.keyslots().next(), Some((0, "scrypt", Priority::Normal)));
    found.unlock(&bytes, &secret("second")).expect("the other one opens it");
    let (kind, text) = refused(found.unlock(&bytes, &secret(PASSPHRASE)));
    assert_eq!(kind, ErrorKind::Unsupported);
    assert!(text.contains("keyslot 0") && text.contains("scrypt"), "{text}");
    assert!(text.contains("keyslots 1 not opened"), "{text}");
}
