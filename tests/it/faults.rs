//! Faults from outside: outputs, files, clocks, networks and terminals that misbehave.

mod logs;
mod peer_text;
mod signals;
mod text_files;
