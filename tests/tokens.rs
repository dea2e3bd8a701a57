//! Tokens that come by way of others: from the operator's token server, and from a third-party platform ("component").
//! Both are played by a small server of this file, and the clock is scripted.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

#[expect(dead_code, reason = "the simulator is not needed here")]
mod rehearsal;
#[expect(dead_code, reason = "not every test needs every helper")]
mod support_ops;

#[path = "tokens/platform.rs"]
mod platform;

#[path = "tokens/component.rs"]
mod component;
#[path = "tokens/daemon.rs"]
mod daemon;
#[path = "tokens/many.rs"]
mod many;
#[path = "tokens/server.rs"]
mod server;
