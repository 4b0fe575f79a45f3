//! Mapping pairs: where a stream's clusters are on the volume.

use super::units::{Lcn, Vcn};
use crate::base::limits::MAX_NTFS_RUNS;
use crate::base::{Error, ErrorKind, Result};

/// Clusters of a stream that lie together, or nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub first: Vcn,
    pub count: u64,
    /// Where the first one is; nowhere in a hole.
    pub place: Option<Lcn>,
}

impl Run {
    /// The stream cluster after the last.
    pub(super) fn end(&self) -> u64 {
        self.first.0.saturating_add(self.count)
    }

    /// The part from `vcn` on.
    pub(super) fn from(&self, vcn: Vcn) -> Self {
        let skipped = vcn.0.saturating_sub(self.first.0);
        Self {
            first: vcn,
            count: self.count.saturating_sub(skipped),
            place: self.place.map(|place| Lcn(place.0.saturating_add(skipped))),
        }
    }
}

/// A stream's runs, ascending and without gaps from cluster 0 on; neighbours are joined.
#[derive(Debug, Clone, Default)]
pub(super) struct Runs {
    runs: Vec<Run>,
}

impl Runs {
    /// The stream cluster after the last.
    pub(super) fn end(&self) -> u64 {
        self.runs.last().map_or(0, Run::end)
    }

    /// The run from `vcn` on; `None` beyond the last.
    pub(super) fn at(&self, vcn: Vcn) -> Option<Run> {
        let after = self.runs.partition_point(|run| run.end() <= vcn.0);
        self.runs.get(after).map(|run| run.from(vcn))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter()
    }

    /// Adds the runs of one attribute, which starts at `first` and ends before `end`, on a volume
    /// of `clusters` clusters.
    ///
    /// # Errors
    /// `Corrupt` when they are not what they should be; `Limit` when they are too many.
    pub(super) fn extend(
        &mut self,
        mut pairs: &[u8],
        first: Vcn,
        end: u64,
        clusters: u64,
    ) -> Result<()> {
        let wrong = |expected: &str, found: String| Error::corrupt("runs", expected, found);
        if first.0 != self.end() {
            let found = format!("{first} after {}", self.end());
            return Err(wrong("no gap", found));
        }
        let mut place = 0_i64;
        let mut next = first.0;
        while let Some((header, rest)) = pairs.split_first().filter(|(header, _)| **header != 0) {
            let lengths = (usize::from(header & 0x0f), usize::from(header >> 4));
            let fields = rest.split_at_checked(lengths.0);
            let fields = fields.and_then(|(count, rest)| {
                let (delta, rest) = rest.split_at_checked(lengths.1)?;
                Some((signed(count)?, delta, rest))
            });
            let Some((count, delta, rest)) = fields else {
                return Err(wrong("a count and a distance", format!("{header:#04x}")));
            };
            pairs = rest;
            let count = u64::try_from(count).ok().filter(|count| *count > 0);
            let after = count.and_then(|count| next.checked_add(count)).filter(|at| *at <= end);
            let (Some(count), Some(after)) = (count, after) else {
                return Err(wrong("clusters up to its end", format!("more at {next}")));
            };
            let lcn = match delta {
                [] => None,
                delta => {
                    let moved = signed(delta).and_then(|delta| place.checked_add(delta));
                    place = moved.unwrap_or(-1);
                    let lcn = u64::try_from(place).ok();
                    let last = lcn.and_then(|lcn| lcn.checked_add(count));
                    if last.is_none_or(|last| last > clusters) {
                        return Err(wrong("clusters of the volume", format!("{count} at {place}")));
                    }
                    lcn.map(Lcn)
                }
            };
            self.push(Run { first: Vcn(next), count, place: lcn })?;
            next = after;
        }
        if next != end {
            return Err(wrong("clusters up to its end", format!("none at {next} of {end}")));
        }
        Ok(())
    }

    fn push(&mut self, run: Run) -> Result<()> {
        if let Some(last) = self.runs.last_mut() {
            let follows = match (last.place, run.place) {
                (Some(place), Some(next)) => place.0.checked_add(last.count) == Some(next.0),
                (None, None) => true,
                _ => false,
            };
            if follows {
                last.count = last.count.saturating_add(run.count);
                return Ok(());
            }
        }
        if self.runs.len() >= MAX_NTFS_RUNS {
            let context = format!("a stream of more than {MAX_NTFS_RUNS} runs");
            return Err(Error::new(ErrorKind::Limit, context));
        }
        self.runs.push(run);
        Ok(())
    }
}

/// A little-endian number of up to eight bytes with a sign.
fn signed(field: &[u8]) -> Option<i64> {
    let last = field.last()?;
    let mut number = if last & 0x80 == 0 { [0; 8] } else { [0xff; 8] };
    number.get_mut(..field.len())?.copy_from_slice(field);
    Some(i64::from_le_bytes(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(pairs: &[u8], end: u64) -> Result<Runs> {
        let mut runs = Runs::default();
        runs.extend(pairs, Vcn(0), end, 1000).map(|()| runs)
    }

    #[test]
    fn distances_go_both_ways_and_neighbours_are_joined() {
        let run = |first, count, place: Option<u64>| Run {
            first: Vcn(first),
            count,
            place: place.map(Lcn),
        };
        let pairs =
            [0x21, 4, 0x2c, 1, 0x11, 2, 4, 0x11, 1, 0xfe, 0x01, 5, 0x01, 6, 0x11, 1, 0x80, 0];
        let runs = decode(&pairs, 19).expect("sound");
        assert_eq!(
            runs.runs,
            [run(0, 6, Some(300)), run(6, 1, Some(302)), run(7, 11, None), run(18, 1, Some(174)),]
        );
        assert_eq!(runs.at(Vcn(3)), Some(run(3, 3, Some(303))));
        assert_eq!(runs.at(Vcn(9)), Some(run(9, 9, None)));
        assert_eq!(runs.at(Vcn(19)), None);
    }

    #[test]
    fn what_leaves_the_volume_or_the_stream_is_damage() {
        for (pairs, end) in [
            (&[0x11, 2, 0x80, 0][..], 2),
            (&[0x21, 2, 0xe7, 3, 0], 2),
            (&[0x11, 2, 5, 0], 3),
            (&[0x11, 2, 5, 0], 1),
            (&[0x11, 0, 5, 0], 0),
            (&[0x10, 5, 0], 1),
            (&[0x19, 1, 1, 1, 1, 1, 1, 1, 1, 1, 5, 0], 1),
            (&[0x11, 2], 2),
        ] {
            let kind = decode(pairs, end).expect_err("damaged").kind();
            assert_eq!(kind, ErrorKind::Corrupt, "{pairs:?}");
        }
    }
}
