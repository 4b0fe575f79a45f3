//! Names in UTF-16.

/// UTF-16 as UTF-8; halves of surrogate pairs that stand alone become three bytes as in WTF-8, so
/// that names which differ there stay different.
pub(in crate::fs) fn wtf8(units: &[u16]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(units.len());
    for decoded in char::decode_utf16(units.iter().copied()) {
        match decoded {
            Ok(character) => {
                bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
            Err(alone) => {
                let unit = alone.unpaired_surrogate();
                let [high, low] = unit.to_be_bytes();
                bytes.push(0xe0 | (high >> 4));
                bytes.push(0x80 | ((high & 0x0f) << 2) | (low >> 6));
                bytes.push(0x80 | (low & 0x3f));
            }
        }
    }
    bytes
}

/// Whether two names are the same but for upper and lower case, character by character.
pub(in crate::fs) fn same_name(one: &[u8], other: &[u8]) -> bool {
    match (std::str::from_utf8(one), std::str::from_utf8(other)) {
        (Ok(one), Ok(other)) => one.chars().map(upper).eq(other.chars().map(upper)),
        _ => one == other,
    }
}

/// The upper case of a character that has one of a single character.
fn upper(character: char) -> char {
    let mut upper = character.to_uppercase();
    match (upper.next(), upper.next()) {
        (Some(single), None) => single,
        _ => character,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lone_surrogates_survive() {
        assert_eq!(wtf8(&[0x41, 0xd83d, 0xde00]), "A😀".as_bytes());
        assert_eq!(wtf8(&[0xd83d, 0x41]), [0xed, 0xa0, 0xbd, 0x41]);
    }

    #[test]
    fn case_does_not_tell_names_apart() {
        assert!(same_name("Straße.TXT".as_bytes(), "sTRAßE.txt".as_bytes()));
        assert!(!same_name(b"a", b"b"));
    }
}
