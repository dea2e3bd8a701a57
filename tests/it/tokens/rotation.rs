//! Secrets that are rotated or corrected in their files while the daemon runs.

use kfwatch::simulator::ApiCall;

use super::platform::Platform;
use crate::support::{
    delivery,
    process::{Home, Process, WeChat, quiet, secret},
    receiver::{Answer, KEYS, Receiver},
    wait::eventually,
};

/// Short waits after refused credentials. The minimum interval between token fetches applies all the same.
const RETRIES: &str = "[backoff]\nnot_authorized = [\"1s\", \"1s\"]";

/// The message of the log line that contains this text.
fn message(daemon: &Process, text: &str) -> String {
    let line = eventually(text, || {
        let log = daemon.stderr();
        Some(log.lines().find(|line| line.contains(text))?.to_owned())
    });
    ["INFO ", "WARN "].iter().find_map(|level| line.split_once(level)).unwrap().1.to_owned()
}

/// Asserts that the log has one line with the changed file, and one for each mistake in it.
fn assert_logged(daemon: &Process, file: &std::path::Path, mistakes: &[&str]) {
    let file = file.display();
    for mistake in mistakes {
        let expected =
            format!("{file} {mistake}; the old secret, which was refused, stays in use file={file}");
        assert_eq!(message(daemon, mistake), expected);
    }
    let changed = "was refused and has changed";
    assert_eq!(
        message(daemon, changed),
        format!("The secret in {file} was refused and has changed: using the new one file={file}")
    );
    let log = daemon.stderr();
    for text in mistakes.iter().chain([&changed]) {
        assert_eq!(log.matches(text).count(), 1, "{log}");
    }
}

#[test]
fn corrected_appsecret_file_is_used_without_restart() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    let home = Home::watching(&wechat, RETRIES).without_collectors();
    let text = std::fs::read_to_string(home.path("config.toml")).unwrap();
    let own = format!("secret = \"{}\"", secret(0));
    assert!(text.contains(&own));
    home.write("config.toml", &text.replace(&own, "secret_file = \"shop.secret\""));
    home.write("shop.secret", &"0".repeat(32));
    let daemon = home.daemon();
    eventually("the refusal", || daemon.stderr().contains("errcode 40125").then_some(()));
    let fetched = || wechat.control().requests(ApiCall::StableToken);
    let zero_width_space = "contains U+200B (zero width space) at character 33; a secret has only printable ASCII characters and \
                            no spaces";
    home.write("shop.secret", &(secret(0) + "\u{200b}"));
    eventually("the old secret again", || (fetched() == 2).then_some(()));
    home.write("shop.secret", &(secret(0) + "\n"));
    assert_logged(&daemon, &home.path("shop.secret"), &[zero_width_space]);
    eventually("a good poll", || {
        let up = daemon.metric("wechat_kf_account_up{official_account=\"shop\",kf_account=\"kf1@shop\"}");
        up.filter(|up| *up > 0.0)
    });
    assert_eq!(fetched(), 3);
    assert!(!daemon.terminate().stderr.contains(&secret(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotated_header_of_token_server_is_used_without_restart() {
    let platform = Platform::start().await;
    platform.world().served = (401, String::new());
    let home = Home::new().without_collectors();
    home.write(
        "config.toml",
        &format!(
            "{RETRIES}\n[api]\nbase_url = \"{0}\"\n[poll]\nschedule = \"* * * * * *\"\n[web]\nlisten = \"127.0.0.1:0\"\n\
             [[official_accounts]]\nname = \"depot\"\nappid = \"wx00000000000000ff\"\nkf_accounts = [\"kf@depot\"]\n\
             [official_accounts.token]\nsource = \"server\"\nurl = \"{0}/token\"\nheader_file = \"tokens.header\"\n",
            platform.url
        ),
    );
    home.write("tokens.header", "X-Key: s3cret-old\n");
    let daemon = home.daemon();
    eventually("the refusal", || daemon.stderr().contains("answers with HTTP status 401").then_some(()));
    let keys = || {
        let world = platform.world();
        let asked = world.asked.iter().filter(|asked| asked.path == "/token");
        asked.map(|asked| asked.key.clone().unwrap()).collect::<Vec<_>>()
    };
    home.write("tokens.header", "s3cret\n");
    eventually("the old header again", || (keys().len() == 2).then_some(()));
    platform.world().served = (200, "served-1".to_owned());
    home.write("tokens.header", "X-Key: s3cret-new\n");
    eventually("a good poll", || (platform.request_count("getsessionlist") > 0).then_some(()));
    assert_eq!(keys(), ["s3cret-old", "s3cret-old", "s3cret-new"]);
    let mistake = "contains no HTTP header; write one line like \"Authorization: Bearer …\"";
    assert_logged(&daemon, &home.path("tokens.header"), &[mistake]);
}

#[test]
fn rotated_keys_and_headers_of_webhook_lose_no_event() {
    let receiver = Receiver::start();
    receiver.answer(|delivery| match (delivery.header("x-api-key"), delivery.signed) {
        ("s3cret-new", true) => Answer::status(204),
        ("s3cret-new", false) => Answer::status(401),
        _ => Answer::status(403),
    });
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let sink = format!(
        "[[sinks]]\nname = \"crm\"\ntype = \"webhook\"\nurl = \"{}\"\nsecret_file = \"crm.keys\"\nheader_files = [\"crm.header\"]\n",
        receiver.url("kf")
    );
    let home = delivery::home(&wechat, &sink);
    home.write("crm.keys", KEYS[1]);
    home.write("crm.header", "X-Api-Key: s3cret-old");
    let daemon = home.daemon();
    delivery::open(&wechat.control(), "kf1@shop", "oA");
    delivery::eventually_logged(&daemon, "the receiver answers 403");
    home.write("crm.header", "X-Api-Key: s3cret-new");
    delivery::eventually_logged(&daemon, "the receiver answers 401");
    home.write("crm.keys", "whsec_tooshort");
    delivery::eventually_logged(&daemon, "crm.keys the key");
    home.write("crm.keys", &format!("{}\n{}\n", KEYS[0], KEYS[1]));
    delivery::eventually_delivered(&daemon, "crm");
    let confirmed: Vec<_> = receiver.received().into_iter().filter(|delivery| delivery.confirmed).collect();
    assert_eq!(confirmed.len(), 1);
    let log = daemon.terminate().stderr;
    let file = home.path("crm.keys");
    let mistake = format!(
        "{} the key does not have 24 to 64 bytes after whsec_; write keys in the format of Standard Webhooks: whsec_ and 24 to 64 \
         bytes in base64; the old secret, which was refused, stays in use",
        file.display()
    );
    assert_eq!(log.matches(&mistake).count(), 1, "{log}");
    assert_eq!(log.matches("was refused and has changed: using the new one").count(), 2, "{log}");
    assert!(!log.contains("s3cret") && !log.contains("whsec_t"), "{log}");
}
