//! Volumes within volumes: each is opened on the bytes of those that it lies in, down to the disk.
//!
//! A partition lies on the disk. What it holds may hold volumes again: an array its members make, a
//! group's logical volumes, what a key opens, the partitions of a virtual machine's disk; and what
//! these hold may, to a limited depth. All of them are read, and their bytes found on the disk, the
//! same way.

mod arrays;
mod build;
mod keys;
mod logical;
mod nested;
mod unlocked;

use std::sync::Arc;

use super::layer::Layer;
use super::layout::{DiskLayout, Volume};
use crate::base::ranges::joined;
use crate::base::{ByteCount, ByteOffset, ByteRange, Error, ErrorKind, ReadAt, Result};

pub use keys::{Ask, Keys};

/// A disk's volumes, opened. Copies share all there is.
#[derive(Clone)]
pub struct Stack {
    inner: Arc<Inner>,
}

struct Inner {
    layout: DiskLayout,
    /// One for each volume of the layout.
    nodes: Vec<Node>,
}

/// A volume, opened.
struct Node {
    below: Below,
    /// Its bytes, or why they cannot be had.
    bytes: Result<Arc<dyn ReadAt>, (ErrorKind, String)>,
}

/// What a volume lies on. Volumes are meant by their numbers; each was opened after those that it
/// lies on, so that there is no circle.
enum Below {
    /// The disk, from this byte on.
    Disk(u64),
    /// A stretch of a volume, from this byte on.
    Part { of: usize, start: u64 },
    /// Volumes that its bytes are made of.
    Layer { layer: Arc<dyn Layer>, of: Vec<usize> },
    /// Nothing that is known.
    Unknown,
}

/// A volume's bytes, and what they are made of.
type Opened = (Below, Arc<dyn ReadAt>);

impl Below {
    /// What `layer` makes of the volumes `of`.
    fn layer(layer: Arc<dyn Layer>, of: Vec<usize>) -> Opened {
        let same = Arc::clone(&layer);
        let bytes: Arc<dyn ReadAt> = same;
        (Self::Layer { layer, of }, bytes)
    }
}

/// Which stretches of what a volume lies on are meant by some of its bytes.
#[derive(Clone, Copy)]
enum Stretches {
    /// Those that hold any of them.
    Any,
    /// Those that hold nothing else.
    Own,
}

/// A volume of a stack.
#[derive(Clone)]
pub struct Placed {
    inner: Arc<Inner>,
    number: usize,
    volume: Volume,
}

impl Stack {
    /// What `disk` holds, opened as far as `keys` do. `sector_size` is what its device reports, 512
    /// for a file.
    ///
    /// Bad content is no error: damage, and what cannot be read, are told in the layout's notes
    /// and by the volumes.
    ///
    /// # Errors
    /// `Invalid` when `sector_size` is no power of two from 512 to 65,536; those of [`Keys`] that
    /// open nothing.
    pub fn open(disk: &Arc<dyn ReadAt>, sector_size: u32, keys: &Keys) -> Result<Self> {
        Self::over(disk, super::probe::plain(disk, sector_size)?, keys)
    }

    /// The same of a disk whose own volumes are those of `layout`: what lies in them is looked for
    /// anew. Where nothing lies in them, nothing is read.
    ///
    /// # Errors
    /// Those of [`Keys`] that open nothing.
    pub fn over(disk: &Arc<dyn ReadAt>, layout: DiskLayout, keys: &Keys) -> Result<Self> {
        let inner = Arc::new(build::build(disk, layout, keys)?);
        Ok(Self { inner })
    }

    /// What is in it.
    #[must_use]
    pub fn layout(&self) -> &DiskLayout {
        &self.inner.layout
    }

    /// Its volumes, in the order of the layout.
    pub fn volumes(&self) -> impl Iterator<Item = Placed> {
        let volumes = self.inner.layout.volumes.iter().enumerate();
        volumes.map(|(number, volume)| self.numbered(number, volume))
    }

    /// The first volume that [is](Volume::is) `volume`, of this stack or another.
    #[must_use]
    pub fn placed(&self, volume: &Volume) -> Option<Placed> {
        let mut all = self.inner.layout.volumes.iter().enumerate();
        let (number, own) = all.find(|(_, own)| own.is(volume))?;
        Some(self.numbered(number, own))
    }

    fn numbered(&self, number: usize, volume: &Volume) -> Placed {
        Placed { inner: Arc::clone(&self.inner), number, volume: volume.clone() }
    }

    /// The bytes of `volume`.
    ///
    /// # Errors
    /// `NotFound` if it is none of the stack's; see [`Placed::bytes`].
    pub fn bytes(&self, volume: &Volume) -> Result<Arc<dyn ReadAt>> {
        match self.placed(volume) {
            Some(placed) => placed.bytes(),
            None => {
                Err(Error::new(ErrorKind::NotFound, format!("volume {} is not here", volume.name)))
            }
        }
    }
}

impl Inner {
    fn volume(&self, number: usize) -> Option<&Volume> {
        self.layout.volumes.get(number)
    }

    /// See [`Placed::each_place`] and [`Placed::each_own_place`].
    fn each_place(
        &self,
        (number, stretches): (usize, Stretches),
        within: ByteRange,
        visit: &mut dyn FnMut(ByteRange),
    ) -> Result<()> {
        let (Some(volume), Some(node)) = (self.volume(number), self.nodes.get(number)) else {
            return Ok(());
        };
        let end = within.end.min(volume.length);
        let within = ByteRange { start: within.start.min(end), end };
        match &node.below {
            Below::Disk(start) => {
                visit(moved(within, *start));
                Ok(())
            }
            Below::Part { of, start } => {
                self.each_place((*of, stretches), moved(within, *start), visit)
            }
            Below::Layer { layer, of } => {
                let mut outcome = Ok(());
                let mut take = |member: usize, range: ByteRange| {
                    let Some(below) = of.get(member) else { return };
                    let found = self.each_place((*below, stretches), range, visit);
                    if outcome.is_ok() {
                        outcome = found;
                    }
                };
                let made = match stretches {
                    Stretches::Any => layer.each_place(within, &mut take),
                    Stretches::Own => layer.each_own_place(within, &mut take),
                };
                made.and(outcome)
            }
            Below::Unknown => Err(unknown(volume, node)),
        }
    }
}

fn moved(range: ByteRange, start: u64) -> ByteRange {
    ByteRange::new(range.start.saturating_add(start), range.len())
}

/// Why nothing is known of a volume's bytes.
fn unknown(volume: &Volume, node: &Node) -> Error {
    let (kind, why) = match &node.bytes {
        Err((kind, why)) => (*kind, why.as_str()),
        Ok(_) => (ErrorKind::Unsupported, "where its bytes are is not known"),
    };
    Error::new(kind, format!("volume {}: {why}", volume.name))
}

impl Placed {
    /// Whether both are one volume of one stack.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner) && self.number == other.number
    }

    /// What is said of it.
    #[must_use]
    pub fn volume(&self) -> &Volume {
        &self.volume
    }

    /// Its bytes. A table that says more than the disk has is believed: what the disk lacks fails
    /// when it is read.
    ///
    /// # Errors
    /// Why they cannot be had: mostly `Unsupported`, or `Corrupt` where what describes them is
    /// damaged.
    pub fn bytes(&self) -> Result<Arc<dyn ReadAt>> {
        match self.inner.nodes.get(self.number) {
            Some(Node { bytes: Ok(bytes), .. }) => Ok(Arc::clone(bytes)),
            Some(node) => Err(unknown(self.volume(), node)),
            None => Err(Error::new(ErrorKind::NotFound, "no such volume")),
        }
    }

    /// Calls `visit` for each stretch of the disk that holds some of the volume's bytes `within`,
    /// each copy of them.
    ///
    /// # Errors
    /// `Unsupported`, saying why, where they are not all, or serve others too: parity, blocks that
    /// a snapshot needs. All there is may be needed then, whatever was visited.
    pub fn each_place(&self, within: ByteRange, visit: &mut dyn FnMut(ByteRange)) -> Result<()> {
        self.inner.each_place((self.number, Stretches::Any), within, visit)
    }

    /// The same of the stretches that hold nothing but bytes `within`: whoever leaves these out
    /// changes nothing else.
    ///
    /// # Errors
    /// As [`each_place`](Self::each_place).
    pub fn each_own_place(
        &self,
        within: ByteRange,
        visit: &mut dyn FnMut(ByteRange),
    ) -> Result<()> {
        self.inner.each_place((self.number, Stretches::Own), within, visit)
    }

    /// All of the disk that holds some of its bytes, as far as that is known: sorted and apart.
    /// `None` if it is in more than `most` pieces.
    #[must_use]
    pub fn places(&self, most: usize) -> Option<Vec<ByteRange>> {
        let mut places: Vec<ByteRange> = Vec::new();
        let mut is_full = false;
        let whole = ByteRange { start: 0, end: self.volume().length };
        // What serves others as well lies there all the same.
        let _shared = self.each_place(whole, &mut |place| {
            let is_more = places.len() >= most;
            match places.last_mut() {
                Some(last) if last.end == place.start => last.end = place.end,
                _ if is_more => is_full = true,
                _ => places.push(place),
            }
        });
        (!is_full).then(|| joined(places))
    }
}

/// `length` bytes of `of` from `start`, cut off at its end.
pub(super) fn cut(of: &Arc<dyn ReadAt>, start: u64, length: u64) -> Arc<dyn ReadAt> {
    let start = start.min(of.size().0);
    let length = length.min(of.size().0.saturating_sub(start));
    Arc::new(Stretch { of: Arc::clone(of), start, length })
}

/// A stretch of something. It may reach beyond the end; what is not there fails when it is read.
struct Stretch {
    of: Arc<dyn ReadAt>,
    start: u64,
    length: u64,
}

impl ReadAt for Stretch {
    fn size(&self) -> ByteCount {
        ByteCount(self.length)
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        crate::base::check_range(self.size(), offset, buffer.len())?;
        let place = self.start.checked_add(offset.0).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, format!("byte {offset} of a volume at {}", self.start))
        })?;
        self.of.read_exact_at(ByteOffset(place), buffer)
    }

    fn reach(&self, offset: ByteOffset) -> u64 {
        self.of.reach(ByteOffset(self.start.saturating_add(offset.0)))
    }
}
