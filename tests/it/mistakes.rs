//! What a user reads who typed the configuration with a Chinese keyboard, saved it in another encoding, or put a key in the wrong
//! place: the whole output of `kfwatch check`.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use crate::support::process::Home;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A home whose configuration listens on any free port, so that `check` finds no other program there.
fn home() -> Home {
    Home::new().set("KFWATCH__WEB__LISTEN", "127.0.0.1:0")
}

/// A configuration with one official account, after these lines.
fn config(before: &str) -> String {
    format!(
        "{before}[[official_accounts]]\nname = \"shop\"\nappid = \"wx0123456789abcdef\"\nkf_accounts = [\"test1@test\"]\n\
         [official_accounts.token]\nsecret = \"{SECRET}\"\n"
    )
}

fn write(home: &Home, name: &str, content: &[u8]) {
    fs::write(home.path(name), content).unwrap();
    fs::set_permissions(home.path(name), fs::Permissions::from_mode(0o600)).unwrap();
}

/// Asserts that `check` refuses the configuration with exactly these lines.
#[track_caller]
fn assert_refused(text: &str, lines: &[&str]) {
    let home = home().set("LANG", "zh_CN.UTF-8");
    write(&home, "config.toml", text.as_bytes());
    let checked = home.run("check");
    let expected: String = lines.iter().map(|line| format!("kfwatch: config.toml:{line}\n")).collect();
    assert_eq!((checked.code, checked.stdout.as_str()), (Some(78), ""), "{checked:?}");
    assert_eq!(checked.stderr, expected);
}

/// Asserts that `check` accepts the configuration with exactly these warnings.
#[track_caller]
fn assert_warned(text: &str, lines: &[&str]) {
    let home = home();
    write(&home, "config.toml", text.as_bytes());
    let checked = home.run("check");
    let expected: String = lines.iter().map(|line| format!("warning: {line}\n")).collect();
    assert_eq!((checked.code, checked.stderr.as_str()), (Some(0), expected.as_str()), "{checked:?}");
}

#[test]
fn chinese_quotation_marks_are_named_with_what_to_type() {
    let text = config("").replace("\"shop\"", "“shop”").replace("\"test1@test\"", "‘test1@test’");
    assert_refused(
        &text,
        &[
            "2:8: not valid TOML: “ is U+201C (curly quotation mark), type \" instead; ” is U+201D (curly quotation mark), \
             type \" instead",
            "4:16: not valid TOML: ‘ is U+2018 (curly quotation mark), type ' instead; ’ is U+2019 (curly quotation mark), \
             type ' instead",
        ],
    );
}

#[test]
fn chinese_punctuation_does_not_hide_other_mistakes() {
    let text = config("［log］\nlevel ＝ \"loud\"\n　format = \"xml\"\n").replace("shop\"", "shop 1\"");
    assert_refused(
        &text,
        &[
            "1:1: not valid TOML: ［ is a full-width sign, type [ instead; ］ is a full-width sign, type ] instead",
            "2: log.level: \"loud\" is not one of the levels off, error, warn, info, debug, trace; write it like \"info\" or \
             \"info,kfwatch::wechat=debug\"",
            "2:7: not valid TOML: ＝ is a full-width sign, type = instead",
            "3: log.format: \"xml\" is not one of \"text\", \"json\"",
            "3:1: not valid TOML: U+3000 (ideographic space), type a space instead",
            "5: official_accounts.name: \"shop 1\" is not a valid name; use at most 64 letters (a-z, A-Z), digits, \"-\" and \
             \"_\"",
        ],
    );
}

#[test]
fn full_width_characters_in_values_are_named() {
    let text = config("[poll]\nschedule = \"0 ＊ * * * *\"\n")
        .replace("test1@test", "test１@test")
        .replace("wx0123", "wx０123");
    assert_refused(
        &text,
        &[
            "2: poll.schedule: \"0 ＊ * * * *\" contains a full-width sign at character 3; type * instead",
            "5: official_accounts.appid: \"wx０123456789abcdef\" contains a full-width digit at character 3; type it in half \
             width",
            "6: official_accounts.kf_accounts: \"test１@test\" contains a full-width digit at character 5; type it in half \
             width",
        ],
    );
}

/// Runs the commands that the message shows. The file keeps its mode.
#[track_caller]
fn assert_conversion(name: &str, content: &[u8], problem: &str) {
    let home = home();
    write(&home, name, content);
    let refused = home.command("check -c").arg(name).output().unwrap();
    let stderr = String::from_utf8(refused.stderr).unwrap();
    let (message, commands) = stderr.trim_end().split_once("; convert it: ").unwrap();
    assert_eq!(message, format!("kfwatch: {name}: {problem}"));
    let shell = Command::new("sh").args(["-c", commands]).current_dir(home.path("")).status().unwrap();
    assert!(shell.success(), "{commands}");
    let checked = home.command("check -c").arg(name).output().unwrap();
    assert_eq!((checked.status.code(), checked.stderr), (Some(0), Vec::new()), "{commands}");
    assert_eq!(fs::metadata(home.path(name)).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn other_encodings_are_named_with_the_commands_that_convert_them() {
    let text = config("# 店\n");
    let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    // "店" in GBK.
    let gbk = [b"# \xb5\xea", &text.as_bytes()[5..]].concat();
    assert_conversion("config.toml", &gbk, "is not UTF-8 but probably GBK, in line 1");
    assert_conversion("the shop's.toml", &utf16(&format!("\u{feff}{text}")), "is UTF-16");
    assert_conversion("config.toml", &utf16(&config("")), "is UTF-16");
}

#[test]
fn misplaced_keys_are_told_their_section() {
    let text =
        config("[wbe]\nlisten = \"127.0.0.1:9877\"\n[token]\nsecret = \"x\"\n[log]\nspread = \"1s\"\n");
    assert_refused(
        &(text + "schedule = \"* * * * *\"\n"),
        &[
            "1: wbe: unknown key; did you mean web? expected one of: include, shutdown_timeout, reload_interval, web, log, store, cluster, control, \
             api, poll, backoff, collectors, metrics, official_accounts, sinks",
            "3: token: belongs to an official account; write [official_accounts.token] below its [[official_accounts]]",
            "6: log.spread: belongs to [poll]; move it there",
            "13: official_accounts.token.schedule: belongs to [[official_accounts]]; move it above [official_accounts.token]",
        ],
    );
}

#[test]
fn file_name_instead_of_secret_is_recognized() {
    for path in ["/run/secrets/shop", "shop.secret", "config.toml"] {
        assert_refused(
            &config("").replace(SECRET, path),
            &["6: official_accounts.token.secret: looks like the path of a file; did you mean secret_file?"],
        );
    }
}

#[test]
fn impossible_and_surprising_schedules_are_explained() {
    let schedule = |expressions: &str| config(&format!("[poll]\nschedule = [{expressions}]\n"));
    assert_refused(
        &schedule("\"0 24 * * *\", \"0 0 22-6 * * *\""),
        &[
            "2: poll.schedule: \"0 0 22-6 * * *\" is not a cron expression: the hour range 22-6 ends before it begins; write \
             22-23,0-6",
            "2: poll.schedule: \"0 24 * * *\" is not a cron expression: the hour is 24, but goes from 0 to 23",
        ],
    );
    assert_warned(
        &schedule("\"*/90 * * * * *\""),
        &[
            "config.toml:2: poll.schedule: the step of */90 is larger than the field: it matches only second 0, once a minute",
        ],
    );
    assert_warned(
        &schedule("\"0 0/120 * * * *\", \"0 30 */24 * * *\""),
        &[
            "config.toml:2: poll.schedule: the step of 0/120 is larger than the field: it matches only minute 0, once an hour",
            "config.toml:2: poll.schedule: the step of */24 is larger than the field: it matches only hour 0, once a day",
        ],
    );
    assert_refused(
        &config("[poll]\ntimezone = \"Asia/Shanghi\"\n"),
        &["2: poll.timezone: \"Asia/Shanghi\" is not a time zone; did you mean \"Asia/Shanghai\"?"],
    );
}
