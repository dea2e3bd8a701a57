//! Tokens that kfwatch gets from the operator's token server, or as a third-party platform ("component"). The module `platform`
//! has a small server that plays both, and the clock is scripted. `transcripts` compares what a person reads.

mod platform;

mod component;
mod daemon;
mod many;
mod rotation;
mod server;
mod shared;
mod sources;
mod transcripts;
