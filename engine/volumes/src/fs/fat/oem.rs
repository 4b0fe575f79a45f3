//! Code page 437, in which short names are.

/// Its characters from 0x80 on.
const UPPER: &str = "\
ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀\
αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

/// The character of a byte.
pub(super) fn character(byte: u8) -> char {
    match byte.checked_sub(0x80) {
        None => char::from(byte),
        Some(upper) => UPPER.chars().nth(upper.into()).unwrap_or(char::REPLACEMENT_CHARACTER),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_character() {
        assert_eq!(UPPER.chars().count(), 128);
        let of = [(0x41, 'A'), (0x80, 'Ç'), (0x9a, 'Ü'), (0xe1, 'ß'), (0xff, '\u{a0}')];
        for (byte, expected) in of {
            assert_eq!(character(byte), expected);
        }
    }
}
