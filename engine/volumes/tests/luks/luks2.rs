//! LUKS2: headers by cryptsetup; payloads by the crate `xts-mode` and by qemu.

use std::sync::Arc;
use std::thread;

use imgx_fixtures::pattern::{MIB, Random, incompressible};
use imgx_volumes::base::{ByteOffset, ByteRange, ErrorKind, ReadAt};
use imgx_volumes::volume::luks::{Header, Opened, Version};
use imgx_volumes::volume::{Kind, Layer, probe};

use crate::need;
use crate::support::{
    Folder, PASSPHRASE, assert_holds, cryptsetup, edited, header, key, opened, refused, secret,
};

const START: usize = 16 * MIB as usize;

#[test]
fn every_sector_size_is_read_at_every_alignment() {
    need!("cryptsetup");
    let folder = Folder::new();
    let plain = incompressible(11, MIB as usize);
    for size in ["512", "1024", "2048", "4096"] {
        let mut known = folder.format_known("volume", MIB, &["--sector-size", size]);
        let sector = size.parse().expect("a number");
        known.encrypt(START, &plain, (sector, 0));
        let found = header(&known.bytes);
        assert_eq!(found.sector_size() as usize, sector);
        assert_eq!(found.payload_length(known.bytes.size()), MIB);
        assert_holds(&opened(&known.bytes), &plain, size);
    }
}

#[test]
fn every_key_derivation_opens_its_keyslot() {
    need!("cryptsetup");
    let folder = Folder::new();
    let plain = incompressible(12, 64 * 1024);
    let argon2 = |kind, passes, memory, lanes| {
        let costs = ["--pbkdf-force-iterations", passes, "--pbkdf-memory", memory];
        [&["--pbkdf", kind][..], &costs, &["--pbkdf-parallel", lanes]].concat()
    };
    let cases = [
        argon2("argon2id", "4", "64", "1"),
        argon2("argon2id", "5", "1024", "4"),
        argon2("argon2i", "4", "128", "2"),
        argon2("argon2i", "7", "4096", "3"),
        vec!["--pbkdf", "pbkdf2", "--hash", "sha512"],
        vec!["--pbkdf", "pbkdf2", "--hash", "sha1"],
        vec!["--pbkdf", "pbkdf2", "--hash", "whirlpool"],
        vec!["--pbkdf", "pbkdf2", "--hash", "ripemd160"],
    ];
    for options in cases {
        let sector = ["--sector-size", "512"];
        let mut known = folder.format_known("volume", 64 * 1024, &[&options[..], &sector].concat());
        known.encrypt(START, &plain, (512, 0));
        let what = format!("{options:?}");
        assert_eq!(header(&known.bytes).keyslots().next().map(|slot| slot.1), Some(options[1]));
        assert_holds(&opened(&known.bytes), &plain, &what);
        let wrong = header(&known.bytes).unlock(&known.bytes, &secret("wrong"));
        assert_eq!(refused(wrong).0, ErrorKind::Key, "{what}");
    }
}

#[test]
fn a_converted_luks1_volume_is_read() {
    need!("cryptsetup");
    let folder = Folder::new();
    let path = folder.format("volume", 20 * MIB, &["--type", "luks1"]);
    let before = opened(&folder.read("volume"));
    let mut expected = vec![0; MIB as usize];
    before.read_exact_at(ByteOffset(0), &mut expected).expect("read");
    cryptsetup(&["convert", "--batch-mode", "--type", "luks2", &path]);
    let bytes = folder.read("volume");
    assert_eq!(header(&bytes).version(), Version::Luks2);
    let after = opened(&bytes);
    assert_eq!(before.size(), after.size());
    let mut found = vec![0; MIB as usize];
    after.read_exact_at(ByteOffset(0), &mut found).expect("read");
    assert!(found == expected);
}

#[test]
fn a_header_kept_apart_opens_its_data_and_not_itself() {
    need!("cryptsetup");
    let folder = Folder::new();
    for kind in ["luks1", "luks2"] {
        let apart = folder.blank("header", 16 * MIB);
        folder.format("data", MIB, &["--type", kind, "--pbkdf", "pbkdf2", "--header", &apart]);
        let bytes = folder.read("header");
        let found = header(&bytes);
        assert!(found.is_detached(), "{kind}");
        assert_eq!(found.payload_start(), 0);
        let key = found.unlock(&bytes, &secret(PASSPHRASE)).expect("it opens");
        let data = incompressible(5, MIB as usize);
        let volume = Opened::new(Arc::new(data), &found, &key).expect("its data can be read");
        assert_eq!(volume.size().0, MIB);
        let (error, text) = refused(Opened::new(Arc::new(bytes), &found, &key));
        assert_eq!(error, ErrorKind::Invalid);
        assert!(text.contains("another device"), "{text}");
        assert!(Header::read(&folder.read("data")).expect("it can be read").is_none());
    }
}

#[test]
fn segments_follow_one_another() {
    need!("cryptsetup");
    let folder = Folder::new();
    let mut known = folder.format_known("volume", MIB, &["--sector-size", "4096"]);
    let text = crate::support::json(&known.bytes);
    let from = text.find("\"segments\":").expect("segments");
    let to = text.find(",\"digests\"").expect("digests");
    let crypt = "\"encryption\":\"aes-xts-plain64\",\"type\":\"crypt\"";
    let base = 16 * MIB;
    let segments = format!(
        "\"segments\":{{\
         \"0\":{{{crypt},\"offset\":\"{}\",\"size\":\"65536\",\"iv_tweak\":\"4096\",\
         \"sector_size\":4096}},\
         \"1\":{{\"type\":\"linear\",\"offset\":\"{base}\",\"size\":\"65536\"}},\
         \"2\":{{{crypt},\"offset\":\"{}\",\"size\":\"1024\",\"iv_tweak\":\"0\",\
         \"sector_size\":1024,\"flags\":[\"backup-final\"]}},\
         \"3\":{{{crypt},\"offset\":\"{}\",\"size\":\"dynamic\",\"iv_tweak\":\"7\",\
         \"sector_size\":512}}}}",
        base + 131_072,
        base,
        base + 65_536 + 131_072
    );
    let all = "\"segments\":[\"0\"]";
    known.bytes = edited(&known.bytes, &[(&text[from..to], &segments)]);
    known.bytes = edited(&known.bytes, &[(all, "\"segments\":[\"0\",\"3\"]")]);
    let plain = incompressible(13, MIB as usize);
    let rest = MIB as usize - 196_608;
    known.encrypt(START + 131_072, &plain[..65_536], (4096, 4096));
    known.bytes[START..START + 65_536].copy_from_slice(&plain[65_536..131_072]);
    known.encrypt(START + 196_608, &plain[131_072..131_072 + rest], (512, 7));
    let volume = opened(&known.bytes);
    assert_holds(&volume, &plain[..131_072 + rest], "segments");
    let mut places = Vec::new();
    let within = ByteRange { start: 65_535, end: 131_073 };
    volume.each_place(within, &mut |layer, range| places.push((layer, range))).expect("known");
    let expected = [
        (0, ByteRange::new(base + 131_072 + 61_440, 4096)),
        (0, ByteRange::new(base, 65_536)),
        (0, ByteRange::new(base + 196_608, 512)),
    ];
    assert_eq!(places, expected);
    // A second key would be another matter.
    let apart = edited(&known.bytes, &[("\"segments\":[\"0\",\"3\"]", "\"segments\":[\"0\"]")]);
    let result = header(&apart).unlock(&apart, &secret(PASSPHRASE));
    assert_eq!(refused(result).0, ErrorKind::Unsupported);
}

#[test]
fn places_below_are_whole_sectors_and_no_others() {
    need!("cryptsetup");
    let folder = Folder::new();
    let known = folder.format_known("volume", MIB, &["--sector-size", "4096"]);
    let volume = opened(&known.bytes);
    for (within, expected) in [
        (ByteRange { start: 0, end: 1 }, Some((0, 4096))),
        (ByteRange { start: 4095, end: 4097 }, Some((0, 8192))),
        (ByteRange { start: 8192, end: 12_288 }, Some((8192, 4096))),
        (ByteRange { start: MIB - 1, end: u64::MAX }, Some((MIB - 4096, 4096))),
        (ByteRange { start: 5, end: 5 }, None),
        (ByteRange { start: MIB, end: MIB + 1 }, None),
    ] {
        let mut places = Vec::new();
        volume.each_place(within, &mut |_, range| places.push(range)).expect("known");
        let expected = expected.map(|(at, length)| ByteRange::new(16 * MIB + at, length));
        assert_eq!(places, expected.into_iter().collect::<Vec<_>>(), "{within}");
    }
    // A part of a sector at the device's end is no part of the volume.
    let mut cut = known.bytes.clone();
    cut.truncate(START + 10_000);
    assert_eq!(opened(&cut).size().0, 8192);
    cut.truncate(START - 512);
    let found = header(&cut);
    let result = Opened::new(Arc::new(cut), &found, &key(&known.key));
    assert_eq!(refused(result).0, ErrorKind::Corrupt);
}

#[test]
fn threads_share_an_opened_volume() {
    need!("cryptsetup");
    let folder = Folder::new();
    let plain = incompressible(14, MIB as usize);
    let mut known = folder.format_known("volume", MIB, &["--sector-size", "4096"]);
    known.encrypt(START, &plain, (4096, 0));
    let volume = opened(&known.bytes);
    thread::scope(|scope| {
        for seed in 0..4 {
            let (volume, plain) = (&volume, &plain);
            scope.spawn(move || {
                let mut random = Random::new(seed);
                for _ in 0..500 {
                    let start = random.below(MIB - 5000);
                    let mut bytes = vec![0; random.below(5000) as usize];
                    volume.read_exact_at(ByteOffset(start), &mut bytes).expect("read");
                    assert!(bytes == plain[start as usize..][..bytes.len()]);
                }
            });
        }
    });
}

#[test]
fn labels_and_uuids_are_those_of_cryptsetup() {
    need!("cryptsetup");
    let folder = Folder::new();
    let uuid = "01234567-89ab-4def-8123-456789abcdef";
    let options = ["--uuid", uuid, "--label", "secrets", "--subsystem", "mail"];
    let known = folder.format_known("volume", MIB, &options);
    let found = header(&known.bytes);
    assert_eq!(found.uuid(), Some(uuid));
    assert_eq!((found.label(), found.subsystem()), (Some("secrets"), Some("mail")));
    let bytes: Arc<dyn ReadAt> = Arc::new(known.bytes.clone());
    let layout = probe(&bytes, 512).expect("the probe runs");
    let content = layout.volumes[0].content.clone().expect("it has content");
    assert_eq!(content.kind, Kind::Luks);
    assert_eq!((content.label.as_deref(), content.uuid.as_deref()), (Some("secrets"), Some(uuid)));
    assert!(layout.notes.is_empty(), "{:?}", layout.notes);
}

#[test]
fn a_volume_key_is_known_to_be_right() {
    need!("cryptsetup");
    let folder = Folder::new();
    let mut known = folder.format_known("volume", MIB, &[]);
    let found = header(&known.bytes);
    found.check_key(&key(&known.key)).expect("it is the one");
    known.key[63] ^= 1;
    assert_eq!(refused(found.check_key(&key(&known.key))).0, ErrorKind::Key);
    assert_eq!(refused(found.check_key(&key(&known.key[..32]))).0, ErrorKind::Key);
}

#[test]
fn a_reencryption_that_has_begun_is_refused_by_name() {
    need!("cryptsetup");
    let folder = Folder::new();
    let path = folder.format("volume", 64 * MIB, &["--type", "luks2", "--pbkdf", "pbkdf2"]);
    let sound = folder.read("volume");
    let secret_file = folder.path("passphrase");
    cryptsetup(&["reencrypt", "--batch-mode", "--init-only", "--key-file", &secret_file, &path]);
    let bytes = folder.read("volume");
    let found = header(&bytes);
    assert_eq!(found.requirements(), ["online-reencrypt-v2"]);
    let (kind, text) = refused(found.unlock(&bytes, &secret(PASSPHRASE)));
    assert_eq!(kind, ErrorKind::Unsupported);
    assert!(text.contains("online-reencrypt-v2"), "{text}");
    // The same key, had it not been refused, would be that of the old segment.
    let before = header(&sound);
    let key = before.unlock(&sound, &secret(PASSPHRASE)).expect("it opened before");
    assert_eq!(refused(Opened::new(Arc::new(bytes), &found, &key)).0, ErrorKind::Unsupported);
}
