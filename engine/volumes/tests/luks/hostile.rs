//! Headers whose checksums are right, and whose contents are made to harm.

use std::sync::Arc;

use imgx_fixtures::pattern::{MIB, Random};
use imgx_volumes::base::{ByteOffset, ErrorKind, ReadAt};
use imgx_volumes::volume::luks::{Header, Opened};

use crate::need;
use crate::support::{
    Folder, PASSPHRASE, copies, edited, header, json, key, put_json, refused, seal, secret,
};

const ARGON2: [&str; 8] = [
    "--type",
    "luks2",
    "--pbkdf",
    "argon2id",
    "--pbkdf-force-iterations",
    "4",
    "--pbkdf-memory",
    "64",
];

#[test]
fn headers_that_make_no_sense_are_damaged() {
    need!("cryptsetup");
    let folder = Folder::new();
    folder.format("volume", 20 * MIB, &ARGON2);
    let sound = folder.read("volume");
    let cases: [&[(&str, &str)]; 17] = [
        &[("\"key_size\":64", "\"key_size\":0")],
        &[("\"key_size\":64", "\"key_size\":18446744073709551615")],
        &[("\"key_size\":64", "\"key_size\":-1")],
        &[("\"stripes\":4000", "\"stripes\":0")],
        &[("\"stripes\":4000", "\"stripes\":4000000000")],
        &[("\"offset\":\"32768\"", "\"offset\":\"0\"")],
        &[("\"offset\":\"32768\"", "\"offset\":\"18446744073709551615\"")],
        &[("\"offset\":\"32768\"", "\"offset\":\"16777216\"")],
        &[("\"size\":\"258048\"", "\"size\":\"1024\"")],
        &[("\"json_size\":\"12288\"", "\"json_size\":\"4096\"")],
        &[("\"keyslots_size\":\"", "\"keyslots_size\":\"99999999999")],
        &[("\"sector_size\":4096", "\"sector_size\":0")],
        &[("\"sector_size\":4096", "\"sector_size\":8192")],
        &[("\"size\":\"dynamic\"", "\"size\":\"4097\"")],
        &[("\"size\":\"dynamic\"", "\"size\":\"0\"")],
        &[("\"offset\":\"16777216\"", "\"offset\":\"16777217\"")],
        &[("\"salt\":\"", "\"salt\":\"*")],
    ];
    for edits in cases {
        let (kind, text) = refused(Header::read(&edited(&sound, edits)));
        assert_eq!(kind, ErrorKind::Corrupt, "{edits:?}: {text}");
        assert!(text.contains("LUKS2 header"), "{text}");
    }
}

#[test]
fn areas_that_overlap_are_damage() {
    need!("cryptsetup");
    let folder = Folder::new();
    folder.format("volume", 20 * MIB, &ARGON2);
    let sound = folder.read("volume");
    let text = json(&sound);
    let slot = &text
        [text.find("\"0\":{").expect("a keyslot")..text.find("},\"tokens\"").expect("it ends")];
    let twice = format!("{slot},{}", slot.replacen("\"0\"", "\"1\"", 1).replace("32768", "290816"));
    header(&edited(&sound, &[(slot, &twice)]));
    let twice = twice.replace("290816", "290304");
    let (kind, said) = refused(Header::read(&edited(&sound, &[(slot, &twice)])));
    assert_eq!(kind, ErrorKind::Corrupt);
    assert!(said.contains("keyslot 1"), "{said}");
}

#[test]
fn costs_beyond_limits_are_refused_and_told() {
    need!("cryptsetup");
    let folder = Folder::new();
    folder.format("volume", 20 * MIB, &ARGON2);
    let sound = folder.read("volume");
    let cases = [
        ("\"memory\":64", "\"memory\":4194305", ErrorKind::Limit, "4194305 KiB"),
        ("\"memory\":64", "\"memory\":18446744073709551615", ErrorKind::Limit, "memory"),
        ("\"time\":4", "\"time\":4294967295", ErrorKind::Limit, "4294967295 passes"),
        ("\"cpus\":", "\"cpus\":6000", ErrorKind::Limit, "lanes"),
        ("\"memory\":64", "\"memory\":1", ErrorKind::Corrupt, "1 KiB"),
        ("\"time\":4", "\"time\":0", ErrorKind::Corrupt, "0 passes"),
        ("\"iterations\":", "\"iterations\":99999999", ErrorKind::Limit, "iterations"),
    ];
    for (from, to, kind, said) in cases {
        let bytes = edited(&sound, &[(from, to)]);
        let (found, text) = refused(header(&bytes).unlock(&bytes, &secret(PASSPHRASE)));
        assert_eq!(found, kind, "{to}: {text}");
        assert!(text.contains(said) && text.contains("keyslot 0"), "{text}");
    }
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    need!("cryptsetup");
    let folder = Folder::new();
    folder.format("volume", 20 * MIB, &ARGON2);
    let sound = folder.read("volume");
    let config = "\"config\":{";
    let integrity = "\"integrity\":{\"type\":\"hmac(sha256)\",\"journal_encryption\":\"none\"},";
    let segment = format!("{integrity}\"encryption\":\"aes-xts-plain64\",\"sector_size\"");
    let quantum = "\"config\":{\"requirements\":{\"mandatory\":[\"quantum-safe\"]},";
    let cases = [
        (config, quantum, "quantum-safe"),
        ("\"type\":\"crypt\"", "\"type\":\"hw-opal-crypt\"", "hw-opal-crypt"),
        ("\"encryption\":\"aes-xts-plain64\",\"sector_size\"", segment.as_str(), "hmac(sha256)"),
        ("\"type\":\"luks2\"", "\"type\":\"luks9\"", "luks9"),
        ("\"type\":\"argon2id\"", "\"type\":\"argon3\"", "argon3"),
        ("\"hash\":\"sha256\"", "\"hash\":\"md5\"", "md5"),
        (
            "\"encryption\":\"aes-xts-plain64\"",
            "\"encryption\":\"aria-ctr-plain\"",
            "aria-ctr-plain",
        ),
    ];
    for (from, to, name) in cases {
        let bytes = edited(&sound, &[(from, to)]);
        let (kind, text) = refused(header(&bytes).unlock(&bytes, &secret(PASSPHRASE)));
        assert_eq!(kind, ErrorKind::Unsupported, "{to}: {text}");
        assert!(text.contains(name), "{text}");
    }
    let encryption = "\"encryption\":\"aes-xts-plain64\",\"sector_size\"";
    let other = "\"encryption\":\"xchacha12,aes-adiantum-plain64\",\"sector_size\"";
    let bytes = edited(&sound, &[(encryption, other)]);
    let found = header(&bytes);
    let volume_key = found.unlock(&bytes, &secret(PASSPHRASE)).expect("the key can be had");
    let (kind, text) = refused(Opened::new(Arc::new(bytes), &found, &volume_key));
    assert_eq!(kind, ErrorKind::Unsupported);
    assert!(text.contains("adiantum"), "{text}");
}

#[test]
fn a_digest_that_says_nothing_makes_no_key_right() {
    need!("cryptsetup");
    let folder = Folder::new();
    folder.format("volume", 20 * MIB, &ARGON2);
    let sound = folder.read("volume");
    let text = json(&sound);
    let at = text.find("\"digest\":\"").expect("a digest");
    let digest = &text[at..at + 10 + text[at + 10..].find('"').expect("it ends") + 1];
    let bytes = edited(&sound, &[(digest, "\"digest\":\"\"")]);
    for result in [
        header(&bytes).unlock(&bytes, &secret("wrong")),
        header(&bytes).check_key(&key(&[1; 64])).map(|()| key(&[])),
    ] {
        assert_eq!(refused(result).0, ErrorKind::Corrupt);
    }
    let none = edited(&sound, &[("\"segments\":[\"0\"]", "\"segments\":[]")]);
    assert_eq!(refused(header(&none).unlock(&none, &secret(PASSPHRASE))).0, ErrorKind::Corrupt);
}

#[test]
fn depth_and_numbers_of_objects_end_somewhere() {
    need!("cryptsetup");
    let folder = Folder::new();
    let wide = ["--luks2-metadata-size", "4m", "--luks2-keyslots-size", "1m"];
    folder.format("volume", 20 * MIB, &[&ARGON2[..], &wide].concat());
    let sound = folder.read("volume");
    // Tokens are passed over, however deep.
    let deep = format!("\"tokens\":{{\"0\":{}{}}}", "[".repeat(1_000_000), "]".repeat(1_000_000));
    let bytes = edited(&sound, &[("\"tokens\":{}", &deep)]);
    header(&bytes).unlock(&bytes, &secret(PASSPHRASE)).expect("it opens");
    let deep = format!("\"segments\":{}", "[".repeat(1_000_000));
    let bytes = edited(&sound, &[("\"segments\":", &deep)]);
    assert_eq!(refused(Header::read(&bytes)).0, ErrorKind::Corrupt);
    let segments: Vec<String> =
        (0..33).map(|number| format!("\"{number}\":{{\"type\":\"x\"}}")).collect();
    let many = format!("\"segments\":{{{}}},\"old\":", segments.join(","));
    let bytes = edited(&sound, &[("\"segments\":", &many)]);
    let (kind, text) = refused(Header::read(&bytes));
    assert_eq!(kind, ErrorKind::Limit);
    assert!(text.contains("33 segments"), "{text}");
}

/// The short run of `engine/fuzz/fuzz_targets/luks.rs`.
#[test]
fn random_damage_under_right_checksums_never_panics() {
    need!("cryptsetup");
    let folder = Folder::new();
    for kind in ["luks1", "luks2"] {
        folder.format("volume", 17 * MIB, &["--type", kind, "--pbkdf", "pbkdf2"]);
        let mut sound = folder.read("volume");
        sound.truncate(0x8000);
        let used = if kind == "luks1" { 592 } else { 4096 + json(&sound).len() };
        let mut random = Random::new(99);
        let mut read = 0;
        for _ in 0..3000 {
            let mut bytes = sound.clone();
            for _ in 0..=random.below(4) {
                let at = random.below(used as u64) as usize;
                bytes[at] = random.next_u64() as u8;
            }
            if kind == "luks2" && random.below(8) > 0 {
                seal(&mut bytes[..0x4000]);
                bytes[0x4000..].fill(0);
            }
            let Ok(Some(header)) = Header::read(&bytes) else { continue };
            read += 1;
            let volume_key = key(&vec![3; header.key_size().unwrap_or(64)]);
            bytes.resize(bytes.len() + 0x8000, 7);
            if let Ok(volume) = Opened::new(Arc::new(bytes), &header, &volume_key) {
                let mut buffer = vec![0; volume.size().0.min(5000) as usize];
                volume.read_exact_at(ByteOffset(0), &mut buffer).expect("within it");
            }
        }
        assert!(read > 100, "{kind}: only {read} were headers");
    }
    // The helpers themselves leave a sound header sound.
    folder.format("volume", 17 * MIB, &ARGON2);
    let mut bytes = folder.read("volume");
    let text = json(&bytes);
    put_json(&mut bytes, &text);
    assert_eq!(copies(&bytes)[1], (0x4000, 0x4000));
    assert_eq!(header(&bytes).damage(), None);
}
