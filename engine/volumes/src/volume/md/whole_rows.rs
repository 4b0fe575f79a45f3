//! Rows that lack a member, read and computed as a whole for those who read them in large pieces:
//! a piece is mostly smaller than such a row, and to compute it from the rest each time would read
//! most of the row several times.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::array::Array;
use super::geometry::{Geometry, Piece};
use super::read::{Want, copy};
use super::rows::Rows;
use crate::base::limits;

/// Bytes of a request from which on its rows are read as a whole.
const LARGE: usize = 256 * 1024;
/// Rows that are kept.
const KEPT: usize = 4;

/// The bytes of each member in one row; `None` where they cannot be had.
type Columns = Vec<Option<Vec<u8>>>;

/// The rows that were read last, by their number.
#[derive(Default)]
pub(super) struct WholeRows(Mutex<VecDeque<(u64, Arc<Columns>)>>);

impl WholeRows {
    fn get(&self, row: u64) -> Option<Arc<Columns>> {
        let rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rows.iter().find(|(number, _)| *number == row).map(|(_, columns)| Arc::clone(columns))
    }

    fn put(&self, row: u64, columns: &Arc<Columns>) {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rows.truncate(KEPT.saturating_sub(1));
        rows.push_front((row, Arc::clone(columns)));
    }
}

impl Array {
    /// Fills `block` with those of `sound` and `missing` that are in rows which lack data, and
    /// takes them out, if it is large and the rows are too.
    pub(super) fn fill_whole_rows(
        &self,
        sound: &mut Vec<Want>,
        missing: &mut Vec<Want>,
        block: &mut [u8],
    ) {
        let Geometry::Rows(rows) = &self.geometry else { return };
        let (row, all) = rows.row_sizes();
        if block.len() < LARGE || row <= LARGE || all > limits::MAX_REBUILT_AT_ONCE / KEPT {
            return;
        }
        let mut fill = |want: &Want| {
            let Some(number) = rows.number(want.piece.at) else { return false };
            let lacks = |role: usize| rows.is_data(number, role) && !self.has(role);
            if !(0..rows.disks()).any(lacks) {
                return false;
            }
            let columns = self.whole_row(rows, number);
            let column = columns.get(want.piece.role).and_then(Option::as_ref);
            if let Some(column) = column {
                copy(column, rows.start(number), want, block);
            }
            column.is_some()
        };
        missing.retain(|want| !fill(want));
        sound.retain(|want| !fill(want));
    }

    /// Whether the member of `role` is there, and whole.
    fn has(&self, role: usize) -> bool {
        let member = self.members.get(role).and_then(Option::as_ref);
        member.is_some_and(|member| member.is_whole)
    }

    /// What each member has, or would have, in row `number`.
    fn whole_row(&self, rows: &Rows, number: u64) -> Arc<Columns> {
        if let Some(columns) = self.whole_rows.get(number) {
            return columns;
        }
        let start = rows.start(number);
        let length = rows.column_length();
        let mut columns = self.columns(rows, start, length);
        let lost: Vec<usize> = (0..rows.disks())
            .filter(|role| columns.get(*role).is_some_and(Option::is_none))
            .collect();
        for role in lost.into_iter().filter(|role| rows.is_data(number, *role)) {
            let mut column = vec![0; length];
            let piece = Piece { role, at: start, length: 0 };
            let read = &mut |role: usize, at: u64, buffer: &mut [u8]| {
                super::rebuild::read_column(&columns, start, (role, at), buffer)
            };
            if self.rebuild(rows, piece, &mut column, read).is_ok()
                && let Some(lost) = columns.get_mut(role)
            {
                *lost = Some(column);
            }
        }
        let columns = Arc::new(columns);
        self.whole_rows.put(number, &columns);
        columns
    }
}
