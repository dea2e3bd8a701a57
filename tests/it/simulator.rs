//! The simulated WeChat API, as its clients see it: byte by byte over a plain connection.

mod agents;
mod answers;
mod clock;
mod faults;
mod ledger;
mod limits;
mod operator;
mod platform;
mod tokens;
mod transfers;
