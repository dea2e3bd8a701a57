//! Bare loops that request the same session lists as the daemon. Each loop does less than the one before.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use kfwatch::config::{Config, TokenConfig, TokenSource};
use reqwest::Url;
use tokio::task::JoinSet;

use crate::cpu;

/// Requests in flight, of the daemon and of the loops.
pub(crate) const IN_FLIGHT: usize = 64;

/// The loops, which are the baselines of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loop {
    /// reqwest, serde_json, and a look-up of every session in a hash map per account: a poll without a store.
    HashMaps,
    /// reqwest and serde_json alone: the baseline of the target in DESIGN.
    Parsed,
    /// hyper-util's client, which reads the body and does not parse it.
    Hyper,
}

impl Loop {
    pub(crate) const ALL: [Self; 3] = [Self::HashMaps, Self::Parsed, Self::Hyper];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::HashMaps => "reqwest + serde_json + a hash map per account",
            Self::Parsed => "bare reqwest + serde_json",
            Self::Hyper => "bare hyper-util, body not parsed",
        }
    }

    /// The ratio that the daemon has to reach at most.
    pub(crate) fn target(self) -> &'static str {
        if self == Self::Parsed { "≤ 1.3" } else { "" }
    }
}

/// The targets with the clients, which keep their connections.
pub(crate) struct Loops {
    targets: Arc<Targets>,
    reqwest: reqwest::Client,
    hyper: Client<HttpConnector, Empty<Bytes>>,
}

impl Loops {
    pub(crate) fn new(targets: Targets) -> Self {
        Self {
            targets: Arc::new(targets),
            reqwest: reqwest::Client::builder().no_proxy().build().unwrap(),
            hyper: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    /// Number of requests that one run of a loop makes.
    pub(crate) fn requests(&self) -> f64 {
        self.targets.urls.len() as f64
    }

    /// Requests every target once.
    pub(crate) async fn run(&self, which: Loop) {
        match which {
            Loop::HashMaps => self.run_reqwest(Targets::compare).await,
            Loop::Parsed => self.run_reqwest(Targets::parse).await,
            Loop::Hyper => self.run_hyper().await,
        }
    }

    async fn run_reqwest(&self, read: fn(&Targets, usize, &[u8])) {
        let client = self.reqwest.clone();
        in_flight(&self.targets, move |index, targets| {
            let client = client.clone();
            async move {
                let response = client.get(targets.urls[index].clone()).send().await.unwrap();
                read(&targets, index, &response.bytes().await.unwrap());
            }
        })
        .await;
    }

    async fn run_hyper(&self) {
        let client = self.hyper.clone();
        in_flight(&self.targets, move |index, targets| {
            let client = client.clone();
            async move {
                let response = client.get(targets.urls[index].as_str().parse().unwrap()).await.unwrap();
                response.into_body().collect().await.unwrap();
            }
        })
        .await;
    }
}

/// CPU time of this process in µs per request, and requests per second.
pub(crate) async fn measured(requests: f64, sweep: impl Future<Output = ()>) -> (f64, f64) {
    let (begun, cpu) = (Instant::now(), cpu::used_by(std::process::id()));
    sweep.await;
    let cpu = cpu::used_by(std::process::id()) - cpu;
    (cpu.as_secs_f64() * 1e6 / requests, requests / begun.elapsed().as_secs_f64())
}

/// The requests of the bare loops, and the sessions that each response must list.
pub(crate) struct Targets {
    urls: Vec<Url>,
    known: Vec<HashMap<String, i64>>,
}

#[derive(serde::Deserialize)]
struct SessionList<'a> {
    #[serde(borrow)]
    sessionlist: Vec<Session<'a>>,
}

#[derive(serde::Deserialize)]
struct Session<'a> {
    createtime: i64,
    openid: &'a str,
}

#[derive(serde::Deserialize)]
struct AccessToken {
    access_token: String,
}

impl Targets {
    /// Requests at most `most` session lists from the simulator, equally many of each official account.
    pub(crate) async fn learn(config: &Config, most: usize) -> Self {
        use secrecy::ExposeSecret;
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut targets = Self { urls: Vec::new(), known: Vec::new() };
        let most = most.div_ceil(config.official_accounts.len());
        for official_account in &config.official_accounts {
            let TokenConfig::Own(TokenSource::Stable { secret }) = &official_account.token else { continue };
            let body = format!(
                r#"{{"grant_type":"client_credential","appid":"{}","secret":"{}"}}"#,
                official_account.appid,
                secret.value().expose_secret()
            );
            let url = config.api.base_url.join("/cgi-bin/stable_token").unwrap();
            let answer = client.post(url).body(body).send().await.unwrap().bytes().await.unwrap();
            let AccessToken { access_token } = serde_json::from_slice(&answer).unwrap();
            for kf_account in official_account.kf_accounts.iter().take(most) {
                let mut url = config.api.base_url.join("/customservice/kfsession/getsessionlist").unwrap();
                url.set_query(Some(&format!("access_token={access_token}&kf_account={kf_account}")));
                let body = client.get(url.clone()).send().await.unwrap().bytes().await.unwrap();
                let answer: SessionList<'_> = serde_json::from_slice(&body).unwrap();
                let sessions = answer.sessionlist.iter();
                targets
                    .known
                    .push(sessions.map(|listed| (listed.openid.to_owned(), listed.createtime)).collect());
                targets.urls.push(url);
            }
        }
        targets
    }

    fn compare(&self, index: usize, body: &[u8]) {
        let answer: SessionList<'_> = serde_json::from_slice(body).unwrap();
        let known = &self.known[index];
        let same = |listed: &Session<'_>| known.get(listed.openid) == Some(&listed.createtime);
        assert!(answer.sessionlist.len() == known.len() && answer.sessionlist.iter().all(same));
    }

    fn parse(&self, index: usize, body: &[u8]) {
        let answer: SessionList<'_> = serde_json::from_slice(body).unwrap();
        assert_eq!(answer.sessionlist.len(), self.known[index].len());
    }
}

/// Requests all targets once, [`IN_FLIGHT`] at a time.
async fn in_flight<F>(
    targets: &Arc<Targets>,
    request: impl Fn(usize, Arc<Targets>) -> F + Clone + Send + 'static,
) where
    F: Future<Output = ()> + Send,
{
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (next, targets, request) = (Arc::clone(&next), Arc::clone(targets), request.clone());
        tasks.spawn(async move {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= targets.urls.len() {
                    return;
                }
                request(index, Arc::clone(&targets)).await;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}
