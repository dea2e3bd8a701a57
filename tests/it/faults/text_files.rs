//! Text files and variables as editors, shells and other systems write them: byte order marks, CR LF, and characters that
//! nobody sees.

use std::{fs, os::unix::fs::PermissionsExt};

use crate::support::{
    certificates::Authority,
    process::{Ended, Home, WeChat, appid, quiet, secret},
    wait::eventually,
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// How Windows writes a text file.
fn marked(text: &str) -> Vec<u8> {
    format!("\u{feff}{}", text.replace('\n', "\r\n")).into_bytes()
}

/// A text in UTF-16 with its byte order mark, as PowerShell writes it.
fn utf16(text: &str) -> Vec<u8> {
    "\u{feff}".encode_utf16().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect()
}

fn write(home: &Home, name: &str, content: &[u8]) {
    fs::create_dir_all(home.path(name).parent().unwrap()).unwrap();
    fs::write(home.path(name), content).unwrap();
    fs::set_permissions(home.path(name), fs::Permissions::from_mode(0o600)).unwrap();
}

fn account(name: &str, appid: &str, token: &str) -> String {
    format!(
        "[[official_accounts]]\nname = \"{name}\"\nappid = \"{appid}\"\nkf_accounts = [\"kf1@{name}\"]\n\
         [official_accounts.token]\n{token}\n"
    )
}

/// A configuration with one official account.
fn config(token: &str, more: &str) -> String {
    format!("{more}\n{}", account("shop", "wx0123456789abcdef", token))
}

/// Asserts that the configuration was refused with this message, and that no message contains a part of the secret.
#[track_caller]
fn assert_refused(checked: &Ended, message: &str) {
    assert_eq!(checked.code, Some(78), "{checked:?}");
    assert!(checked.stderr.contains(message), "{message}\n{}", checked.stderr);
    assert!(!checked.stderr.contains("89abcdef"), "{}", checked.stderr);
}

/// Checks a configuration whose secret file has this content.
fn check_secret_file(content: &[u8]) -> Ended {
    let home = Home::new();
    write(&home, "config.toml", config("secret_file = \"secret\"", "").as_bytes());
    write(&home, "secret", content);
    home.run("check")
}

#[test]
fn marks_and_carriage_returns_are_accepted_in_every_text_file() {
    let user = nkeys::KeyPair::new_user().seed().unwrap();
    let home = Home::new().set("KFWATCH__WEB__LISTEN", "127.0.0.1:0");
    let sink = |name: &str, kind: &str, keys: &str| {
        format!("[[sinks]]\nname = \"{name}\"\ntype = \"{kind}\"\n{keys}\n")
    };
    let nats = |name: &str, login: &str| sink(name, "nats", &format!("url = \"nats://127.0.0.1\"\n{login}"));
    let sinks = sink(
        "crm",
        "webhook",
        "url = \"https://crm.example\"\nsecret_file = \"keys\"\nheader_files = \"header\"\nca_file = \"ca.pem\"",
    ) + &nats("nkey", "nkey_file = \"user.nk\"")
        + &nats("creds", "credentials_file = \"user.creds\"");
    let main = format!(
        "include = \"more/*.toml\"\n{sinks}{}",
        account("shop", "wx0123456789abcdef", "secret_file = \"secret\"")
    );
    let json = "source = \"file\"\npath = \"token.json\"\njson_pointer = \"/access_token\"";
    let creds = format!(
        "-----BEGIN NATS USER JWT-----\na.b.c\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{user}\n------END USER NKEY SEED------\n"
    );
    for (name, text) in [
        ("config.toml", main.as_str()),
        ("more/shop.toml", &account("json", "wx0123456789abcde1", json)),
        ("more/text.toml", &account("text", "wx0123456789abcde2", "source = \"file\"\npath = \"token\"")),
        ("secret", &format!("{SECRET}\n")),
        ("token", "88_token\n"),
        ("token.json", "{\"access_token\": \"88_token\"}\n"),
        ("keys", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\nwhsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD\n"),
        ("header", "Authorization: Bearer s3cret\n"),
        ("user.nk", &format!("{user}\n")),
        ("user.creds", &creds),
        ("ca.pem", &Authority::new("ours").pem()),
    ] {
        write(&home, name, &marked(text));
    }
    let checked = home.run("check");
    assert_eq!((checked.code, checked.stderr.as_str()), (Some(0), ""), "{checked:?}");
    assert!(checked.stdout.starts_with("The configuration is valid."), "{checked:?}");
}

#[test]
fn marks_and_carriage_returns_are_not_sent_to_wechat() {
    let wechat = WeChat::play(quiet(&[("north", 1), ("south", 1), ("west", 1)]));
    let home = Home::new();
    let token = |index: usize| wechat.control().fetch_competing_token(&appid(index)).unwrap();
    write(&home, "secret", &marked(&format!("{}\n", secret(0))));
    write(&home, "token", &marked(&format!("{}\n", token(1))));
    write(&home, "token.json", &marked(&format!("{{\n\"token\": \"{}\"}}\n", token(2))));
    let base_url = format!("[api]\nbase_url = \"http://{}\"\n", wechat.address());
    let accounts = [
        account("north", &appid(0), "secret_file = \"secret\""),
        account("south", &appid(1), "source = \"file\"\npath = \"token\""),
        account("west", &appid(2), "source = \"file\"\npath = \"token.json\"\njson_pointer = \"/token\""),
    ];
    write(&home, "config.toml", &marked(&(base_url + &accounts.concat())));
    let polled = home.run("poll");
    assert_eq!(polled.code, Some(0), "{polled:?}");
}

#[test]
fn scenario_may_begin_with_a_mark() {
    let home = Home::new();
    let scenario = "[[official_accounts]]\nname = \"shop\"\nappid = \"wx0123456789abcdef\"\nsecret = \"s3cret\"\n\
                    wechat_id = \"shop\"\nkf_accounts = [{ prefix = \"kf1\" }]\n";
    write(&home, "scenario.toml", &marked(scenario));
    let simulator = home.spawn("simulate --listen 127.0.0.1:0 --scenario scenario.toml");
    eventually("the printed configuration", || simulator.stdout().contains("kf1@shop").then_some(()));
    write(&home, "scenario.toml", &utf16(scenario));
    let refused = home.run("simulate --listen 127.0.0.1:0 --scenario scenario.toml");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.stderr.contains("scenario scenario.toml is UTF-16; convert it: cp scenario.toml "),
        "{refused:?}"
    );
}

#[test]
fn invisible_characters_in_secret_file_are_named() {
    let rule = "a secret has only printable ASCII characters and no spaces";
    for (after, described) in [
        ("\u{200b}", "U+200B (zero width space)"),
        ("\u{a0}", "U+00A0 (no-break space)"),
        ("\u{3000}", "U+3000 (ideographic space)"),
        ("\u{feff}", "U+FEFF (byte order mark)"),
        ("”", "U+201D (curly quotation mark)"),
        ("１", "a full-width digit"),
        (" ", "a space"),
        ("\0", "U+0000 (null character, as in UTF-16)"),
    ] {
        let checked = check_secret_file(format!("{SECRET}{after}\n").as_bytes());
        assert_refused(&checked, &format!("secret\" contains {described} at character 33; {rule}"));
    }
}

#[test]
fn secret_file_in_other_notations_is_refused() {
    let quotes = "has quotes around the secret; remove them";
    let name = "has a name and \"=\" before the secret; write the secret alone";
    for (text, message) in [
        (format!("\"{SECRET}\"\n"), quotes),
        (format!("'{SECRET}'\n"), quotes),
        (format!("“{SECRET}”\n"), quotes),
        (format!("SECRET={SECRET}\n"), name),
        (format!("export WECHAT_APPSECRET=\"{SECRET}\"\n"), name),
        (format!("secret = {SECRET}"), name),
    ] {
        assert_refused(&check_secret_file(text.as_bytes()), message);
    }
    assert_refused(&check_secret_file(&utf16(SECRET)), "secret\" is UTF-16; convert it: cp /");
    let latin1 = [SECRET.as_bytes(), b"\xa0\n"].concat();
    assert_refused(&check_secret_file(&latin1), "secret\" is not UTF-8 in line 1");
}

#[test]
fn invisible_characters_in_other_secrets_are_named() {
    let check = |keys: &str, file: &[u8], message: &str| {
        let home = Home::new();
        let sink = format!("[[sinks]]\nname = \"out\"\n{keys}\n");
        write(&home, "config.toml", config(&format!("secret = \"{SECRET}\""), &sink).as_bytes());
        write(&home, "file", file);
        assert_refused(&home.run("check"), message);
    };
    let webhook = "type = \"webhook\"\nurl = \"https://crm.example\"";
    let key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    check(
        &format!("{webhook}\nsecret_file = \"file\""),
        format!("{key}\n{key}\u{200b}\n").as_bytes(),
        "contains U+200B (zero width space) at character 39; a secret has only printable ASCII characters and no spaces \
         (line 2)",
    );
    check(
        &format!("{webhook}\nheader_files = \"file\""),
        "Authorization: Bearer s3cret\u{200b}\n".as_bytes(),
        "contains U+200B (zero width space) at character 29; it may have only printable ASCII characters",
    );
    let nats = "type = \"nats\"\nurl = \"nats://127.0.0.1\"";
    check(
        &format!("{nats}\nnkey_file = \"file\""),
        format!("\u{2060}{}\n", nkeys::KeyPair::new_user().seed().unwrap()).as_bytes(),
        "contains U+2060 (word joiner) at character 1",
    );
    check(
        &format!("{nats}\ncredentials_file = \"file\""),
        "-----BEGIN NATS USER JWT-----\na.b.c\u{a0}\n".as_bytes(),
        "contains U+00A0 (no-break space) at character 6 of line 2",
    );
    let pem = Authority::new("ours").pem();
    check(
        &format!("{webhook}\nca_file = \"file\""),
        format!("\u{200b}{pem}").as_bytes(),
        "contains no certificate; it needs at least one -----BEGIN CERTIFICATE-----; it contains U+200B (zero width space) at \
         character 1",
    );
    check(&format!("{webhook}\nca_file = \"file\""), &utf16(&pem), "is UTF-16; save it as UTF-8");
}

#[test]
fn unusable_token_files_are_reported_in_advance() {
    let home = Home::new().set("KFWATCH__WEB__LISTEN", "127.0.0.1:0");
    let rule = "a secret has only printable ASCII characters and no spaces";
    for (pointer, content, problem) in [
        (
            "",
            "88_token\u{200b}\n".as_bytes().to_vec(),
            format!("contains U+200B (zero width space) at character 9; {rule}"),
        ),
        (
            "",
            "88_token\u{a0}\n".as_bytes().to_vec(),
            format!("contains U+00A0 (no-break space) at character 9; {rule}"),
        ),
        (
            "",
            b"ACCESS_TOKEN=88_token\n".to_vec(),
            "has a name and \"=\" before the secret; write the secret alone".into(),
        ),
        (
            "json_pointer = \"/t\"\n",
            "{\"t\":\"88_token\u{feff}\"}".as_bytes().to_vec(),
            format!("contains U+FEFF (byte order mark) at character 9; {rule}"),
        ),
        ("json_pointer = \"/t\"\n", utf16("{\"t\":\"88_token\"}"), "is UTF-16; save it as UTF-8".into()),
    ] {
        let token = format!("source = \"file\"\npath = \"token\"\n{pointer}");
        write(&home, "config.toml", config(&token, "[api]\nbase_url = \"http://127.0.0.1:1\"").as_bytes());
        write(&home, "token", &content);
        let checked = home.run("check");
        let expected = format!("token: {problem}\n");
        assert!(
            checked.stderr.starts_with("warning: ") && checked.stderr.ends_with(&expected),
            "{checked:?}"
        );
        let polled = home.run("poll");
        assert!(polled.stdout.contains(&problem) && !polled.stdout.contains("88_token"), "{polled:?}");
    }
}

#[test]
fn carriage_returns_in_variables_are_refused() {
    let problem = "ends in a carriage return, because the file that sets it has CR LF line ends";
    for (variable, value, place) in [
        ("KFWATCH__STORE__PATH", "other.db\r", "KFWATCH__STORE__PATH: "),
        ("KFWATCH__API__MAX_IN_FLIGHT", "64\r", "KFWATCH__API__MAX_IN_FLIGHT: "),
        ("KFWATCH_CONFIG", "config.toml\r", "KFWATCH_CONFIG: "),
        ("SHOP_SECRET", "0123456789abcdef0123456789abcdef\r", "the value of \"SHOP_SECRET\" "),
    ] {
        let home = Home::new().set("SHOP_SECRET", SECRET).set(variable, value);
        write(&home, "config.toml", config("secret_env = \"SHOP_SECRET\"", "").as_bytes());
        assert_refused(&home.run("check"), &format!("{place}{problem}"));
    }
    let home = Home::new().set("SHOP_SECRET", &format!("\"{SECRET}\""));
    write(&home, "config.toml", config("secret_env = \"SHOP_SECRET\"", "").as_bytes());
    assert_refused(
        &home.run("check"),
        "the value of \"SHOP_SECRET\" has quotes around the secret; remove them",
    );
}

#[test]
fn invisible_characters_in_configuration_values_are_refused() {
    for (more, message) in [
        (
            "[store]\npath = \"kf\\u001b.db\"",
            "store.path: contains U+001B (escape) at character 3; remove it",
        ),
        ("[store]\npath = \"kf.db\\n\"", "store.path: has more than one line"),
        (
            "[web]\nlisten = [\"127.0.0.1:1\\t\"]",
            "web.listen: one element contains U+0009 (tab) at character 12; remove it",
        ),
        ("[api]\nbase_url = \"https://api.example\\r\"", "api.base_url: ends in a carriage return"),
        (
            "[api]\nproxy = \"http://proxy\u{200b}.example\"",
            "api.proxy: contains U+200B (zero width space) at character 13",
        ),
        (
            "[poll]\ntimezone = \"\u{202e}UTC\"",
            "poll.timezone: contains U+202E (bidirectional override) at character 1",
        ),
        ("[log]\nlevel = \"info\u{feff}\"", "log.level: contains U+FEFF (byte order mark) at character 5"),
    ] {
        let home = Home::new();
        write(&home, "config.toml", config(&format!("secret = \"{SECRET}\""), more).as_bytes());
        assert_refused(&home.run("check"), message);
    }
    let home = Home::new();
    let text = config(&format!("secret = \"{SECRET}\""), "").replace("kf1@shop", "kf1@shop\u{200b}");
    write(&home, "config.toml", text.as_bytes());
    assert_refused(
        &home.run("check"),
        "kf_accounts: one element contains U+200B (zero width space) at character 9; remove it",
    );
    write(&home, "config.toml", &utf16(&text));
    assert_refused(&home.run("check"), "config.toml: is UTF-16; convert it: cp config.toml ");
}
