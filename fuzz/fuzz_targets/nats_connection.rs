//! What a NATS server sends, from the first byte to the acknowledgement.
//!
//! async-nats panics on some lines (such as "-ERR" alone); kfwatch catches that. So only other panics count here.

#![no_main]

use std::{cell::LazyCell, panic, sync::Once, time::Duration};

use kfwatch::{
    config::NatsOptions,
    sink::nats::{Login, NatsSink},
};
use kfwatch_fuzz::{Peer, check_line, event};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static PEER: LazyCell<Peer> = LazyCell::new(Peer::listen);
}

fuzz_target!(|input: &[u8]| {
    tolerate_panics_of_the_library();
    PEER.with(|peer| {
        let options = NatsOptions {
            servers: vec![format!("nats://{}", peer.address()).parse().unwrap()],
            subject_prefix: "kf".to_owned(),
            login: Login::None.into(),
            ca_file: None,
            // Most inputs are no answer, and wait for this.
            timeout: Duration::from_millis(10),
            max_in_flight: 1,
        };
        let sink = NatsSink::build(options).unwrap();
        match peer.converse(input, sink.deliver(&event())) {
            Ok(()) => {
                let names_stream =
                    input.windows(6).any(|window| window == b"stream") || input.contains(&b'\\');
                assert!(names_stream, "an event counts as delivered without an acknowledgement");
            }
            Err(error) => check_line(&error.to_string()),
        }
    });
});

fn tolerate_panics_of_the_library() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let abort = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !info.location().is_some_and(|location| location.file().contains("async-nats")) {
                abort(info);
            }
        }));
    });
}
