//! Headers by cryptsetup, with cheap keyslots, and payloads by implementations of others.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use aes::cipher::KeyInit;
use imgx_fixtures::pattern::{MIB, Random, incompressible};
use imgx_fixtures::tool;
use imgx_volumes::base::{ByteOffset, Error, ErrorKind, ReadAt};
use imgx_volumes::volume::luks::{Header, Opened, Secret, VolumeKey};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use xts_mode::{Xts128, get_tweak_default};

pub const PASSPHRASE: &str = "correct horse";

/// Ends a test that needs a tool that is not here, saying so.
#[macro_export]
macro_rules! need {
    ($($tool:literal),+) => {
        $(if !imgx_fixtures::tool::have($tool) {
            println!("skipped: no {}", $tool);
            return;
        })+
    };
}

/// Files of one test.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        // In memory where that can be: cryptsetup waits for the disk at each step.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        Self(folder.expect("a temporary folder"))
    }

    pub fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("a path in UTF-8").to_owned()
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> String {
        fs::write(self.path(name), bytes).expect("the file is written");
        self.path(name)
    }

    /// A file of zeros.
    pub fn blank(&self, name: &str, size: u64) -> String {
        let file = fs::File::create(self.path(name)).expect("the file is made");
        file.set_len(size).expect("it gets its size");
        self.path(name)
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(PathBuf::from(self.path(name))).expect("the file is read")
    }

    /// A volume of `size` bytes, formatted by cryptsetup with the passphrase [`PASSPHRASE`].
    pub fn format(&self, name: &str, size: u64, options: &[&str]) -> String {
        let path = self.blank(name, size);
        let costs = ["luks1", "--pbkdf"];
        assert!(options.iter().any(|option| costs.contains(option)), "it would take minutes");
        let quick = ["luksFormat", "--batch-mode", "--pbkdf-force-iterations", "1000"];
        let argon2 = options.iter().any(|option| option.starts_with("argon2"));
        let quick = if argon2 { &quick[..2] } else { &quick[..] };
        let secret = self.write("passphrase", PASSPHRASE.as_bytes());
        let mut arguments = quick.to_vec();
        arguments.extend_from_slice(options);
        arguments.extend_from_slice(&["--key-file", &secret, &path]);
        cryptsetup(&arguments);
        path
    }

    /// A volume of version 2 with a known volume key, whose payload is all that is behind its
    /// 16 MiB of header.
    pub fn format_known(&self, name: &str, payload: u64, options: &[&str]) -> Known {
        let key = incompressible(7, 64);
        let path = self.write("volume-key", &key);
        let mut all = vec!["--volume-key-file", path.as_str(), "--key-size", "512"];
        all.extend_from_slice(options);
        if !options.contains(&"--pbkdf") {
            all.extend_from_slice(&["--pbkdf", "pbkdf2"]);
        }
        self.format(name, 16 * MIB + payload, &all);
        Known { bytes: self.read(name), key }
    }
}

/// A volume and its volume key.
pub struct Known {
    pub bytes: Vec<u8>,
    pub key: Vec<u8>,
}

impl Known {
    /// Encrypts `plain` as AES-XTS with numbers from `first`, in units of 512 bytes, to byte
    /// `place`, by the crate `xts-mode`.
    pub fn encrypt(&mut self, place: usize, plain: &[u8], (sector, first): (usize, u64)) {
        let mut bytes = plain.to_vec();
        let (data, tweak) = self.key.split_at(32);
        let cipher = |key| aes::Aes256::new_from_slice(key).expect("32 bytes");
        let step = sector as u128 / 512;
        Xts128::new(cipher(data), cipher(tweak)).encrypt_area(&mut bytes, sector, 0, |number| {
            get_tweak_default(number * step + u128::from(first))
        });
        self.bytes[place..place + bytes.len()].copy_from_slice(&bytes);
    }
}

pub fn cryptsetup(arguments: &[&str]) -> String {
    tool::run("cryptsetup", arguments).expect("cryptsetup does it")
}

pub fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec())
}

pub fn header(bytes: &[u8]) -> Header {
    Header::read(&bytes.to_vec()).expect("the header is sound").expect("there is one")
}

pub fn key(bytes: &[u8]) -> VolumeKey {
    VolumeKey::new(bytes.to_vec())
}

/// The volume in `bytes`, by [`PASSPHRASE`].
pub fn opened(bytes: &[u8]) -> Opened {
    let header = header(bytes);
    let key = header.unlock(&bytes.to_vec(), &secret(PASSPHRASE)).expect("the passphrase opens it");
    Opened::new(Arc::new(bytes.to_vec()), &header, &key).expect("its payload can be read")
}

pub fn all(volume: &dyn ReadAt) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(volume.size().0).expect("fits")];
    volume.read_exact_at(ByteOffset(0), &mut bytes).expect("it can be read");
    bytes
}

/// Fails unless `volume` holds `expected`, read at once and in pieces of all alignments.
pub fn assert_holds(volume: &dyn ReadAt, expected: &[u8], what: &str) {
    assert!(all(volume) == expected, "{what}: other bytes");
    let mut random = Random::new(1);
    let size = expected.len() as u64;
    for _ in 0..200 {
        let start = random.below(size);
        let most = if random.below(20) == 0 { size } else { 6000 };
        let length = random.below(most.min(size - start) + 1);
        let mut bytes = vec![0; length as usize];
        volume.read_exact_at(ByteOffset(start), &mut bytes).expect("it can be read");
        let wanted = &expected[start as usize..][..length as usize];
        assert!(bytes == wanted, "{what}: other bytes from {start}, {length} of them");
    }
    let beyond = volume.read_exact_at(ByteOffset(size), &mut [0]).expect_err("beyond the end");
    assert_eq!(beyond.kind(), ErrorKind::Invalid);
}

/// The two copies of a LUKS2 header: where each begins, and its size.
pub fn copies(bytes: &[u8]) -> [(usize, usize); 2] {
    let size = u64::from_be_bytes(bytes[8..16].try_into().expect("8 bytes")) as usize;
    [(0, size), (size, size)]
}

/// The JSON of the first copy.
pub fn json(bytes: &[u8]) -> String {
    let area = &bytes[4096..copies(bytes)[0].1];
    let text = area.split(|byte| *byte == 0).next().expect("a first piece");
    String::from_utf8(text.to_vec()).expect("JSON is UTF-8")
}

/// Puts `json` into both copies of a LUKS2 header, with checksums that are right.
pub fn put_json(bytes: &mut [u8], json: &str) {
    for (start, size) in copies(bytes) {
        let area = &mut bytes[start + 4096..start + size];
        area.fill(0);
        area[..json.len()].copy_from_slice(json.as_bytes());
        seal(&mut bytes[start..start + size]);
    }
}

/// Makes the checksum of one copy right.
pub fn seal(copy: &mut [u8]) {
    copy[448..512].fill(0);
    let sum = Sha256::digest(&*copy);
    copy[448..480].copy_from_slice(&sum);
}

/// The volume with `from` replaced by `to` in its JSON, which must be there.
pub fn edited(bytes: &[u8], edits: &[(&str, &str)]) -> Vec<u8> {
    let mut json = json(bytes);
    for (from, to) in edits {
        assert!(json.contains(from), "{from} is not in {json}");
        json = json.replacen(from, to, 1);
    }
    let mut bytes = bytes.to_vec();
    put_json(&mut bytes, &json);
    bytes
}

/// The kind and text of what was refused.
pub fn refused<T>(result: Result<T, Error>) -> (ErrorKind, String) {
    match result {
        Ok(_) => panic!("it was not refused"),
        Err(error) => (error.kind(), error.to_string()),
    }
}
