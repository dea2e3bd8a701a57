//! The simulated WeChat API as clients see it: requests and responses over a plain connection.

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
