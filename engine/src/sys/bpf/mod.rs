//! The kernel's programs and maps: `bpf(2)` without a library, because the program that is
//! verified must be the program that is shipped, and building it must need no C compiler.
//!
//! Safe functions over owned descriptors. [`Assembler`] writes instructions, [`KernelTypes`] says
//! where the running kernel keeps the fields that they read.

mod assembler;
mod btf;
mod call;
mod folder;
mod map;
mod program;

pub use assembler::{Assembler, Helper, Label, Register, Width};
pub use btf::KernelTypes;
pub use folder::{BpfFolder, ForeignFolder, FoundFolder};
pub use map::{Map, MapFacts, MapKind, MappedWords};
pub use program::{Link, Program};
