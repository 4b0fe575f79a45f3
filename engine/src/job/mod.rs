//! The verbs: each makes a plan that can be shown, then runs it.

pub mod capture;
pub mod map;
mod pipeline;
pub mod restore;
mod tracked;
pub mod verify;

pub use capture::{
    Capture, CaptureOptions, CaptureReport, ChangeTracker, Effort, Findings, OnError, ParentChoice,
    TrackerChoice,
};
pub use map::{DiskMap, Holding, MapSection};
pub use restore::{Known, Restore, RestoreOptions, RestorePlan, RestoreReport, Space};
pub use tracked::known_content;
pub use verify::{Salvage, SalvageReport, VerifyOptions, VerifyReport, verify};
