//! Folders: names in a tree, whose root is in the folder's record and whose other nodes are
//! blocks of a stream. A bitmap says which blocks are in use; what is in others is left over.

use std::cmp::Ordering;
use std::ops::ControlFlow;

use super::attribute::kind;
use super::fixup;
use super::mft::{File, Mft};
use super::name::{self, FileName};
use super::stream::Stream;
use super::units::{RecordNumber, Reference, index};
use super::upcase::UpCase;
use crate::base::fields::{le16, le32, le64, slice, u8_at};
use crate::base::limits::MAX_FOLDER_BLOCKS;
use crate::base::{Error, ErrorKind, Result};

/// The name of the attributes of a folder: `$I30`.
pub(super) const I30: &[u8] = b"$\0I\x003\x000\0";
/// `INDEX_HEADER.Flags`: there are blocks.
const LARGE: u8 = 1;
/// Flags of an entry: there is a node before it; it is the last, which has no name.
const HAS_NODE: u16 = 1;
const LAST: u16 = 2;
/// Nodes within one another at most.
const MAX_DEPTH: usize = 32;
/// Bytes of a block at most.
const MAX_BLOCK: u64 = 64 << 10;
/// Bytes that a node's number counts, where clusters are larger than a block.
const NODE_UNIT: u64 = 512;

/// A folder's index.
pub(super) struct Index<'a> {
    mft: &'a Mft,
    number: RecordNumber,
    /// The value of the root, and where its entries' header is.
    root: Vec<u8>,
    block_size: u64,
    blocks: Option<Blocks>,
}

/// The blocks of an index.
struct Blocks {
    stream: Stream,
    bitmap: Vec<u8>,
    /// Bytes that a node's number counts.
    unit: u64,
}

/// An entry of a folder.
pub(super) struct Entry<'a> {
    pub file: Reference,
    pub name: FileName<'a>,
}

/// What a walk of entries calls.
type Visit<'a> = &'a mut dyn FnMut(Result<Entry<'_>>) -> ControlFlow<()>;

/// An entry as it is in a node: the last has no key.
struct NodeEntry<'a> {
    file: Reference,
    key: Option<&'a [u8]>,
    child: Option<u64>,
}

impl<'a> Index<'a> {
    /// The index of `folder`.
    ///
    /// # Errors
    /// `Corrupt` when it has none, or a damaged one; `Limit` when it is too large.
    pub(super) fn open(mft: &'a Mft, folder: &File) -> Result<Self> {
        let root = mft.value(folder, kind::INDEX_ROOT, I30, MAX_BLOCK)?;
        let root = root.ok_or_else(|| folder.corrupt("an index of names", "none"))?;
        let block_size = u64::from(le32(&root, 8).unwrap_or_default()); // BytesPerIndexBuffer
        let is_of_names = le32(&root, 0) == Some(kind::FILE_NAME) && le32(&root, 4) == Some(1);
        let is_sound = block_size.is_power_of_two() && (512..=MAX_BLOCK).contains(&block_size);
        if !is_of_names || !is_sound {
            let found = format!("one of blocks of {block_size} bytes");
            return Err(folder.corrupt("an index of names", found));
        }
        let number = folder.record.number;
        let mut folder_index = Self { mft, number, root, block_size, blocks: None };
        if u8_at(&folder_index.root, 0x1c).unwrap_or_default() & LARGE != 0 {
            folder_index.blocks = Some(folder_index.open_blocks(folder)?);
        }
        Ok(folder_index)
    }

    fn open_blocks(&self, folder: &File) -> Result<Blocks> {
        let stream = self.mft.stream(folder, kind::INDEX_ALLOCATION, I30)?;
        let stream = stream.ok_or_else(|| folder.corrupt("blocks of its index", "none"))?;
        let bitmap = self.mft.value(folder, kind::BITMAP, I30, MAX_FOLDER_BLOCKS / 8)?;
        let bitmap = bitmap.ok_or_else(|| folder.corrupt("a bitmap of its index", "none"))?;
        let count = stream.size.checked_div(self.block_size).unwrap_or_default();
        if count > MAX_FOLDER_BLOCKS {
            let context = format!("{}: a folder of {count} blocks", self.number);
            return Err(Error::new(ErrorKind::Limit, context));
        }
        let cluster_size = self.mft.space.cluster_size;
        let unit = if cluster_size <= self.block_size { cluster_size } else { NODE_UNIT };
        Ok(Blocks { stream, bitmap, unit })
    }

    /// The record of the folder.
    pub(super) fn number(&self) -> RecordNumber {
        self.number
    }

    /// Shows all entries to `visit`, in the order of the disk, and an error for each block and
    /// entry that is lost, until it breaks.
    pub(super) fn each_entry(&self, visit: Visit<'_>) {
        let mut flow = self.each_of_node(self.root.get(0x10..).unwrap_or_default(), visit);
        let Some(blocks) = &self.blocks else { return };
        let count = blocks.stream.size.checked_div(self.block_size).unwrap_or_default();
        for number in (0..count).filter(|number| blocks.is_used(*number)) {
            if flow.is_break() {
                return;
            }
            flow = match self.block(blocks, number) {
                Ok(block) => self.each_of_node(block.get(0x18..).unwrap_or_default(), visit),
                Err(error) => visit(Err(error)),
            };
        }
    }

    fn each_of_node(&self, node: &[u8], visit: Visit<'_>) -> ControlFlow<()> {
        let Some(mut rest) = entries(node) else {
            return visit(Err(self.corrupt("a node's entries within it")));
        };
        loop {
            let Some((entry, after)) = split(rest) else {
                return visit(Err(self.corrupt("a sound entry of a node")));
            };
            let Some(key) = entry.key else { return ControlFlow::Continue(()) };
            match FileName::parse(key) {
                Some(name) => visit(Ok(Entry { file: entry.file, name }))?,
                None => visit(Err(self.corrupt("the name of an entry")))?,
            }
            rest = after;
        }
    }

    /// The file called `name`: exactly so if there is one, else but for case.
    ///
    /// # Errors
    /// `Corrupt` when it is not found, but parts of the index are damaged.
    pub(super) fn find(&self, name: &[u8], upcase: &UpCase) -> Result<Option<Reference>> {
        // A damaged tree is no reason not to find what is still there.
        self.find_by_tree(name, upcase).or_else(|_| self.scan(name, upcase))
    }

    /// As [`find`](Self::find), but only where the tree leads.
    ///
    /// # Errors
    /// `Corrupt` when the tree is damaged on the way.
    pub(super) fn find_by_tree(&self, name: &[u8], upcase: &UpCase) -> Result<Option<Reference>> {
        let exact = |other: &[u8]| name::compare(name, other, upcase);
        let folded = |other: &[u8]| name::compare_folded(name, other, upcase);
        match self.descend(&exact, upcase) {
            Ok(None) => self.descend(&folded, upcase),
            found => found,
        }
    }

    fn scan(&self, name: &[u8], upcase: &UpCase) -> Result<Option<Reference>> {
        let (mut found, mut folded, mut lost) = (None, None, None);
        self.each_entry(&mut |entry| {
            match entry {
                Ok(entry) if entry.name.name == name => {
                    found = Some(entry.file);
                    return ControlFlow::Break(());
                }
                Ok(entry) if name::compare_folded(entry.name.name, name, upcase).is_eq() => {
                    folded = Some(entry.file);
                }
                Ok(_) => {}
                Err(error) => lost = lost.take().or(Some(error)),
            }
            ControlFlow::Continue(())
        });
        match (found.or(folded), lost) {
            (None, Some(error)) => Err(error),
            (found, _) => Ok(found),
        }
    }

    /// Goes down the tree to the name that `order` says is the one.
    fn descend(
        &self,
        order: &dyn Fn(&[u8]) -> Ordering,
        upcase: &UpCase,
    ) -> Result<Option<Reference>> {
        let mut node = self.root.get(0x10..).unwrap_or_default().to_vec();
        // The names between which all of the node are.
        let mut between = Between::default();
        for _ in 0..MAX_DEPTH {
            self.check_order(&node, &between, upcase)?;
            let mut rest = entries(&node).ok_or_else(|| self.corrupt("entries within a node"))?;
            let child = loop {
                let (entry, after) = split(rest).ok_or_else(|| self.corrupt("a sound entry"))?;
                let Some(key) = entry.key else { break entry.child };
                let name = FileName::parse(key).ok_or_else(|| self.corrupt("a name"))?;
                match order(name.name) {
                    Ordering::Equal => return Ok(Some(entry.file)),
                    Ordering::Less => {
                        between.end = Some(name.name.to_vec());
                        break entry.child;
                    }
                    Ordering::Greater => {
                        between.start = Some(name.name.to_vec());
                        rest = after;
                    }
                }
            };
            let (Some(child), Some(blocks)) = (child, &self.blocks) else { return Ok(None) };
            let place = child.checked_mul(blocks.unit);
            let number = place.and_then(|place| place.checked_div(self.block_size));
            let number = number.filter(|number| blocks.is_used(*number));
            let number = number.ok_or_else(|| self.corrupt("a node that is in use"))?;
            let block = self.block(blocks, number)?;
            node = block.get(0x18..).unwrap_or_default().to_vec();
        }
        Err(self.corrupt("no more nodes within one another"))
    }

    /// Checks what the search for a name takes for granted: that the names of a node ascend, and
    /// lie where the node above says.
    fn check_order(&self, node: &[u8], between: &Between, upcase: &UpCase) -> Result<()> {
        let mut rest = entries(node).ok_or_else(|| self.corrupt("entries within a node"))?;
        let mut before = between.start.clone();
        let is_before = |one: &Option<Vec<u8>>, other: &[u8]| {
            one.as_ref().is_none_or(|one| name::compare(one, other, upcase).is_lt())
        };
        loop {
            let (entry, after) = split(rest).ok_or_else(|| self.corrupt("a sound entry"))?;
            let Some(key) = entry.key else { break };
            let name = FileName::parse(key).ok_or_else(|| self.corrupt("a name"))?;
            if !is_before(&before, name.name) {
                return Err(self.corrupt("names in ascending order"));
            }
            before = Some(name.name.to_vec());
            rest = after;
        }
        match (&before, &between.end) {
            (Some(last), Some(end)) if !is_before(&Some(last.clone()), end) => {
                Err(self.corrupt("names before those of the node above"))
            }
            _ => Ok(()),
        }
    }

    /// A block, as it was before it was written.
    fn block(&self, blocks: &Blocks, number: u64) -> Result<Vec<u8>> {
        let place = || format!("{}, block {number} of its index", self.number);
        let offset = number.saturating_mul(self.block_size);
        let mut block = vec![0; index(self.block_size)];
        let read = blocks.stream.read_metadata(&self.mft.space, offset, &mut block);
        let whole = read.and_then(|()| fixup::apply(&mut block, b"INDX"));
        whole.map_err(|error| error.within(place()))?;
        let expected = offset.checked_div(blocks.unit).unwrap_or_default();
        match le64(&block, 0x10) {
            Some(found) if found == expected => Ok(block),
            found => {
                let found = found.unwrap_or_default();
                Err(Error::corrupt(place(), format!("its number, {expected}"), found))
            }
        }
    }

    fn corrupt(&self, expected: &str) -> Error {
        Error::corrupt(format!("{}, its index", self.number), expected, "another")
    }
}

/// The names between which those of a node lie; nothing is said where there is none.
#[derive(Default)]
struct Between {
    start: Option<Vec<u8>>,
    end: Option<Vec<u8>>,
}

impl Blocks {
    fn is_used(&self, number: u64) -> bool {
        let byte = self.bitmap.get(index(number / 8)).copied().unwrap_or_default();
        byte.checked_shr(u32::try_from(number % 8).unwrap_or_default()).unwrap_or_default() & 1 != 0
    }
}

/// The entries of a node, whose header (`INDEX_HEADER`) is what `node` begins with.
fn entries(node: &[u8]) -> Option<&[u8]> {
    let start = index(le32(node, 0)?); // FirstIndexEntry
    let end = index(le32(node, 4)?); // FirstFreeByte
    node.get(start..end).filter(|_| start >= 0x10)
}

/// The first entry (`INDEX_ENTRY`), and those after it.
fn split(entries: &[u8]) -> Option<(NodeEntry<'_>, &[u8])> {
    let length = usize::from(le16(entries, 8)?); // Length
    let (own, rest) = entries.split_at_checked(length).filter(|_| length >= 0x10)?;
    let flags = le16(own, 0x0c)?; // Flags
    let key = match flags & LAST {
        0 => Some(slice(own, 0x10, usize::from(le16(own, 0x0a)?))?), // AttributeLength
        _ => None,
    };
    let child = match flags & HAS_NODE {
        0 => None,
        _ => Some(le64(own, length.checked_sub(8)?)?),
    };
    Some((NodeEntry { file: Reference(le64(own, 0)?), key, child }, rest))
}
