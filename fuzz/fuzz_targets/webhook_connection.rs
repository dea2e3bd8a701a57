//! Whole HTTP responses of a webhook receiver. Only a 2xx status acknowledges an event.

#![no_main]

use std::{cell::LazyCell, time::Duration};

use kfwatch::{
    config::WebhookOptions,
    sink::{DeliveryError, webhook::WebhookSink},
};
use kfwatch_fuzz::{Peer, check_line, check_peer_text, clock, event};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static TARGET: LazyCell<(Peer, WebhookSink)> = LazyCell::new(|| {
        let peer = Peer::listen();
        let options = WebhookOptions {
            url: format!("http://{}/", peer.address()).parse().unwrap(),
            keys: Vec::new().into(),
            headers: Default::default(),
            ca_file: None,
            timeout: Duration::from_secs(5),
            max_in_flight: 1,
        };
        (peer, WebhookSink::build(options, clock()).unwrap())
    });
}

fuzz_target!(|input: &[u8]| {
    TARGET.with(|target| {
        let (peer, sink) = &**target;
        match peer.answer(input, sink.deliver(&event())) {
            Ok(()) => assert!(claims_success(input), "an event counts as delivered without a 2xx status"),
            Err(error) => check_error(&error),
        }
    });
});

fn claims_success(input: &[u8]) -> bool {
    // 1xx responses may come before it.
    let has = |prefix: &[u8]| input.windows(prefix.len()).any(|window| window == prefix);
    has(b"HTTP/1.1 2") || has(b"HTTP/1.0 2")
}

fn check_error(error: &DeliveryError) {
    check_line(&error.to_string());
    if let DeliveryError::Refused { response, .. } = error {
        check_peer_text(response);
    }
}
