//! The kit that all integration tests share: kfwatch as a child process or in this process, the simulated WeChat API, receivers, failing
//! disks, and a model that derives the expected events from a history. The model shares no code with the program.

pub(crate) mod alertmanager;
pub(crate) mod backup;
pub(crate) mod certificates;
pub(crate) mod daemon;
pub(crate) mod delivery;
pub(crate) mod disk;
pub(crate) mod event_log;
pub(crate) mod events;
pub(crate) mod failing_disk;
pub(crate) mod history;
pub(crate) mod kit;
pub(crate) mod loopback;
pub(crate) mod metrics_page;
pub(crate) mod mounts;
pub(crate) mod nats;
pub(crate) mod poor_file_system;
pub(crate) mod postgres;
pub(crate) mod preload;
pub(crate) mod process;
pub(crate) mod prometheus;
pub(crate) mod promql;
pub(crate) mod receiver;
pub(crate) mod rehearsal;
pub(crate) mod replay;
pub(crate) mod robot;
pub(crate) mod simulator;
pub(crate) mod site;
pub(crate) mod size;
pub(crate) mod stage;
pub(crate) mod store;
pub(crate) mod wait;
pub(crate) mod wall_clock;
pub(crate) mod worlds;
