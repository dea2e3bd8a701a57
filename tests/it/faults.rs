//! Faults from outside: outputs, files, clocks, networks and terminals that misbehave.

mod clock;
mod file_systems;
mod files;
mod keep_alive;
mod logs;
mod peer_text;
mod pipes;
mod read_only;
mod signals;
mod text_files;
mod tls;
