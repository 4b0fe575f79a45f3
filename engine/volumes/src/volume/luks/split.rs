//! The anti-forensic splitter: key material is spread over many stripes, all of which are needed
//! to have the key again (LUKS1, 2.4).

use zeroize::Zeroizing;

use super::hash::Hash;

/// The key of `length` bytes whose stripes, one behind the other, are `material`, by `hash`.
/// `length` is not zero.
pub(super) fn merge(material: &[u8], length: usize, hash: Hash) -> Zeroizing<Vec<u8>> {
    let mut key = Zeroizing::new(vec![0; length]);
    let mut stripes = material.chunks_exact(length).peekable();
    while let Some(stripe) = stripes.next() {
        for (byte, other) in key.iter_mut().zip(stripe) {
            *byte ^= other;
        }
        if stripes.peek().is_some() {
            diffuse(&mut key, hash);
        }
    }
    key
}

/// Replaces each piece, as long as a digest, by the digest of its number and itself.
fn diffuse(key: &mut [u8], hash: Hash) {
    let size = hash.digest(&[]).len().max(1);
    for (number, piece) in (0_u32..).zip(key.chunks_mut(size)) {
        let digest = hash.digest(&[&number.to_be_bytes(), piece]);
        for (byte, other) in piece.iter_mut().zip(digest.iter()) {
            *byte = *other;
        }
    }
}
