//! A wrong clock of the machine is exported and logged, because its times are in every event.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use crate::support::{
    process::{Home, WeChat, appid, quiet},
    wait::eventually,
};
use jiff::Timestamp;

const SKEW: &str = "kfwatch_upstream_clock_skew_seconds";

/// A WeChat API without sessions, whose clock is behind this machine's by `seconds`.
fn wechat_with_slow_clock(seconds: &Arc<AtomicI64>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let seconds = Arc::clone(seconds);
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let seconds = Arc::clone(&seconds);
            std::thread::spawn(move || answer(connection.unwrap(), &seconds));
        }
    });
    address
}

fn answer(mut connection: TcpStream, lag: &AtomicI64) {
    let body = r#"{"sessionlist":[]}"#;
    let mut lines = BufReader::new(connection.try_clone().unwrap()).lines();
    // A request without a body ends with an empty line.
    while let Some(Ok(_)) = lines.by_ref().find(|line| line.as_ref().map_or(true, String::is_empty)) {
        let date = clock_now() - Duration::from_secs(lag.load(Ordering::Relaxed).unsigned_abs());
        let date = date.strftime("%a, %d %b %Y %H:%M:%S GMT");
        let head = format!("HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Length: {}\r\n\r\n", body.len());
        if connection.write_all((head + body).as_bytes()).is_err() {
            return;
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the server has its own clock")]
fn clock_now() -> Timestamp {
    Timestamp::now()
}

#[test]
fn clock_skew_is_exported_and_logged_on_change() {
    let lag = Arc::new(AtomicI64::new(0));
    let home = Home::new();
    home.write("token", "TOKEN");
    home.write(
        "config.toml",
        &format!(
            "[poll]\nschedule = \"* * * * * *\"\n[web]\nlisten = \"127.0.0.1:0\"\n[api]\nbase_url = \"http://{}\"\n\
             [[official_accounts]]\nname = \"shop\"\nappid = \"{}\"\nkf_accounts = [\"kf1@shop\"]\n\
             token = {{ source = \"file\", path = \"token\" }}\n",
            wechat_with_slow_clock(&lag),
            appid(0)
        ),
    );
    let daemon = home.daemon();
    eventually("a known skew", || daemon.metric(SKEW).filter(|skew| skew.abs() < 0.5));
    lag.store(180, Ordering::Relaxed);
    eventually("a skew of three minutes", || {
        daemon.metric(SKEW).filter(|skew| (178.0..=180.0).contains(skew))
    });
    eventually("the same skew again", || {
        let polls = "kfwatch_polls_total{official_account=\"shop\",kf_account=\"kf1@shop\"}";
        (daemon.metric(polls)? >= 6.0).then_some(())
    });
    lag.store(0, Ordering::Relaxed);
    eventually("a correct clock", || daemon.stderr().contains("agrees with WeChat's again").then_some(()));
    let log = daemon.stderr();
    assert_eq!(log.matches("s ahead of WeChat's").count(), 1, "{log}");
    assert!(log.contains("let NTP set it"), "{log}");
    assert!(daemon.metric(SKEW).unwrap().abs() < 0.5);
}

#[test]
fn unknown_clock_skew_is_absent() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    // Never within a test.
    let home = Home::watching(&wechat, "").without_collectors();
    let daemon = home.set("KFWATCH__POLL__SCHEDULE", "0 0 0 29 2 *").daemon();
    assert!(!daemon.get("/metrics").text().contains(SKEW));
}
