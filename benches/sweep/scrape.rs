//! Reads a daemon's /metrics.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

/// The values that the bench needs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scrape {
    /// Polls of each kf account, in the order of the page.
    pub(crate) polls: Vec<u64>,
    /// Ticks that found the previous poll of an account still running.
    pub(crate) overruns: f64,
    /// Calls of getsessionlist.
    pub(crate) calls: f64,
    pub(crate) pending_events: f64,
    pub(crate) sweeps: Histogram,
    pub(crate) commits: Histogram,
    pub(crate) durations: Histogram,
}

/// A histogram of seconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Histogram {
    /// Upper bounds with their cumulative counts.
    buckets: Vec<(f64, f64)>,
    pub(crate) count: f64,
    pub(crate) sum: f64,
}

impl Scrape {
    /// Scrapes the daemon once.
    pub(crate) fn of(address: SocketAddr) -> std::io::Result<Self> {
        let page = page(address)?;
        let mut scrape = Self::default();
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            match name {
                "kfwatch_polls_total" => scrape.polls.push(value as u64),
                "kfwatch_poll_overruns_total" => scrape.overruns += value,
                "kfwatch_api_requests_total" if labels.contains("endpoint=\"getsessionlist\"") => {
                    scrape.calls += value;
                }
                "kfwatch_sink_pending_events" => scrape.pending_events += value,
                _ if labels.contains("endpoint=") && !labels.contains("endpoint=\"getsessionlist\"") => {}
                _ => {
                    scrape.sweeps.read_line(name, "kfwatch_sweep_duration_seconds", labels, value);
                    scrape.commits.read_line(name, "kfwatch_store_commit_duration_seconds", labels, value);
                    scrape.durations.read_line(name, "kfwatch_api_request_duration_seconds", labels, value);
                }
            }
        }
        Ok(scrape)
    }
}

/// Returns the text of /metrics.
pub(crate) fn page(address: SocketAddr) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(address)?;
    // With HTTP/1.0 the body ends when the connection is closed.
    write!(connection, "GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut page = Vec::new();
    connection.read_to_end(&mut page)?;
    String::from_utf8(page).map_err(std::io::Error::other)
}

impl Histogram {
    fn read_line(&mut self, name: &str, family: &str, labels: &str, value: f64) {
        match name.strip_prefix(family) {
            Some("_sum") => self.sum = value,
            Some("_count") => self.count = value,
            Some("_bucket") => {
                let bound = labels.split("le=\"").nth(1).and_then(|bound| bound.split('"').next()).unwrap();
                self.buckets.push((bound.parse().unwrap_or(f64::INFINITY), value));
            }
            _ => {}
        }
    }

    /// The observations since `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let earlier = |at: usize| before.buckets.get(at).map_or(0.0, |(_, count)| *count);
        let buckets = self.buckets.iter().enumerate();
        Self {
            buckets: buckets.map(|(at, (bound, count))| (*bound, count - earlier(at))).collect(),
            count: self.count - before.count,
            sum: self.sum - before.sum,
        }
    }

    /// The lowest bucket that contains this share of the observations.
    pub(crate) fn bound_of(&self, share: f64) -> String {
        let bound = self.buckets.iter().find(|(_, count)| *count >= share * self.count);
        bound.map_or_else(String::new, |(bound, _)| format!("≤ {:.1} ms", bound * 1e3))
    }
}
