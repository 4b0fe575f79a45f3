//! `imgx` as a user meets it: commands typed into a shell, what they print, how they exit.

mod archive;
mod damage;
mod differing;
mod exits;
mod files;
mod interrupt;
mod json;
mod mapping;
mod nbd;
mod round_trip;
mod running_machine;
mod several_disks;
mod showing;
mod support;
mod tracking;
mod unreadable;
mod zones;
