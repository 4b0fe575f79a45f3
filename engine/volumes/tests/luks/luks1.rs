//! LUKS1: headers by cryptsetup and qemu-img, payloads by qemu's own LUKS driver.

use imgx_fixtures::pattern::{MIB, incompressible};
use imgx_fixtures::tool;
use imgx_volumes::base::{ByteRange, ReadAt, Window};
use imgx_volumes::volume::luks::{Header, HeaderCopy, Priority, Version};

use crate::need;
use crate::support::{Folder, PASSPHRASE, assert_holds, header, opened, refused, secret};

/// Puts `plain` into the LUKS1 volume `path` by qemu.
fn fill(folder: &Folder, path: &str, plain: &[u8]) {
    let raw = folder.write("plain", plain);
    let secret = format!("secret,id=s,data={PASSPHRASE}");
    let target = format!("driver=luks,key-secret=s,file.driver=file,file.filename={path}");
    let arguments =
        ["convert", "-f", "raw", "-n", "--object", &secret, "--target-image-opts", &raw, &target];
    tool::run("qemu-img", &arguments).expect("qemu-img writes it");
}

#[test]
fn payloads_by_qemu_are_read_with_every_cipher_that_both_know() {
    need!("cryptsetup", "qemu-img");
    let folder = Folder::new();
    let plain = incompressible(3, MIB as usize);
    for (cipher, bits) in [
        ("aes-xts-plain64", "512"),
        ("aes-xts-plain64", "256"),
        ("aes-xts-plain", "512"),
        ("aes-xts-essiv:sha256", "512"),
        ("aes-cbc-essiv:sha256", "256"),
        ("aes-cbc-essiv:sha256", "128"),
        ("aes-cbc-plain", "256"),
        ("aes-cbc-plain64", "256"),
    ] {
        let what = format!("{cipher} {bits}");
        let options = ["--type", "luks1", "--cipher", cipher, "--key-size", bits];
        let path = folder.format("volume", 4 * MIB, &options);
        fill(&folder, &path, &plain);
        let bytes = folder.read("volume");
        let found = header(&bytes);
        assert_eq!(found.encryption(), Some(cipher));
        assert_eq!(found.key_size(), Some(bits.parse::<usize>().expect("a number") / 8));
        // What qemu wrote is the volume's start.
        let volume = opened(&bytes);
        assert_eq!(volume.size().0, 4 * MIB - found.payload_start());
        let start = Window::new(volume, ByteRange::new(0, MIB)).expect("it is as long");
        assert_holds(&start, &plain, &what);
    }
}

#[test]
fn serpent_and_twofish_by_qemu_are_read() {
    need!("qemu-img");
    let folder = Folder::new();
    let plain = incompressible(4, 100 * 1024);
    let raw = folder.write("plain", &plain);
    for (cipher, mode, values, hash) in
        [("serpent-256", "xts", "plain64", "sha1"), ("twofish-256", "cbc", "essiv", "sha512")]
    {
        let path = folder.path("volume");
        let _ = std::fs::remove_file(&path);
        let secret = format!("secret,id=s,data={PASSPHRASE}");
        let options = format!(
            "key-secret=s,cipher-alg={cipher},cipher-mode={mode},ivgen-alg={values},\
             ivgen-hash-alg=sha256,hash-alg={hash},iter-time=10"
        );
        let options = match values {
            "essiv" => options,
            _ => options.replace("ivgen-hash-alg=sha256,", ""),
        };
        let arguments = [
            "convert", "-f", "raw", "-O", "luks", "--object", &secret, "-o", &options, &raw, &path,
        ];
        tool::run("qemu-img", &arguments).expect("qemu-img makes it");
        assert_holds(&opened(&folder.read("volume")), &plain, &options);
    }
}

#[test]
fn every_hash_of_cryptsetup_opens_keyslots() {
    need!("cryptsetup", "qemu-img");
    let folder = Folder::new();
    let plain = incompressible(5, MIB as usize);
    let hashes = [
        "sha1",
        "sha224",
        "sha256",
        "sha384",
        "sha512",
        "sha3-224",
        "sha3-256",
        "sha3-384",
        "sha3-512",
        "ripemd160",
        "whirlpool",
        "blake2b-512",
        "blake2s-256",
    ];
    let mut made = 0;
    for hash in hashes {
        let path = folder.blank("volume", 4 * MIB);
        let secret = folder.write("passphrase", PASSPHRASE.as_bytes());
        let arguments = [
            "luksFormat",
            "--batch-mode",
            "--type",
            "luks1",
            "--pbkdf-force-iterations",
            "1000",
            "--hash",
            hash,
            "--key-file",
            &secret,
            &path,
        ];
        if let Err(error) = tool::run("cryptsetup", &arguments) {
            println!("{hash}: not in this cryptsetup: {error}");
            continue;
        }
        made += 1;
        // qemu knows fewer hashes: without it, that the key's digest fits is what is shown.
        let volume = opened(&folder.read("volume"));
        if matches!(hash, "sha1" | "sha256" | "sha512" | "ripemd160") {
            fill(&folder, &path, &plain);
            let volume = opened(&folder.read("volume"));
            let start = Window::new(volume, ByteRange::new(0, MIB)).expect("it is as long");
            assert_holds(&start, &plain, hash);
        }
        drop(volume);
    }
    assert!(made >= 6, "only {made} hashes");
}

#[test]
fn the_header_says_what_cryptsetup_says() {
    need!("cryptsetup");
    let folder = Folder::new();
    let uuid = "01234567-89ab-4def-8123-456789abcdef";
    folder.format("volume", 4 * MIB, &["--type", "luks1", "--uuid", uuid, "--key-slot", "3"]);
    let bytes = folder.read("volume");
    let found = header(&bytes);
    assert_eq!((found.version(), found.copy()), (Version::Luks1, HeaderCopy::First));
    assert_eq!((found.uuid(), found.label(), found.damage()), (Some(uuid), None, None));
    let slots: Vec<_> = found.keyslots().collect();
    assert_eq!(slots, [(3, "pbkdf2", Priority::Normal)]);
    assert_eq!((found.bytes().start, found.bytes().end), (0, 2 * MIB));
    assert!(!found.is_detached());
}

#[test]
fn other_passphrases_are_wrong() {
    need!("cryptsetup");
    let folder = Folder::new();
    folder.format("volume", 4 * MIB, &["--type", "luks1"]);
    let bytes = folder.read("volume");
    for wrong in ["", "correct horse\n", "Correct horse"] {
        let result = header(&bytes).unlock(&bytes, &secret(wrong));
        let (kind, text) = refused(result);
        assert_eq!(kind, imgx_volumes::base::ErrorKind::Key, "{text}");
        assert!(text.contains("tried 0"), "{text}");
    }
}

#[test]
fn headers_that_mean_harm_are_refused() {
    need!("cryptsetup");
    let folder = Folder::new();
    folder.format("volume", 4 * MIB, &["--type", "luks1"]);
    let sound = folder.read("volume");
    let changed = |at: usize, with: &[u8]| {
        let mut bytes = sound.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        bytes
    };
    // key-bytes, a keyslot's state, its stripes, its area within the header; a name of rubbish.
    let bad = [
        (108, &[0; 4][..]),
        (108, &[0xff; 4]),
        (208, &[1, 2, 3, 4]),
        (208 + 44, &[0; 4]),
        (208 + 44, &[0xff; 4]),
        (208 + 40, &[0; 4]),
        (8, &[0xff, 0xfe]),
    ];
    for (at, with) in bad {
        let (kind, text) = refused(Header::read(&changed(at, with)));
        assert_eq!(kind, imgx_volumes::base::ErrorKind::Corrupt, "{at}: {text}");
    }
    // Two keyslots that share their area: the second is a copy of the first.
    let mut shared = sound.clone();
    shared.copy_within(208..256, 256);
    assert!(refused(Header::read(&shared)).1.contains("keyslot 1"));
    // An area beyond the device, and no iterations, are told when the keyslot is tried.
    for (at, with) in [(208 + 40, [0xff; 4]), (208 + 4, [0; 4]), (164, [0; 4])] {
        let bytes = changed(at, &with);
        refused(header(&bytes).unlock(&bytes, &secret(PASSPHRASE)));
    }
    // What is not known is named.
    for (at, with, name) in [
        (8, &b"camellia\0"[..], "camellia-xts-plain64"),
        (40, b"lrw-benbi\0", "aes-lrw-benbi"),
        (72, b"md5\0", "md5"),
    ] {
        let bytes = changed(at, with);
        let (kind, text) = refused(header(&bytes).unlock(&bytes, &secret(PASSPHRASE)));
        assert_eq!(kind, imgx_volumes::base::ErrorKind::Unsupported, "{text}");
        assert!(text.contains(name), "{text}");
    }
    let (kind, text) = refused(Header::read(&changed(6, &[0, 3])));
    assert_eq!(kind, imgx_volumes::base::ErrorKind::Unsupported);
    assert!(text.contains("version 3"), "{text}");
}
