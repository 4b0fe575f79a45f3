//! Block ciphers of 16-byte blocks, many blocks at a time.

use aes::cipher::consts::U16;
use aes::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, BlockSizeUser, KeyInit};

/// A block.
pub(super) type Block = [u8; 16];

/// A block cipher that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Aes,
    Serpent,
    Twofish,
}

impl Algorithm {
    /// The cipher that the kernel calls `name`.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "aes" => Some(Self::Aes),
            "serpent" => Some(Self::Serpent),
            "twofish" => Some(Self::Twofish),
            _ => None,
        }
    }

    /// The cipher with `key`; `None` unless it is of 128, 192 or 256 bits.
    pub(super) fn with_key(self, key: &[u8]) -> Option<Box<dyn BlockCipher>> {
        if !matches!(key.len(), 16 | 24 | 32) {
            return None;
        }
        fn boxed<C: KeyInit + BlockCipher + 'static>(key: &[u8]) -> Option<Box<dyn BlockCipher>> {
            let cipher: Box<dyn BlockCipher> = Box::new(C::new_from_slice(key).ok()?);
            Some(cipher)
        }
        match (self, key.len()) {
            (Self::Aes, 16) => boxed::<aes::Aes128>(key),
            (Self::Aes, 24) => boxed::<aes::Aes192>(key),
            (Self::Aes, _) => boxed::<aes::Aes256>(key),
            (Self::Serpent, _) => boxed::<serpent::Serpent>(key),
            (Self::Twofish, _) => boxed::<twofish::Twofish>(key),
        }
    }
}

/// A block cipher with its key.
pub(super) trait BlockCipher: Send + Sync {
    /// Encrypts each block by itself.
    fn encrypt(&self, blocks: &mut [Block]);

    /// Decrypts each block by itself.
    fn decrypt(&self, blocks: &mut [Block]);
}

impl<C> BlockCipher for C
where
    C: BlockCipherEncrypt + BlockCipherDecrypt + BlockSizeUser<BlockSize = U16> + Send + Sync,
{
    fn encrypt(&self, blocks: &mut [Block]) {
        self.encrypt_blocks(Array::cast_slice_from_core_mut(blocks));
    }

    fn decrypt(&self, blocks: &mut [Block]) {
        self.decrypt_blocks(Array::cast_slice_from_core_mut(blocks));
    }
}
