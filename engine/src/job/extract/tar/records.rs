//! Pax records: `length keyword=value`, a newline behind each.
//!
//! Sources: POSIX.1-2001, `pax`, "pax Extended Header"; GNU tar 1.34, "Storing Sparse Files" and
//! `src/xheader.c` (how keywords are encoded); star(5) for what begins with `SCHILY.`.

use crate::fs::Timestamp;

/// The records before one entry.
#[derive(Debug, Default)]
pub(super) struct Records {
    bytes: Vec<u8>,
}

impl Records {
    /// Adds a record. A keyword ends at its first `=`.
    pub(super) fn put(&mut self, keyword: &[u8], value: &[u8]) {
        let rest = b" =\n".len() + keyword.len() + value.len();
        let mut length = rest + 1;
        // The number of digits is counted too, and may grow by that.
        while length != rest + decimal_digits(length) {
            length = rest + decimal_digits(length);
        }
        self.bytes.extend_from_slice(length.to_string().as_bytes());
        self.bytes.push(b' ');
        self.bytes.extend_from_slice(keyword);
        self.bytes.push(b'=');
        self.bytes.extend_from_slice(value);
        self.bytes.push(b'\n');
    }

    /// Adds a name. Records are said to be UTF-8, so one that is not has to be announced.
    pub(super) fn put_name(&mut self, keyword: &[u8], name: &[u8]) {
        if std::str::from_utf8(name).is_err() {
            self.put(b"hdrcharset", b"BINARY");
        }
        self.put(keyword, name);
    }

    /// Adds a time, in seconds with their fraction.
    pub(super) fn put_time(&mut self, keyword: &[u8], time: Timestamp) {
        self.put(keyword, decimal(time).as_bytes());
    }

    /// Adds an extended attribute; a NUL in its name would end it for those who read it.
    pub(super) fn put_attribute(&mut self, name: &[u8], value: &[u8]) {
        self.put(&[b"SCHILY.xattr.", encoded(name).as_slice()].concat(), value);
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

fn decimal_digits(number: usize) -> usize {
    number.to_string().len()
}

/// A name within a keyword: what would end it, or be taken for such an encoding, is encoded. Other
/// percent signs stay, since not every program decodes any.
fn encoded(name: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(name.len());
    for (at, byte) in name.iter().enumerate() {
        let rest = name.get(at + 1..).unwrap_or_default();
        match byte {
            b'=' => encoded.extend_from_slice(b"%3D"),
            b'%' if rest.starts_with(b"3D") || rest.starts_with(b"25") => {
                encoded.extend_from_slice(b"%25");
            }
            byte => encoded.push(*byte),
        }
    }
    encoded
}

/// Seconds since 1970 with their fraction.
fn decimal(time: Timestamp) -> String {
    let (mut seconds, mut fraction) = (i128::from(time.seconds), time.nanoseconds);
    let is_negative = seconds < 0;
    if is_negative && fraction > 0 {
        // Seconds are rounded down, but the sign of a decimal number is of all of it.
        seconds += 1;
        fraction = 1_000_000_000_u32.saturating_sub(fraction);
    }
    let sign = if is_negative { "-" } else { "" };
    let seconds = seconds.unsigned_abs();
    match fraction {
        0 => format!("{sign}{seconds}"),
        _ => format!("{sign}{seconds}.{fraction:09}").trim_end_matches('0').to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        for (value, expected) in
            [(0, 5), (4, 9), (5, 11), (93, 99), (94, 101), (992, 999), (993, 1001)]
        {
            let mut records = Records::default();
            records.put(b"k", &vec![b'v'; value]);
            let text = String::from_utf8(records.bytes().to_vec()).expect("text");
            assert_eq!(text.len(), expected, "{value}");
            assert!(text.starts_with(&format!("{expected} k=")), "{text}");
        }
    }

    #[test]
    fn an_attributes_name_cannot_end_its_keyword() {
        let cases: [(&[u8], &[u8]); 4] = [
            (b"user.a=b", b"user.a%3Db"),
            (b"user.a%b", b"user.a%b"),
            (b"user.a%3Db", b"user.a%253Db"),
            (b"user.\xff\n%25", b"user.\xff\n%2525"),
        ];
        for (name, expected) in cases {
            assert_eq!(encoded(name), expected);
        }
    }

    #[test]
    fn times_are_decimal_with_one_sign() {
        let cases = [
            (0, 0, "0"),
            (5, 570_000_000, "5.57"),
            (-1, 0, "-1"),
            (-2, 500_000_000, "-1.5"),
            (-1, 999_999_999, "-0.000000001"),
            (i64::MIN, 0, "-9223372036854775808"),
        ];
        for (seconds, nanoseconds, expected) in cases {
            assert_eq!(decimal(Timestamp { seconds, nanoseconds }), expected);
        }
    }
}
