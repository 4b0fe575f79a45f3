//! The volume key, by a secret and a keyslot that it opens.

use zeroize::Zeroizing;

use super::cipher::SectorCipher;
use super::hash::Hash;
use super::header::{Header, KeyArea, KeyDigest, Keyslot, KeyslotKind, Priority};
use super::kdf::pbkdf2;
use super::secret::{Secret, VolumeKey};
use super::split::merge;
use crate::base::limits::MAX_LUKS_SALT;
use crate::base::{ByteOffset, Error, ErrorKind, ReadAt, Result};

/// Bytes that keyslots' areas are encrypted in, whatever the payload's sectors are.
const AREA_SECTOR: usize = 512;

/// Bytes of a digest that says anything of a key: LUKS1's.
const LEAST_DIGEST: usize = 20;

impl Header {
    /// The volume key, by the first keyslot that `secret` opens: preferred ones first, then by
    /// number, and none that is marked to be ignored. `device` is what the header was read from.
    /// Where nothing is encrypted, no key is needed, and it is empty.
    ///
    /// # Errors
    /// `Key` if the secret opens no keyslot. Where it opens none, but one could not be tried, that
    /// one's: `Unsupported` (what it needs, by name), `Limit` (what it costs), `Corrupt`, or
    /// `device`'s. `Unsupported` and `Corrupt` as [`check_supported`](Self::check_supported).
    pub fn unlock(&self, device: &dyn ReadAt, secret: &Secret) -> Result<VolumeKey> {
        self.unlock_by(device, secret, |slot| slot.priority > Priority::Ignore)
    }

    /// The volume key by the keyslot `number`, even if it is marked to be ignored.
    ///
    /// # Errors
    /// As [`unlock`](Self::unlock); `NotFound` if there is no such keyslot.
    pub fn unlock_keyslot(
        &self,
        device: &dyn ReadAt,
        secret: &Secret,
        number: u32,
    ) -> Result<VolumeKey> {
        if !self.keyslots.iter().any(|slot| slot.number == number) {
            return Err(Error::new(ErrorKind::NotFound, format!("no keyslot {number}")));
        }
        self.unlock_by(device, secret, |slot| slot.number == number)
    }

    /// Fails with `Key` unless `key` is the volume key.
    ///
    /// # Errors
    /// Besides, as [`check_supported`](Self::check_supported).
    pub fn check_key(&self, key: &VolumeKey) -> Result<()> {
        self.check_supported()?;
        match self.payload_digest()? {
            Some(digest) if !digest.is_of(key)? => {
                Err(Error::new(ErrorKind::Key, "this is not the volume key"))
            }
            _ => Ok(()),
        }
    }

    fn unlock_by(
        &self,
        device: &dyn ReadAt,
        secret: &Secret,
        is_meant: impl Fn(&Keyslot) -> bool,
    ) -> Result<VolumeKey> {
        self.check_supported()?;
        let Some(digest) = self.payload_digest()? else { return Ok(VolumeKey::new(Vec::new())) };
        let bound = |slot: &&Keyslot| digest.keyslots.contains(&slot.number) && is_meant(slot);
        let mut slots: Vec<&Keyslot> = self.keyslots.iter().filter(bound).collect();
        slots.sort_by_key(|slot| (std::cmp::Reverse(slot.priority), slot.number));
        let (mut tried, mut failure) = (Vec::new(), None);
        for slot in slots {
            match slot.open(device, secret, digest) {
                Ok(Some(key)) => return Ok(key),
                Ok(None) => tried.push(slot.number.to_string()),
                Err(error) => {
                    failure.get_or_insert(error.within(format!("keyslot {}", slot.number)));
                }
            }
        }
        if let Some(failure) = failure {
            return Err(match tried.is_empty() {
                true => failure,
                false => failure.within(format!("keyslots {} not opened", tried.join(", "))),
            });
        }
        let context = match tried.is_empty() {
            true => "the LUKS header has no keyslot to try".to_owned(),
            false => format!("the passphrase or key opens no keyslot (tried {})", tried.join(", ")),
        };
        Err(Error::new(ErrorKind::Key, context))
    }
}

impl Keyslot {
    /// The volume key, if `secret` opens this keyslot.
    fn open(
        &self,
        device: &dyn ReadAt,
        secret: &Secret,
        digest: &KeyDigest,
    ) -> Result<Option<VolumeKey>> {
        match &self.kind {
            KeyslotKind::Luks(area) => {
                let key = area.key(device, secret)?;
                Ok(digest.is_of(&key)?.then_some(key))
            }
            KeyslotKind::Other(name) => {
                let context = format!("keyslots of the kind {name:?} are not supported");
                Err(Error::newer(context))
            }
        }
    }
}

impl KeyArea {
    /// What the area holds, decrypted by `secret`: the volume key if that is the right one.
    fn key(&self, device: &dyn ReadAt, secret: &Secret) -> Result<VolumeKey> {
        let hash = Hash::named(&self.split_hash)?;
        let length = self.key_size.checked_mul(self.stripes);
        let length = length.ok_or_else(|| Error::corrupt("key", "a size", self.stripes))?;
        let mut material = Zeroizing::new(vec![0; length.next_multiple_of(AREA_SECTOR)]);
        device.read_exact_at(ByteOffset(self.offset), &mut material)?;
        // Before the costly part, so that what cannot be done is told at once.
        SectorCipher::new(&self.encryption, &vec![1; self.area_key_size], AREA_SECTOR)?;
        let key = self.kdf.key(secret, self.area_key_size)?;
        SectorCipher::new(&self.encryption, &key, AREA_SECTOR)?.decrypt(0, &mut material);
        let stripes = material.get(..length).unwrap_or_default();
        let mut merged = merge(stripes, self.key_size, hash);
        Ok(VolumeKey::new(std::mem::take(&mut *merged)))
    }
}

impl KeyDigest {
    /// Whether it is the digest of `key`.
    fn is_of(&self, key: &VolumeKey) -> Result<bool> {
        if !(LEAST_DIGEST..=MAX_LUKS_SALT).contains(&self.digest.len()) {
            let found = format!("{} bytes", self.digest.len());
            return Err(Error::corrupt("digest", format!("{LEAST_DIGEST} bytes or more"), found));
        }
        let mut found = vec![0; self.digest.len()];
        let digest = (self.hash.as_str(), self.iterations, self.salt.as_slice());
        pbkdf2(digest, key.bytes(), &mut found)?;
        Ok(found == self.digest)
    }
}
