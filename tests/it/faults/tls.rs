//! Certificates and proxies that only a person can correct: `check --online` says what to do and exits with 69, and the daemon logs it
//! once and retries.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::support::{
    certificates::{Authority, Identity},
    delivery::{eventually_logged, home, open, times_logged, webhook},
    process::{Ended, Home, WeChat, appid, quiet},
    receiver::Receiver,
    wait::eventually,
};

/// A kf account that is polled every second, at this base URL. `api` has further keys of `[api]`.
fn shop(base_url: &str, api: &str) -> Home {
    let home = Home::new().without_collectors();
    home.write("token", "TOKEN");
    configure(&home, base_url, api, "source = \"file\", path = \"token\"");
    home
}

fn configure(home: &Home, base_url: &str, api: &str, token: &str) {
    home.write(
        "config.toml",
        &format!(
            "[poll]\nschedule = \"* * * * * *\"\n[web]\nlisten = \"127.0.0.1:0\"\n\
             [api]\nbase_url = \"{base_url}\"\n{api}\n\
             [[official_accounts]]\nname = \"shop\"\nappid = \"{}\"\nkf_accounts = [\"kf1@shop\"]\n\
             token = {{ {token} }}\n",
            appid(0)
        ),
    );
}

/// Serves each connection in a thread of its own.
fn listen(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let serve = serve.clone();
            std::thread::spawn(move || serve(connection.unwrap()));
        }
    });
    address
}

/// The lines of the next request, which has no body; empty if there is none.
fn request(reader: &mut impl BufRead) -> Vec<String> {
    reader.lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect()
}

/// A WeChat without sessions, over TLS.
fn wechat_with(identity: Identity) -> String {
    let config: Arc<ServerConfig> = identity.server().into();
    let address = listen(move |connection| {
        let tls = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = BufReader::new(StreamOwned::new(tls, connection));
        let body = r#"{"sessionlist":[]}"#;
        while !request(&mut stream).is_empty() {
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let stream = stream.get_mut();
            if stream.write_all(answer.as_bytes()).and_then(|()| stream.flush()).is_err() {
                return;
            }
        }
    });
    format!("https://localhost:{}", address.port())
}

fn assert_names_no_type_of_a_library(text: &str) {
    for word in ["OtherError", "CaUsedAsEndEntity", "UnknownIssuer", "tunnel error", "InvalidCertificate"] {
        assert!(!text.contains(word), "{word}: {text}");
    }
}

fn check(home: &Home) -> Ended {
    let ended = home.run("check --online");
    assert_names_no_type_of_a_library(&format!("{ended:?}"));
    ended
}

/// Asserts that a person is asked to act, in these words.
fn assert_check_needs_human(ended: &Ended, error: &str, remedy: &str) {
    assert_eq!(ended.code, Some(69), "{ended:?}");
    let (_, findings) = ended.stdout.split_once("What to fix:").unwrap();
    assert!(findings.contains(error) && findings.contains(remedy), "{error}, {remedy}: {ended:?}");
}

/// The same, and that the daemon logs it once and goes on.
fn assert_needs_human(home: &Home, error: &str, remedy: &str) {
    assert_check_needs_human(&check(home), error, remedy);
    let daemon = home.daemon();
    let failures = "kfwatch_poll_failures_total{official_account=\"shop\",kf_account=\"kf1@shop\"}";
    eventually("failures", || daemon.metric(failures).filter(|failures| *failures >= 2.0));
    let log = daemon.terminate().stderr;
    assert_names_no_type_of_a_library(&log);
    let failures: Vec<&str> = log.lines().filter(|line| line.contains("Poll failed")).collect();
    assert_eq!(failures.len(), 1, "{log}");
    assert!(failures[0].contains("remedy="), "{log}");
}

#[test]
fn refused_certificates_need_a_human() {
    let authority = Authority::new("the shop's own");
    let own = || Identity::self_signed_authority("localhost");
    for (identity, trusted, error, remedy) in [
        (
            own(),
            own().certificate_pem,
            "uses an authority's certificate (CA:TRUE) as its own",
            "leaf certificate",
        ),
        (
            authority.identity("localhost"),
            own().certificate_pem,
            "signed by an unknown authority",
            "set api.ca_file",
        ),
        (
            authority.identity("elsewhere.example"),
            authority.pem(),
            "not valid for localhost, only for elsewhere.example",
            "a name of the certificate",
        ),
        (
            authority.identity_valid_in("localhost", 2000..2020),
            authority.pem(),
            "expired on 2020-01-01",
            "renewed",
        ),
        (
            authority.identity_valid_in("localhost", 2090..2100),
            authority.pem(),
            "not valid before 2090-01-01",
            "this machine's clock",
        ),
    ] {
        let home = shop(&wechat_with(identity), "ca_file = \"ca.pem\"");
        home.write("ca.pem", &trusted);
        assert_needs_human(&home, error, remedy);
    }
}

#[test]
fn self_signed_authority_is_refused_also_where_it_is_trusted() {
    let identity = Identity::self_signed_authority("localhost");
    let pem = identity.certificate_pem.clone();
    let home = shop(&wechat_with(identity), "ca_file = \"ca.pem\"");
    home.write("ca.pem", &pem);
    assert_needs_human(&home, "uses an authority's certificate (CA:TRUE) as its own", "leaf certificate");
}

#[test]
fn trusted_leaf_certificate_is_accepted() {
    let authority = Authority::new("the shop's own");
    let self_signed = Identity::self_signed_leaf("localhost");
    let pem = self_signed.certificate_pem.clone();
    for (identity, trusted) in [(authority.identity("localhost"), authority.pem()), (self_signed, pem)] {
        let home = shop(&wechat_with(identity), "ca_file = \"ca.pem\"");
        home.write("ca.pem", &trusted);
        let ended = home.run("poll");
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
}

#[test]
fn server_without_tls_needs_a_human() {
    let address = listen(|mut connection| {
        let _ = connection.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        // Until the client closes.
        let _ = connection.read(&mut [0; 1024]);
    });
    let home = shop(&format!("https://localhost:{}", address.port()), "");
    assert_needs_human(&home, "does not answer with TLS", "api.proxy");
}

#[test]
fn refused_certificate_of_token_server_needs_a_human() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let server = wechat_with(Identity::self_signed_authority("localhost"));
    let home = shop("", "");
    let token = format!("source = \"server\", url = \"{server}/token\"");
    configure(&home, &wechat.simulator().base_url(), "", &token);
    let error = "token_server: TLS failed: the server uses an authority's certificate";
    assert_check_needs_human(&check(&home), error, "leaf certificate");
}

#[test]
fn webhook_with_refused_certificate_is_explained() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    open(&wechat.control(), "kf1@shop", "o1");
    let receiver = Receiver::start_tls(Identity::self_signed_authority("localhost").server());
    let home = home(&wechat, &webhook("crm", &receiver.https_url("localhost"), ""));
    let daemon = home.daemon();
    eventually_logged(&daemon, "ERROR Delivery failed and will be retried");
    let log = daemon.stderr();
    assert_names_no_type_of_a_library(&log);
    let reason = "the server uses an authority's certificate (CA:TRUE) as its own: have the authority issue";
    assert_eq!(times_logged(&log, reason), 1, "{log}");
}

/// A proxy that answers every request with this status, and what it received.
fn proxy(status: &'static str) -> (SocketAddr, Arc<Mutex<Vec<Vec<String>>>>) {
    let received = Arc::<Mutex<Vec<Vec<String>>>>::default();
    let requests = Arc::clone(&received);
    let address = listen(move |connection| {
        let mut stream = BufReader::new(connection);
        requests.lock().unwrap().push(request(&mut stream));
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        let _ = stream.get_mut().write_all(answer.as_bytes());
    });
    (address, received)
}

/// A home whose calls go through this proxy. Nothing listens at the base URL.
fn behind(proxy: SocketAddr) -> Home {
    shop("https://wechat.invalid", &format!("proxy = \"http://me:s3cret%20word@{proxy}\""))
}

#[test]
fn proxy_that_wants_a_login_or_forbids_needs_a_human() {
    for (status, error, remedy) in [
        ("407 Proxy Authentication Required", "the proxy wants a login (HTTP status 407)", "api.proxy"),
        ("403 Forbidden", "the proxy forbids the connection (HTTP status 403)", "allow CONNECT"),
    ] {
        let (address, received) = proxy(status);
        let home = behind(address);
        let ended = check(&home);
        assert_check_needs_human(&ended, error, remedy);
        // Four calls and a poll. hyper names 407; for 403, check asks once more.
        let expected = if status.starts_with("407") { 5 } else { 6 };
        let requests = received.lock().unwrap().clone();
        assert_eq!(requests.len(), expected, "{requests:?}");
        for request in &requests {
            assert_eq!(request[0], "CONNECT wechat.invalid:443 HTTP/1.1");
            let login = request.iter().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("proxy-authorization").then_some(value)
            });
            // me:s3cret word
            assert_eq!(login, Some("Basic bWU6czNjcmV0IHdvcmQ="), "{request:?}");
        }
        assert!(!ended.stdout.contains("s3cret") && !ended.stderr.contains("s3cret"), "{ended:?}");
        let daemon = home.daemon();
        eventually_logged(&daemon, "getsessionlist: the proxy ");
        assert_names_no_type_of_a_library(&daemon.terminate().stderr);
    }
}

#[test]
fn proxy_that_cannot_connect_is_busy() {
    let (address, _) = proxy("503 Service Unavailable");
    let ended = check(&behind(address));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let (_, findings) = ended.stdout.split_once("What usually ends without help:").unwrap();
    assert!(findings.contains("the proxy does not connect (HTTP status 503)"), "{ended:?}");
}
