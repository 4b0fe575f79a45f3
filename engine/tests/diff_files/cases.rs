//! Cases with a known answer.
