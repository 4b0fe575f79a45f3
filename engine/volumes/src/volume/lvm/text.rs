//! The text that LVM2 keeps its metadata in: `name = value` and `name { ... }`.
//!
//! Source: LVM2, `lib/config/config.c` and `lvm.conf(5)`.

use crate::base::limits::{MAX_LVM_DEPTH, MAX_LVM_VALUES};

/// What stands beside a name.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Number(i64),
    Text(String),
    List(Vec<Value>),
    Section(Section),
}

/// Names and their values, in the order of the text.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Section(Vec<(String, Value)>);

impl Section {
    /// Parses a whole text; `None` if it is none of LVM's.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parser = Parser { rest: text, values: 0 };
        let section = parser.section(0)?;
        parser.skip();
        parser.rest.is_empty().then_some(section)
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value)
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        match self.get(name)? {
            Value::Number(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn list(&self, name: &str) -> Option<&[Value]> {
        match self.get(name)? {
            Value::List(list) => Some(list),
            _ => None,
        }
    }

    pub(super) fn section(&self, name: &str) -> Option<&Section> {
        match self.get(name)? {
            Value::Section(section) => Some(section),
            _ => None,
        }
    }

    /// All sections in it, with their names.
    pub(super) fn sections(&self) -> impl Iterator<Item = (&str, &Section)> {
        self.0.iter().filter_map(|(name, value)| match value {
            Value::Section(section) => Some((name.as_str(), section)),
            _ => None,
        })
    }
}

struct Parser<'a> {
    rest: &'a str,
    /// Values so far, which bounds the memory that a hostile text takes.
    values: usize,
}

impl<'a> Parser<'a> {
    /// Leaves out blanks and comments.
    fn skip(&mut self) {
        loop {
            self.rest = self.rest.trim_start();
            if !self.rest.starts_with('#') {
                return;
            }
            self.rest = self.rest.split_once('\n').map_or("", |(_, after)| after);
        }
    }

    fn take(&mut self, symbol: char) -> bool {
        self.skip();
        match self.rest.strip_prefix(symbol) {
            Some(after) => {
                self.rest = after;
                true
            }
            None => false,
        }
    }

    fn word(&mut self, is_part: impl Fn(char) -> bool) -> Option<&'a str> {
        self.skip();
        let end = self.rest.find(|symbol| !is_part(symbol)).unwrap_or(self.rest.len());
        let (word, after) = self.rest.split_at_checked(end)?;
        self.rest = after;
        (!word.is_empty()).then_some(word)
    }

    fn section(&mut self, depth: usize) -> Option<Section> {
        let mut section = Section::default();
        if depth > MAX_LVM_DEPTH {
            return None;
        }
        loop {
            self.skip();
            if self.rest.is_empty() || self.rest.starts_with('}') {
                return Some(section);
            }
            self.values = self.values.checked_add(1).filter(|count| *count <= MAX_LVM_VALUES)?;
            let name = self.word(|symbol| {
                symbol.is_ascii_alphanumeric() || matches!(symbol, '_' | '-' | '.' | '+' | '/')
            })?;
            let value = if self.take('{') {
                let inner = self.section(depth.checked_add(1)?)?;
                self.take('}').then_some(Value::Section(inner))?
            } else {
                self.take('=').then_some(())?;
                self.value(depth)?
            };
            section.0.push((name.to_owned(), value));
        }
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        if depth > MAX_LVM_DEPTH {
            return None;
        }
        if self.take('"') {
            return self.string().map(Value::Text);
        }
        if !self.take('[') {
            let number = self.word(|symbol| symbol.is_ascii_digit() || symbol == '-')?;
            return number.parse().ok().map(Value::Number);
        }
        let mut list = Vec::new();
        while !self.take(']') {
            self.values = self.values.checked_add(1).filter(|count| *count <= MAX_LVM_VALUES)?;
            list.push(self.value(depth.checked_add(1)?)?);
            // A comma between two, or none.
            self.take(',');
        }
        Some(Value::List(list))
    }

    /// The rest of a string, its first quote taken.
    fn string(&mut self) -> Option<String> {
        let mut text = String::new();
        let mut symbols = self.rest.char_indices();
        while let Some((at, symbol)) = symbols.next() {
            match symbol {
                '"' => {
                    self.rest = self.rest.get(at.checked_add(1)?..)?;
                    return Some(text);
                }
                '\\' => text.push(symbols.next()?.1),
                other => text.push(other),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_numbers_strings_and_lists_are_read() {
        let text = "# made\nvg0 {\nid = \"a\\\"b\" # why\nseqno=3\nflags = []\n\
                    s { stripes = [ \"pv0\", 0, \"pv1\", -5 ] }\n}\ncontents = \"x\"\n";
        let parsed = Section::parse(text).expect("it is sound");
        let group = parsed.section("vg0").expect("a section");
        assert_eq!((group.text("id"), group.number("seqno")), (Some("a\"b"), Some(3)));
        assert_eq!(group.list("flags"), Some(&[][..]));
        let list = group.section("s").and_then(|inner| inner.list("stripes")).expect("a list");
        assert_eq!(list.len(), 4);
        assert_eq!(list.last(), Some(&Value::Number(-5)));
    }

    #[test]
    fn hostile_texts_end() {
        for text in ["a {", "a = ", "a = \"x", "a = [ 1", "}", "a b", "= 1"] {
            assert_eq!(Section::parse(text), None, "{text}");
        }
        assert_eq!(Section::parse(&"a {".repeat(100_000)), None);
        assert_eq!(Section::parse(&format!("a = {}", "[".repeat(100_000))), None);
    }
}
