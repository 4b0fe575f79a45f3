//! Secrets: they are overwritten when they are dropped, and never printed.

use std::fmt;

use zeroize::Zeroizing;

/// A passphrase, or all of a key file, newlines included.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// The secret of exactly these bytes. Of a passphrase that was typed, the line without its
    /// newline.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The key that a volume is encrypted with.
#[derive(Clone)]
pub struct VolumeKey(Zeroizing<Vec<u8>>);

impl VolumeKey {
    /// The key of these bytes, as `cryptsetup luksDump --dump-volume-key` gives them. Whether it
    /// is the one of a header, [`Header::check_key`](super::Header::check_key) says.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl fmt::Debug for VolumeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VolumeKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        let text = format!("{:?} {:?}", Secret::new(b"abc".to_vec()), VolumeKey::new(vec![7; 3]));
        assert_eq!(text, "Secret(..) VolumeKey(..)");
    }
}
