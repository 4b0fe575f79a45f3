//! imgx
fn main() {}
