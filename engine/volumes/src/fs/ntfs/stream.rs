//! Streams: the value of an attribute, wherever it is.

use super::attribute::{Attribute, Form, flags};
use super::runs::Runs;
use super::space::Space;
use super::units::{Vcn, bytes, index};
use crate::base::fields::slice;
use crate::base::{ByteRange, Error, ErrorKind, Result};

/// The value of an attribute.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    pub size: u64,
    /// Bytes that were written; the rest reads as zeros.
    pub valid: u64,
    flags: u16,
    unit_shift: u8,
    pub body: Body,
}

/// Where a value is.
#[derive(Debug, Clone)]
pub(super) enum Body {
    /// In a record.
    Resident(Vec<u8>),
    /// On clusters.
    Mapped(Runs),
}

/// A stretch of a value on clusters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stretch {
    /// Its first byte on the volume; `None` in a hole.
    pub place: Option<u64>,
    pub length: u64,
}

impl Stream {
    /// The content of a file without any.
    pub(super) fn empty() -> Self {
        Self { size: 0, valid: 0, flags: 0, unit_shift: 0, body: Body::Resident(Vec::new()) }
    }

    /// The value of which `attribute` is all or the first part.
    ///
    /// # Errors
    /// `Corrupt` when it is a later part, or damaged.
    pub(super) fn begin(attribute: &Attribute<'_>, space: &Space) -> Result<Self> {
        let mut stream = Self {
            size: 0,
            valid: 0,
            flags: attribute.flags,
            unit_shift: 0,
            body: Body::Mapped(Runs::default()),
        };
        match attribute.form {
            Form::Resident(value) => {
                stream.size = bytes(value.len());
                stream.valid = stream.size;
                stream.body = Body::Resident(value.to_vec());
            }
            Form::NonResident(mapping) => {
                stream.size = mapping.size;
                stream.valid = mapping.valid.min(mapping.size);
                stream.unit_shift = mapping.unit_shift;
                stream.extend(attribute, space)?;
            }
        }
        Ok(stream)
    }

    /// Adds the next part of the value.
    ///
    /// # Errors
    /// `Corrupt` when it is not the next one, or damaged; `Limit` when there are too many runs.
    pub(super) fn extend(&mut self, attribute: &Attribute<'_>, space: &Space) -> Result<()> {
        match (&mut self.body, attribute.form) {
            (Body::Mapped(runs), Form::NonResident(part)) => {
                runs.extend(part.pairs, part.lowest, part.end, space.clusters)
            }
            _ => {
                let found = "a value in two parts of which one is in its record";
                Err(Error::corrupt("attribute", "one form", found))
            }
        }
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.flags & flags::ENCRYPTED != 0
    }

    /// The runs, and clusters of a compression unit, if it is compressed and not in its record.
    pub(super) fn compressed(&self) -> Option<(&Runs, u8)> {
        match &self.body {
            Body::Mapped(runs) if self.flags & flags::COMPRESSION_MASK != 0 => {
                Some((runs, self.unit_shift))
            }
            _ => None,
        }
    }

    /// The method of compression.
    pub(super) fn method(&self) -> u16 {
        self.flags & flags::COMPRESSION_MASK
    }

    /// The stretch of a value on clusters from byte `offset` on, as its runs say.
    ///
    /// # Errors
    /// `Corrupt` when it ends before.
    pub(super) fn stretch(runs: &Runs, space: &Space, offset: u64) -> Result<Stretch> {
        let cluster_size = space.cluster_size.max(1);
        let vcn = Vcn(offset.checked_div(cluster_size).unwrap_or_default());
        let within = offset.checked_rem(cluster_size).unwrap_or_default();
        let run = runs.at(vcn).ok_or_else(|| {
            let expected = format!("clusters for byte {offset}");
            Error::corrupt("stream", expected, format!("its last before {}", runs.end()))
        })?;
        let place = run.place.map(|place| space.offset(place).saturating_add(within));
        let length = run.count.saturating_mul(cluster_size).saturating_sub(within);
        Ok(Stretch { place, length })
    }

    /// Fills `buffer` with metadata from byte `offset` on, all of which there has to be.
    ///
    /// # Errors
    /// `Corrupt` when the value ends before; `Unsupported` when it is compressed or encrypted; the
    /// volume's own.
    pub(super) fn read_metadata(
        &self,
        space: &Space,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<()> {
        self.read_by(space, offset, buffer, &|place, part| space.read_metadata(place, part))
    }

    /// As [`read_metadata`](Self::read_metadata), past the cache: what is read once from end to end
    /// would only flush it.
    ///
    /// # Errors
    /// As there.
    pub(super) fn read_once(&self, space: &Space, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.read_by(space, offset, buffer, &|place, part| space.read(place, part))
    }

    fn read_by(
        &self,
        space: &Space,
        offset: u64,
        buffer: &mut [u8],
        read: &dyn Fn(u64, &mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let end = offset.checked_add(bytes(buffer.len()));
        if end.is_none_or(|end| end > self.size) {
            let (expected, found) = (format!("{} bytes", buffer.len()), format!("{}", self.size));
            return Err(Error::corrupt(format!("byte {offset} of a stream"), expected, found));
        }
        let runs = match &self.body {
            Body::Resident(value) => {
                let found = slice(value, index(offset), buffer.len()).unwrap_or_default();
                buffer.get_mut(..found.len()).unwrap_or_default().copy_from_slice(found);
                return Ok(());
            }
            Body::Mapped(runs) => runs,
        };
        if self.flags & (flags::COMPRESSION_MASK | flags::ENCRYPTED) != 0 {
            let context = "a filesystem's own stream, compressed or encrypted";
            return Err(Error::new(ErrorKind::Unsupported, context));
        }
        let (mut at, mut rest) = (offset, buffer);
        while !rest.is_empty() {
            let left = self.valid.saturating_sub(at);
            if left == 0 {
                rest.fill(0);
                break;
            }
            let stretch = Self::stretch(runs, space, at)?;
            let count = index(stretch.length.min(left)).min(rest.len());
            let (part, after) = rest.split_at_mut(count);
            match stretch.place {
                Some(place) => read(place, part)?,
                None => part.fill(0),
            }
            at = at.saturating_add(bytes(count));
            rest = after;
        }
        Ok(())
    }

    /// The clusters that it is on.
    pub(super) fn places<'a>(&'a self, space: &'a Space) -> impl Iterator<Item = ByteRange> + 'a {
        let runs = match &self.body {
            Body::Resident(_) => None,
            Body::Mapped(runs) => Some(runs.iter()),
        };
        runs.into_iter().flatten().filter_map(|run| {
            let length = run.count.saturating_mul(space.cluster_size);
            run.place.map(|place| ByteRange::new(space.offset(place), length))
        })
    }

    /// All of a value of at most `most` bytes.
    ///
    /// # Errors
    /// `Limit` when it is longer; see [`read_metadata`](Self::read_metadata).
    pub(super) fn whole(&self, space: &Space, most: u64) -> Result<Vec<u8>> {
        if self.size > most {
            let context = format!("a value of {} bytes, {most} at most", self.size);
            return Err(Error::new(ErrorKind::Limit, context));
        }
        let mut value = vec![0; index(self.size)];
        self.read_metadata(space, 0, &mut value)?;
        Ok(value)
    }
}
