//! Writes BPF instructions (RFC 9669): registers, labels, and the few forms that are needed here.

use crate::base::{Error, ErrorKind, Result};

/// A register. `R1` to `R5` are lost at every call, `R10` is the frame's upper end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Register {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
}

/// The width of a load or store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// 32 bits.
    Word,
    /// 64 bits.
    Double,
}

/// Functions of the kernel (`enum bpf_func_id`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Helper {
    /// `bpf_map_lookup_elem(map, key)`.
    Lookup = 1,
    /// `bpf_map_update_elem(map, key, value, flags)`.
    Update = 2,
    /// `bpf_map_delete_elem(map, key)`.
    Delete = 3,
}

/// A place in a program, to be jumped to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label(usize);

/// A program in the making.
#[derive(Debug, Default)]
pub struct Assembler {
    instructions: Vec<u64>,
    /// Where each label stands, once it is placed.
    labels: Vec<Option<usize>>,
    /// Jumps, and the labels that they go to.
    jumps: Vec<(usize, Label)>,
}

/// Operations of `BPF_ALU64`, by code.
const ADD: u8 = 0x07;
const SUB: u8 = 0x17;
const AND: u8 = 0x57;
const SHIFT_LEFT: u8 = 0x67;
const SHIFT_RIGHT: u8 = 0x77;
const XOR: u8 = 0xa7;
const MOVE: u8 = 0xb7;
/// The operand is a register, not an immediate.
const FROM_REGISTER: u8 = 0x08;
/// `BPF_STX | BPF_ATOMIC | BPF_DW`, with `BPF_ADD` or `BPF_OR` as its immediate.
const ATOMIC: u8 = 0xdb;

impl Assembler {
    /// A label, to be placed later.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Places `label` before the next instruction.
    pub fn place(&mut self, label: Label) {
        self.labels[label.0] = Some(self.instructions.len());
    }

    /// `to = from`.
    pub fn copy(&mut self, to: Register, from: Register) {
        self.push(MOVE | FROM_REGISTER, to, from, 0, 0);
    }

    /// `to = value`, sign-extended.
    pub fn set(&mut self, to: Register, value: i32) {
        self.push(MOVE, to, Register::R0, 0, value);
    }

    /// `to += value`.
    pub fn add(&mut self, to: Register, value: i32) {
        self.push(ADD, to, Register::R0, 0, value);
    }

    /// `to += from`.
    pub fn add_register(&mut self, to: Register, from: Register) {
        self.push(ADD | FROM_REGISTER, to, from, 0, 0);
    }

    /// `to -= from`.
    pub fn subtract_register(&mut self, to: Register, from: Register) {
        self.push(SUB | FROM_REGISTER, to, from, 0, 0);
    }

    /// `to &= value`.
    pub fn and(&mut self, to: Register, value: i32) {
        self.push(AND, to, Register::R0, 0, value);
    }

    /// `to &= from`.
    pub fn and_register(&mut self, to: Register, from: Register) {
        self.push(AND | FROM_REGISTER, to, from, 0, 0);
    }

    /// `to ^= from`.
    pub fn xor_register(&mut self, to: Register, from: Register) {
        self.push(XOR | FROM_REGISTER, to, from, 0, 0);
    }

    /// `to <<= bits`.
    pub fn shift_left(&mut self, to: Register, bits: i32) {
        self.push(SHIFT_LEFT, to, Register::R0, 0, bits);
    }

    /// `to <<= from`.
    pub fn shift_left_register(&mut self, to: Register, from: Register) {
        self.push(SHIFT_LEFT | FROM_REGISTER, to, from, 0, 0);
    }

    /// `to >>= bits`, unsigned.
    pub fn shift_right(&mut self, to: Register, bits: i32) {
        self.push(SHIFT_RIGHT, to, Register::R0, 0, bits);
    }

    /// `to >>= from`, unsigned.
    pub fn shift_right_register(&mut self, to: Register, from: Register) {
        self.push(SHIFT_RIGHT | FROM_REGISTER, to, from, 0, 0);
    }

    /// `to = *(base + offset)`, zero-extended.
    pub fn load(&mut self, width: Width, to: Register, base: Register, offset: i16) {
        self.push(if width == Width::Word { 0x61 } else { 0x79 }, to, base, offset, 0);
    }

    /// `*(base + offset) = from`.
    pub fn store(&mut self, width: Width, base: Register, offset: i16, from: Register) {
        self.push(if width == Width::Word { 0x63 } else { 0x7b }, base, from, offset, 0);
    }

    /// `*(base + offset) += from`, 64 bits, atomically.
    pub fn atomic_add(&mut self, base: Register, offset: i16, from: Register) {
        self.push(ATOMIC, base, from, offset, 0x00);
    }

    /// `*(base + offset) |= from`, 64 bits, atomically.
    pub fn atomic_or(&mut self, base: Register, offset: i16, from: Register) {
        self.push(ATOMIC, base, from, offset, 0x40);
    }

    /// `to` = the map with `descriptor`.
    pub fn load_map(&mut self, to: Register, descriptor: i32) {
        // BPF_LD | BPF_IMM | BPF_DW, two instructions long; source register 1 is
        // BPF_PSEUDO_MAP_FD.
        self.push(0x18, to, Register::R1, 0, descriptor);
        self.push(0, Register::R0, Register::R0, 0, 0);
    }

    /// Calls `helper` with `R1` to `R5`; `R0` is its answer.
    pub fn call(&mut self, helper: Helper) {
        self.push(0x85, Register::R0, Register::R0, 0, helper as i32);
    }

    /// Ends the program; `R0` must be set.
    pub fn exit(&mut self) {
        self.push(0x95, Register::R0, Register::R0, 0, 0);
    }

    /// Goes to `label`.
    pub fn jump(&mut self, label: Label) {
        self.branch(0x05, Register::R0, 0, label);
    }

    /// Goes to `label` if `register == value`.
    pub fn jump_if_equal(&mut self, register: Register, value: i32, label: Label) {
        self.branch(0x15, register, value, label);
    }

    /// Goes to `label` if `register != value`.
    pub fn jump_if_not_equal(&mut self, register: Register, value: i32, label: Label) {
        self.branch(0x55, register, value, label);
    }

    /// Goes to `label` if `register < value`, unsigned.
    pub fn jump_if_less(&mut self, register: Register, value: i32, label: Label) {
        self.branch(0xa5, register, value, label);
    }

    /// Goes to `label` if `register` and `value` share a bit.
    pub fn jump_if_bits(&mut self, register: Register, value: i32, label: Label) {
        self.branch(0x45, register, value, label);
    }

    /// Goes to `label` if `one == other`.
    pub fn jump_if_same(&mut self, one: Register, other: Register, label: Label) {
        self.jumps.push((self.instructions.len(), label));
        self.push(0x1d, one, other, 0, 0);
    }

    /// Goes to `label` if `one != other`.
    pub fn jump_if_differ(&mut self, one: Register, other: Register, label: Label) {
        self.jumps.push((self.instructions.len(), label));
        self.push(0x5d, one, other, 0, 0);
    }

    /// Goes to `label` if `one > other`, unsigned.
    pub fn jump_if_above(&mut self, one: Register, other: Register, label: Label) {
        self.jumps.push((self.instructions.len(), label));
        self.push(0x2d, one, other, 0, 0);
    }

    /// The instructions, every jump at its label.
    ///
    /// # Errors
    /// `Invalid` for a label that was never placed or is out of reach.
    pub fn finish(mut self) -> Result<Vec<u64>> {
        for (at, label) in self.jumps {
            let target = self.labels[label.0]
                .ok_or_else(|| Error::new(ErrorKind::Invalid, "a BPF label was never placed"))?;
            let distance = i64::try_from(target).ok().zip(i64::try_from(at).ok());
            let distance = distance.and_then(|(target, at)| i16::try_from(target - at - 1).ok());
            let distance = distance
                .ok_or_else(|| Error::new(ErrorKind::Invalid, "a BPF jump is out of reach"))?;
            self.instructions[at] |= u64::from(distance.cast_unsigned()) << 16;
        }
        Ok(self.instructions)
    }

    fn branch(&mut self, code: u8, register: Register, value: i32, label: Label) {
        self.jumps.push((self.instructions.len(), label));
        self.push(code, register, Register::R0, 0, value);
    }

    fn push(&mut self, code: u8, to: Register, from: Register, offset: i16, value: i32) {
        let registers = to as u64 | (from as u64) << 4;
        let offset = u64::from(offset.cast_unsigned()) << 16;
        let value = u64::from(value.cast_unsigned()) << 32;
        self.instructions.push(u64::from(code) | registers << 8 | offset | value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_what_the_specification_says() {
        let mut assembler = Assembler::default();
        let end = assembler.label();
        assembler.jump_if_equal(Register::R1, -1, end);
        assembler.load(Width::Word, Register::R2, Register::R10, -4);
        assembler.place(end);
        assembler.exit();
        let expected = [0xffff_ffff_0001_0115, 0x0000_0000_fffc_a261, 0x95];
        assert_eq!(assembler.finish().expect("complete"), expected);
    }

    #[test]
    fn a_label_that_stands_nowhere_is_refused() {
        let mut assembler = Assembler::default();
        let label = assembler.label();
        assembler.jump(label);
        assert!(assembler.finish().is_err());
    }
}
