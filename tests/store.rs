//! What the store promises: the contract that every backend keeps, and what holds for the SQLite file.

#[cfg(test)]
#[path = "store"]
mod store {
    mod support;

    #[macro_use]
    mod contract;

    mod crash;
    mod file;
    mod large;
    mod migration;
    mod refusals;
    mod room;
    mod speed;

    contract!(sqlite, super::support::sqlite_file);
}
