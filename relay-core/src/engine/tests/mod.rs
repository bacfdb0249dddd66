//! Tests of the engine by its behaviour.
