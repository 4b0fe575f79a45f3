//! The running kernel's types (`/sys/kernel/btf/vmlinux`): where structures keep their fields.
//!
//! Format: `Documentation/bpf/btf.rst` of the kernel. A header, then types one after another,
//! numbered from 1, each a record of 12 bytes and what its kind adds, then names.

use std::fs::File;
use std::io::Read;

use crate::base::{Error, ErrorKind, Result, fields, limits};

const PATH: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;

const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_TYPEDEF: u32 = 8;

/// Structures within structures that have no name of their own are followed so deep.
const MAX_NESTING: u32 = 8;

/// All types of one kernel.
#[derive(Debug)]
pub struct KernelTypes {
    bytes: Vec<u8>,
    /// Where each type's record starts; the first is type 1.
    records: Vec<usize>,
    names: usize,
}

impl KernelTypes {
    /// Those of the running kernel.
    ///
    /// # Errors
    /// `Unsupported` if it does not tell them, `Corrupt` if they make no sense.
    pub fn of_running_kernel() -> Result<Self> {
        let file = File::open(PATH).map_err(|error| {
            let context =
                format!("{PATH}: {error}; the kernel must be built with CONFIG_DEBUG_INFO_BTF");
            Error::new(ErrorKind::Unsupported, context)
        })?;
        let mut bytes = Vec::new();
        file.take(limits::MAX_KERNEL_TYPES + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| Error::io(format!("read {PATH}"), error))?;
        if bytes.len() as u64 > limits::MAX_KERNEL_TYPES {
            return Err(Error::new(ErrorKind::Limit, format!("{PATH} is too large")));
        }
        Self::parse(bytes).ok_or_else(|| Error::corrupt(PATH, "kernel types", "something else"))
    }

    /// Walks over all types in `bytes` once; `None` if they make no sense.
    fn parse(bytes: Vec<u8>) -> Option<Self> {
        if fields::le16(&bytes, 0)? != MAGIC {
            return None;
        }
        let word = |at| fields::le32(&bytes, at).and_then(|word| usize::try_from(word).ok());
        let header = word(4)?;
        let mut at = header.checked_add(word(8)?)?;
        let end = at.checked_add(word(12)?)?;
        let names = header.checked_add(word(16)?)?;
        if end > bytes.len() || names > bytes.len() {
            return None;
        }
        let mut records = Vec::new();
        while at < end {
            records.push(at);
            let information = fields::le32(&bytes, at.checked_add(4)?)?;
            at = at.checked_add(12)?.checked_add(extra(information)?)?;
        }
        Some(Self { bytes, records, names })
    }

    /// The offset in bytes of `member` in the structure `structure`.
    ///
    /// # Errors
    /// `Unsupported` if this kernel has no such thing at a whole byte.
    pub fn offset(&self, structure: &str, member: &str) -> Result<i16> {
        let missing = || {
            let context = format!("this kernel's struct {structure} has no usable {member}");
            Error::new(ErrorKind::Unsupported, context)
        };
        let found = self.records.iter().copied().filter(|at| {
            self.kind(*at) == Some(KIND_STRUCT) && self.name_at(*at) == Some(structure.as_bytes())
        });
        // A name may also stand for a structure of some driver, without that member.
        let bits = found.filter_map(|at| self.member(at, member.as_bytes(), 0)).next();
        let bits = bits.filter(|bits| bits % 8 == 0).ok_or_else(missing)?;
        i16::try_from(bits / 8).map_err(|_| missing())
    }

    /// The number of the type that the tracepoint `name`'s programs are checked against.
    ///
    /// # Errors
    /// `Unsupported` if this kernel has no such tracepoint.
    pub fn tracepoint(&self, name: &str) -> Result<u32> {
        let wanted = format!("btf_trace_{name}");
        let position = self.records.iter().position(|at| {
            self.kind(*at) == Some(KIND_TYPEDEF) && self.name_at(*at) == Some(wanted.as_bytes())
        });
        position.and_then(|position| u32::try_from(position + 1).ok()).ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, format!("this kernel has no tracepoint {name}"))
        })
    }

    fn kind(&self, at: usize) -> Option<u32> {
        Some(fields::le32(&self.bytes, at.checked_add(4)?)? >> 24 & 0x1f)
    }

    fn name_at(&self, at: usize) -> Option<&[u8]> {
        let start = usize::try_from(fields::le32(&self.bytes, at)?).ok()?;
        let name = self.bytes.get(self.names.checked_add(start)?..)?;
        name.get(..name.iter().position(|byte| *byte == 0)?)
    }

    /// The offset in bits of `wanted` in the structure or union at `at`.
    fn member(&self, at: usize, wanted: &[u8], depth: u32) -> Option<u32> {
        let information = fields::le32(&self.bytes, at.checked_add(4)?)?;
        let has_bit_fields = information >> 31 == 1;
        for index in 0..usize::try_from(information & 0xffff).ok()? {
            // struct btf_member: name, type, offset in bits (with the size of a bit field above
            // its 24 lower bits).
            let member = at.checked_add(12 + 12 * index)?;
            let offset = fields::le32(&self.bytes, member.checked_add(8)?)?;
            let offset = match has_bit_fields {
                true if offset >> 24 != 0 => continue,
                _ => offset,
            };
            let name = self.name_at(member)?;
            if name == wanted {
                return Some(offset);
            }
            if name.is_empty() && depth < MAX_NESTING {
                let inner = usize::try_from(fields::le32(&self.bytes, member.checked_add(4)?)?);
                let inner = inner.ok()?.checked_sub(1).and_then(|inner| self.records.get(inner));
                let within = inner
                    .copied()
                    .filter(|inner| matches!(self.kind(*inner), Some(KIND_STRUCT | KIND_UNION)));
                let found = within.and_then(|inner| self.member(inner, wanted, depth + 1));
                if let Some(found) = found {
                    return offset.checked_add(found);
                }
            }
        }
        None
    }
}

/// Bytes that a type has beyond its record.
fn extra(information: u32) -> Option<usize> {
    let count = usize::try_from(information & 0xffff).ok()?;
    match information >> 24 & 0x1f {
        // Pointers, forwards, typedefs, qualifiers, functions, floats, type tags.
        2 | 7..=12 | 16 | 18 => Some(0),
        // Integers, variables, declaration tags.
        1 | 14 | 17 => Some(4),
        // Arrays.
        3 => Some(12),
        // Structures, unions, data sections, 64-bit enumerations.
        4 | 5 | 15 | 19 => Some(12 * count),
        // Enumerations, prototypes.
        6 | 13 => Some(8 * count),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct bio { int a; struct { int b; }; }`, and a typedef.
    fn small() -> Vec<u8> {
        let names = b"\0bio\0a\0b\0btf_trace_x\0";
        let types: [u32; 21] = [
            1,
            4 << 24 | 2,
            8,
            5,
            0,
            0,
            0,
            2,
            32, // bio
            0,
            4 << 24 | 1,
            4,
            7,
            0,
            0, // without a name
            9,
            8 << 24,
            0, // btf_trace_x
            0,
            2 << 24,
            0, // a pointer
        ];
        let types: Vec<u8> = types.iter().flat_map(|word| word.to_le_bytes()).collect();
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("small").to_le_bytes();
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        bytes.extend(24_u32.to_le_bytes());
        bytes.extend(0_u32.to_le_bytes());
        bytes.extend(length(&types));
        bytes.extend(length(&types));
        bytes.extend(length(names));
        bytes.extend(types);
        bytes.extend(names);
        bytes
    }

    #[test]
    fn members_are_found_also_within_nameless_structures() {
        let types = KernelTypes::parse(small()).expect("sound");
        assert_eq!(types.offset("bio", "a").expect("there"), 0);
        assert_eq!(types.offset("bio", "b").expect("there"), 4);
        assert_eq!(types.tracepoint("x").expect("there"), 3);
        let missing = types.offset("bio", "c").expect_err("no such member");
        assert_eq!(missing.kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn damaged_types_are_refused_or_lack_something_but_never_break() {
        let sound = small();
        for at in 0..sound.len() {
            for value in [0, 0x7f, 0xff] {
                let mut bytes = sound.clone();
                bytes[at] = value;
                if let Some(types) = KernelTypes::parse(bytes) {
                    let _ = types.offset("bio", "b");
                    let _ = types.tracepoint("x");
                }
            }
            let _ = KernelTypes::parse(sound[..at].to_vec());
        }
        assert!(KernelTypes::parse(sound).is_some());
    }
}
