//! Whole HTTP responses of the vendors of group robots. The first byte chooses the vendor. Only its code of success, or the
//! text `ok`, acknowledges an event.

#![no_main]

use std::{cell::LazyCell, sync::Arc, time::Duration};

use kfwatch::{
    domain::{language::Language, local_time::LocalZone},
    sink::{
        DeliveryError,
        chat::{ChatContext, ChatOptions, ChatSink, Nicknames, Vendor},
    },
};
use kfwatch_fuzz::{Peer, check_line, check_peer_text, clock, event};
use libfuzzer_sys::fuzz_target;

const VENDORS: [Vendor; 4] = [Vendor::WeCom, Vendor::DingTalk, Vendor::Feishu, Vendor::Slack];

/// What each vendor's success contains.
const SUCCESS: [&[u8]; 4] = [b"errcode", b"errcode", b"code", b"ok"];

struct NoNicknames;

impl Nicknames for NoNicknames {
    fn nickname(&self, _: &str, _: &str) -> Option<Arc<str>> {
        None
    }
}

thread_local! {
    static PEER: LazyCell<Peer> = LazyCell::new(Peer::listen);
}

fuzz_target!(|input: &[u8]| {
    let Some((first, response)) = input.split_first() else { return };
    let vendor = usize::from(*first) % VENDORS.len();
    PEER.with(|peer| {
        let sink = robot(peer, VENDORS[vendor]);
        match peer.answer(response, sink.deliver(&[event()])) {
            Ok(_) => assert!(may_contain(response, SUCCESS[vendor]), "an event counts as delivered"),
            Err(error) => check_error(&error),
        }
    });
});

fn robot(peer: &Peer, vendor: Vendor) -> ChatSink {
    let url = format!("http://{}/0123456789abcdef", peer.address());
    let options = ChatOptions {
        vendor,
        url: url.parse::<reqwest::Url>().unwrap().into(),
        secret: None,
        language: Language::Both,
        ca_file: None,
        timeout: Duration::from_secs(5),
    };
    let context = ChatContext {
        clock: clock(),
        zone: LocalZone::named("Asia/Shanghai").unwrap(),
        nicknames: Arc::new(NoNicknames),
    };
    ChatSink::build(options, context).unwrap()
}

/// Whether the response has this text: as it is, escaped, or in chunks.
fn may_contain(response: &[u8], text: &[u8]) -> bool {
    let has = |text: &[u8]| response.windows(text.len()).any(|window| window.eq_ignore_ascii_case(text));
    has(text) || has(b"\\u") || has(b"chunked")
}

fn check_error(error: &DeliveryError) {
    check_line(&error.to_string());
    assert!(!error.to_string().contains("0123456789abcdef"), "the robot's key is shown");
    if let DeliveryError::Refused { response, .. } = error {
        check_peer_text(response);
    }
}
