//! The simulated world, and the attack catalogue: libraries for the tests beside them.

pub mod attacks;
pub mod sim;
