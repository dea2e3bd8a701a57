//! The `kfwatch` program.

fn main() {}
