//! Volumes of which it cannot be proven that an image left nothing out that they use: a filesystem
//! that is damaged, or whose allocation maps say what is not so. Nothing is left out of them after
//! all: what was is read, from the disk, and the image says why.

use std::sync::Arc;
use std::time::Instant;

use super::changes::{Reading, whole_blocks};
use super::unused::proof::{self, Claim, Unproven};
use super::{Capture, From};
use crate::base::limits::MAX_UNREADABLE_RANGES;
use crate::base::ranges::{common, joined, without};
use crate::base::{ByteRange, Error, ErrorKind, Event, Observer, Result};
use crate::block::ExtentKind;
use crate::job::pipeline::ChunkSource;
use crate::store::index::Index;
use crate::store::manifest::{TreeRoot, UnreadableRange};
use crate::store::repository::Image;
use crate::store::tree::disk_digest;
use crate::store::writer::Judged;
use crate::store::{ImageId, ImageReader, Manifest, StoreWriter};

/// What is read of a disk once an image of it is there.
pub(super) struct Late {
    /// What is read: whole blocks.
    pub(super) ranges: Vec<ByteRange>,
    /// What need not be, because it is a hole.
    pub(super) holes: Vec<ByteRange>,
}

impl Capture<'_> {
    /// All data of the disk, widened to whole blocks.
    pub(super) fn data(&self) -> Result<Vec<ByteRange>> {
        let data = self.disk.extents()?.into_iter();
        let data = data.filter(|extent| extent.kind != ExtentKind::Hole);
        let (block, size) = (self.repository.config().block_size, self.disk.info().size);
        Ok(whole_blocks(data.map(|extent| extent.range).collect(), block, size))
    }

    /// Makes what was written an image, once it is proven; volumes of which it cannot be are read
    /// whole before.
    ///
    /// # Errors
    /// Those of [`prove`](Self::prove) and [`read_whole`](Self::read_whole); `Io`.
    pub(super) fn publish(
        &self,
        writer: StoreWriter,
        (manifest, reading): (&mut Manifest, &Reading),
        (index, observer): (&Arc<Index>, &dyn Observer),
    ) -> Result<ImageId> {
        let draft = writer.draft(manifest.clone());
        let (draft, unproven) = match draft.judged(|image| self.prove(image, reading, observer))? {
            Judged::Proven(proven) => return proven.publish(),
            Judged::Doubted(draft, unproven) => (draft, unproven),
        };
        draft.abandon()?;
        *manifest = self.read_whole(&unproven, (manifest.clone(), reading), (index, observer))?;
        // Of the volumes in doubt nothing is left out any more.
        let rest = self.writer(index, None)?.draft(manifest.clone());
        rest.proven(|_all_is_there| Ok(()))?.publish()
    }

    /// The volumes of which it cannot be proven that `image`, which is not published yet, left
    /// nothing out that they use; and those of which it left nothing out because of the parent's
    /// doubt.
    ///
    /// # Errors
    /// Those of [`proof::check`].
    pub(super) fn prove(
        &self,
        image: ImageReader,
        reading: &Reading,
        observer: &dyn Observer,
    ) -> Result<Vec<Unproven>> {
        let looked_at = reading.volumes.iter().filter(|volume| volume.doubt.is_none());
        let names: Vec<&str> = looked_at.map(|volume| volume.volume.as_str()).collect();
        let volumes = names.iter().filter_map(|name| self.layout().volume(name));
        let places = joined(volumes.flat_map(|volume| self.places(volume)).collect());
        let skip_swap = self.options.skip_swap;
        let claim = Claim { names: &names, places, skip_swap };
        let mut doubts = self.inherited(&image, reading, &names)?;
        let unproven = proof::check(image, |disk| self.stack_on(disk), claim, observer)?;
        for Unproven { volume, why } in &unproven {
            let message = format!("{volume}: all of it is read: {why}");
            observer.event(&Event::Warning { message: &message });
        }
        doubts.extend(unproven);
        Ok(doubts)
    }

    /// Volumes among those called `names` of which the parent has all, and so this image as well.
    fn inherited(
        &self,
        image: &ImageReader,
        reading: &Reading,
        names: &[&str],
    ) -> Result<Vec<Unproven>> {
        let parent = self.parent.iter().filter(|_| reading.is_incremental);
        let mut doubts = Vec::new();
        for before in parent.flat_map(|parent| &parent.manifest.allocation) {
            let of = self.layout().volume(&before.volume);
            let of = of.filter(|volume| names.contains(&volume.name.as_str()));
            let (Some(of), Some(why)) = (of, &before.doubt) else { continue };
            if proof::unallocated(image, &self.places(of))?.is_empty() {
                doubts.push(Unproven { volume: of.name.clone(), why: why.clone() });
            }
        }
        Ok(doubts)
    }

    /// Reads what the image of `manifest`, which can be read and is not published yet, left out of
    /// volumes, and says why.
    ///
    /// # Errors
    /// `Io` of the disk or repository; `Cancelled`; `Limit` when too many ranges are unreadable.
    pub(super) fn read_whole(
        &self,
        unproven: &[Unproven],
        (manifest, reading): (Manifest, &Reading),
        (index, observer): (&Arc<Index>, &dyn Observer),
    ) -> Result<Manifest> {
        let clock = Instant::now();
        let why = |name: &str| unproven.iter().find(|one| one.volume == name).map(|one| &one.why);
        let volumes = &self.layout().volumes;
        let wanted = volumes.iter().filter(|volume| why(&volume.name).is_some());
        let wanted = joined(wanted.flat_map(|volume| self.places(volume)).collect());
        let before = Image { id: self.repository.keys().image_id(&manifest.encode()), manifest };
        let left_out = proof::unallocated(&self.repository.reader(&before), &wanted)?;
        let mut manifest = match left_out.is_empty() {
            true => before.manifest,
            false => self.read_late((&before, reading), &left_out, (index, observer))?,
        };
        manifest.cost.milliseconds += u64::try_from(clock.elapsed().as_millis()).unwrap_or(0);
        for volume in &mut manifest.allocation {
            if let Some(why) = why(&volume.volume) {
                volume.keep_all(why);
            } else if let Some(of) = volumes.iter().find(|of| of.name == volume.volume) {
                // A block may be of two volumes.
                let read: u64 =
                    common(&left_out, &self.places(of)).iter().map(ByteRange::len).sum();
                volume.unallocated = volume.unallocated.saturating_sub(read);
            }
        }
        self.check_instant(&mut manifest, unproven, &left_out, observer);
        Ok(manifest)
    }

    /// Reads from the disk what was left out of the image `before`.
    fn read_late(
        &self,
        (before, reading): (&Image, &Reading),
        left_out: &[ByteRange],
        (index, observer): (&Arc<Index>, &dyn Observer),
    ) -> Result<Manifest> {
        let data = self.data()?;
        let late = Late { ranges: common(left_out, &data), holes: without(left_out, &data) };
        let disk = self.disk.as_ref();
        let mut manifest = self.read_again(disk, before, late, (index, observer))?;
        let sum = |ranges: &[ByteRange]| -> u64 { ranges.iter().map(ByteRange::len).sum() };
        let (all, fresh) = (sum(left_out), sum(&common(left_out, &reading.left_out)));
        let cost = &mut manifest.cost;
        let added = cost.of_blocks().saturating_sub(before.manifest.cost.of_blocks());
        cost.zero += all.saturating_sub(added);
        cost.unallocated = cost.unallocated.saturating_sub(fresh);
        // What the parent left out as well.
        cost.unchanged = cost.unchanged.saturating_sub(all - fresh);
        Ok(manifest)
    }

    /// Of a disk in use, what is read late was not to be written since the instant.
    fn check_instant(
        &self,
        manifest: &mut Manifest,
        unproven: &[Unproven],
        late: &[ByteRange],
        observer: &dyn Observer,
    ) {
        const WHY: &str = "written to before all of it was read, as it had to be";
        let (Some(moment), Some(tracker)) = (&mut manifest.live, &self.tracker) else { return };
        let is_written = !late.is_empty() && tracker.is_written_since(late).unwrap_or(true);
        if moment.doubt.is_some() || !is_written {
            return;
        }
        let is_late = |name: &String| unproven.iter().any(|one| one.volume == *name);
        for volume in moment.volumes.iter_mut().filter(|volume| is_late(&volume.volume)) {
            volume.doubt.get_or_insert_with(|| WHY.to_owned());
        }
        let names: Vec<&str> = unproven.iter().map(|one| one.volume.as_str()).collect();
        let doubt = format!("{}: {WHY}", names.join(", "));
        let message = format!("the image is not one instant ({doubt})");
        observer.event(&Event::Warning { message: &message });
        moment.doubt = Some(doubt);
    }

    /// The image `before`, which is not published, with what is read `late` as `source` has it.
    ///
    /// # Errors
    /// `Io` of either; `Cancelled`; `Limit` when too many ranges are unreadable.
    pub(super) fn read_again(
        &self,
        source: &dyn ChunkSource,
        before: &Image,
        late: Late,
        (index, observer): (&Arc<Index>, &dyn Observer),
    ) -> Result<Manifest> {
        let mut writer = self.writer(index, Some(before))?;
        let Late { ranges, holes } = late;
        let reading = Reading { holes, is_incremental: true, ..Reading::all(ranges) };
        let from = From { source, before: Some(before) };
        let assembled = self.read(from, &reading, index, &mut writer, observer)?;
        writer.end()?;
        let earlier = &before.manifest;
        let elsewhere = without(&earlier.unreadable_ranges(), &reading.ranges);
        let unreadable = assembled.unreadable.iter().map(UnreadableRange::bytes);
        let unreadable = joined(elsewhere.into_iter().chain(unreadable).collect());
        if unreadable.len() > MAX_UNREADABLE_RANGES {
            let context = format!("source: more than {MAX_UNREADABLE_RANGES} unreadable ranges");
            return Err(Error::new(ErrorKind::Limit, context));
        }
        let (level, root) = &assembled.root;
        let disk = (earlier.size, earlier.block_size);
        let mut cost = earlier.cost.and(&assembled.cost);
        cost.unreadable = unreadable.iter().map(ByteRange::len).sum();
        Ok(Manifest {
            content: disk_digest(&self.repository.keys(), disk, (*level, root)),
            tree: TreeRoot::new(*level, root),
            unreadable: unreadable.into_iter().map(UnreadableRange::from).collect(),
            cost,
            ..earlier.clone()
        })
    }
}
