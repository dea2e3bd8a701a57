//! kfwatch watches WeChat customer service sessions: it polls getsessionlist on a schedule, turns the differences
//! into durable session-start and session-end events, and exports what it sees to Prometheus.

/// The commands.
pub mod cli {
    pub mod simulate;
}
pub mod simulator;
