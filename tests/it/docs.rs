//! Tests of the documentation: references list exactly what exists, links resolve, examples parse.

mod command_line;
mod configuration;
mod events;
mod links;
mod markdown;
pub(crate) mod metrics;
mod output;
mod scenarios;
