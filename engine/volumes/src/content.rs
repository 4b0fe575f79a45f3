//! What a superblock says of what it is of.

use serde::{Deserialize, Serialize};

use crate::kind::Kind;

/// A filesystem, container or other known content, by its signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// What it is.
    pub kind: Kind,
    /// Its label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Its UUID or serial number, spelled as `blkid` does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Bytes that its superblock says it spans.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

impl Content {
    /// Content of a kind, of which nothing else is known.
    pub(crate) fn new(kind: Kind) -> Self {
        Self { kind, label: None, uuid: None, size: None }
    }
}
