//! What a backup contains, what a restore brings back, and that neither damages the store.

mod consistency;
mod killed;
mod refusals;
mod sequences;
