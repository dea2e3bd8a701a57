//! The metrics that Prometheus scrapes.
//!
//! Families whose labels are closed sets are in a registry of the `prometheus` crate. Families with labels from the
//! configuration (accounts, sinks) are written by [`exposition`] directly from the tables of accounts and sinks, because that
//! is cheap with 100,000 accounts, and because the crate's label maps confuse two label sets whose values concatenate to the
//! same text. A scrape returns both kinds; no family name occurs twice.

pub mod exposition;

use std::{
    sync::{OnceLock, atomic::Ordering},
    time::Duration,
};

use jiff::Timestamp;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramVec, IntCounter, IntCounterVec, Registry, TextEncoder,
    core::{Collector, Desc},
    proto::MetricFamily,
    register_gauge_with_registry, register_histogram_vec_with_registry, register_histogram_with_registry,
    register_int_counter_vec_with_registry, register_int_counter_with_registry,
    register_int_gauge_vec_with_registry,
};

use crate::{
    domain::event::EventType,
    status::CallCounters,
    wechat::{CallObserver, Endpoint, error::CallError},
};

/// Upper bounds in seconds for calls to WeChat: from loopback to three times the default timeout.
const CALL_BUCKETS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Upper bounds in seconds for a sweep: from a few accounts to a hundred thousand.
const SWEEP_BUCKETS: [f64; 11] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];

/// Upper bounds in seconds for a commit: from a fast local disk to an overloaded one.
const COMMIT_BUCKETS: [f64; 11] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];

/// Upper bounds in seconds for customer sessions: from half a minute to two days, after which WeChat allows no reply.
const SESSION_BUCKETS: [f64; 12] =
    [30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0, 21_600.0, 86_400.0, 172_800.0];

/// Sessions whose end is known less exactly than this are left out of the histogram of durations.
const LONGEST_USEFUL_END_INTERVAL: Duration = Duration::from_secs(300);

/// The metrics with closed label sets.
pub struct Metrics {
    registry: Registry,
    session_duration: Histogram,
    call_duration: HistogramVec,
    sweeps: IntCounter,
    missed_ticks: IntCounter,
    sweep_duration: Histogram,
    events: IntCounterVec,
    commit_duration: Histogram,
    last_reload_successful: Gauge,
    last_reload_success: Gauge,
    clock_skew: KnownGauge,
}

impl Metrics {
    /// The series of the duration of calls to one endpoint: the buckets, "+Inf", the sum and the count.
    pub(crate) const SERIES_PER_ENDPOINT: u64 = CALL_BUCKETS.len() as u64 + 3;

    /// Creates all metrics, at zero.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let [last_reload_successful, last_reload_success] = reload_gauges(&registry)?;
        let metrics = Self {
            session_duration: register_histogram_with_registry!(
                "wechat_kf_session_duration_seconds",
                "Duration of ended sessions (upper bound), without those whose end is known less exactly than to five minutes.",
                SESSION_BUCKETS.to_vec(),
                registry
            )?,
            call_duration: register_histogram_vec_with_registry!(
                "kfwatch_api_request_duration_seconds",
                "Duration of calls to WeChat.",
                &["endpoint"],
                CALL_BUCKETS.to_vec(),
                registry
            )?,
            sweeps: register_int_counter_with_registry!(
                "kfwatch_sweeps_total",
                "Ticks whose polls are all done.",
                registry
            )?,
            missed_ticks: register_int_counter_with_registry!(
                "kfwatch_schedule_missed_ticks_total",
                "Ticks of schedules that were skipped because they came too late.",
                registry
            )?,
            sweep_duration: register_histogram_with_registry!(
                "kfwatch_sweep_duration_seconds",
                "Time from a tick of a schedule until its last poll was done.",
                SWEEP_BUCKETS.to_vec(),
                registry
            )?,
            events: register_int_counter_vec_with_registry!(
                "kfwatch_events_total",
                "Events committed to the event log.",
                &["event_type"],
                registry
            )?,
            commit_duration: register_histogram_with_registry!(
                "kfwatch_store_commit_duration_seconds",
                "Time that a poll waited until its changes were committed.",
                COMMIT_BUCKETS.to_vec(),
                registry
            )?,
            last_reload_successful,
            last_reload_success,
            clock_skew: KnownGauge::unknown(
                "kfwatch_upstream_clock_skew_seconds",
                "How far the clock of this machine is ahead of WeChat's (negative: behind), to about a second; absent until \
                 known.",
            )?,
            registry,
        };
        metrics.complete_registry()?;
        Ok(metrics)
    }

    /// Records the end of a session that lasted between `min` and `max` seconds.
    pub fn session_ended(&self, min: i64, max: i64) {
        if Duration::from_secs(max.saturating_sub(min).unsigned_abs()) <= LONGEST_USEFUL_END_INTERVAL {
            self.session_duration.observe(max as f64);
        }
    }

    /// Counts committed events of this type.
    pub fn events_committed(&self, event_type: EventType, count: u64) {
        self.events.with_label_values(&[event_type.as_str()]).inc_by(count);
    }

    /// Records how long a poll waited for its commit.
    pub fn committed(&self, waited: Duration) {
        self.commit_duration.observe(waited.as_secs_f64());
    }

    /// Records a tick whose polls are all done, `duration` after it.
    pub fn swept(&self, duration: Duration) {
        self.sweeps.inc();
        self.sweep_duration.observe(duration.as_secs_f64());
    }

    /// Counts ticks that were skipped because they came too late.
    pub fn ticks_missed(&self, count: u64) {
        self.missed_ticks.inc_by(count);
    }

    /// Records the outcome of a reload at `now`, or the start.
    pub fn config_reloaded(&self, applied: bool, now: Timestamp) {
        self.last_reload_successful.set(if applied { 1.0 } else { 0.0 });
        if applied {
            self.last_reload_success.set(now.as_duration().as_secs_f64());
        }
    }

    /// Returns an observer that counts the calls for one official account.
    pub fn call_observer(&self, counters: std::sync::Arc<CallCounters>) -> impl CallObserver + use<> {
        CallMetrics {
            call_duration: self.call_duration.clone(),
            durations: Default::default(),
            clock_skew: self.clock_skew.clone(),
            counters,
        }
    }

    /// Appends the families of the registry as text.
    pub fn encode(&self, into: &mut Vec<u8>) -> Result<(), prometheus::Error> {
        TextEncoder::new().encode(&self.registry.gather(), into)
    }

    /// Registers what the fields do not keep, and creates the series of closed label sets.
    fn complete_registry(&self) -> Result<(), prometheus::Error> {
        let build_info = register_int_gauge_vec_with_registry!(
            "kfwatch_build_info",
            "The running version; always 1.",
            &["version", "revision"],
            self.registry
        )?;
        build_info.with_label_values(&[env!("CARGO_PKG_VERSION"), crate::REVISION]).set(1);
        for event_type in EventType::ALL {
            self.events.with_label_values(&[event_type.as_str()]);
        }
        self.registry.register(Box::new(self.clock_skew.clone()))?;
        #[cfg(target_os = "linux")]
        self.registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(())
    }
}

/// Whether the last reload was successful, and when one last was.
fn reload_gauges(registry: &Registry) -> Result<[Gauge; 2], prometheus::Error> {
    Ok([
        register_gauge_with_registry!(
            "kfwatch_config_last_reload_successful",
            "Whether the last reload of the configuration was applied; 1 until the first.",
            registry
        )?,
        register_gauge_with_registry!(
            "kfwatch_config_last_reload_success_timestamp_seconds",
            "When a configuration was last applied, or found to be in use already: at first the start.",
            registry
        )?,
    ])
}

/// Counts the calls for one official account.
struct CallMetrics {
    call_duration: HistogramVec,
    /// Looked up at the first call: a configuration uses only some endpoints, and each has fourteen series.
    durations: [OnceLock<Histogram>; Endpoint::ALL.len()],
    clock_skew: KnownGauge,
    counters: std::sync::Arc<CallCounters>,
}

impl CallObserver for CallMetrics {
    fn called(&self, endpoint: Endpoint, elapsed: Duration, error: Option<&CallError>) {
        // Endpoints are numbered in the order of `Endpoint::ALL`.
        let index = endpoint as usize;
        let duration =
            self.durations[index].get_or_init(|| self.call_duration.with_label_values(&[endpoint.as_str()]));
        duration.observe(elapsed.as_secs_f64());
        self.counters.requests[index].fetch_add(1, Ordering::Relaxed);
        if let Some(error) = error {
            self.rejected(endpoint, error);
        }
    }

    fn rejected(&self, endpoint: Endpoint, error: &CallError) {
        let mut errors = self.counters.errors.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *errors.entry((endpoint.as_str(), error.code())).or_default() += 1;
    }

    fn token_refreshed(&self, expires_at: Option<i64>) {
        self.counters.set_last_refresh(true);
        // A token read from a file or a token server is not a refresh.
        self.counters.token_refreshes.fetch_add(expires_at.is_some().into(), Ordering::Relaxed);
        let expires_at = expires_at.map_or(0, i64::unsigned_abs);
        self.counters.token_expires_at.store(expires_at, Ordering::Relaxed);
    }

    fn token_dropped(&self) {
        self.counters.token_expires_at.store(0, Ordering::Relaxed);
    }

    fn token_refresh_failed(&self) {
        self.counters.set_last_refresh(false);
        self.counters.token_refresh_failures.fetch_add(1, Ordering::Relaxed);
    }

    fn token_replaced(&self) {
        self.counters.token_replaced.fetch_add(1, Ordering::Relaxed);
    }

    fn clock_skew_known(&self, seconds: f64) {
        self.clock_skew.0.set(seconds);
    }
}

/// A gauge that is absent until its value is known.
#[derive(Clone)]
struct KnownGauge(Gauge);

impl KnownGauge {
    fn unknown(name: &str, help: &str) -> Result<Self, prometheus::Error> {
        let gauge = Gauge::new(name, help)?;
        gauge.set(f64::NAN);
        Ok(Self(gauge))
    }
}

impl Collector for KnownGauge {
    fn desc(&self) -> Vec<&Desc> {
        self.0.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        if self.0.get().is_nan() { Vec::new() } else { self.0.collect() }
    }
}
