//! Placeholder.

pub mod attacks;
