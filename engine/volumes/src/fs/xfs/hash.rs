//! The hash of names that folders' indexes are sorted by.
//!
//! The kernel's `xfs_da_hashname` (`fs/xfs/libxfs/xfs_da_btree.c`) and `xfs_ascii_ci_xfrm`
//! (`xfs_dir2_priv.h`).

/// The hash of `name`.
pub(super) fn hash_name(name: &[u8]) -> u32 {
    name.iter().fold(0_u32, |hash, byte| u32::from(*byte) ^ hash.rotate_left(7))
}

/// `name` in the case in which names are compared and hashed where case does not matter: lower,
/// for ASCII and Latin-1 only.
pub(super) fn fold(name: &[u8]) -> Vec<u8> {
    let lower = |byte: &u8| match byte {
        b'A'..=b'Z' | 0xc0..=0xd6 | 0xd8..=0xde => byte.wrapping_add(0x20),
        _ => *byte,
    };
    name.iter().map(lower).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hash_as_xfs_db_prints_them() {
        assert_eq!(hash_name(b"."), 0x2e);
        assert_eq!(hash_name(b".."), 0x172e);
        assert_eq!(hash_name(b"lost+found"), 0x021a_a60c);
        assert_eq!(hash_name(b"abcdefgh"), 0x4c7a_38f6);
        assert_eq!(fold(b"A\xc4[z\xd7"), b"a\xe4[z\xd7");
    }
}
