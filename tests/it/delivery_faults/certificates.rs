//! Receivers with TLS: which certificates kfwatch trusts, and what it logs about the others.

use crate::support::{
    certificates::Authority,
    delivery::{
        configure, eventually_delivered, eventually_logged, eventually_logged_once, home, open, sink_metric,
        webhook,
    },
    process::{Process, WeChat, quiet},
    receiver::Receiver,
    wait::eventually,
};

/// A receiver of this authority, called `name`, and an event that waits to be delivered.
fn receiver_of(authority: &Authority, name: &str) -> (WeChat, Receiver) {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    open(&wechat.control(), "kf1@shop", "oA");
    (wechat, Receiver::start_tls(authority.identity(name).server()))
}

fn crm(receiver: &Receiver) -> String {
    webhook("crm", &receiver.https_url("localhost"), "ca_file = \"ca.pem\"")
}

fn eventually_confirmed(receiver: &Receiver, events: usize) {
    eventually("the deliveries", || (receiver.confirmed() >= events).then_some(()));
}

/// Waits until delivery was retried, and asserts that the reason was logged once.
fn assert_waits(daemon: &Process, receiver: &Receiver, because: &str) {
    eventually("more failures", || {
        (sink_metric(daemon, "crm", "delivery_failures_total") >= 3.0).then_some(())
    });
    eventually_logged_once(daemon, "ERROR Delivery failed and will be retried");
    let log = daemon.stderr();
    assert!(log.contains(because), "{log}");
    assert_eq!((receiver.received().len(), sink_metric(daemon, "crm", "pending_events")), (0, 1.0));
}

#[test]
fn ca_file_of_private_authority_is_trusted() {
    let authority = Authority::new("the shop's own");
    let (wechat, mut receiver) = receiver_of(&authority, "localhost");
    let home = home(&wechat, &crm(&receiver));
    home.write("ca.pem", &authority.pem());
    let daemon = home.daemon();
    eventually_confirmed(&receiver, 1);
    receiver.kill();
    open(&wechat.control(), "kf1@shop", "oB");
    eventually_logged(&daemon, "Delivery failed and will be retried");
    receiver.restart();
    eventually_confirmed(&receiver, 2);
    eventually_delivered(&daemon, "crm");
    daemon.terminate();
}

#[test]
fn unknown_authority_receives_nothing_until_ca_file_is_fixed() {
    let (right, wrong) = (Authority::new("the shop's own"), Authority::new("another authority"));
    let (wechat, receiver) = receiver_of(&right, "localhost");
    let home = home(&wechat, &crm(&receiver));
    home.write("ca.pem", &wrong.pem());
    let daemon = home.daemon();
    let because =
        "signed by an unknown authority: set ca_file to the certificate of the authority that signed it";
    assert_waits(&daemon, &receiver, because);
    daemon.terminate();
    home.write("ca.pem", &right.pem());
    let daemon = home.daemon();
    eventually_confirmed(&receiver, 1);
    eventually_delivered(&daemon, "crm");
}

#[test]
fn mismatched_certificate_receives_nothing_until_url_is_fixed() {
    let authority = Authority::new("the shop's own");
    let (wechat, receiver) = receiver_of(&authority, "127.0.0.1");
    let home = home(&wechat, &crm(&receiver));
    home.write("ca.pem", &authority.pem());
    let daemon = home.daemon();
    let because = "the server's certificate is not valid for localhost, only for 127.0.0.1: use a name of the certificate in url";
    assert_waits(&daemon, &receiver, because);
    daemon.terminate();
    let url = receiver.https_url("127.0.0.1");
    configure(&home, &wechat, &webhook("crm", &url, "ca_file = \"ca.pem\""));
    let daemon = home.daemon();
    eventually_confirmed(&receiver, 1);
    eventually_delivered(&daemon, "crm");
}
