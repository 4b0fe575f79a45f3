//! Serial numbers of volumes.

use crate::base::bytes::to_hex;

/// A serial number as DOS writes it: `1234-ABCD`; `None` if it is zero.
pub(in crate::fs) fn serial_number(bytes: [u8; 4]) -> Option<String> {
    let [a, b, c, d] = bytes;
    let text = format!("{}-{}", to_hex(&[d, c]), to_hex(&[b, a])).to_uppercase();
    (bytes != [0; 4]).then_some(text)
}
