//! Change tracking by programs in the kernel.
mod layout;
mod programs;

#[cfg(test)]
mod tests {
    use super::layout::{DISKS, IN_FLIGHT, SLOTS, STATS, WRITES};
    use super::programs::{Hook, Maps};
    use crate::sys::bpf::{KernelTypes, Map, MapKind};
    use std::os::fd::AsRawFd;

    #[test]
    fn loads() {
        let types = KernelTypes::of_running_kernel().unwrap_or_else(|e| panic!("{e}"));
        let disks = Map::create(DISKS, SLOTS, "imgx_disks").unwrap_or_else(|e| panic!("{e}"));
        let stats = Map::create(STATS, SLOTS, "imgx_stats").unwrap_or_else(|e| panic!("{e}"));
        let in_flight = Map::create(IN_FLIGHT, WRITES, "imgx_flight").unwrap_or_else(|e| panic!("{e}"));
        let like = Map::create(MapKind::Words, 1, "imgx_epoch").unwrap_or_else(|e| panic!("{e}"));
        let like = like.descriptor().as_raw_fd();
        let epochs = Map::create(MapKind::ArrayOfMaps { like }, SLOTS, "imgx_epochs").unwrap_or_else(|e| panic!("{e}"));
        let maps = Maps { disks: &disks, stats: &stats, epochs: &epochs, in_flight: &in_flight };
        for hook in Hook::ALL {
            let start = std::time::Instant::now();
            let p = hook.load(&types, maps);
            println!("{hook:?} {:?} {:?}", p.map_err(|e| e.to_string()), start.elapsed());
        }
    }
}
