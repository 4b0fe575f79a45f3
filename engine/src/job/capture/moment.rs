//! Which volumes of a disk in use are in its image as they were at one instant.

use super::unused::places;
use crate::base::ByteRange;
use crate::base::ranges::{joined, touches, without};
use crate::store::manifest::{Moment, VolumeMoment};
use crate::volume::{Stack, Volume};

/// Says of `moment` that the bytes `torn` were written while they were read, and all else of the
/// disk that `stack` is on is at one instant.
pub fn tell(moment: &mut Moment, stack: &Stack, torn: &[ByteRange]) {
    const WHY: &str = "written to while it was read";
    let torn = joined(torn.to_vec());
    let volumes = &stack.layout().volumes;
    let places = |volume: &Volume| places(stack, volume);
    // Where a volume lies that is not understood is not known.
    let is_torn = |volume: &Volume| {
        let places = places(volume);
        let touched = places.iter().any(|place| touches(&torn, place));
        touched || (places.is_empty() && !torn.is_empty())
    };
    let of_volume = |volume: &Volume| VolumeMoment {
        volume: volume.name.clone(),
        doubt: is_torn(volume).then(|| WHY.to_owned()),
    };
    moment.volumes = volumes.iter().map(of_volume).collect();
    let doubted = moment.volumes.iter().filter(|volume| volume.doubt.is_some());
    let mut doubted: Vec<&str> = doubted.map(|volume| volume.volume.as_str()).collect();
    let held = joined(volumes.iter().flat_map(places).collect());
    if !without(&torn, &held).is_empty() {
        doubted.push("what lies outside of volumes");
    }
    moment.doubt = match doubted.as_slice() {
        [] => None,
        _ if volumes.is_empty() => Some(WHY.to_owned()),
        names => Some(format!("{}: {WHY}", names.join(", "))),
    };
}

/// Says of `moment` that nothing is certain, because of `doubt`.
pub fn tell_unknown(moment: &mut Moment, stack: &Stack, doubt: String) {
    let of_volume =
        |volume: &Volume| VolumeMoment { volume: volume.name.clone(), doubt: Some(doubt.clone()) };
    moment.volumes = stack.layout().volumes.iter().map(of_volume).collect();
    moment.doubt = Some(doubt);
}
