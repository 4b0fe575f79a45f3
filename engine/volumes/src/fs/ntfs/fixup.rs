//! Update sequences: the last two bytes of every 512 of a record are the same number, so that a
//! record of which only a part was written is recognised. What belongs there stands in its header.

use crate::base::fields::{has, le16};
use crate::base::{Error, Result};

/// Bytes that one number protects, whatever the sector size.
const STRIDE: usize = 512;

/// Puts back what the update sequence took the place of, in a record that begins with `magic`.
///
/// # Errors
/// `Corrupt` when it is no such record, or was not written whole.
pub(super) fn apply(record: &mut [u8], magic: &[u8; 4]) -> Result<()> {
    let name = || String::from_utf8_lossy(magic).into_owned();
    if !has(record, 0, magic) {
        let found = record.get(..4).unwrap_or_default().escape_ascii().to_string();
        return Err(Error::corrupt("record", name(), found));
    }
    let strides = record.len().checked_div(STRIDE).unwrap_or_default();
    let start = usize::from(le16(record, 4).unwrap_or_default()); // UpdateSequenceArrayOffset
    let count = usize::from(le16(record, 6).unwrap_or_default()); // UpdateSequenceArraySize
    let length = count.saturating_mul(2);
    // The array must not reach into what it protects.
    let end = start.saturating_add(length);
    if count != strides.saturating_add(1) || end > STRIDE.saturating_sub(2) || start % 2 != 0 {
        let expected = format!("an update sequence of {strides} numbers");
        return Err(Error::corrupt(name(), expected, format!("{count} at {start}")));
    }
    let array = record.get(start..end).unwrap_or_default().to_vec();
    let (number, originals) = array.split_at_checked(2).unwrap_or_default();
    for (position, (block, original)) in
        record.chunks_exact_mut(STRIDE).zip(originals.chunks_exact(2)).enumerate()
    {
        let Some(end) = block.last_chunk_mut::<2>() else { continue };
        if end.as_slice() != number {
            let (expected, found) = (format!("{number:02x?}"), format!("{end:02x?}"));
            let place = format!("{}, end of its part {position}", name());
            return Err(Error::corrupt(place, format!("update sequence {expected}"), found));
        }
        end.copy_from_slice(original);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "a test may panic")]

    use super::*;

    fn record() -> Vec<u8> {
        let mut record = vec![0; 1024];
        record[..8].copy_from_slice(&[b'F', b'I', b'L', b'E', 48, 0, 3, 0]);
        record[48..54].copy_from_slice(&[7, 0, 1, 2, 3, 4]);
        record[510..512].copy_from_slice(&[7, 0]);
        record[1022..].copy_from_slice(&[7, 0]);
        record
    }

    #[test]
    fn what_was_replaced_comes_back() {
        let mut whole = record();
        apply(&mut whole, b"FILE").expect("sound");
        assert_eq!((&whole[510..512], &whole[1022..]), (&[1, 2][..], &[3, 4][..]));
    }

    #[test]
    fn a_record_that_was_not_written_whole_is_damage() {
        for (at, byte) in [(1022, 6), (511, 1), (0, b'B'), (6, 2), (4, 49), (5, 2)] {
            let mut torn = record();
            torn[at] = byte;
            assert!(apply(&mut torn, b"FILE").is_err(), "byte {at} was overlooked");
        }
    }
}
