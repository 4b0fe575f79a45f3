//! Data that no member holds, computed from the rest of their rows.

use super::array::Array;
use super::geometry::{Geometry, Piece};
use super::read::{Want, copy};
use super::rows::{Column, Rows};
use crate::base::parity::{self, Recovery};
use crate::base::{Error, ErrorKind, Result, limits};

/// Reads a member, by role, from a byte of its data.
type ReadMember<'a> = dyn FnMut(usize, u64, &mut [u8]) -> Result<()> + 'a;

impl Array {
    /// Fills `block`, which is at byte `at`, with what is `missing`. What the rows that are read
    /// for it hold of `sound` is put there too, and taken out of it.
    pub(super) fn fill_missing(
        &self,
        at: u64,
        missing: &[Want],
        sound: &mut Vec<Want>,
        block: &mut [u8],
    ) -> Result<()> {
        let Some((rows, span)) = self.span(missing) else {
            return missing.iter().try_for_each(|want| self.rescue(at, want, block));
        };
        let (start, length) = span;
        let columns = self.columns(rows, start, length);
        let mut read = |role: usize, at: u64, buffer: &mut [u8]| {
            read_column(&columns, start, (role, at), buffer)
        };
        for want in missing {
            let Some(part) = block.get_mut(want.within.clone()) else { continue };
            if self.rebuild(rows, want.piece, part, &mut read).is_err() {
                self.rescue(at, want, block)?;
            }
        }
        let end = start.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        sound.retain(|want| {
            let Piece { role, at, length } = want.piece;
            let is_inside = at >= start && at.saturating_add(length) <= end;
            let column = columns.get(role).and_then(Option::as_ref).filter(|_| is_inside);
            if let Some(column) = column {
                copy(column, start, want, block);
            }
            column.is_none()
        });
        Ok(())
    }

    /// The stretch of each member that holds all of `missing`, if it is of a size that can be held
    /// of all members at once.
    fn span(&self, missing: &[Want]) -> Option<(&Rows, (u64, usize))> {
        let Geometry::Rows(rows) = &self.geometry else { return None };
        let start = missing.iter().map(|want| want.piece.at).min()?;
        let ends = missing.iter().map(|want| want.piece.at.saturating_add(want.piece.length));
        let length = usize::try_from(ends.max()?.checked_sub(start)?).ok()?;
        let all = length.checked_mul(rows.disks())?;
        (all <= limits::MAX_REBUILT_AT_ONCE).then_some((rows, (start, length)))
    }

    /// `length` bytes from byte `start` of each member that has them.
    pub(super) fn columns(&self, rows: &Rows, start: u64, length: usize) -> Vec<Option<Vec<u8>>> {
        let column = |role: usize| {
            let mut column = vec![0; length];
            self.read_member(role, start, &mut column).is_ok().then_some(column)
        };
        (0..rows.disks()).map(column).collect()
    }

    /// Fills `buffer` with `piece`, which is of one row, by the others of its row, which `read`
    /// reads.
    ///
    /// # Errors
    /// `Corrupt` where parity is not known to be right; those of `read`, where too much is missing.
    pub(super) fn rebuild(
        &self,
        rows: &Rows,
        piece: Piece,
        buffer: &mut [u8],
        read: &mut ReadMember<'_>,
    ) -> Result<()> {
        let Piece { role, at, .. } = piece;
        let length = u64::try_from(buffer.len()).unwrap_or(u64::MAX);
        let end = at.saturating_add(length);
        if end > self.parity_end || length > rows.left_of_row(at) {
            let expected = format!("parity that is in sync up to byte {end} of each member");
            return Err(Error::corrupt("RAID", expected, self.parity_end));
        }
        // Each turn finds one more that cannot be read.
        let mut lost = vec![role];
        loop {
            let way = way(rows, at, &lost)?;
            match self.solve(rows, &way, (at, buffer), read) {
                Ok(()) => return Ok(()),
                Err((role, _)) if !lost.contains(&role) && lost.len() < 3 => lost.push(role),
                Err((_, error)) => return Err(error),
            }
        }
    }

    /// Fills `buffer`, at byte `at` of the members, by `way`; an error comes with the role of whom
    /// it is.
    fn solve(
        &self,
        rows: &Rows,
        way: &Way,
        (at, buffer): (u64, &mut [u8]),
        read: &mut ReadMember<'_>,
    ) -> Result<(), (usize, Error)> {
        let counted = rows.counted();
        let second_length = if way.recovery == Recovery::First { 0 } else { buffer.len() };
        let (mut second, mut other) = (vec![0; second_length], vec![0; buffer.len()]);
        buffer.fill(0);
        for (role, column) in &way.read {
            read(*role, at, &mut other).map_err(|error| (*role, error))?;
            parity::add((*column, counted), &other, buffer, &mut second);
        }
        way.recovery.solve(way.wanted, buffer, &second);
        Ok(())
    }
}

/// Fills `buffer` from what was read of each member from byte `start`: with that of the member of
/// `role` from byte `at`.
pub(super) fn read_column(
    columns: &[Option<Vec<u8>>],
    start: u64,
    (role, at): (usize, u64),
    buffer: &mut [u8],
) -> Result<()> {
    let column = columns.get(role).and_then(Option::as_ref);
    let from = usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX);
    let part = column.and_then(|column| column.get(from..)?.get(..buffer.len()));
    let part = part.ok_or_else(|| Error::new(ErrorKind::Io, "it cannot be read"))?;
    buffer.copy_from_slice(part);
    Ok(())
}

/// How one column of a row is computed.
#[derive(Debug, PartialEq, Eq)]
struct Way {
    recovery: Recovery,
    /// Its number in the second parity's sum.
    wanted: usize,
    /// The roles that are read, and their numbers; the parities' are behind the data's.
    read: Vec<(usize, usize)>,
}

/// How to compute the first of `lost` at byte `at` of the members without the others.
///
/// # Errors
/// `NotFound` where too many are lost.
fn way(rows: &Rows, at: u64, lost: &[usize]) -> Result<Way> {
    let too_many = || {
        let context = format!("the members of roles {lost:?} cannot be read there");
        Error::new(ErrorKind::NotFound, context)
    };
    let parities = rows.parities_at(at).ok_or_else(too_many)?;
    let counted = rows.counted();
    let mut columns = Vec::new();
    for role in 0..rows.disks() {
        columns.push((role, rows.column(parities, role).ok_or_else(too_many)?));
    }
    let is_lost = |role: usize| lost.contains(&role);
    let number = |column: Column| match column {
        Column::Data(number) => number,
        Column::First => counted,
        Column::Second => counted.saturating_add(1),
    };
    let is_there =
        |wanted: Column| columns.iter().any(|(role, column)| *column == wanted && !is_lost(*role));
    let first = lost.first().copied();
    let wanted = columns.iter().find(|(role, _)| Some(*role) == first);
    let Some((_, Column::Data(wanted))) = wanted.copied() else { return Err(too_many()) };
    let others: Vec<usize> = columns
        .iter()
        .filter(|(role, _)| is_lost(*role) && Some(*role) != first)
        .filter_map(|(_, column)| match column {
            Column::Data(number) => Some(*number),
            _ => None,
        })
        .collect();
    let recovery = match others.as_slice() {
        [] if is_there(Column::First) => Recovery::First,
        [] if is_there(Column::Second) => Recovery::Second,
        [other] if is_there(Column::First) && is_there(Column::Second) => Recovery::Without(*other),
        _ => return Err(too_many()),
    };
    let is_unused = |column: Column| match recovery {
        Recovery::First => column == Column::Second,
        Recovery::Second => column == Column::First,
        Recovery::Without(_) => false,
    };
    let read = columns.iter().filter(|(role, column)| !is_lost(*role) && !is_unused(*column));
    let read = read.map(|(role, column)| (*role, number(*column))).collect();
    Ok(Way { recovery, wanted, read })
}
