//! Who may ask for a reload, and what happens without a daemon that could carry it out.

use std::fs;

use crate::support::process::{Home, WeChat, quiet, request};

fn watching(web: &str) -> (WeChat, Home) {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let home = Home::watching(&wechat, web);
    (wechat, home)
}

#[test]
fn reload_by_http_must_be_enabled() {
    let (_wechat, home) = watching("");
    let daemon = home.daemon();
    for method in ["PUT", "POST"] {
        let refused = request(daemon.address(), &format!("{method} /-/reload"), "");
        assert_eq!(refused.status, 403);
        assert!(refused.text().contains("set web.enable_reload = true"), "{}", refused.text());
    }
}

#[test]
fn page_of_another_site_cannot_reload() {
    let (_wechat, home) = watching("");
    let home = home.set("KFWATCH__WEB__ENABLE_RELOAD", "true");
    let daemon = home.daemon();
    for header in ["Sec-Fetch-Site: cross-site\r\n", "Origin: https://evil.example\r\n"] {
        let refused = request(daemon.address(), "POST /-/reload", header);
        assert_eq!((refused.status, refused.text().contains("another site")), (403, true), "{header}");
    }
    let read = request(daemon.address(), "GET /-/reload", "");
    let allowed = read.header("allow").unwrap_or_default();
    assert_eq!(
        (read.status, allowed.contains("PUT"), allowed.contains("POST")),
        (405, true, true),
        "{read:?}"
    );
}

#[test]
fn reload_without_daemon_says_how_to_start_one() {
    let (_wechat, home) = watching("");
    let ended = home.run("reload --dry-run");
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{ended:?}");
    assert!(ended.stderr.contains("start it with `kfwatch run`"), "{ended:?}");
    let text = fs::read_to_string(home.path("config.toml")).unwrap();
    home.write("config.toml", &format!("[web\n{text}"));
    let ended = home.run("reload");
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(ended.stderr.starts_with("kfwatch: config.toml:1:"), "the daemon may be elsewhere: {ended:?}");
}
