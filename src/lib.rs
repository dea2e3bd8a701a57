//! kfwatch watches WeChat customer service sessions: it polls getsessionlist on a schedule, turns the differences
//! into durable session-start and session-end events, and exports what it sees to Prometheus.
//!
//! A tick of a [`schedule`] makes [`poll`] ask [`wechat`] for an account's sessions and compare the answer with what
//! is known ([`domain`]); the difference is committed to the [`store`] together with the new snapshot; [`dispatch`]
//! reads the log from there for each [`sink`]. [`metrics`] and [`status`] see what happens, [`web`] shows it, and
//! [`app`] puts all of it together.

pub mod domain;
pub mod metrics;
pub mod status;
pub mod store;
pub mod wechat;
