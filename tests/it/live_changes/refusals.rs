//! What cannot be loaded or applied is refused as a whole: the running configuration continues, and says why.

use std::net::TcpListener;

use super::{LiveDaemon, official_account};
use crate::support::{
    delivery::{times_logged, webhook},
    disk::SmallDisk,
    process::{Home, WeChat, appid, quiet, request},
    wait::eventually,
};

const SUCCESSFUL: &str = "kfwatch_config_last_reload_successful";

fn configuration(wechat: &WeChat, top: &str, more: &str) -> String {
    format!(
        "{top}\n[api]\nbase_url = \"http://{}\"\n[poll]\nschedule = \"* * * * * *\"\n{}\n{more}\n\
         [[sinks]]\nname = \"log\"\ntype = \"jsonl\"\npath = \"-\"\n",
        wechat.address(),
        official_account("shop", 0, &["kf1@shop"], ""),
    )
}

fn web(addresses: &[&str]) -> String {
    format!("[web]\nlisten = {addresses:?}\nenable_reload = true\n")
}

/// Asserts that the kf account is polled on, and no other.
fn assert_goes_on(wechat: &WeChat) {
    let polls = || ["kf1@shop", "kf2@shop"].map(|name| wechat.control().polls_of(&appid(0), name).unwrap());
    let before = polls();
    eventually("polls", || (polls()[0] >= before[0] + 2).then_some(()));
    assert_eq!(polls()[1], 0);
}

#[test]
fn running_configuration_continues_whatever_is_wrong_with_the_new_one() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let own = "127.0.0.1:0";
    let good = |more: &str| configuration(&wechat, "", &format!("{}{more}", web(&[own])));
    let live = LiveDaemon::start(Home::new().without_collectors(), &good(""));
    let address = live.process.address();
    live.home.write("broken.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    std::fs::create_dir(live.home.path("directory")).unwrap();
    let second =
        |token: &str| official_account("other", 1, &["kf1@other"], "").replace("token.secret = ", token);
    let ca = |file: &str| webhook("crm", "https://127.0.0.1:1/kf", &format!("ca_file = \"{file}\""));
    let mistakes = [
        ("no TOML", "[".to_owned(), "config.toml"),
        ("an unknown key", good("[poll2]\n"), "poll2"),
        (
            "a file that cannot be read",
            configuration(&wechat, "include = [\"directory\"]", &web(&[own])),
            "directory",
        ),
        (
            "an include without files",
            configuration(&wechat, "include = [\"none.d/*.toml\"]", &web(&[own])),
            "none.d",
        ),
        ("a missing secret", good(&second("token.secret_file = \"none\" # ")), "none"),
        ("a certificate that does not parse", good(&ca("broken.pem")), "broken.pem"),
        ("a missing certificate", good(&ca("none.pem")), "none.pem"),
        (
            "a port that another program uses",
            configuration(&wechat, "", &web(&[own, &taken])),
            taken.as_str(),
        ),
        ("a port for which nothing is free", configuration(&wechat, "", &web(&[&taken])), "web.listen"),
    ];
    for (n, (name, text, reason)) in mistakes.iter().enumerate() {
        let printed = live.reload_refused(text);
        assert!(printed.contains(reason), "{name}: {printed}");
        assert_eq!(live.process.metric(SUCCESSFUL), Some(0.0), "{name}");
        let answer = request(address, "POST /-/reload", "");
        assert!(answer.status == 500 && answer.text().contains(reason), "{name}: {answer:?}");
        let logged =
            || times_logged(&live.process.stderr(), "Configuration not reloaded, the running one stays");
        eventually("the log", || (logged() >= 2 * (n + 1)).then_some(()));
        assert_eq!(logged(), 2 * (n + 1), "{name}: once for each request");
        assert_goes_on(&wechat);
        live.home.write("config.toml", &good(""));
        let answer = request(address, "PUT /-/reload", "");
        assert_eq!(answer.status, 200, "{name}: {answer:?}");
        assert!(answer.text().starts_with("Nothing to do"), "{name}: nothing was half applied: {answer:?}");
        assert_eq!(live.process.metric(SUCCESSFUL), Some(1.0), "{name}");
    }
    live.process.terminate();
}

#[test]
fn full_disk_refuses_new_accounts_until_there_is_room() {
    let Some(disk) = SmallDisk::mount(24) else { return };
    let wechat = WeChat::play(quiet(&[("shop", 2), ("many", 1)]));
    let names: Vec<String> = (0..1_000).map(|n| format!("kf{n}@many")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let leap_day = "schedule = \"0 0 0 29 2 *\"";
    let many: String = (1..=20).map(|n| official_account(&format!("many{n}"), n, &names, leap_day)).collect();
    let store =
        format!("[web]\nlisten = \"127.0.0.1:0\"\n[store]\npath = {:?}\n", disk.path().join("kfwatch.db"));
    let good = configuration(&wechat, "", &store);
    let live = LiveDaemon::start(Home::new().without_collectors(), &good);
    assert_goes_on(&wechat);
    disk.fill();
    let more = configuration(&wechat, "", &format!("{store}{many}"));
    let printed = live.reload_refused(&more);
    assert!(printed.contains("store"), "{printed}");
    assert_eq!(live.process.metric(SUCCESSFUL), Some(0.0));
    assert_goes_on(&wechat);
    let watched = || live.process.metric("wechat_kf_accounts_watched{official_account=\"many20\"}");
    assert_eq!(watched(), None);
    disk.free_space();
    let printed = live.reload(&more);
    assert!(printed.contains("many"), "{printed}");
    assert_eq!((live.process.metric(SUCCESSFUL), watched()), (Some(1.0), Some(1_000.0)));
    assert_goes_on(&wechat);
    live.process.terminate();
}
