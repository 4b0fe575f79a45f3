//! ISO 9660: volume descriptors in 2 KiB sectors from 32 KiB on (ECMA-119, section 8).

use super::super::layout::Notes;
use super::{Signature, Subject};
use crate::base::fields::{has, le16, le32, slice};
use crate::kind::Kind;
use crate::text::{label, label_utf16_be, printable};

const FIRST: usize = 32 * 1024;
const SECTOR: usize = 2048;
const DESCRIPTORS: usize = 48;

/// The descriptors there, of UDF as well.
pub(super) fn descriptors(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    head.get(FIRST..).unwrap_or_default().chunks_exact(SECTOR).take(DESCRIPTORS)
}

/// ISO 9660, with Joliet's label where there is one.
pub(super) fn iso9660(subject: &Subject<'_>, _notes: &mut Notes) -> Option<Signature> {
    let volumes = || descriptors(subject.head).take_while(|each| has(each, 1, b"CD001"));
    let primary = volumes().find(|descriptor| has(descriptor, 0, &[1]))?;
    let joliet = volumes().find(|descriptor| {
        let escapes: [&[u8]; 3] = [b"%/@", b"%/C", b"%/E"];
        has(descriptor, 0, &[2]) && escapes.iter().any(|escape| has(descriptor, 88, escape))
    });
    let plain = slice(primary, 40, 32).and_then(label);
    let joliet = joliet.and_then(|joliet| slice(joliet, 40, 32));
    let label = match joliet.and_then(|field| Some((field, label_utf16_be(field)?))) {
        Some((field, joliet)) => merge(field, &joliet, plain.as_deref().unwrap_or_default()),
        None => plain,
    };
    let size = u64::from(le32(primary, 80)?).checked_mul(u64::from(le16(primary, 128)?));
    let date = [830, 813].iter().find_map(|at| date(slice(primary, *at, 16)?));
    Some(Signature::new(Kind::Iso9660, 32768).label(label).uuid(date).size(size))
}

/// Joliet's label, which keeps case and accents but only 16 letters, trailing blanks among them, and
/// the rest of the plain one where that starts alike.
fn merge(field: &[u8], joliet: &str, plain: &str) -> Option<String> {
    let alike = |(a, b): (char, char)| a.to_uppercase().eq(b.to_uppercase()) || b == '_';
    let is_full = field.as_chunks::<2>().0.iter().all(|unit| *unit != [0, 0]);
    let whole = format!("{joliet:16}");
    let length = whole.chars().count();
    if !is_full || length != 16 || !whole.chars().zip(plain.chars()).all(alike) {
        return printable(joliet);
    }
    printable(&whole.chars().chain(plain.chars().skip(length)).collect::<String>())
}

/// A date as `2024-01-31-12-00-00-00`, which serves as the volume's identifier; `None` if unset.
fn date(digits: &[u8]) -> Option<String> {
    let set = digits.iter().all(u8::is_ascii_digit) && digits.iter().any(|digit| *digit != b'0');
    let text = str::from_utf8(digits).ok().filter(|_| set)?;
    let (year, rest) = text.split_at_checked(4)?;
    let pairs = rest.as_bytes().as_chunks::<2>().0.iter();
    Some(
        pairs.fold(year.to_owned(), |text, pair| {
            format!("{text}-{}", String::from_utf8_lossy(pair))
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_becomes_an_identifier_and_an_unset_one_does_not() {
        assert_eq!(date(b"2024013112000059").as_deref(), Some("2024-01-31-12-00-00-59"));
        assert_eq!(date(b"0000000000000000"), None);
        assert_eq!(date(&[0; 16]), None);
    }
}
