//! The verbs: each makes a plan that can be shown, then runs it.

mod bitmaps;
pub mod capture;
pub mod diff_files;
pub mod extract;
pub mod files;
pub mod map;
mod pipeline;
pub mod repair;
pub mod restore;
mod tracked;
pub mod verify;

pub use bitmaps::next_bitmap;
pub use capture::{
    Capture, CaptureOptions, CaptureReport, ChangeTracker, Copied, Effort, Findings, LiveOptions,
    OnError, ParentChoice, Since, TrackerChoice,
};
pub use diff_files::DiffFiles;
pub use extract::{Extract, ExtractOptions, ExtractReport};
pub use files::{FileDisk, FilePath};
pub use map::{DiskMap, Holding, MapSection};
pub use repair::{Repair, RepairReport, Unrepaired};
pub use restore::{Known, Restore, RestoreOptions, RestorePlan, RestoreReport, Space};
pub use tracked::known_content;
pub use verify::{DamagedFile, Salvage, SalvageReport, VerifyOptions, VerifyReport, verify};
