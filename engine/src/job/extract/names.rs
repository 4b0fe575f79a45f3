//! Names for what the target cannot name as the image does, and the list of them.
//!
//! A given name is made of the name itself: what can be kept of it, a digest of the whole, and its
//! extension. So it is the same in every extraction.

use std::fmt::Write as _;

use super::report::GivenName;

/// Names that are tried for one file.
pub(super) const ATTEMPTS: usize = 8;
/// Longest name in bytes: what most filesystems allow, what eCryptfs leaves of it, and what any
/// should.
const LIMITS: [usize; 3] = [255, 143, 64];
/// Longest extension that is kept, in bytes, its dot included.
const LONGEST_EXTENSION: usize = 16;
/// What Windows' filesystems refuse in names.
const REFUSED: &str = "<>:\"/\\|?*";

/// The name for `name` that is tried after `attempt` others.
pub(super) fn given(name: &[u8], attempt: usize) -> Vec<u8> {
    let limit = LIMITS.get(attempt).or(LIMITS.last()).copied().unwrap_or(64);
    let mut digest = blake3::Hasher::new();
    digest.update(name);
    if attempt >= LIMITS.len() {
        // Not its length was the matter: something else has that name.
        digest.update(&attempt.to_le_bytes());
    }
    let digest = &digest.finalize().to_hex()[..12];
    let plain: String = String::from_utf8_lossy(name).chars().map(plain).collect();
    let (stem, extension) = match plain.rfind('.') {
        Some(dot) if dot > 0 && plain.len() - dot <= LONGEST_EXTENSION => plain.split_at(dot),
        _ => (plain.as_str(), ""),
    };
    let extension = extension.trim_end_matches(['.', ' ']);
    let mut end = stem.len().min(limit - 1 - digest.len() - extension.len());
    while !stem.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}~{digest}{extension}", &stem[..end]).into_bytes()
}

/// Whether a name is one that Windows' filesystems, or their drivers, refuse.
pub(super) fn is_odd(name: &[u8]) -> bool {
    const DEVICES: [&str; 4] = ["CON", "PRN", "AUX", "NUL"];
    let Ok(name) = std::str::from_utf8(name) else { return true };
    let stem = name.split('.').next().unwrap_or_default().trim_end().to_ascii_uppercase();
    let port = stem.strip_prefix("COM").or_else(|| stem.strip_prefix("LPT"));
    name.contains(|letter| plain(letter) != letter)
        || name.ends_with(['.', ' '])
        || DEVICES.contains(&stem.as_str())
        || port.is_some_and(|number| number.len() == 1 && number != "0")
}

fn plain(letter: char) -> char {
    let is_refused =
        letter.is_control() || REFUSED.contains(letter) || letter == char::REPLACEMENT_CHARACTER;
    if is_refused { '_' } else { letter }
}

/// The list as a table: a line each, the path and the path that it has in the target folder, a
/// tab between them. A backslash begins what would not be plain in it: `\\`, `\t`, `\n`, and
/// `\xNN` for other control characters and bytes that are no UTF-8.
pub(super) fn table(names: &[GivenName]) -> String {
    let mut text = String::new();
    for name in names {
        spell(&mut text, &name.path);
        text.push('\t');
        spell(&mut text, &name.given);
        text.push('\n');
    }
    text
}

fn spell(text: &mut String, path: &[u8]) {
    let hex = |text: &mut String, bytes: &[u8]| {
        for byte in bytes {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    };
    for chunk in path.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter {
                '\\' => text.push_str("\\\\"),
                '\t' => text.push_str("\\t"),
                '\n' => text.push_str("\\n"),
                _ if letter.is_control() => {
                    hex(text, letter.encode_utf8(&mut [0; 4]).as_bytes());
                }
                _ => text.push(letter),
            }
        }
        hex(text, chunk.invalid());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_name_fits_says_what_it_is_and_is_always_the_same() {
        let long = "漢".repeat(255) + ".txt";
        let name = String::from_utf8(given(long.as_bytes(), 0)).expect("text");
        assert!(name.len() <= 255 && name.len() > 250, "{}", name.len());
        assert!(name.starts_with("漢漢") && name.ends_with(".txt"), "{name}");
        assert_eq!(given(long.as_bytes(), 0), name.as_bytes());
        let other = "漢".repeat(254) + "字.txt";
        assert_ne!(given(other.as_bytes(), 0), name.as_bytes());
        let tried: std::collections::HashSet<_> =
            (0..ATTEMPTS).map(|attempt| given(long.as_bytes(), attempt)).collect();
        assert_eq!(tried.len(), ATTEMPTS);
        assert!(given(long.as_bytes(), 1).len() <= 143 && given(long.as_bytes(), 7).len() <= 64);
    }

    #[test]
    fn a_given_name_has_no_characters_that_are_refused() {
        let given = String::from_utf8(given(b"a:b?\xff\x01.x. ", 0)).expect("text");
        assert!(given.starts_with("a_b___~") || given.starts_with("a_b___.x"), "{given}");
        assert!(!given.ends_with(['.', ' ']) || given.contains('~'), "{given}");
        assert!(!given.contains(|letter: char| letter.is_control() || REFUSED.contains(letter)));
    }

    #[test]
    fn names_that_windows_refuses_are_odd() {
        for odd in ["a:b", "x?", "end.", "end ", "con", "NUL.txt", "lpt1", "com9.log", "a\u{1}"] {
            assert!(is_odd(odd.as_bytes()), "{odd}");
        }
        assert!(is_odd(b"\xff"));
        for plain in ["a", "漢字.txt", "console", "com10", "com", ".hidden", "a b"] {
            assert!(!is_odd(plain.as_bytes()), "{plain}");
        }
    }

    #[test]
    fn the_table_can_be_taken_apart_again() {
        let names = [GivenName { path: b"a\tb\\\n\xff/c".to_vec(), given: b"d/e".to_vec() }];
        assert_eq!(table(&names), "a\\tb\\\\\\n\\xff/c\td/e\n");
    }
}
