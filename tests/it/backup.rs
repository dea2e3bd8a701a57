//! What a copy of the store contains, what a restore brings back, and that neither ever harms the store.

mod consistency;
mod killed;
mod refusals;
mod sequences;
