//! Identifiers and labels as text, spelled as `blkid` and `lsblk` spell them.

use crate::base::bytes::to_hex;

// UUIDs whose bytes are stored in reading order (RFC 9562).
pub(crate) use crate::base::bytes::some_uuid as uuid;

/// A GUID as UEFI stores it: the first three groups little-endian (UEFI 2.10, appendix A).
pub(crate) fn guid(bytes: &[u8; 16]) -> String {
    let [a, b, c, d, e, f, g, h, i, j, rest @ ..] = bytes;
    format!(
        "{}-{}-{}-{}-{}",
        to_hex(&[*d, *c, *b, *a]),
        to_hex(&[*f, *e]),
        to_hex(&[*h, *g]),
        to_hex(&[*i, *j]),
        to_hex(rest)
    )
}

/// A label in UTF-8 (or nearly), up to the first NUL; `None` if nothing but blanks is left.
/// Control characters become U+FFFD, because a label is shown on terminals.
pub(crate) fn label(bytes: &[u8]) -> Option<String> {
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    printable(&String::from_utf8_lossy(bytes))
}

/// A label in UTF-16LE, up to the first NUL.
pub(crate) fn label_utf16(bytes: &[u8]) -> Option<String> {
    let units = bytes.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair));
    label_units(units)
}

/// A label in UTF-16BE, up to the first NUL.
pub(crate) fn label_utf16_be(bytes: &[u8]) -> Option<String> {
    let units = bytes.as_chunks::<2>().0.iter().map(|pair| u16::from_be_bytes(*pair));
    label_units(units)
}

fn label_units(units: impl Iterator<Item = u16>) -> Option<String> {
    let text: String = char::decode_utf16(units.take_while(|unit| *unit != 0))
        .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect();
    printable(&text)
}

/// A label that is text already, as the others.
pub(crate) fn printable(text: &str) -> Option<String> {
    let text = text.trim_end();
    let show =
        |letter: char| if letter.is_control() { char::REPLACEMENT_CHARACTER } else { letter };
    (!text.is_empty()).then(|| text.chars().map(show).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guids_swap_their_first_groups_and_uuids_do_not() {
        let bytes = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
        assert_eq!(guid(&bytes), "03020100-0504-0706-0809-0a0b0c0d0e0f");
        assert_eq!(uuid(&bytes).as_deref(), Some("00010203-0405-0607-0809-0a0b0c0d0e0f"));
        assert_eq!(uuid(&[0; 16]), None);
    }

    #[test]
    fn labels_end_at_nul_and_cannot_steer_a_terminal() {
        assert_eq!(label(b"root\0rubbish").as_deref(), Some("root"));
        assert_eq!(label(b"\x1b[2J").as_deref(), Some("\u{fffd}[2J"));
        assert_eq!(label(b"   \0"), None);
        assert_eq!(label_utf16(&[b'A', 0, 0x00, 0xd8, 0, 0]).as_deref(), Some("A\u{fffd}"));
    }
}
