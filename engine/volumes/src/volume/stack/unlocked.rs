//! What encrypted volumes hold, where there is a key.

use std::sync::Arc;

use super::build::{Building, Found, Identity};
use super::{Below, Opened};
use crate::base::{ErrorKind, Result};
use crate::volume::layout::Volume;
use crate::volume::luks;

/// What volume `number` holds in encrypted form; nothing if it is not encrypted, or no key for it
/// was given.
///
/// # Errors
/// Where the key that was given for it does not open it.
pub(super) fn find(building: &mut Building<'_>, number: usize) -> Result<Option<Found>> {
    let (Some(volume), Some(node)) = (building.volumes.get(number), building.nodes.get(number))
    else {
        return Ok(None);
    };
    let Ok(bytes) = &node.bytes else { return Ok(None) };
    let within = |error: crate::base::Error| error.within(format!("volume {}", volume.name));
    let unlocked = match building.keys.unlock(volume, bytes) {
        Ok(Some(unlocked)) => unlocked,
        Ok(None) => return Ok(None),
        // What could not be read or is not known is a state of the volume, a wrong key is not.
        Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => {
            return Ok(Some(inner(volume, number, Err(error))));
        }
        Err(error) => return Err(within(error)),
    };
    let (header, key) = unlocked;
    let opened = luks::Opened::new(Arc::clone(bytes), &header, &key);
    let opened = opened.map(|opened| Below::layer(Arc::new(opened), vec![number]));
    Ok(Some(inner(volume, number, opened)))
}

fn inner(volume: &Volume, number: usize, opened: Result<Opened>) -> Found {
    let mut inner = Volume::new(format!("{}/luks", volume.name), 0, 0);
    inner.type_name = Some("opened LUKS volume".to_owned());
    inner.within = vec![volume.name.clone()];
    Found { volume: inner, identity: Identity::Unlocked(number), opened }
}
