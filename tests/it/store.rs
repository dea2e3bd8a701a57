//! The store: the contract of every backend, and tests of the SQLite file.

#[macro_use]
mod contract;

mod crash;
mod file;
mod large;
mod migration;
mod postgres;
mod refusals;
mod room;
mod speed;

contract!(sqlite, crate::support::store::sqlite_file);
