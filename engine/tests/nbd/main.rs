//! NBD's client against servers that do wrong, say nothing, or go away: never wrong bytes, and never
//! a hang.

mod losses;
mod noise;
mod server;
mod violations;
