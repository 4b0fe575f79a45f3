//! The two copies of a LUKS2 header.

use imgx_fixtures::pattern::MIB;
use imgx_volumes::base::ErrorKind;
use imgx_volumes::volume::luks::{Header, HeaderCopy};

use crate::need;
use crate::support::{Folder, PASSPHRASE, cryptsetup, header, refused, seal, secret};

const SIZE: usize = 0x4000;

fn formatted(folder: &Folder) -> Vec<u8> {
    folder.format("volume", 20 * MIB, &["--type", "luks2", "--pbkdf", "pbkdf2"]);
    folder.read("volume")
}

#[test]
fn damage_of_one_copy_leaves_the_other_and_is_told() {
    need!("cryptsetup");
    let folder = Folder::new();
    let sound = formatted(&folder);
    assert_eq!(header(&sound).damage(), None);
    // Magic, version, checksum, JSON, size, place of the copy.
    for at in [0, 7, 450, 4100, 15, 263] {
        let mut bytes = sound.clone();
        bytes[at] ^= 0x40;
        let found = header(&bytes);
        assert_eq!(found.copy(), HeaderCopy::Second, "{at}");
        let damage = found.damage().expect("it is told");
        assert!(damage.contains("first LUKS2 header is damaged"), "{damage}");
        assert_eq!(found.uuid(), header(&sound).uuid());
        found.unlock(&bytes, &secret(PASSPHRASE)).expect("it opens");

        let mut bytes = sound.clone();
        bytes[SIZE + at] ^= 0x40;
        let found = header(&bytes);
        assert_eq!(found.copy(), HeaderCopy::First, "{at}");
        let damage = found.damage().expect("it is told");
        assert!(damage.contains("second LUKS2 header is"), "{damage}");
        found.unlock(&bytes, &secret(PASSPHRASE)).expect("it opens");

        let mut bytes = sound.clone();
        bytes[at] ^= 0x40;
        bytes[SIZE + at] ^= 0x40;
        match at {
            0 => assert_eq!(Header::read(&bytes).expect("no error"), None),
            7 => assert_eq!(refused(Header::read(&bytes)).0, ErrorKind::Unsupported),
            _ => assert_eq!(refused(Header::read(&bytes)).0, ErrorKind::Corrupt, "{at}"),
        }
    }
}

#[test]
fn of_two_sound_copies_the_newer_counts() {
    need!("cryptsetup");
    let folder = Folder::new();
    let old = formatted(&folder);
    cryptsetup(&["config", "--label", "newer", &folder.path("volume")]);
    let new = folder.read("volume");
    for (stale, copy) in [(0, HeaderCopy::Second), (SIZE, HeaderCopy::First)] {
        let mut bytes = new.clone();
        bytes[stale..stale + SIZE].copy_from_slice(&old[stale..stale + SIZE]);
        let found = header(&bytes);
        assert_eq!((found.copy(), found.label()), (copy, Some("newer")));
        assert_eq!(found.damage().is_some(), copy == HeaderCopy::Second);
        // The same that cryptsetup takes.
        let path = folder.write("mixed", &bytes);
        assert!(cryptsetup(&["luksDump", &path]).contains("newer"));
    }
}

#[test]
fn the_second_copy_is_found_at_each_of_its_places() {
    need!("cryptsetup");
    let folder = Folder::new();
    for size in ["16k", "32k", "64k", "128k", "256k", "512k", "1m", "2m", "4m"] {
        let options = ["--type", "luks2", "--pbkdf", "pbkdf2", "--luks2-metadata-size", size];
        folder.format("volume", 20 * MIB, &options);
        let sound = folder.read("volume");
        let mut bytes = sound.clone();
        bytes[..4096].fill(0);
        let found = header(&bytes);
        assert_eq!((found.copy(), found.uuid()), (HeaderCopy::Second, header(&sound).uuid()));
        found.unlock(&bytes, &secret(PASSPHRASE)).expect("it opens");
    }
}

#[test]
fn checksums_of_other_kinds() {
    need!("cryptsetup");
    let folder = Folder::new();
    let sound = formatted(&folder);
    let mut bytes = sound.clone();
    for start in [0, SIZE] {
        bytes[start + 72..start + 80].copy_from_slice(b"crc32\0\0\0");
        seal(&mut bytes[start..start + SIZE]);
    }
    assert_eq!(refused(Header::read(&bytes)).0, ErrorKind::Corrupt);
    // A device that ends within its headers.
    for size in [0, 511, 4096, 10_000, 2 * SIZE - 1] {
        let cut = sound[..size].to_vec();
        match size {
            0 | 511 => assert_eq!(Header::read(&cut).expect("no error"), None),
            4096 | 10_000 => assert_eq!(refused(Header::read(&cut)).0, ErrorKind::Corrupt),
            _ => assert!(header(&cut).damage().is_some()),
        }
    }
}
