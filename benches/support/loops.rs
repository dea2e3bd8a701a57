//! Bare loops that ask for the same sessions as the daemon, and do only what cannot be left out.

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
use kfwatch::config::{Config, Token, TokenSource};
use reqwest::Url;
use tokio::task::JoinSet;

use crate::cpu;

/// Requests in flight, of the daemon and of the loops.
pub(crate) const IN_FLIGHT: usize = 64;

/// The loops with their clients, which keep their connections.
pub(crate) struct Loops {
    targets: Arc<Targets>,
    plain: reqwest::Client,
    bounded: reqwest::Client,
    hyper: Client<HttpConnector, Empty<Bytes>>,
}

impl Loops {
    pub(crate) fn new(targets: Targets, config: &Config) -> Self {
        let bounded = reqwest::Client::builder().no_proxy().timeout(config.api.timeout);
        Self {
            targets: Arc::new(targets),
            plain: reqwest::Client::builder().no_proxy().build().unwrap(),
            bounded: bounded.connect_timeout(config.api.connect_timeout).build().unwrap(),
            hyper: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    /// How many requests each loop makes.
    pub(crate) fn requests(&self) -> f64 {
        self.targets.urls.len() as f64
    }

    /// reqwest, serde_json, and a look at every session.
    pub(crate) async fn reqwest(&self) {
        reqwest_loop(&self.plain, &self.targets).await;
    }

    /// The same with the daemon's time-outs.
    pub(crate) async fn reqwest_with_timeouts(&self) {
        reqwest_loop(&self.bounded, &self.targets).await;
    }

    /// hyper-util's client, which only reads the body.
    pub(crate) async fn hyper(&self) {
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

/// CPU time of this process in µs a request, and requests a second.
pub(crate) async fn measured(requests: f64, sweep: impl Future<Output = ()>) -> (f64, f64) {
    let (begun, cpu) = (Instant::now(), cpu::used_by(std::process::id()));
    sweep.await;
    let cpu = cpu::used_by(std::process::id()) - cpu;
    (cpu.as_secs_f64() * 1e6 / requests, requests / begun.elapsed().as_secs_f64())
}

/// What the bare loops ask for, and the sessions that they expect.
pub(crate) struct Targets {
    urls: Vec<Url>,
    known: Vec<HashMap<String, i64>>,
}

#[derive(serde::Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    sessionlist: Vec<Listed<'a>>,
}

#[derive(serde::Deserialize)]
struct Listed<'a> {
    createtime: i64,
    openid: &'a str,
}

#[derive(serde::Deserialize)]
struct TokenAnswer {
    access_token: String,
}

impl Targets {
    /// Learns them from the simulator, so many at most, of all official accounts the same number.
    pub(crate) async fn learn(config: &Config, most: usize) -> Self {
        use secrecy::ExposeSecret;
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut targets = Self { urls: Vec::new(), known: Vec::new() };
        let most = most.div_ceil(config.official_accounts.len());
        for official_account in &config.official_accounts {
            let Token::Own(TokenSource::Stable { secret }) = &official_account.token else { continue };
            let body = format!(
                r#"{{"grant_type":"client_credential","appid":"{}","secret":"{}"}}"#,
                official_account.appid,
                secret.expose_secret()
            );
            let url = config.api.base_url.join("/cgi-bin/stable_token").unwrap();
            let answer = client.post(url).body(body).send().await.unwrap().bytes().await.unwrap();
            let TokenAnswer { access_token } = serde_json::from_slice(&answer).unwrap();
            for kf_account in official_account.kf_accounts.iter().take(most) {
                let mut url = config.api.base_url.join("/customservice/kfsession/getsessionlist").unwrap();
                url.set_query(Some(&format!("access_token={access_token}&kf_account={kf_account}")));
                let body = client.get(url.clone()).send().await.unwrap().bytes().await.unwrap();
                let answer: Answer<'_> = serde_json::from_slice(&body).unwrap();
                let sessions = answer.sessionlist.iter();
                targets
                    .known
                    .push(sessions.map(|listed| (listed.openid.to_owned(), listed.createtime)).collect());
                targets.urls.push(url);
            }
        }
        targets
    }

    fn compare(&self, index: usize, body: &Bytes) {
        let answer: Answer<'_> = serde_json::from_slice(body).unwrap();
        let known = &self.known[index];
        let same = |listed: &Listed<'_>| known.get(listed.openid) == Some(&listed.createtime);
        assert!(answer.sessionlist.len() == known.len() && answer.sessionlist.iter().all(same));
    }
}

async fn reqwest_loop(client: &reqwest::Client, targets: &Arc<Targets>) {
    let client = client.clone();
    in_flight(targets, move |index, targets| {
        let client = client.clone();
        async move {
            let response = client.get(targets.urls[index].clone()).send().await.unwrap();
            targets.compare(index, &response.bytes().await.unwrap());
        }
    })
    .await;
}

/// All targets once, so many at a time.
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
