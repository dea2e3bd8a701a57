//! Delivery to NATS JetStream: the stream gets every event, in order, and once within its duplicate window, although servers
//! fail and processes are killed. Needs nats-server; tests/run.sh runs these tests.

use std::time::Duration;

use crate::support::{
    certificates::Authority,
    delivery::{
        self, configure, eventually_logged, file, home, lively, open, pause, rounds, stop_new_events,
    },
    event_log::{EventLog, account_of, parsed, text},
    nats::{Client, Received, Server, logins::Site},
    process::{Process, WeChat, quiet},
    wait::eventually,
    worlds::play_worlds,
};
use async_nats::{ConnectOptions, jetstream::stream};
use kfwatch::simulator::Scenario;

/// Returns the configuration of the sink "bus"; `more` has further keys.
fn bus(server: &Server, more: &str) -> String {
    let url = server.url();
    format!("[[sinks]]\nname = \"bus\"\ntype = \"nats\"\nurl = \"{url}\"\n{more}\n")
}

fn of_bus(daemon: &Process, name: &str) -> Option<f64> {
    daemon.metric(&format!("kfwatch_sink_{name}{{sink=\"bus\"}}"))
}

fn eventually_pending(daemon: &Process, events: usize) {
    eventually("the events", || of_bus(daemon, "pending_events").filter(|pending| *pending >= events as f64));
}

fn eventually_delivered(daemon: &Process) {
    delivery::eventually_delivered(daemon, "bus");
}

fn failures(daemon: &Process) -> f64 {
    of_bus(daemon, "delivery_failures_total").unwrap()
}

/// Waits until so many events are in the stream.
fn eventually_stored(client: &Client, events: u64) {
    eventually("the messages", || (client.stored() >= events).then_some(()));
}

/// Asserts that the stream has the whole log, each event under the subject of its type. Returns how often an event was stored
/// again.
fn assert_published(received: &[Received], log: &EventLog) -> usize {
    for message in received {
        let event = parsed(&message.body);
        assert_eq!(message.id, text(&event, "/id"));
        let event_type = text(&event, "/type").strip_prefix("kf.").unwrap().to_owned();
        assert_eq!(message.subject, format!("kf.{}.{event_type}", account_of(&event).0));
        assert_eq!(message.content_type, "application/cloudevents+json");
    }
    log.assert_received("bus", received.iter().map(|message| &*message.body))
}

#[test]
#[ignore = "needs nats-server; tests/run.sh runs it"]
fn events_are_stored_once_within_duplicate_window() {
    let again = deliver_despite_kills(5, Duration::from_secs(3600));
    assert_eq!(again, 0, "the stream drops duplicates");
}

#[test]
#[ignore = "needs nats-server; tests/run.sh runs it"]
fn events_repeat_unchanged_beyond_duplicate_window() {
    let again = deliver_despite_kills(9, Duration::from_millis(100));
    assert!(again > 0, "too little happened");
}

/// Returns how often an event was stored again.
fn deliver_despite_kills(first_seed: u64, duplicate_window: Duration) -> usize {
    let play = |seed, rounds| kill_in_rounds(seed, rounds, duplicate_window);
    play_worlds(first_seed, rounds(20), play).into_iter().sum()
}

/// Kills the daemon of one world in each round, and kills or freezes its server in most. Returns how often an event was
/// stored again.
fn kill_in_rounds(seed: u64, rounds: usize, duplicate_window: Duration) -> usize {
    let wechat = WeChat::play(Scenario { seed, ..lively() });
    let mut server = Server::start();
    server.anyone().create_stream_with_window(duplicate_window);
    let home = home(&wechat, &bus(&server, "timeout = \"300ms\"\nstart = \"beginning\""));
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..rounds {
        let daemon = home.spawn("run");
        // Pauses are random, so that a fault can come at any moment.
        pause(random.u64(0..1_500));
        match random.u8(0..4) {
            0 => {
                server.kill();
                pause(random.u64(0..600));
                server.restart();
                pause(random.u64(0..1_500));
            }
            1 => {
                freeze(&server, &daemon, &mut random);
                server.signal("CONT");
                pause(random.u64(0..1_500));
            }
            2 => {
                // The server loses the messages that it received while it was frozen.
                freeze(&server, &daemon, &mut random);
                server.kill();
                drop(daemon);
                server.restart();
                continue;
            }
            _ => {
                // The server stores the messages, but the daemon gets no acknowledgement.
                freeze(&server, &daemon, &mut random);
                drop(daemon);
                server.signal("CONT");
                continue;
            }
        }
        drop(daemon); // kill -9
    }
    let daemon = home.daemon();
    stop_new_events(&wechat, &daemon);
    eventually_delivered(&daemon);
    assert_eq!((of_bus(&daemon, "dead_letters"), of_bus(&daemon, "stopped")), (Some(0.0), Some(0.0)));
    daemon.terminate();
    let log = EventLog::of(&home);
    let again = assert_published(&server.anyone().consume(), &log);
    println!("nats: {rounds} rounds, {} events, {again} times stored again", log.len());
    assert!(log.len() > 5 * rounds, "too little happened");
    again
}

/// Freezes the server while it receives events, for long enough that further events follow.
fn freeze(server: &Server, daemon: &Process, random: &mut fastrand::Rng) {
    eventually("a delivery", || of_bus(daemon, "delivered_events_total").filter(|events| *events >= 1.0));
    server.signal("STOP");
    pause(random.u64(800..2_000));
}

#[test]
#[ignore = "needs nats-server; tests/run.sh runs it"]
fn missing_stream_is_logged_with_remedy_and_delivery_recovers() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    let server = Server::start();
    let home = home(&wechat, &bus(&server, ""));
    let daemon = home.daemon();
    open(&wechat.control(), "kf1@shop", "oA");
    open(&wechat.control(), "kf2@shop", "oB");
    eventually_logged(
        &daemon,
        "ERROR Delivery failed and will be retried: no stream takes kf.>; create one, like: nats stream add KF \
         --subjects 'kf.>' --storage file --dupe-window 10m --defaults sink=bus",
    );
    let failed = failures(&daemon);
    eventually("another attempt", || (failures(&daemon) > failed).then_some(()));
    server.anyone().create_stream();
    eventually_delivered(&daemon);
    eventually_logged(&daemon, "Delivery recovered");
    assert_eq!(daemon.stderr().matches("no stream takes").count(), 1, "{}", daemon.stderr());
    assert_published(&server.anyone().consume(), &EventLog::of(&home));
}

#[test]
#[ignore = "needs nats-server; tests/run.sh runs it"]
fn test_event_is_stored_on_subject_of_its_own() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let server = Server::start();
    let home = home(&wechat, &bus(&server, ""));
    let refused = home.run("sinks test bus");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.stderr.starts_with("kfwatch: test of sink \"bus\" failed: no stream takes"),
        "{refused:?}"
    );
    server.anyone().create_stream();
    let tested = home.run("sinks test bus");
    assert_eq!((tested.code, tested.stderr.as_str()), (Some(0), ""));
    let received = server.anyone().consume();
    let event = parsed(&received[0].body);
    assert_eq!((received.len(), received[0].subject.as_str()), (1, "kf.test"));
    assert_eq!(
        (text(&event, "/type"), text(&event, "/id")),
        ("kf.sink.test".to_owned(), received[0].id.clone())
    );
}

#[test]
#[ignore = "needs nats-server; tests/run.sh runs it"]
fn server_without_jetstream_is_logged() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let server = Server::bare(|_| String::new());
    let home = home(&wechat, &bus(&server, ""));
    open(&wechat.control(), "kf1@shop", "oA");
    let daemon = home.daemon();
    eventually_logged(
        &daemon,
        "the server has no JetStream, or none for this user: start it with --jetstream",
    );
}

#[test]
#[ignore = "needs nats-server; tests/run.sh runs it"]
fn unreachable_server_only_leaves_events_pending() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    let mut server = Server::start();
    server.anyone().create_stream();
    server.kill();
    let file = file("file", "events.jsonl");
    let home = home(&wechat, &format!("{}{file}", bus(&server, ""))).set("KFWATCH__SHUTDOWN_TIMEOUT", "1h");
    let daemon = home.daemon();
    let status = || daemon.get("/-/ready").status;
    eventually("readiness", || (status() == 200).then_some(()));
    for n in 1..=8 {
        open(&wechat.control(), "kf1@shop", &format!("o{n}"));
        let lines =
            || std::fs::read_to_string(home.path("events.jsonl")).map_or(0, |text| text.lines().count());
        eventually("the event in the file", || (lines() >= n).then_some(()));
    }
    eventually_pending(&daemon, 8);
    eventually_logged(&daemon, "no connection to nats://127.0.0.1:");
    eventually("growing waits between attempts", || (failures(&daemon) >= 4.0).then_some(()));
    assert_eq!(daemon.stderr().matches("ERROR").count(), 1, "logged once: {}", daemon.stderr());
    // It ends long before its shutdown_timeout.
    daemon.terminate();

    let daemon = home.daemon();
    eventually_pending(&daemon, 8);
    server.restart();
    eventually_delivered(&daemon);
    assert_eq!(of_bus(&daemon, "delivered_events_total"), Some(8.0));
    daemon.terminate();
    assert_eq!(assert_published(&server.anyone().consume(), &EventLog::of(&home)), 0);
}

#[test]
#[ignore = "needs nats-server; tests/run.sh runs it"]
fn hanging_server_times_out_and_recovers() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    let server = Server::start();
    server.anyone().create_stream();
    let home = home(&wechat, &bus(&server, "timeout = \"500ms\""));
    let daemon = home.daemon();
    open(&wechat.control(), "kf1@shop", "oA");
    eventually("the first event", || {
        of_bus(&daemon, "delivered_events_total").filter(|events| *events >= 1.0)
    });
    server.signal("STOP");
    open(&wechat.control(), "kf1@shop", "oB");
    open(&wechat.control(), "kf2@shop", "oC");
    eventually_logged(&daemon, "the server did not acknowledge in time");
    eventually_logged(&daemon, "no response in time");
    server.signal("CONT");
    eventually_delivered(&daemon);
    eventually_stored(&server.anyone(), 3);
    assert_eq!(assert_published(&server.anyone().consume(), &EventLog::of(&home)), 0);
}

#[test]
#[ignore = "needs nats-server; tests/run.sh runs it"]
fn too_large_event_becomes_dead_letter() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    let server = Server::configured(|_| "max_payload: 1024".to_owned());
    server.anyone().create(stream::Config { max_message_size: 900, ..stream::Config::default() });
    let home = home(&wechat, &bus(&server, ""));
    let daemon = home.daemon();
    // Larger than the stream takes, and larger than the server takes.
    open(&wechat.control(), "kf1@shop", &"o".repeat(300));
    open(&wechat.control(), "kf1@shop", &"p".repeat(600));
    open(&wechat.control(), "kf2@shop", "oSmall");
    eventually_stored(&server.anyone(), 1);
    open(&wechat.control(), "kf1@shop", "oNext");
    eventually("the dead letters", || of_bus(&daemon, "dead_letters").filter(|letters| *letters >= 2.0));
    eventually_delivered(&daemon);
    let stored: Vec<String> = server.anyone().consume().into_iter().map(|message| message.body).collect();
    assert_eq!(stored.len(), 2);
    assert!(stored[0].contains("oSmall") && stored[1].contains("oNext"), "{stored:?}");
    let log = daemon.terminate().stderr;
    for limit in ["max_msg_size of the stream", "max_payload of the server"] {
        assert!(log.contains(&format!("stored as a dead letter: it is larger than {limit}")), "{log}");
    }
    assert!(!log.contains("oooo") && !log.contains("pppp"), "{log}");
}

#[test]
#[ignore = "needs nats-server; tests/run.sh runs it"]
fn full_stream_delays_events_and_loses_none() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let server = Server::start();
    let full =
        stream::Config { max_messages: 1, discard: stream::DiscardPolicy::New, ..stream::Config::default() };
    server.anyone().create(full);
    let home = home(&wechat, &bus(&server, ""));
    let daemon = home.daemon();
    open(&wechat.control(), "kf1@shop", "oA");
    open(&wechat.control(), "kf1@shop", "oB");
    eventually_logged(&daemon, "the stream does not take it: maximum messages exceeded");
    // The event that the stream took may be acknowledged after the other one was refused.
    eventually("one event left", || of_bus(&daemon, "pending_events").filter(|pending| *pending == 1.0));
    assert_eq!(of_bus(&daemon, "dead_letters"), Some(0.0));
}

/// Starts a server with TLS and creates its stream. `ours.pem` has the certificate of its authority, `theirs.pem` that of
/// another one.
fn start_with_tls() -> (Server, Client) {
    let server = Server::configured(|directory| {
        let [ours, theirs] = ["ours", "theirs"].map(Authority::new);
        let identity = ours.identity("127.0.0.1");
        let [certificate, key] = ["server.pem", "server.key"].map(|file| directory.join(file));
        for (path, pem) in [
            (&directory.join("ours.pem"), ours.pem()),
            (&directory.join("theirs.pem"), theirs.pem()),
            (&certificate, identity.certificate_pem),
            (&key, identity.key_pem),
        ] {
            std::fs::write(path, pem).unwrap();
        }
        format!("tls {{ cert_file: {certificate:?}, key_file: {key:?} }}")
    });
    let client = server.client(ConnectOptions::new().add_root_certificates(server.path("ours.pem")));
    client.create_stream();
    (server, client)
}

#[test]
#[ignore = "needs nats-server; tests/run.sh runs it"]
fn tls_trusts_configured_authority_only() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let (server, client) = start_with_tls();
    let ca_file = |name: &str| format!("ca_file = {:?}", server.path(name));
    open(&wechat.control(), "kf1@shop", "oA");

    let home = home(&wechat, &bus(&server, &ca_file("theirs.pem")));
    let daemon = home.daemon();
    eventually_logged(&daemon, "the server's certificate is signed by an unknown authority: set ca_file to");
    daemon.terminate();
    let tls = |more: &str| bus(&server, more).replace("nats://", "tls://");
    configure(&home, &wechat, &tls(""));
    let daemon = home.daemon();
    eventually_logged(&daemon, "no connection to tls://127.0.0.1:");
    daemon.terminate();
    assert_eq!(client.stored(), 0);

    for url in ["tls", "nats"] {
        let bus = bus(&server, &ca_file("ours.pem")).replace("nats://", &format!("{url}://"));
        configure(&home, &wechat, &bus);
        let daemon = home.daemon();
        let stored = client.stored();
        open(&wechat.control(), "kf1@shop", url);
        eventually("the event", || (client.stored() > stored).then_some(()));
        eventually_delivered(&daemon);
        daemon.terminate();
    }
    assert_eq!(client.stored(), 3);
}

#[test]
#[ignore = "needs nats-server; tests/run.sh runs it"]
fn nats_trusts_system_roots_or_built_in_roots() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let (server, client) = start_with_tls();
    let [ours, nothing] = ["ours.pem", "nothing"].map(|name| server.path(name).to_str().unwrap().to_owned());
    let bus = |more: &str| bus(&server, more).replace("nats://", "tls://");
    let home =
        |ca_store: &str| home(&wechat, &bus("")).set("SSL_CERT_FILE", ca_store).set("SSL_CERT_DIR", &nothing);
    open(&wechat.control(), "kf1@shop", "oA");
    let without_store = home(&nothing);
    let daemon = without_store.daemon();
    eventually_logged(&daemon, "the server's certificate is signed by an unknown authority: set ca_file to");
    daemon.terminate();
    assert_eq!(client.stored(), 0);
    configure(&without_store, &wechat, &bus(&format!("ca_file = {ours:?}")));
    let daemon = without_store.daemon();
    eventually_stored(&client, 1);
    daemon.terminate();

    open(&wechat.control(), "kf1@shop", "oB");
    let with_store = home(&ours);
    std::fs::create_dir(&nothing).unwrap();
    let daemon = with_store.daemon();
    eventually_stored(&client, 2);
    daemon.terminate();
}

#[test]
#[ignore = "needs nats-server; tests/run.sh runs it"]
fn tls_url_refuses_plain_server() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let server = Server::start();
    server.anyone().create_stream();
    open(&wechat.control(), "kf1@shop", "oA");
    let home = home(&wechat, &bus(&server, "").replace("nats://", "tls://"));
    let daemon = home.daemon();
    eventually_logged(&daemon, "no connection to tls://127.0.0.1:");
    daemon.terminate();
    assert_eq!(server.anyone().stored(), 0);
}

/// Names modules as well, because a filter for a module overrides the filter that silences its crate.
const LOUDEST: &str = "trace,async_nats=trace,async_nats::connection=trace,async_nats::connector=trace,\
    async_nats::client=trace,async_nats::jetstream=trace,rustls=trace,tokio_rustls=trace";

/// Asserts that the bad login is refused, that the good one delivers an event, and that neither is shown anywhere.
fn check_login(
    server: &Server,
    client: &Client,
    [good, bad]: [&str; 2],
    files: &[(&str, &str)],
    secrets: &[&str],
) {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let home = home(&wechat, &bus(server, bad)).set("KFWATCH__LOG__LEVEL", LOUDEST);
    for (name, text) in files {
        home.write(name, text);
    }
    let daemon = home.daemon();
    open(&wechat.control(), "kf1@shop", "oA");
    eventually_logged(
        &daemon,
        "the login is refused; check credentials_file, nkey_file, or user and secret_file",
    );
    let mut shown = daemon.get("/").text() + &daemon.get("/metrics").text();
    shown += &daemon.terminate().stderr;
    configure(&home, &wechat, &bus(server, good));
    let daemon = home.daemon();
    eventually_delivered(&daemon);
    eventually_stored(client, 1);
    let ended = daemon.terminate();
    assert!(
        ended.stderr.contains("async_nats") || ended.stderr.contains("write operation"),
        "the log level is trace"
    );
    let checked = home.run("check");
    assert!(checked.stdout.contains(&format!("Sinks: bus (kf.> to {})", server.url())), "{checked:?}");
    shown += &(ended.stderr + &checked.stdout + &checked.stderr);
    for secret in secrets {
        assert!(!shown.contains(secret), "{secret} is in {shown}");
    }
}

#[test]
#[ignore = "needs nats-server; tests/run.sh runs it"]
fn password_login_works_and_is_not_shown() {
    let server = Server::configured(|_| "authorization { user: kfwatch, password: s3cret-good }".to_owned());
    let options = || ConnectOptions::with_user_and_password("kfwatch".to_owned(), "s3cret-good".to_owned());
    let client = server.client(options());
    client.create_stream();
    let logins = ["user = \"kfwatch\"\nsecret_file = \"good\"", "user = \"kfwatch\"\nsecret_file = \"bad\""];
    let files = [("good", "s3cret-good\n"), ("bad", "s3cret-bad\n")];
    check_login(&server, &client, logins, &files, &["s3cret-good", "s3cret-bad"]);
}

#[test]
#[ignore = "needs nats-server; tests/run.sh runs it"]
fn corrected_login_file_is_used_without_restart() {
    let [ours, others] = [Site::new(), Site::new()];
    let server = Server::configured(|_| ours.configuration.clone());
    let client = server.client(ConnectOptions::with_credentials(&ours.credentials).unwrap());
    client.create_stream();
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let home = home(&wechat, &bus(&server, "credentials_file = \"kf.creds\""));
    home.write("kf.creds", &others.credentials);
    let daemon = home.daemon();
    open(&wechat.control(), "kf1@shop", "oA");
    eventually_logged(&daemon, "the login is refused");
    home.write("kf.creds", "");
    eventually_logged(&daemon, "kf.creds contains no user JWT with its seed");
    home.write("kf.creds", &ours.credentials);
    eventually_delivered(&daemon);
    eventually_stored(&client, 1);
    let log = daemon.terminate().stderr;
    assert_eq!(log.matches("kf.creds was refused and has changed: using the new one").count(), 1, "{log}");
    assert_eq!(log.matches("which was refused, stays in use").count(), 1, "{log}");
}

#[test]
#[ignore = "needs nats-server; tests/run.sh runs it"]
fn token_login_works_and_is_not_shown() {
    let server = Server::configured(|_| "authorization { token: s3cret-good }".to_owned());
    let client = server.client(ConnectOptions::with_token("s3cret-good".to_owned()));
    client.create_stream();
    let logins = ["secret = \"s3cret-good\"", "secret = \"s3cret-bad\""];
    check_login(&server, &client, logins, &[], &["s3cret-good", "s3cret-bad"]);
}

#[test]
#[ignore = "needs nats-server; tests/run.sh runs it"]
fn nkey_login_works_and_is_not_shown() {
    let [good, bad] = [nkeys::KeyPair::new_user(), nkeys::KeyPair::new_user()];
    let server =
        Server::configured(|_| format!("authorization {{ users: [{{ nkey: {} }}] }}", good.public_key()));
    let [good, bad] = [good, bad].map(|key| key.seed().unwrap());
    let client = server.client(ConnectOptions::with_nkey(good.clone()));
    client.create_stream();
    let files = [("good.nk", &*good), ("bad.nk", &*bad)];
    let logins = ["nkey_file = \"good.nk\"", "nkey_file = \"bad.nk\""];
    check_login(&server, &client, logins, &files, &[&good, &bad]);
}

#[test]
#[ignore = "needs nats-server; tests/run.sh runs it"]
fn credentials_file_login_works_and_is_not_shown() {
    let [ours, others] = [Site::new(), Site::new()];
    let server = Server::configured(|_| ours.configuration.clone());
    let client = server.client(ConnectOptions::with_credentials(&ours.credentials).unwrap());
    client.create_stream();
    let files = [("good.creds", &*ours.credentials), ("bad.creds", &*others.credentials)];
    let logins = ["credentials_file = \"good.creds\"", "credentials_file = \"bad.creds\""];
    let jwt = |site: &Site| site.credentials.lines().nth(1).unwrap().to_owned();
    let secrets = [&*ours.seed, &others.seed, &jwt(&ours), &jwt(&others)];
    check_login(&server, &client, logins, &files, &secrets);
}

#[test]
#[ignore = "needs nats-server; tests/run.sh runs it"]
fn missing_nats_permissions_are_logged() {
    let permissions = "authorization { users: [
        { user: admin, password: a },
        { user: publisher, password: a, permissions: { publish: \">\", subscribe: { deny: \"_INBOX.>\" } } },
        { user: subscriber, password: a, permissions: { publish: { deny: \"kf.>\" }, subscribe: \">\" } } ] }";
    let server = Server::configured(|_| permissions.to_owned());
    server.client(ConnectOptions::with_user_and_password("admin".to_owned(), "a".to_owned())).create_stream();
    for (user, message) in [
        (
            "publisher",
            "permissions violation; let this user subscribe to _INBOX.>, where acknowledgements come",
        ),
        ("subscriber", "the server says: permissions violation; let this user publish to kf.>"),
    ] {
        let wechat = WeChat::play(quiet(&[("shop", 1)]));
        open(&wechat.control(), "kf1@shop", "oA");
        let login = format!("timeout = \"500ms\"\nuser = \"{user}\"\nsecret = \"a\"\nstart = \"beginning\"");
        let home = home(&wechat, &bus(&server, &login));
        let daemon = home.daemon();
        eventually_logged(&daemon, message);
        eventually("another attempt", || (failures(&daemon) >= 2.0).then_some(()));
        assert_eq!(daemon.stderr().matches("ERROR").count(), 1, "logged once: {}", daemon.stderr());
    }
}
