//! The programs that mark writes: when they are queued, and again when they are complete, before
//! anyone is told so.
//!
//! `R6` is the event's structure and later the count of marked words, `R7` the operation, `R8`
//! the disk's entry and later its bitmap, `R9` its page of counters.

use std::os::fd::AsRawFd;

use super::layout::{
    COARSE_SHIFT, COMPLETED, Flag, HUGE, MARKED_WORDS, OPERATIONS, QUEUED, disk, write,
};
use crate::base::Result;
use crate::sys::bpf::Register::{R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10};
use crate::sys::bpf::Width::{Double, Word};
use crate::sys::bpf::{Assembler, Helper, KernelTypes, Label, Map, Program, Register};

/// `REQ_OP_MASK`.
const OPERATION_MASK: i32 = 255;
/// Operations (`enum req_op`). All odd ones write.
const WRITE: i32 = 1;
const DISCARD: i32 = 3;
const ZONE_APPEND: i32 = 7;
const DRIVER_IN: i32 = 34;
const DRIVER_OUT: i32 = 35;

/// Where the programs keep what they need, below the frame's upper end.
mod stack {
    pub const DEVICE: i16 = -4;
    pub const SLOT: i16 = -8;
    pub const FIRST: i16 = -16;
    pub const LAST: i16 = -24;
    pub const WORD: i16 = -28;
    pub const BIO: i16 = -40;
    pub const WRITE: i16 = -64;
    pub const SECTOR: i16 = -72;
    pub const COUNT: i16 = -80;
}

/// The maps that the programs use.
#[derive(Debug, Clone, Copy)]
pub struct Maps<'a> {
    /// Disks by device number.
    pub disks: &'a Map,
    /// Pages of counters by slot.
    pub stats: &'a Map,
    /// Bitmaps by slot.
    pub epochs: &'a Map,
    /// Writes in flight.
    pub in_flight: &'a Map,
}

/// A tracepoint and the name of its program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// A `bio` is queued.
    Queue,
    /// A request is complete.
    Request,
    /// A `bio` of a disk without a request queue is complete.
    Bio,
}

impl Hook {
    /// All.
    pub const ALL: [Self; 3] = [Self::Queue, Self::Request, Self::Bio];

    /// The tracepoint.
    #[must_use]
    pub fn tracepoint(self) -> &'static str {
        match self {
            Self::Queue => "block_bio_queue",
            Self::Request => "block_rq_complete",
            Self::Bio => "block_bio_complete",
        }
    }

    /// Its name in the kernel's listings and among the pins.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Queue => "imgx_queue",
            Self::Request => "imgx_request",
            Self::Bio => "imgx_bio",
        }
    }

    /// Loads the program.
    ///
    /// # Errors
    /// `Unsupported` saying what the kernel lacks.
    pub fn load(self, types: &KernelTypes, maps: Maps<'_>) -> Result<Program> {
        let writer = Writer::new(types, maps);
        let instructions = match self {
            Self::Queue => writer.queue()?,
            Self::Request => writer.request()?,
            Self::Bio => writer.bio()?,
        };
        Program::load(self.name(), &instructions, types.tracepoint(self.tracepoint())?)
    }
}

struct Writer<'a> {
    types: &'a KernelTypes,
    maps: Maps<'a>,
    code: Assembler,
    end: Label,
}

impl<'a> Writer<'a> {
    fn new(types: &'a KernelTypes, maps: Maps<'a>) -> Self {
        let mut code = Assembler::default();
        let end = code.label();
        Self { types, maps, code, end }
    }

    /// `block_bio_queue(bio)`.
    fn queue(mut self) -> Result<Vec<u64>> {
        self.code.load(Double, R6, R1, 0);
        let flags = self.types.offset("bio", "bi_opf")?;
        self.code.load(Word, R7, R6, flags);
        self.leave_unless_write();
        self.follow(R1, R6, &[("bio", "bi_bdev"), ("block_device", "bd_disk")])?;
        self.find_disk(R1)?;
        let iterator = self.types.offset("bio", "bi_iter")?;
        let sector = iterator + self.types.offset("bvec_iter", "bi_sector")?;
        let size = iterator + self.types.offset("bvec_iter", "bi_size")?;
        self.code.load(Double, R1, R6, sector);
        self.code.store(Double, R10, stack::SECTOR, R1);
        self.code.load(Word, R2, R6, size);
        self.code.shift_right(R2, 9);
        self.code.store(Double, R10, stack::COUNT, R2);
        self.count(QUEUED);
        self.raise_if_operation(ZONE_APPEND, Flag::ZoneAppend);
        let (has_sectors, flush) = (self.code.label(), self.end);
        self.code.load(Double, R2, R10, stack::COUNT);
        self.code.jump_if_not_equal(R2, 0, has_sectors);
        // A write of nothing is a flush.
        self.code.jump_if_equal(R7, WRITE, flush);
        self.raise(Flag::NoSectors);
        self.code.jump(flush);
        self.code.place(has_sectors);
        self.remember()?;
        self.mark();
        self.finish()
    }

    /// `block_rq_complete(rq, error, nr_bytes)`.
    fn request(mut self) -> Result<Vec<u64>> {
        // Of the arguments, the second and third are needed only later.
        self.code.load(Double, R6, R1, 0);
        self.code.load(Double, R2, R1, 8);
        self.code.store(Double, R10, stack::BIO, R2);
        self.code.load(Double, R2, R1, 16);
        self.code.shift_left(R2, 32);
        self.code.shift_right(R2, 32 + 9);
        self.code.store(Double, R10, stack::COUNT, R2);
        self.code.load(Word, R7, R6, self.types.offset("request", "cmd_flags")?);
        self.leave_unless_write_or_control();
        self.follow(R1, R6, &[("request", "q"), ("request_queue", "disk")])?;
        self.find_disk(R1)?;
        self.code.load(Double, R1, R6, self.types.offset("request", "__sector")?);
        self.code.store(Double, R10, stack::SECTOR, R1);
        self.count(COMPLETED);
        let moves_data = self.code.label();
        self.code.jump_if_not_equal(R7, DRIVER_IN, moves_data);
        self.raise(Flag::Control);
        self.code.jump(self.end);
        self.code.place(moves_data);
        let block_layer = self.code.label();
        self.code.jump_if_not_equal(R7, DRIVER_OUT, block_layer);
        self.raise(Flag::PassThrough);
        self.code.jump(self.end);
        self.code.place(block_layer);
        let success = self.code.label();
        self.code.load(Double, R1, R10, stack::BIO);
        self.code.and(R1, 255);
        self.code.jump_if_equal(R1, 0, success);
        self.raise(Flag::Failed);
        self.code.place(success);
        let one_range = self.code.label();
        self.code.jump_if_not_equal(R7, DISCARD, one_range);
        self.follow(R1, R6, &[("request", "bio"), ("bio", "bi_next")])?;
        self.code.jump_if_equal(R1, 0, one_range);
        self.raise(Flag::SeveralRanges);
        self.code.place(one_range);
        self.code.load(Double, R2, R10, stack::COUNT);
        self.code.jump_if_equal(R2, 0, self.end);
        self.mark();
        self.finish()
    }

    /// `block_bio_complete(q, bio)`: of a disk without a request queue, whose `bio` may have been
    /// changed on its way.
    fn bio(mut self) -> Result<Vec<u64>> {
        self.code.load(Double, R6, R1, 8);
        self.code.store(Double, R10, stack::BIO, R6);
        self.lookup(self.maps.in_flight, stack::BIO);
        self.code.jump_if_equal(R0, 0, self.end);
        self.code.load(Double, R1, R0, write::SECTOR);
        self.code.store(Double, R10, stack::SECTOR, R1);
        self.code.load(Word, R1, R0, write::COUNT);
        self.code.store(Double, R10, stack::COUNT, R1);
        self.code.load(Word, R7, R0, write::OPERATION);
        self.code.load(Word, R1, R0, write::DEVICE);
        self.code.store(Word, R10, stack::DEVICE, R1);
        self.code.load_map(R1, self.maps.in_flight.descriptor().as_raw_fd());
        self.code.copy(R2, R10);
        self.code.add(R2, stack::BIO.into());
        self.code.call(Helper::Delete);
        self.find_entry();
        self.count(COMPLETED);
        self.mark();
        self.finish()
    }

    fn finish(mut self) -> Result<Vec<u64>> {
        self.code.place(self.end);
        self.code.set(R0, 0);
        self.code.exit();
        self.code.finish()
    }

    /// Leaves `R7` as the operation.
    fn leave_unless_write(&mut self) {
        let write = self.code.label();
        self.code.jump_if_bits(R7, 1, write);
        self.code.jump(self.end);
        self.code.place(write);
        self.code.and(R7, OPERATION_MASK);
    }

    /// The same, but stays for commands of the driver that move no data.
    fn leave_unless_write_or_control(&mut self) {
        let stay = self.code.label();
        self.code.copy(R1, R7);
        self.code.and(R7, OPERATION_MASK);
        self.code.jump_if_bits(R1, 1, stay);
        self.code.jump_if_not_equal(R7, DRIVER_IN, self.end);
        self.code.load(Double, R1, R10, stack::COUNT);
        self.code.jump_if_not_equal(R1, 0, self.end);
        self.code.place(stay);
    }

    /// `to` = the pointer behind a chain of members, or null.
    fn follow(&mut self, to: Register, from: Register, chain: &[(&str, &str)]) -> Result<()> {
        let mut at = from;
        for (structure, member) in chain {
            let offset = self.types.offset(structure, member)?;
            self.code.load(Double, to, at, offset);
            at = to;
        }
        Ok(())
    }

    /// Goes on with the entry and page of a `struct gendisk`, if it is tracked.
    fn find_disk(&mut self, gendisk: Register) -> Result<()> {
        self.code.load(Double, R2, gendisk, self.types.offset("gendisk", "diskseq")?);
        self.code.store(Double, R10, stack::FIRST, R2);
        self.code.load(Double, R1, gendisk, self.types.offset("gendisk", "part0")?);
        self.code.load(Word, R1, R1, self.types.offset("block_device", "bd_dev")?);
        self.code.store(Word, R10, stack::DEVICE, R1);
        self.find_entry();
        let same = self.code.label();
        self.code.load(Double, R1, R10, stack::FIRST);
        self.code.load(Double, R2, R8, disk::SEQUENCE);
        self.code.jump_if_same(R1, R2, same);
        self.raise(Flag::OtherDisk);
        self.code.place(same);
        Ok(())
    }

    /// `R8` = the entry of the device on the stack, `R9` = its page; leaves if there is none.
    fn find_entry(&mut self) {
        self.lookup(self.maps.disks, stack::DEVICE);
        self.code.jump_if_equal(R0, 0, self.end);
        self.code.copy(R8, R0);
        self.code.load(Word, R1, R8, disk::SLOT);
        self.code.store(Word, R10, stack::SLOT, R1);
        self.lookup(self.maps.stats, stack::SLOT);
        self.code.jump_if_equal(R0, 0, self.end);
        self.code.copy(R9, R0);
    }

    /// `R0` = the value of the key on the stack.
    fn lookup(&mut self, map: &Map, key: i16) {
        self.code.load_map(R1, map.descriptor().as_raw_fd());
        self.code.copy(R2, R10);
        self.code.add(R2, key.into());
        self.code.call(Helper::Lookup);
    }

    /// Counts the operation and its sectors in the page's table at `table`.
    fn count(&mut self, table: i16) {
        let last = i32::try_from(OPERATIONS - 1).unwrap_or(0);
        self.code.copy(R1, R7);
        self.code.and(R1, last);
        self.code.shift_left(R1, 4);
        self.code.copy(R2, R9);
        self.code.add_register(R2, R1);
        self.code.set(R1, 1);
        self.code.atomic_add(R2, table, R1);
        self.code.load(Double, R1, R10, stack::COUNT);
        self.code.atomic_add(R2, table + 8, R1);
    }

    fn raise(&mut self, flag: Flag) {
        self.code.set(R1, 1);
        self.code.atomic_add(R9, flag.offset(), R1);
    }

    fn raise_if_operation(&mut self, operation: i32, flag: Flag) {
        let other = self.code.label();
        self.code.jump_if_not_equal(R7, operation, other);
        self.raise(flag);
        self.code.place(other);
    }

    /// Remembers a write to a disk without a request queue until it is complete.
    fn remember(&mut self) -> Result<()> {
        let done = self.code.label();
        self.code.load(Double, R1, R8, disk::BIO_BASED);
        self.code.jump_if_equal(R1, 0, done);
        self.code.store(Double, R10, stack::BIO, R6);
        self.code.load(Double, R1, R10, stack::SECTOR);
        self.code.store(Double, R10, stack::WRITE + write::SECTOR, R1);
        self.code.load(Double, R1, R10, stack::COUNT);
        self.code.store(Word, R10, stack::WRITE + write::COUNT, R1);
        self.code.store(Word, R10, stack::WRITE + write::OPERATION, R7);
        self.code.load(Word, R1, R10, stack::DEVICE);
        self.code.store(Word, R10, stack::WRITE + write::DEVICE, R1);
        self.code.set(R1, 0);
        self.code.store(Word, R10, stack::WRITE + write::DEVICE + 4, R1);
        self.code.load_map(R1, self.maps.in_flight.descriptor().as_raw_fd());
        self.code.copy(R2, R10);
        self.code.add(R2, stack::BIO.into());
        self.code.copy(R3, R10);
        self.code.add(R3, stack::WRITE.into());
        self.code.set(R4, 0);
        self.code.call(Helper::Update);
        self.code.jump_if_equal(R0, 0, done);
        self.raise(Flag::TooManyInFlight);
        self.code.place(done);
        Ok(())
    }

    /// Sets the bits of the sectors on the stack, of which there is at least one.
    fn mark(&mut self) {
        let (fine, next_word, not_first, not_last, is_set, done) = (
            self.code.label(),
            self.code.label(),
            self.code.label(),
            self.code.label(),
            self.code.label(),
            self.end,
        );
        let code = &mut self.code;
        code.load(Double, R1, R10, stack::SECTOR);
        code.load(Double, R2, R10, stack::COUNT);
        code.load(Word, R3, R8, disk::SHIFT);
        code.and(R3, 63);
        code.copy(R4, R1);
        code.shift_right_register(R4, R3);
        code.add_register(R1, R2);
        code.add(R1, -1);
        code.shift_right_register(R1, R3);
        code.copy(R5, R1);
        code.subtract_register(R5, R4);
        code.jump_if_less(R5, HUGE, fine);
        let coarse = i32::try_from(COARSE_SHIFT).unwrap_or(0);
        code.load(Double, R0, R8, disk::COARSE);
        code.shift_right(R4, coarse);
        code.add_register(R4, R0);
        code.shift_right(R1, coarse);
        code.add_register(R1, R0);
        code.place(fine);
        code.store(Double, R10, stack::FIRST, R4);
        code.store(Double, R10, stack::LAST, R1);
        self.lookup(self.maps.epochs, stack::SLOT);
        let no_map = self.code.label();
        let code = &mut self.code;
        code.jump_if_equal(R0, 0, no_map);
        code.copy(R8, R0);
        code.set(R6, 0);
        code.place(next_word);
        code.load(Double, R1, R10, stack::FIRST);
        code.shift_right(R1, 6);
        code.add_register(R1, R6);
        code.load(Double, R2, R10, stack::LAST);
        code.shift_right(R2, 6);
        code.jump_if_above(R1, R2, done);
        code.store(Word, R10, stack::WORD, R1);
        code.copy(R1, R8);
        code.copy(R2, R10);
        code.add(R2, stack::WORD.into());
        code.call(Helper::Lookup);
        code.jump_if_equal(R0, 0, no_map);
        code.set(R2, -1);
        code.load(Double, R3, R10, stack::FIRST);
        code.jump_if_not_equal(R6, 0, not_first);
        code.and(R3, 63);
        code.shift_left_register(R2, R3);
        code.place(not_first);
        code.load(Double, R1, R10, stack::FIRST);
        code.shift_right(R1, 6);
        code.add_register(R1, R6);
        code.load(Double, R4, R10, stack::LAST);
        code.copy(R5, R4);
        code.shift_right(R5, 6);
        code.jump_if_differ(R1, R5, not_last);
        code.and(R4, 63);
        code.set(R3, 63);
        code.subtract_register(R3, R4);
        code.set(R5, -1);
        code.shift_right_register(R5, R3);
        code.and_register(R2, R5);
        code.place(not_last);
        // Most bits are set already; a plain read spares the others' caches.
        code.load(Double, R3, R0, 0);
        code.and_register(R3, R2);
        code.jump_if_same(R3, R2, is_set);
        code.atomic_or(R0, 0, R2);
        code.place(is_set);
        code.add(R6, 1);
        code.jump_if_less(R6, MARKED_WORDS, next_word);
        self.raise(Flag::TooLong);
        self.code.jump(done);
        self.code.place(no_map);
        self.raise(Flag::OutOfBounds);
    }
}
