//! The hashes of names that folder indexes are sorted by.
//!
//! The kernel's `fs/ext4/hash.c`; its documentation only names them. All arithmetic wraps.

use crate::base::fields::le32;

/// A name's hash, its lowest bit clear: that one marks collisions in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hash(pub u32);

/// The hash that marks the end of a folder, and its replacement.
const END: u32 = 0xffff_fffe;
const BEFORE_END: u32 = 0xffff_fffc;
/// The initial state where the superblock has no seed.
const DEFAULT_SEED: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

/// The hash of `name` in `version`: 0 to 2 are legacy, half MD4 and TEA with signed characters,
/// 3 to 5 the same with unsigned ones. `None` for others: 6 is SipHash, which needs the keys of
/// an encrypted folder.
pub(super) fn hash_name(version: u8, seed: &[u8; 16], name: &[u8]) -> Option<Hash> {
    let state = match seed {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] => DEFAULT_SEED,
        seed => [le32(seed, 0)?, le32(seed, 4)?, le32(seed, 8)?, le32(seed, 12)?],
    };
    let signed = version < 3;
    let hash = match version {
        0 | 3 => legacy(name, signed),
        1 | 4 => half_md4(state, name, signed),
        2 | 5 => tea(state, name, signed),
        _ => return None,
    };
    let hash = hash & !1;
    Some(Hash(if hash == END { BEFORE_END } else { hash }))
}

/// A byte as C's `char` widens to 32 bits.
fn widen(byte: u8, signed: bool) -> u32 {
    if signed { i32::from(byte.cast_signed()).cast_unsigned() } else { u32::from(byte) }
}

fn legacy(name: &[u8], signed: bool) -> u32 {
    let mut hash = 0x12a3_fe2d_u32;
    let mut previous = 0x37ab_e8f9_u32;
    for byte in name {
        let mixed = hash ^ widen(*byte, signed).wrapping_mul(7_152_373);
        let mut next = previous.wrapping_add(mixed);
        if next & 0x8000_0000 != 0 {
            next = next.wrapping_sub(0x7fff_ffff);
        }
        previous = hash;
        hash = next;
    }
    hash << 1
}

/// The first `N` words of `name`, padded with its length, which is what `name` still has in all.
fn words<const N: usize>(name: &[u8], signed: bool) -> [u32; N] {
    let length = u32::try_from(name.len()).unwrap_or(u32::MAX);
    let pad = length | length << 8;
    let pad = pad | pad << 16;
    let mut words = [pad; N];
    for (word, bytes) in words.iter_mut().zip(name.chunks(4)) {
        *word = bytes.iter().fold(pad, |word, byte| widen(*byte, signed).wrapping_add(word << 8));
    }
    words
}

fn tea(mut state: [u32; 4], name: &[u8], signed: bool) -> u32 {
    let mut rest = name;
    loop {
        state = tea_round(state, words(rest, signed));
        rest = rest.get(16..).unwrap_or_default();
        if rest.is_empty() {
            let [hash, ..] = state;
            return hash;
        }
    }
}

fn tea_round([mut b0, mut b1, c, d]: [u32; 4], [k0, k1, k2, k3]: [u32; 4]) -> [u32; 4] {
    let (first, second) = (b0, b1);
    let mut sum = 0_u32;
    for _ in 0..16 {
        sum = sum.wrapping_add(0x9e37_79b9);
        b0 = b0.wrapping_add(
            (b1 << 4).wrapping_add(k0) ^ b1.wrapping_add(sum) ^ (b1 >> 5).wrapping_add(k1),
        );
        b1 = b1.wrapping_add(
            (b0 << 4).wrapping_add(k2) ^ b0.wrapping_add(sum) ^ (b0 >> 5).wrapping_add(k3),
        );
    }
    [first.wrapping_add(b0), second.wrapping_add(b1), c, d]
}

fn half_md4(mut state: [u32; 4], name: &[u8], signed: bool) -> u32 {
    let mut rest = name;
    loop {
        state = half_md4_round(state, words(rest, signed));
        rest = rest.get(32..).unwrap_or_default();
        if rest.is_empty() {
            let [_, hash, ..] = state;
            return hash;
        }
    }
}

fn half_md4_round(state: [u32; 4], input: [u32; 8]) -> [u32; 4] {
    /// Which word each step adds, and by how much it rotates: three rounds of eight steps.
    const ROUNDS: [([usize; 8], [u32; 4], u32); 3] = [
        ([0, 1, 2, 3, 4, 5, 6, 7], [3, 7, 11, 19], 0),
        ([1, 3, 5, 7, 0, 2, 4, 6], [3, 5, 9, 13], 0x5a82_7999),
        ([3, 7, 2, 6, 1, 5, 0, 4], [3, 9, 11, 15], 0x6ed9_eba1),
    ];
    let [mut a, mut b, mut c, mut d] = state;
    for (number, (order, turns, constant)) in ROUNDS.into_iter().enumerate() {
        for (word, turn) in order.into_iter().zip(turns.into_iter().cycle()) {
            let mixed = match number {
                0 => d ^ (b & (c ^ d)),
                1 => (b & c).wrapping_add((b ^ c) & d),
                _ => b ^ c ^ d,
            };
            let word = input.get(word).copied().unwrap_or_default().wrapping_add(constant);
            let turned = a.wrapping_add(mixed).wrapping_add(word).rotate_left(turn);
            (a, b, c, d) = (d, turned, b, c);
        }
    }
    let [first, second, third, fourth] = state;
    [first.wrapping_add(a), second.wrapping_add(b), third.wrapping_add(c), fourth.wrapping_add(d)]
}
