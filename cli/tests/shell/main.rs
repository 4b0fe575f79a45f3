//! `imgx` as a user meets it: commands typed into a shell, what they print, how they exit.

mod archive;
mod damage;
mod damaged_filesystems;
mod differing;
mod ends;
mod exits;
mod extracting;
mod files;
mod interrupt;
mod json;
mod mapping;
mod nbd;
mod paths;
mod round_trip;
mod running_machine;
mod several_disks;
mod showing;
mod support;
mod targets;
mod threads;
mod tracking;
mod unlocking;
mod unreadable;
mod zones;
