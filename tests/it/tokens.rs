//! Tokens that come by way of others: from the operator's token server, and from a third-party platform ("component").
//! Both are played by a small server of this file, and the clock is scripted.

mod platform;

mod component;
mod daemon;
mod many;
mod server;
