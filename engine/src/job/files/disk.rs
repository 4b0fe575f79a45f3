//! The filesystems of one disk.

use std::sync::Arc;

use super::beside::{self, Beside, Together};
use super::members::{self, Member};
use super::withheld::{LeftOut, Withheld};
use crate::base::{ByteRange, Error, ErrorKind, ReadAt, Result};
use crate::block::{Cached, Disk, Joined};
use crate::fs::{self, FileId, Filesystem, ReadOptions};
use crate::store::ImageReader;
use crate::volume::{DiskLayout, Keys, Kind, Placed, Stack, Volume, probe};

/// Bytes of a sector where nothing says more; a partition table knows better by itself.
const USUAL_SECTOR: u32 = 512;

/// What the whole disk is called.
const WHOLE: &str = "disk";

/// A disk whose files are to be read: an image, a device, a raw file.
pub struct FileDisk {
    disk: Arc<dyn ReadAt>,
    /// All volumes, those of other disks too.
    stack: Stack,
    /// Those on the disk itself, and what lies in any.
    layout: DiskLayout,
    /// Whether the layout was read from the disk itself, by this version.
    is_probed: bool,
    /// Keys of encrypted volumes.
    keys: Arc<Keys>,
    /// Further disks, on which parts of its volumes may lie.
    others: Vec<Beside>,
    /// Files whose contents an image does not have.
    left_out: Vec<LeftOut>,
    /// How its filesystems are read.
    options: ReadOptions,
}

/// A volume's filesystem.
pub struct OpenVolume {
    /// The volume's name.
    pub name: String,
    /// What it holds.
    pub filesystem: Box<dyn Filesystem>,
    /// The volume's own bytes; of several volumes, one behind the other.
    pub bytes: Arc<dyn ReadAt>,
    /// The volumes that it lies on.
    pub parts: Vec<Placed>,
    /// Files whose contents were left out of the image, so that they cannot be opened.
    pub left_out: Vec<FileId>,
}

impl OpenVolume {
    /// Calls `visit` for each stretch of the disk that holds some of the filesystem's bytes
    /// `within`.
    ///
    /// # Errors
    /// Those of [`Placed::each_place`].
    pub fn each_place(&self, within: ByteRange, visit: &mut dyn FnMut(ByteRange)) -> Result<()> {
        each_place(&self.parts, within, visit)
    }
}

/// The same of `parts`, one behind the other.
///
/// # Errors
/// As [`OpenVolume::each_place`].
pub(in crate::job) fn each_place(
    parts: &[Placed],
    within: ByteRange,
    visit: &mut dyn FnMut(ByteRange),
) -> Result<()> {
    let mut start = 0_u64;
    let mut outcome = Ok(());
    for part in parts {
        let own = ByteRange::new(start, part.volume().length);
        if let Some(common) = own.intersection(&within) {
            let range = ByteRange::new(common.start - start, common.len());
            outcome = outcome.and(part.each_place(range, visit));
        }
        start = own.end;
    }
    outcome
}

impl FileDisk {
    /// The disk that an image holds. What the image's manifest says of its volumes is believed
    /// as long as it leads to what is asked for, which saves reading it.
    ///
    /// # Errors
    /// `Corrupt` or `Io` when the image cannot be read.
    pub fn of_image(image: ImageReader) -> Result<Self> {
        let layout = layout_of(&image);
        let left_out = LeftOut::all(&image.manifest().allocation);
        let disk: Arc<dyn ReadAt> = Arc::new(Cached::new(Arc::new(image)));
        let keys = Arc::default();
        let disk = match layout {
            Some(layout) => Self::new(Stack::over(&disk, layout, &keys)?, disk, false, keys),
            None => Self::probed(disk, USUAL_SECTOR, keys)?,
        };
        Ok(Self { left_out, ..disk })
    }

    /// The disk that `image` holds, read by way of `disk`; its volumes are found anew.
    ///
    /// # Errors
    /// As [`of_image`](Self::of_image).
    pub(in crate::job) fn of_image_on(image: &ImageReader, disk: Arc<dyn ReadAt>) -> Result<Self> {
        let sector_size = layout_of(image).map_or(USUAL_SECTOR, |layout| layout.sector_size);
        let left_out = LeftOut::all(&image.manifest().allocation);
        Ok(Self { left_out, ..Self::probed(disk, sector_size, Arc::default())? })
    }

    /// A device or raw file.
    ///
    /// # Errors
    /// `Io` when it cannot be read.
    pub fn of_disk(disk: Disk) -> Result<Self> {
        let sector_size = disk.info().logical_sector_size;
        Self::probed(Arc::new(Cached::new(Arc::new(disk))), sector_size, Arc::default())
    }

    fn probed(disk: Arc<dyn ReadAt>, sector_size: u32, keys: Arc<Keys>) -> Result<Self> {
        Ok(Self::new(Stack::open(&disk, sector_size, &keys)?, disk, true, keys))
    }

    fn new(stack: Stack, disk: Arc<dyn ReadAt>, is_probed: bool, keys: Arc<Keys>) -> Self {
        let (others, left_out, options) = (Vec::new(), Vec::new(), ReadOptions::default());
        let layout = stack.layout().clone();
        Self { disk, stack, layout, is_probed, keys, others, left_out, options }
    }

    /// The same with what `keys` open.
    ///
    /// # Errors
    /// Those of keys that open nothing, or are for no volume that there is.
    pub fn unlocked(self, keys: &Arc<Keys>) -> Result<Self> {
        if keys.is_empty() {
            return Ok(self);
        }
        let stack = Stack::over(&self.disk, self.stack.layout().clone(), keys)?;
        keys.check_used(stack.layout())?;
        Ok(Self { keys: Arc::clone(keys), ..self }.on(stack))
    }

    /// The same on another stack.
    fn on(self, stack: Stack) -> Self {
        let mut layout = stack.layout().clone();
        let of_others = |volume: &Volume| {
            self.others.iter().any(|other| other.volumes.iter().any(|own| own.is(volume)))
        };
        layout.volumes.retain(|volume| !of_others(volume));
        Self { stack, layout, ..self }
    }

    /// The same with its filesystems read as `options` say.
    #[must_use]
    pub fn with_options(self, options: &ReadOptions) -> Self {
        Self { options: options.clone(), ..self }
    }

    /// The same with `others` beside it, each under a name of its own: what they hold of its
    /// filesystems on several devices, volume groups and arrays is read as well.
    ///
    /// # Errors
    /// `Limit` when there are too many; `Corrupt` or `Io` when an image cannot be read.
    pub fn beside(self, others: Vec<(String, Self)>) -> Result<Self> {
        if others.is_empty() {
            return Ok(self);
        }
        let mut left_out = self.left_out.clone();
        // What lies within several disks' volumes is called the same on each.
        let of_others = others.iter().flat_map(|(_, other)| &other.left_out);
        left_out.extend(of_others.filter(|other| other.volume.contains('/')).cloned());
        let probed = |disk: Self| -> Result<(Arc<dyn ReadAt>, DiskLayout)> {
            let layout = match disk.is_probed {
                true => disk.layout,
                false => probe(&disk.disk, disk.layout.sector_size)?,
            };
            Ok((disk.disk, layout))
        };
        let others = others.into_iter().map(|(name, other)| {
            let (disk, layout) = probed(other)?;
            Ok((name, disk, layout))
        });
        let others = others.collect::<Result<Vec<_>>>()?;
        let (options, keys) = (self.options.clone(), Arc::clone(&self.keys));
        let Together { disk, stack, others } = beside::join(probed(self)?, others, &keys)?;
        let joined = Self::new(stack.clone(), disk, true, keys);
        Ok(Self { others, left_out, options, ..joined }.on(stack))
    }

    /// The names of the disks beside it that hold nothing of what is on it.
    #[must_use]
    pub fn unrelated(&self) -> Vec<&str> {
        let members = self.members();
        let is_stacked_on = |other: &Beside| {
            let mut within = self.layout.volumes.iter().flat_map(|volume| &volume.within);
            within.any(|name| other.volumes.iter().any(|volume| volume.name == *name))
        };
        let others = self.others.iter().enumerate().filter(|(number, other)| {
            !is_stacked_on(other) && !members::has_part(&members, number + 1)
        });
        others.map(|(_, other)| other.name.as_str()).collect()
    }

    /// Whether `other` may be another state of the same disk: both hold one partition table, one
    /// LVM2 physical volume or one device of a btrfs.
    #[must_use]
    pub fn is_state_of(&self, other: &Self) -> bool {
        let identities = self.identities();
        other.identities().iter().any(|identity| identities.contains(identity))
    }

    fn identities(&self) -> Vec<String> {
        let volumes = self.layout.volumes.iter();
        let physical = volumes.filter(|volume| volume.holds(Kind::PhysicalVolume));
        let physical = physical.filter_map(|volume| volume.content.as_ref()?.uuid.clone());
        let devices = self.members().into_iter().map(|member| member.device.device);
        self.layout.disk_id.iter().cloned().chain(physical).chain(devices).collect()
    }

    /// The devices of filesystems that may lie on several.
    fn members(&self) -> Vec<Member<'_>> {
        let own = self.layout.volumes.iter().map(|volume| (0, volume));
        let others = (1..).zip(&self.others);
        let others = others.flat_map(|(disk, other)| other.volumes.iter().map(move |v| (disk, v)));
        members::of(&self.stack, own.chain(others))
    }

    /// Its volumes.
    #[must_use]
    pub fn layout(&self) -> &DiskLayout {
        &self.layout
    }

    /// Opens the filesystem of a volume: by its name, its label (`LABEL=`) or its UUID (`UUID=`);
    /// without a selector the only filesystem there is.
    ///
    /// # Errors
    /// `NotFound` or `Invalid`, listing the volumes, when there is none or more than one;
    /// `Unsupported` when it holds nothing that can be read; the filesystem's own.
    pub fn open(&mut self, selector: Option<&str>) -> Result<OpenVolume> {
        let opened = self.try_open(selector);
        let may_differ =
            |error: &Error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unsupported);
        if self.is_probed || !opened.as_ref().err().is_some_and(may_differ) {
            return opened;
        }
        // The manifest's layout may be an earlier version's, which knew less.
        self.stack = Stack::open(&self.disk, self.layout.sector_size, &self.keys)?;
        self.layout = self.stack.layout().clone();
        self.is_probed = true;
        self.try_open(selector)
    }

    fn try_open(&self, selector: Option<&str>) -> Result<OpenVolume> {
        match selector {
            Some(selector) => match self.layout.find_all(selector) {
                Ok(volumes) => self.open_meant(selector, &volumes),
                // A filesystem may lie on the whole disk beside a partition table.
                Err(missing) if selector == WHOLE => match self.open_whole() {
                    Ok(filesystem) => {
                        let (name, bytes) = (WHOLE.to_owned(), Arc::clone(&self.disk));
                        let (parts, left_out) = (Vec::new(), Vec::new());
                        Ok(OpenVolume { name, filesystem, bytes, parts, left_out })
                    }
                    Err(error) if error.kind() == ErrorKind::Unsupported => Err(missing),
                    Err(error) => Err(error.within("the whole disk")),
                },
                Err(error) => Err(error),
            },
            None => self.open_only(),
        }
    }

    /// The filesystem on the whole disk, of those that leave the first sector to a table.
    fn open_whole(&self) -> Result<Box<dyn Filesystem>> {
        let kinds = [Kind::Xfs, Kind::Ext4, Kind::Btrfs];
        let open = |kind| fs::open_with(&self.disk, Some(kind), &self.options);
        let none = |error: &Error| error.kind() == ErrorKind::Unsupported;
        let mut tried = kinds.into_iter().map(open);
        let found = tried.find(|opened| !opened.as_ref().err().is_some_and(none));
        found.unwrap_or_else(|| {
            let context = "no filesystem that can be read is here";
            Err(Error::new(ErrorKind::Unsupported, context))
        })
    }

    /// Opens what `selector` means: one volume, or all of one filesystem.
    fn open_meant(&self, selector: &str, volumes: &[&Volume]) -> Result<OpenVolume> {
        // Most volumes are whole filesystems, and nothing has to be read to know it.
        let may_be_one = volumes.iter().any(|volume| members::may_be(volume));
        let members = if may_be_one { self.members() } else { Vec::new() };
        if let [first, .., last] = volumes {
            let together = members::together(first, &members)?;
            let is_part = |volume: &&Volume| {
                together.iter().any(|member| std::ptr::eq(member.volume, *volume))
            };
            if !volumes.iter().all(is_part) {
                let (first, last) = (&first.name, &last.name);
                let context = format!("{selector} means both {first} and {last}: say which");
                return Err(Error::new(ErrorKind::Invalid, context));
            }
        }
        match volumes.first() {
            Some(volume) => self.open_with(volume, &members),
            None => Err(self.several()),
        }
    }

    /// Every volume that holds what looks like a filesystem, opened, or why it cannot be. One that
    /// lies on several volumes comes with the first of them only.
    pub fn open_all<'a>(&'a self) -> impl Iterator<Item = (&'a Volume, Result<OpenVolume>)> {
        let members = self.members();
        let mut parts: Vec<&Volume> = Vec::new();
        let is_opened = |error: &Error| error.kind() != ErrorKind::Unsupported;
        let open = move |volume: &'a Volume| {
            if parts.iter().any(|part| std::ptr::eq(*part, volume)) {
                return None;
            }
            let opened = self.open_with(volume, &members);
            let together = members::together(volume, &members).unwrap_or_default();
            // If it is none of them, they may do without it.
            let is_foreign = |error: &Error| error.kind() == ErrorKind::Invalid;
            if !opened.as_ref().err().is_some_and(is_foreign) {
                parts.extend(together.iter().map(|member| member.volume));
            }
            let is_one = opened.as_ref().map_or_else(is_opened, |_| true);
            (is_one || volume.holds_filesystem()).then_some((volume, opened))
        };
        self.layout.volumes.iter().filter_map(open)
    }

    /// The volumes of which nothing can be said, and why: those that cannot be read, and those that
    /// hold others which are not known.
    pub fn closed(&self) -> impl Iterator<Item = (&Volume, Error)> {
        let is_open = |volume: &Volume| {
            self.layout.volumes.iter().any(|other| other.within.contains(&volume.name))
        };
        let closed = move |volume: &Volume| match (&volume.unsupported, &volume.content) {
            (Some(why), _) => Some(why.clone()),
            (None, Some(content)) if content.kind.is_container() && !is_open(volume) => {
                Some(match content.kind {
                    Kind::BitLocker => "it holds bitlocker, which is not opened: dislocker-file \
                                        makes a file of it that can be read"
                        .to_owned(),
                    kind => format!("it holds {kind}, which is not opened"),
                })
            }
            _ => None,
        };
        let told = |why| Error::new(ErrorKind::Unsupported, why);
        self.layout.volumes.iter().filter_map(move |volume| Some((volume, told(closed(volume)?))))
    }

    /// The bytes of a volume.
    ///
    /// # Errors
    /// `Unsupported`, saying why, when they cannot be had.
    pub(in crate::job) fn bytes_of(&self, volume: &Volume) -> Result<Arc<dyn ReadAt>> {
        self.stack.bytes(volume)
    }

    /// Where a volume lies.
    pub(in crate::job) fn placed(&self, volume: &Volume) -> Option<Placed> {
        self.stack.placed(volume)
    }

    /// Opens the filesystem of `volume`, which is one of the layout's, or the one that it is a
    /// part of.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(in crate::job) fn open_volume(&self, volume: &Volume) -> Result<OpenVolume> {
        self.open_with(volume, &self.members())
    }

    fn open_with(&self, volume: &Volume, members: &[Member<'_>]) -> Result<OpenVolume> {
        let within = |error: Error| error.within(format!("volume {}", volume.name));
        let together = members::together(volume, members).map_err(within)?;
        if !together.is_empty() {
            let all: Vec<_> = together.iter().map(|member| Arc::clone(&member.bytes)).collect();
            let filesystem = fs::open_btrfs(&all).map_err(within)?;
            let is_part =
                |own: &&Volume| together.iter().any(|member| std::ptr::eq(member.volume, *own));
            let first = self.layout.volumes.iter().find(is_part).unwrap_or(volume);
            return Ok(OpenVolume {
                name: first.name.clone(),
                filesystem,
                bytes: Arc::new(Joined::new(all, 0)),
                parts: together.iter().map(|member| member.placed.clone()).collect(),
                left_out: Vec::new(),
            });
        }
        let bytes = self.stack.bytes(volume)?;
        let held = volume.kind();
        let filesystem =
            fs::open_with(&bytes, held, &self.options).map_err(|error| match &volume.content {
                Some(content) if error.kind() == ErrorKind::Unsupported => {
                    error.within(format!("volume {} holds {}", volume.name, content.kind))
                }
                _ => within(error),
            })?;
        let (name, parts) = (volume.name.clone(), self.stack.placed(volume).into_iter().collect());
        let named = self.left_out.iter().filter(|files| files.volume == volume.name);
        let (filesystem, left_out) =
            named.fold((filesystem, Vec::new()), |(inner, mut all), files| {
                let withheld = Withheld::new(inner, files);
                all.extend(withheld.files());
                (Box::new(withheld), all)
            });
        Ok(OpenVolume { name, filesystem, bytes, parts, left_out })
    }

    fn open_only(&self) -> Result<OpenVolume> {
        let (mut only, mut failed) = (None, None);
        for (volume, opened) in self.open_all() {
            match opened {
                Ok(_) if only.is_some() => return Err(self.several()),
                Ok(opened) => only = Some(opened),
                Err(error) => failed = failed.or(Some((volume, error))),
            }
        }
        match (only, failed) {
            // Another one that cannot be read makes this one no less one of several.
            (Some(_), Some(_)) => Err(self.several()),
            (Some(only), None) => Ok(only),
            (None, Some((_, error))) => Err(error),
            (None, None) => {
                let context = format!("no filesystem that can be read is here: {}", self.listed());
                Err(Error::new(ErrorKind::NotFound, context))
            }
        }
    }

    fn several(&self) -> Error {
        let context = format!("say which volume is meant (VOLUME:/path): {}", self.listed());
        Error::new(ErrorKind::Invalid, context)
    }

    /// The volumes in words.
    fn listed(&self) -> String {
        let members = self.members();
        let one = |volume: &Volume| {
            let Some(content) = &volume.content else { return volume.name.clone() };
            let together = members::together(volume, &members).unwrap_or_default();
            let others = together.iter().skip(1).map(|member| member.volume.name.as_str());
            let others: Vec<&str> = others.collect();
            match others.is_empty() {
                true => format!("{} ({})", volume.name, content.kind),
                false => format!("{} ({} with {})", volume.name, content.kind, others.join(", ")),
            }
        };
        let volumes: Vec<String> = self.layout.volumes.iter().map(one).collect();
        match volumes.is_empty() {
            true => "the disk has no volumes".to_owned(),
            false => format!("the volumes are {}", volumes.join(", ")),
        }
    }
}

/// What an image's manifest says of its volumes, if this version understands it.
fn layout_of(image: &ImageReader) -> Option<DiskLayout> {
    serde_json::from_value(image.manifest().layout.clone()).ok()
}
