//! Whole HTTP responses of WeChat, from the first byte: the first for the token, the second for the session list.

#![no_main]

use std::{cell::LazyCell, path::Path, sync::Arc};

use kfwatch::{
    app::OfficialAccountFactory,
    config::{Config, Environment},
    metrics::Metrics,
    wechat::wire::{self, SessionList},
};
use kfwatch_fuzz::{Peer, check_line, clock};
use libfuzzer_sys::fuzz_target;

struct Target {
    peer: Peer,
    config: Config,
    factory: OfficialAccountFactory,
    metrics: Metrics,
}

impl Target {
    fn new() -> Self {
        let peer = Peer::listen();
        let address = peer.address();
        let text = format!(
            "[api]\nbase_url = 'http://{address}'\ntimeout = '5s'\nmax_body_bytes = 65536\n\
             [[official_accounts]]\nname = 'shop'\nappid = 'wx0123456789abcdef'\nkf_accounts = ['test1@test']\n\
             [official_accounts.token]\nsource = 'stable'\nsecret = '0123456789abcdef0123456789abcdef'\n"
        );
        let config = Config::from_toml(&text, Path::new("/"), &Environment::default()).unwrap().config;
        let factory = OfficialAccountFactory::without_store(&config, clock()).unwrap();
        Self { peer, config, factory, metrics: Metrics::new().unwrap() }
    }
}

thread_local! {
    static TARGET: LazyCell<Target> = LazyCell::new(Target::new);
}

fuzz_target!(|input: &[u8]| {
    TARGET.with(|target| {
        let configured = &target.config.official_accounts[0];
        let client = target.factory.client();
        let account = target.factory.official_account(&client, configured, Arc::default(), &target.metrics);
        let result = target.peer.answer(input, account.client().session_list("test1@test"));
        match result {
            Ok(response) => {
                let listed = wire::session_list(&wire::text(&response.body))
                    .is_ok_and(|list| matches!(list, SessionList::Listed(_)));
                assert!(!listed || has(input, b"sessionlist"), "a session list that nobody sent");
            }
            Err(failure) => check_line(&failure.to_string()),
        }
    });
});

/// Whether the input may contain the key: as it is, escaped, or compressed.
fn has(input: &[u8], key: &[u8]) -> bool {
    input.windows(key.len()).any(|window| window == key)
        || input.windows(2).any(|window| window == b"\\u" || window == b"\x1f\x8b")
        || input.to_ascii_lowercase().windows(7).any(|window| window == b"chunked")
}
