//! DANE.
