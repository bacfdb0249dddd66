//! Tests of the store on a disk in memory: what is promised holds through crashes, faults and damage.

mod basic;
mod crash;
mod damage;
mod disk;
mod faults;
mod recovery;
mod rig;
mod upkeep;
