//! Where a disk's bytes come from: files of this machine, or an export of an NBD server.

use std::io;
use std::sync::Arc;

use super::SourceInfo;
use super::extents::{self, Extent};
use super::files::{Files, index};
use super::nbd::NbdExport;
use crate::base::{ByteOffset, Error, Result};

/// Bytes of a file that are given up together; those of a device by its logical sector.
const FILE_SECTOR: usize = 4096;

/// A disk's bytes, wherever they are.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    Files(Arc<Files>),
    Nbd(Arc<NbdExport>),
}

impl Origin {
    pub fn info(&self) -> &SourceInfo {
        match self {
            Self::Files(files) => &files.info,
            Self::Nbd(export) => export.info(),
        }
    }

    pub fn size(&self) -> u64 {
        self.info().size.0
    }

    /// Bytes that are given up together where reads fail.
    pub fn sector(&self) -> usize {
        match self {
            Self::Files(files) => files
                .facts
                .as_ref()
                .map_or(FILE_SECTOR, |facts| index(u64::from(facts.logical_sector_size))),
            Self::Nbd(export) => export.sector(),
        }
    }

    /// Reads until `memory` is full or the end; returns the bytes read.
    pub fn read(&self, offset: u64, memory: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Files(files) => files.read(offset, memory),
            Self::Nbd(export) => export.read(offset, memory),
        }
    }

    /// As [`crate::base::ReadAt::read_exact_at`], for any offset, length and memory.
    pub fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        match self {
            Self::Files(files) => files.read_exact_at(offset, buffer),
            Self::Nbd(export) => export.read_exact_at(offset, buffer),
        }
    }

    /// The error of a read at `offset`.
    pub fn reading(&self, offset: u64, error: io::Error) -> Error {
        match self {
            Self::Files(files) => files.reading(offset, error),
            Self::Nbd(export) => export.reading(offset, error),
        }
    }

    /// Fails unless `done` is all of `wanted`: within the known size, that means it shrank.
    pub fn expect_whole(&self, offset: u64, done: usize, wanted: usize) -> Result<()> {
        match self {
            Self::Files(files) => files.expect_whole(offset, done, wanted),
            // An export's reads are whole or fail.
            Self::Nbd(_) => Ok(()),
        }
    }

    /// Why the disk can no longer be read at all, if it can't. With a connection, all fails.
    pub fn gone(&self) -> Option<String> {
        match self {
            Self::Files(files) => files.gone(),
            Self::Nbd(_) => None,
        }
    }

    /// Where it has data and where it reads as zero.
    pub fn extents(&self) -> Vec<Extent> {
        match self {
            Self::Files(files) => extents::extents(files),
            Self::Nbd(export) => extents::of_export(export),
        }
    }
}
