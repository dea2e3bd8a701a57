//! kfwatch watches WeChat customer service sessions: it polls getsessionlist on a schedule, turns the differences
//! into durable session-start and session-end events, and exports what it sees to Prometheus.

pub mod config;
pub mod schedule;
