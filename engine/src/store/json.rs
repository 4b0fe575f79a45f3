//! JSON of which others say what it means: a manifest's description of source and volumes, and
//! what a tracker said of itself. It is read into memory in proportion to its text, and where it
//! would take more than anything that was ever written does, it is taken for unknown.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::base::limits::MAX_JSON_MEMORY;

/// Memory of a value, about.
const VALUE: usize = 32;
/// Memory of an object's entry, about, in the tree that holds it; the first takes all of a node.
const ENTRY: usize = 112;
const OBJECT: usize = 640;

/// Reads a value, or `null` where it would take more than [`MAX_JSON_MEMORY`].
///
/// # Errors
/// The format's own.
pub fn bounded<'de, D: Deserializer<'de>>(source: D) -> Result<Value, D::Error> {
    let mut room = Room(MAX_JSON_MEMORY);
    let value = Bounded(&mut room).deserialize(source)?;
    Ok(if room.0 == 0 { Value::Null } else { value })
}

/// The same, of a member that may be missing.
///
/// # Errors
/// The format's own.
pub fn bounded_option<'de, D: Deserializer<'de>>(source: D) -> Result<Option<Value>, D::Error> {
    bounded(source).map(|value| Some(value).filter(|value| !value.is_null()))
}

/// Memory that a value takes, about.
#[must_use]
pub fn memory(value: &Value) -> usize {
    VALUE
        + match value {
            Value::String(text) => text.len(),
            Value::Array(values) => values.iter().map(memory).sum(),
            Value::Object(map) => {
                let entry = |(name, value): (&String, &Value)| ENTRY + name.len() + memory(value);
                OBJECT + map.iter().map(entry).sum::<usize>()
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        }
}

/// Memory that is left; none once there was not enough.
struct Room(usize);

impl Room {
    fn take(&mut self, memory: usize) {
        self.0 = self.0.saturating_sub(memory);
    }
}

struct Bounded<'a>(&'a mut Room);

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Value, D::Error> {
        self.0.take(VALUE);
        if self.0.0 == 0 {
            return source.deserialize_ignored_any(IgnoredAny).map(|_| Value::Null);
        }
        source.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, source: D) -> Result<Value, D::Error> {
        self.deserialize(source)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        self.0.take(value.len());
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut source: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = source.next_element_seed(Bounded(self.0))? {
            if self.0.0 > 0 {
                values.push(value);
            }
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut source: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        self.0.take(OBJECT);
        while let Some(name) = source.next_key::<String>()? {
            self.0.take(ENTRY + name.len());
            let value = source.next_value_seed(Bounded(self.0))?;
            if self.0.0 > 0 {
                map.insert(name, value);
            }
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Value {
        bounded(&mut serde_json::Deserializer::from_str(text)).expect("JSON")
    }

    #[test]
    fn what_is_ordinary_is_read_as_it_is() {
        let text = r#"{"a":[1,-2,3.5,true,null,"x\u0041"],"b":{"c":{}},"d":18446744073709551615}"#;
        assert_eq!(read(text), serde_json::from_str::<Value>(text).expect("JSON"));
        for wrong in ["{", "[1,]", "nothing"] {
            assert!(bounded(&mut serde_json::Deserializer::from_str(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn text_that_would_take_much_more_memory_than_its_own_is_unknown() {
        for piece in [r#"{"":0},"#, "{},", "0,", "[],", "\"\","] {
            let values = piece.repeat((8 << 20) / piece.len());
            let value = read(&format!("[{}0]", values));
            assert!(value.is_null() || memory(&value) <= MAX_JSON_MEMORY, "{piece}");
        }
    }
}
