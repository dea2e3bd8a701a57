//! Times for people, and the times that people write.

use kfwatch::{
    domain::event::{Change, OwnedSession},
    store::Store,
};

use super::assert_prints;
use crate::support::{backup, process::Home};

/// A store with three events, observed at 1,795,000,000 s and up to 2 ms later: 2026-11-18 17:46:40 in Shanghai.
fn stored() -> Home {
    let home = backup::home();
    backup::grow(&home.path("kfwatch.db"), 0, 3);
    home
}

#[test]
fn events_are_shown_in_the_time_zone_of_people() {
    let home = stored();
    let lines = home.run("events").stdout;
    let expected = "TIME (Asia/Shanghai)  EVENT          ACCOUNT                       CUSTOMER   DETAILS\n\
                    2026-11-18 19:06:40   started        shop/kf1@shop                 …          at 1970-01-01 08:00:00\n";
    assert!(lines.starts_with(expected), "{lines}");
    let lines = Home::set(home, "KFWATCH__POLL__TIMEZONE", "America/New_York").run("events --openids").stdout;
    let expected = "TIME (America/New_York)  EVENT          ACCOUNT                       CUSTOMER   DETAILS\n\
                    2026-11-18 06:06:40   started        shop/kf1@shop                 o-0        at 1969-12-31 19:00:00\n";
    assert!(lines.starts_with(expected), "{lines}");
}

#[test]
fn since_takes_local_dates_and_times() {
    let home = stored();
    let count = |since: &str| {
        let mut command = home.command("events --format json --since");
        let ended = command.arg(since).output().unwrap();
        assert!(ended.status.success(), "{ended:?}");
        String::from_utf8(ended.stdout).unwrap().lines().count()
    };
    for (since, events) in [
        ("2026-11-18", 3),
        ("2026-11-18 19:06", 3),
        ("2026-11-18 19:06:40", 3),
        ("2026-11-18 19:06:41", 0),
        ("2026-11-19", 0),
        ("2026-11-18T11:06:40Z", 3),
        ("2026-11-18T19:06:41+08:00", 0),
    ] {
        assert_eq!(count(since), events, "{since}");
    }
    let home = Home::set(home, "KFWATCH__POLL__TIMEZONE", "UTC");
    assert_eq!(
        home.run("events --since 2026-11-18T19:06:40").stdout,
        "no events since 2026-11-18 19:06:40 (UTC)\n"
    );
}

#[test]
fn wrong_since_lists_the_forms() {
    let home = Home::new();
    for since in ["yesterday", "25:00", "28.11.2026"] {
        let expected = format!(
            "error: invalid value '{since}' for '--since <TIME>': write a date, a time or both in poll.timezone, like \
             \"2026-11-28\", \"2026-11-28 09:00\" or \"09:00\"; an age, like \"2h\" or \"7d\"; or a moment, like \
             \"2026-11-28T01:00:00Z\"\n\nFor more information, try '--help'.\n"
        );
        assert_prints(&home.run(&format!("events --since {since}")), 2, "", &expected);
    }
    let home = stored().set("KFWATCH__POLL__TIMEZONE", "Asia/Shanghi");
    let ended = home.run("events");
    assert!(
        ended.code == Some(78) && ended.stderr.contains("\"Asia/Shanghi\" is not a time zone"),
        "{ended:?}"
    );
}

/// An event that has more to say than fits.
#[test]
fn long_details_continue_below() {
    let home = backup::home();
    let change = Change::SessionStarted {
        session: OwnedSession { openid: "oDF3iY9P32sK_5GgYiRkjsabcdef".into(), createtime: 1_700_000_000 },
        observed_at: backup::at(0),
        baseline: false,
        transferred_from: Some("kf2@shop".into()),
    };
    backup::run(async {
        let store = Store::open(&home.path("kfwatch.db")).unwrap();
        let registered = store.register_accounts(backup::accounts(1)).await.unwrap().configured;
        backup::commit(&store, &registered[0], vec![change]).await;
        store.close().await;
    });
    let expected = "TIME (Asia/Shanghai)  EVENT          ACCOUNT                       CUSTOMER   DETAILS\n\
                    YYYY-MM-DD hh:mm:ss   started        shop/kf1@shop                 oDF3…cdef  at YYYY-MM-DD hh:mm:ss,\n\
                    \x20                                                                             from kf2@shop\n";
    assert_prints(&home.run("events"), 0, expected, "");
}
