//! Criterion benches live in `benches/`; the same work by other tools in `compare/`.
