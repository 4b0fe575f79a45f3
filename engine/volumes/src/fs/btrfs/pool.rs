//! Reading by logical address: from whichever copy is sound, nodes through a cache.

use std::sync::Arc;

use super::chunk::{Chunk, ChunkMap, Layout, Piece};
use super::device::{Devices, Proof};
use super::node::{Node, NodeForm, Pointer};
use super::parity::of_mirror;
use super::units::{Logical, bytes, index};
use crate::base::{Error, Result, limits, parity};
use crate::fs::recent::Recent;

/// Bytes of nodes that [`limits::CACHED_FS_BLOCKS`] counts as one.
const USUAL_NODE: usize = 16 * 1024;

/// The filesystem's devices as one address space.
pub(super) struct Pool {
    pub devices: Devices,
    pub chunks: ChunkMap,
    pub form: NodeForm,
    cache: Recent<Logical, Node>,
}

impl Pool {
    pub(super) fn new(devices: Devices, chunks: ChunkMap, form: NodeForm) -> Self {
        let most = limits::CACHED_FS_BLOCKS.saturating_mul(USUAL_NODE);
        let most = most.checked_div(form.size).unwrap_or(0).max(2);
        Self { devices, chunks, form, cache: Recent::new(most) }
    }

    /// The node that `pointer` leads to, from the first copy that is sound.
    ///
    /// # Errors
    /// The first copy's, when none is sound.
    pub(super) fn node(&self, pointer: Pointer) -> Result<Arc<Node>> {
        if let Some(node) = self.cache.get(pointer.at) {
            node.expect(pointer)?;
            return Ok(node);
        }
        let node = self.with_any_mirror(pointer.at, |mirror| {
            let mut buffer = vec![0; self.form.size];
            self.read(pointer.at, &mut buffer, (mirror, Proof::Follows))?;
            Node::check(buffer, pointer, &self.form)
        })?;
        let node = Arc::new(node);
        self.cache.put(pointer.at, Arc::clone(&node));
        Ok(node)
    }

    /// What `read` makes of the first copy of `at` that it succeeds with, the freshest first.
    ///
    /// # Errors
    /// Its first one, when it never succeeds; `Corrupt` when no chunk holds `at`.
    pub(super) fn with_any_mirror<T>(
        &self,
        at: Logical,
        mut read: impl FnMut(usize) -> Result<T>,
    ) -> Result<T> {
        let mut first = None;
        for mirror in self.mirrors(at)? {
            match read(mirror) {
                Ok(found) => return Ok(found),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or_else(|| Error::corrupt(at, "a copy", "none")))
    }

    /// The copies of `at`, the freshest first.
    fn mirrors(&self, at: Logical) -> Result<Vec<usize>> {
        let chunk = self.chunks.find(at)?;
        let mut mirrors: Vec<usize> = (0..chunk.mirrors()).collect();
        mirrors.sort_by_key(|mirror| {
            let piece = chunk.piece(at, *mirror);
            // What has to be computed comes before what is not there.
            piece.map_or(1, |piece| self.devices.rank(&piece.stripe))
        });
        Ok(mirrors)
    }

    /// Fills `buffer` from `at`, out of copy `mirror`.
    ///
    /// # Errors
    /// `Corrupt` where there is no chunk or no such copy; those of [`Devices::read`].
    pub(super) fn read(
        &self,
        at: Logical,
        buffer: &mut [u8],
        (mirror, proof): (usize, Proof),
    ) -> Result<()> {
        let (mut at, mut rest) = (at, buffer);
        while !rest.is_empty() {
            let chunk = self.chunks.find(at)?;
            let length = match chunk.piece(at, mirror) {
                Some(piece) => {
                    let (part, _) = split(rest, piece.length);
                    self.devices.read(&piece, part, proof)?;
                    part.len()
                }
                None => self.compute(chunk, at, rest, (mirror, proof))?,
            };
            at = at.after(bytes(length));
            rest = rest.get_mut(length..).unwrap_or_default();
        }
        Ok(())
    }

    /// Fills the start of `buffer` by what the rest of the row that `at` is in says of it; returns
    /// how many bytes.
    fn compute(
        &self,
        chunk: &Chunk,
        at: Logical,
        buffer: &mut [u8],
        (mirror, proof): (usize, Proof),
    ) -> Result<usize> {
        let none = || Error::corrupt(at, "another copy", "none");
        let (Layout::Parity { parities }, Some(wanted)) = (chunk.layout, chunk.column(at)) else {
            return Err(none());
        };
        let data = chunk.data_stripes();
        let way = of_mirror(mirror, wanted, (data, parities)).ok_or_else(none)?;
        let piece = chunk.piece(at, 0).ok_or_else(none)?;
        let (part, _) = split(buffer, piece.length);
        part.fill(0);
        let (mut second, mut other) = (vec![0; part.len()], vec![0; part.len()]);
        let columns = 0..data.saturating_add(parities);
        for column in columns.filter(|column| way.reads(*column, wanted, data)) {
            let beside = chunk.beside(&piece, column).ok_or_else(none)?;
            self.devices.read(&beside, &mut other, proof)?;
            parity::add((column, data), &other, part, &mut second);
        }
        way.solve(wanted, part, &second);
        Ok(part.len())
    }

    /// Where the freshest copy of `at` is on its device, if one is at hand, and among all volumes'
    /// bytes.
    pub(super) fn place(&self, at: Logical) -> Result<Option<(Piece, u64)>> {
        let chunk = self.chunks.find(at)?;
        let mirrors = self.mirrors(at)?.into_iter();
        let mut pieces = mirrors.filter_map(|mirror| chunk.piece(at, mirror));
        Ok(pieces.find_map(|piece| self.devices.at_hand(piece)))
    }
}

fn split(buffer: &mut [u8], at: u64) -> (&mut [u8], &mut [u8]) {
    let at = index(at).min(buffer.len());
    buffer.split_at_mut_checked(at).unwrap_or_default()
}
