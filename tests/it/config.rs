//! What a user relies on when writing a configuration: the example is correct, and every mistake is reported with its
//! location.

mod cluster;
mod comparison;

use std::fs;
use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kfwatch::config::{
    BackoffPolicy, Config, Environment, LoadedConfig, Mistakes, SinkStart, SinkTarget, TokenConfig,
    TokenSource,
};
use kfwatch::domain::{backoff::ExponentialBackoff, event::EventType};
use kfwatch::sink::nats::{Login, NatsOptions};
use secrecy::ExposeSecret;
use tempfile::TempDir;

const EXAMPLE: &str = include_str!("../../config.example.toml");

const OFFICIAL_ACCOUNT: &str = r#"
    [[official_accounts]]
    name = "shop"
    appid = "wx0123456789abcdef"
    kf_accounts = ["test1@test", "test2@test"]
    token.secret = "s3cret"
"#;

const BAD_FILES: &str = "tests/config/bad";

/// A directory with files that only their owner can read.
fn dir_with(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    dir
}

fn load_in(dir: &TempDir, variables: &[(&str, &str)]) -> Result<LoadedConfig, Mistakes> {
    Config::load(&dir.path().join("config.toml"), &variables.iter().copied().collect())
}

fn load(text: &str) -> Result<LoadedConfig, Mistakes> {
    Config::from_toml(text, Path::new("/etc/kfwatch"), &Environment::default())
}

/// The example with its optional parts, without the lines that start with one of `leave_out`.
fn example_with_optional_parts(leave_out: &[&str]) -> String {
    let optional = |line: &str| {
        let part = line.strip_prefix("# ")?;
        let key = part.split_once(" = ").map(|(key, _)| key);
        let is_key = key.is_some_and(|key| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'));
        let is_heading = part.starts_with('[') && part.ends_with(']');
        (is_heading || is_key).then(|| part.to_owned())
    };
    let lines = EXAMPLE.lines().map(|line| optional(line).unwrap_or_else(|| line.to_owned()));
    let kept = lines.filter(|line| !leave_out.iter().any(|start| line.starts_with(start)));
    kept.collect::<Vec<_>>().join("\n")
}

#[test]
fn example_sets_every_key_to_its_default() {
    let dir = dir_with(&[("config.toml", EXAMPLE), ("shop.secret", "s3cret\n")]);
    let example = load_in(&dir, &[]).unwrap();
    let empty = Config::from_toml(OFFICIAL_ACCOUNT, dir.path(), &Environment::default()).unwrap();
    assert_eq!(format!("{:#?}", example.config), format!("{:#?}", empty.config));
    assert_eq!(example.warnings, Vec::<String>::new());
}

#[test]
fn optional_parts_of_example_are_valid() {
    for (kept, left_out) in [
        ("secret_file = \"shop", ["secret_env = ", "secret = "]),
        ("secret_env = ", ["secret_file = \"shop", "secret = "]),
        ("secret = ", ["secret_file = \"shop", "secret_env = "]),
    ] {
        let text = example_with_optional_parts(&left_out);
        assert!(text.lines().any(|line| line.starts_with(kept)));
        let third =
            OFFICIAL_ACCOUNT.replace("shop", "third").replace("wx0123456789abcdef", "wx0000000000000003");
        let dir = dir_with(&[
            ("config.toml", &text),
            ("shop.secret", "0123456789abcdef0123456789abcdef\n"),
            ("ca.pem", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"),
            ("accounts.d/third.toml", &third),
            ("tokens.header", "Authorization: Bearer s3cret\n"),
            ("platform.secret", "s3cret"),
            ("merchant.refresh", "refreshtoken@@@s3cret"),
            ("crm.keys", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\nwhsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD\n"),
            ("crm.header", "X-Api-Key: s3cret\n"),
            ("kf.creds", &credentials()),
            ("robot.url", "https://oapi.dingtalk.com/robot/send?access_token=s3cret\n"),
            ("robot.secret", "SECs3cret\n"),
        ]);
        let secret = "0123456789abcdef0123456789abcdef";
        let config = load_in(&dir, &[("SHOP_SECRET", secret)]).unwrap().config;
        let sources = config.official_accounts.iter().map(|account| account.token.source());
        assert!(sources.eq(["stable", "file", "server", "component", "stable"]));
        let TokenConfig::Own(TokenSource::Stable { secret: read }) = &config.official_accounts[0].token
        else {
            panic!("not stable")
        };
        assert_eq!(read.value().expose_secret(), secret);
        assert_eq!(config.sinks.len(), 5);
        assert_eq!(config.sinks[1].types, [EventType::SessionStarted, EventType::SessionEnded]);
        assert_eq!(config.sinks[1].official_accounts, ["shop"]);
        let SinkTarget::Webhook(options) = &config.sinks[2].target else { panic!("no webhook") };
        assert_eq!((options.keys.value().len(), options.headers.len(), options.max_in_flight), (2, 1, 8));
        let ca_file = dir.path().join("ca.pem");
        assert_eq!((options.ca_file.as_deref(), options.timeout), (Some(&*ca_file), Duration::from_secs(15)));
        assert_eq!(config.api.ca_file.as_deref(), Some(&*ca_file));
        // The example shows the defaults, except for these two.
        let SinkTarget::Nats(options) = &config.sinks[3].target else { panic!("not NATS") };
        assert!(matches!(*options.login.value(), Login::Credentials(_)));
        let shown = NatsOptions { login: Login::None.into(), ca_file: None, ..(**options).clone() };
        assert_eq!(format!("{shown:?}"), format!("{:?}", nats("")));
    }
}

/// A file as nsc writes it. The JWT is not valid, but only a server checks it.
fn credentials() -> String {
    let seed = nkeys::KeyPair::new_user().seed().unwrap();
    format!(
        "-----BEGIN NATS USER JWT-----\ns3cret-1.s3cret-1.s3cret-1\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
}

fn nats(keys: &str) -> NatsOptions {
    let url = if keys.contains("url = ") { "" } else { "url = \"nats://127.0.0.1:4222\"" };
    let text = format!("[[sinks]]\nname = \"bus\"\ntype = \"nats\"\n{url}\n{keys}\n{OFFICIAL_ACCOUNT}");
    let sink = load(&text).unwrap().config.sinks.remove(0);
    let SinkTarget::Nats(options) = sink.target else { unreachable!("it is of type nats") };
    *options
}

#[test]
fn nats_servers_are_encrypted_unless_local_or_allowed() {
    let servers = |keys: &str| nats(keys).servers();
    assert_eq!(
        servers("url = \"tls://a.example, tls://b.example:4223\""),
        "tls://a.example, tls://b.example:4223"
    );
    assert_eq!(
        servers("url = \"nats://[::1]:4222,nats://localhost\""),
        "nats://[::1]:4222, nats://localhost"
    );
    assert_eq!(servers("url = \"nats://a.example\"\nallow_insecure = true"), "nats://a.example");
}

#[test]
fn four_nats_logins_are_accepted() {
    let login = |keys: &str| format!("{:?}", nats(keys).login);
    assert_eq!(login(""), "None");
    let dir = dir_with(&[
        ("kf.creds", &credentials()),
        ("kf.nk", &(nkeys::KeyPair::new_user().seed().unwrap() + "\n")),
    ]);
    for (key, file, expected) in
        [("credentials_file", "kf.creds", "Credentials("), ("nkey_file", "kf.nk", "Nkey(")]
    {
        assert!(login(&format!("{key} = {:?}", dir.path().join(file))).starts_with(expected));
    }
    let password = login("user = \"kfwatch\"\nsecret = \"s3cret-1\"");
    assert!(password.starts_with("Password { user: \"kfwatch\""), "{password}");
    let token = login("secret = \"s3cret-1\"");
    assert!(token.starts_with("Token("), "{token}");
    assert!(!password.contains("s3cret-1") && !token.contains("s3cret-1"));
}

#[test]
fn nats_secrets_are_in_no_message_or_debug_output() {
    let seed = nkeys::KeyPair::new_user().seed().unwrap();
    let nats = |keys: &str| format!("[[sinks]]\nname = \"bus\"\ntype = \"nats\"\n{keys}\n{OFFICIAL_ACCOUNT}");
    let url = "url = \"tls://nats.example\"";
    for keys in [
        "url = \"nats://me:s3cret-1@127.0.0.1\"".to_owned(),
        "url = \"tls://s3cret-1@nats.example\"".to_owned(),
        "url = \"s3cret-1\"".to_owned(),
        "url = \"tls://nats.example?s3cret-1\"".to_owned(),
        format!("{url}\nnkey_file = \"{seed}\""),
        format!("{url}\ncredentials_file = \"\"\"{}\"\"\"", credentials()),
        format!("{url}\nuser = \"s3cret-1\"\nnkey_file = \"kf.nk\"\nsecret = \"s3cret-1\""),
        format!("{url}\nsecret = \"s3cret-1 \""),
    ] {
        let mistakes = load(&nats(&keys)).unwrap_err();
        let shown = format!("{mistakes} {mistakes:?}");
        assert!(!shown.contains("s3cret-1") && !shown.contains(&seed), "{shown}");
    }
    let cut = credentials().replace("SEED------", "");
    let dir = dir_with(&[
        ("cut.creds", &cut),
        ("config.toml", &nats(&format!("{url}\ncredentials_file = \"cut.creds\""))),
    ]);
    let shown = load_in(&dir, &[]).unwrap_err().to_string();
    assert!(shown.contains("cut.creds") && !shown.contains("s3cret-1"), "{shown}");
    let dir = dir_with(&[
        ("kf.creds", &credentials()),
        ("config.toml", &nats(&format!("{url}\ncredentials_file = \"kf.creds\""))),
    ]);
    let shown = format!("{:?}", load_in(&dir, &[]).unwrap());
    assert!(shown.contains("nats.example") && !shown.contains("s3cret-1"), "{shown}");
}

#[test]
fn collector_can_be_disabled() {
    let text = format!("[collectors]\nkf_list = \"off\"\nquota = \"2h\"\n{OFFICIAL_ACCOUNT}");
    let collectors = load(&text).unwrap().config.collectors;
    assert_eq!(collectors.kf_list, None);
    assert_eq!(collectors.quota, Some(Duration::from_secs(7200)));
    assert_eq!(collectors.online, Some(Duration::from_secs(60)), "the others keep their default");
}

#[test]
fn example_shows_the_default_sink() {
    let text = example_with_optional_parts(&["secret_env = ", "secret = ", "include = ", "ca_file = "]);
    let branch = text.find("# An official account of which").unwrap();
    let sinks = text.find("# Where events go.").unwrap();
    let archive = text.find("# Events as lines of JSON in a file.").unwrap();
    let text = text[..branch].to_owned() + &text[sinks..archive];
    let dir = dir_with(&[("config.toml", &text), ("shop.secret", "s3cret")]);
    let default = load(OFFICIAL_ACCOUNT).unwrap().config.sinks;
    assert_eq!(format!("{:?}", load_in(&dir, &[]).unwrap().config.sinks), format!("{default:?}"));
}

/// Returns the annotations of a bad file: `# env: NAME=VALUE` lines, and the expected message in `# expect: …` lines.
fn comments(text: &str, kind: &str) -> Vec<String> {
    let prefix = format!("# {kind}: ");
    text.lines().filter_map(|line| line.strip_prefix(&prefix)).map(str::to_owned).collect()
}

#[test]
fn each_bad_file_gets_its_expected_message() {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(BAD_FILES).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    assert!(!paths.is_empty(), "no bad files in {BAD_FILES}");
    let directory = format!("{}/{BAD_FILES}", env!("CARGO_MANIFEST_DIR"));
    let mut differences = String::new();
    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        let variables = comments(&text, "env");
        let environment = variables.iter().map(|v| v.split_once('=').unwrap()).collect();
        let found = Config::load(&path, &environment)
            .map_or_else(|mistakes| mistakes.to_string(), |_| "no mistake".into());
        let found = found.replace(&directory, "DIR").replace(&format!("{BAD_FILES}/"), "");
        let expected = comments(&text, "expect").join("\n");
        if expected.is_empty() || found != expected {
            differences += &format!("=== {}\n{found}\n", path.file_stem().unwrap().display());
        }
    }
    assert!(differences.is_empty(), "these files expect other messages; the actual ones are\n{differences}");
}

#[test]
fn secrets_are_in_no_message_or_debug_output() {
    let secret = "s3cret-that-must-not-show";
    for token in [
        format!("secret = \"{secret}"),
        format!("secret = \"{secret}\"x"),
        format!("secret = {secret}"),
        format!("secret = [\"{secret}\"]"),
        format!("secret = \"{secret}\\n{secret}\""),
        format!("secret = \"{secret}\"\nsecret_env = \"X\""),
        format!("sceret = \"{secret}\""),
        format!("source = \"file\"\npath = \"token\"\nsecret = \"{secret}\""),
        format!("source = \"server\"\nurl = \"ftp://me:{secret}@tokens.example/?key={secret}\""),
        format!("source = \"server\"\nurl = \"http://me:{secret}@tokens.example/?key={secret}\""),
        format!("source = \"component\"\nrefresh_token = \"{secret}\"\nticket_url = \"{secret}\""),
    ] {
        let text = OFFICIAL_ACCOUNT
            .replace("token.secret = \"s3cret\"", &format!("[official_accounts.token]\n{token}\n"));
        let mistakes = load(&text).unwrap_err();
        assert!(!format!("{mistakes} {mistakes:?}").contains(secret), "{mistakes}");
    }
    let component =
        "component_appid = \"wxaaaaaaaaaaaaaaaa\"\nticket_url = \"https://t.example\"\nheader_file = \"h\"";
    for token in [
        format!("secret = \"{secret}\""),
        format!(
            "source = \"server\"\nurl = \"https://{secret}:{secret}@t.example/{secret}\"\nheader_file = \"h\""
        ),
        format!("source = \"component\"\nsecret = \"{secret}\"\nrefresh_token = \"{secret}\"\n{component}"),
    ] {
        let token = format!("[official_accounts.token]\n{token}\n");
        let text = OFFICIAL_ACCOUNT.replace("token.secret = \"s3cret\"", &token);
        let header = format!("Authorization: Bearer {secret}\n");
        let loaded = load_in(&dir_with(&[("config.toml", &text), ("h", &header)]), &[]).unwrap();
        assert!(!format!("{loaded:?}").contains(secret), "{loaded:?}");
    }
}

#[test]
fn webhook_secrets_are_in_no_message_or_debug_output() {
    let key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let webhook =
        |keys: &str| format!("[[sinks]]\nname = \"crm\"\ntype = \"webhook\"\n{keys}\n{OFFICIAL_ACCOUNT}");
    let url = "url = \"https://me:s3cret-1@crm.example/s3cret-1?key=s3cret-1\"";
    for keys in [
        "url = \"http://me:s3cret-1@crm.example/s3cret-1\"".to_owned(),
        "url = \"s3cret-1\"".to_owned(),
        "url = [\"s3cret-1\"]".to_owned(),
        format!("{url}\nsecret_file = \"{key}\""),
        format!("{url}\nsecret_env = \"{key}\""),
        format!("{url}\nsecret = \"{key}{key}\""),
        format!("{url}\nsecret = \"{}\"", key.trim_start_matches("whsec_")),
        format!("{url}\nheader_files = [\"{key}\"]"),
    ] {
        let mistakes = load(&webhook(&keys)).unwrap_err();
        let shown = format!("{mistakes} {mistakes:?}");
        assert!(!shown.contains("s3cret-1") && !shown.contains("MfKQ"), "{shown}");
    }
    let text = webhook(&format!("{url}\nsecret = \"{key}\"\nheader_files = \"h\""));
    let loaded = load_in(&dir_with(&[("config.toml", &text), ("h", "X-Api-Key: s3cret-1")]), &[]).unwrap();
    let shown = format!("{loaded:?}");
    assert!(!shown.contains("s3cret-1") && !shown.contains("MfKQ"), "{shown}");
    assert!(shown.contains("https://crm.example") && shown.contains("x-api-key"), "{shown}");
}

#[test]
fn robot_secrets_are_in_no_message_or_debug_output() {
    let robot = |keys: &str| {
        format!(
            "[[sinks]]\nname = \"robot\"\ntype = \"chat\"\nvendor = \"feishu\"\n{keys}\n{OFFICIAL_ACCOUNT}"
        )
    };
    let url = "url = \"https://open.feishu.cn/open-apis/bot/v2/hook/s3cret-1\"";
    for keys in [
        "url = \"http://open.feishu.cn/open-apis/bot/v2/hook/s3cret-1\"".to_owned(),
        "url = \"s3cret-1\"".to_owned(),
        "url_file = \"https://open.feishu.cn/open-apis/bot/v2/hook/s3cret-1\"".to_owned(),
        "url_env = \"https://open.feishu.cn/open-apis/bot/v2/hook/s3cret-1\"".to_owned(),
        format!("{url}\nsecret = \"s3cret-1 s3cret-1\""),
    ] {
        let mistakes = load(&robot(&keys)).unwrap_err().to_string();
        assert!(!mistakes.contains("s3cret-1"), "{keys}: {mistakes}");
    }
    let dir = dir_with(&[("config.toml", &robot(&format!("{url}\nsecret = \"s3cret-1\"")))]);
    let loaded = load_in(&dir, &[]).unwrap();
    let shown = format!("{loaded:?}");
    assert!(!shown.contains("s3cret-1") && shown.contains("https://open.feishu.cn"), "{shown}");
    assert_eq!(loaded.config.sinks[0].types, [EventType::StateChanged]);
}

#[test]
fn webhook_without_secret_causes_warning() {
    let webhook = "[[sinks]]\nname = \"crm\"\ntype = \"webhook\"\nurl = \"https://crm.example/kf\"\n";
    let warnings = load(&format!("{webhook}{OFFICIAL_ACCOUNT}")).unwrap().warnings;
    let expected = "sink \"crm\" does not sign its requests, so its receiver cannot detect forged events; set secret_file";
    assert_eq!(warnings, [expected]);
    let key = "secret = \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"\n";
    let dir = dir_with(&[("config.toml", &format!("{webhook}{key}{OFFICIAL_ACCOUNT}"))]);
    assert_eq!(load_in(&dir, &[]).unwrap().warnings, Vec::<String>::new());
}

#[test]
fn spaces_in_log_filter_have_no_effect() {
    let level = |filter: &str| {
        load(&format!("{OFFICIAL_ACCOUNT}[log]\nlevel = \"{filter}\"")).map(|loaded| loaded.config.log.level)
    };
    assert_eq!(level(" info , kfwatch::wechat=debug\u{2008}").unwrap(), "info,kfwatch::wechat=debug");
    let mistakes = level("info,\u{2008}kfwatch=loud").unwrap_err().to_string();
    assert!(mistakes.contains("log.level: \"info,kfwatch=loud\" is not a log filter"), "{mistakes}");
}

#[test]
fn variables_override_the_file() {
    let text = format!("shutdown_timeout = \"5s\"\n[poll]\nspread = \"1s\"\n{OFFICIAL_ACCOUNT}");
    let dir = dir_with(&[("config.toml", &text)]);
    let variables = [
        ("KFWATCH__SHUTDOWN_TIMEOUT", "7s"),
        ("KFWATCH__POLL__SPREAD", "2s"),
        ("KFWATCH__POLL__SCHEDULE", "0 * * * * *"),
        ("KFWATCH__API__MAX_IN_FLIGHT", "64"),
        ("KFWATCH__METRICS__PER_ACCOUNT", "false"),
        ("KFWATCH__LOG__LEVEL", ""),
        ("KFWATCH_CONFIG", "other.toml"),
        ("KFWATCH_PORT", "tcp://10.0.0.1:9877"),
    ];
    let config = load_in(&dir, &variables).unwrap().config;
    assert_eq!(config.shutdown_timeout, Duration::from_secs(7));
    assert_eq!(config.poll.spread, Duration::from_secs(2));
    assert!(config.official_accounts[0].schedule.expressions().eq(["0 * * * * *"]));
    assert_eq!(config.api.max_in_flight, 64);
    assert!(!config.metrics.per_account);
    assert_eq!(config.log.level, "info");
}

#[test]
fn included_official_accounts_are_ordered_by_file_name() {
    let account = |name: &str, n: u8| {
        OFFICIAL_ACCOUNT
            .replace("shop", name)
            .replace("wx0123456789abcdef", &format!("wx00000000000000{n:02}"))
    };
    let main = format!("include = [\"z/*.toml\", \"a/*.toml\", \"a/b*.toml\"]\n{}", account("main", 0));
    let dir = dir_with(&[
        ("config.toml", &main),
        ("a/b.toml", &account("a-b", 1)),
        ("a/c.toml", &(account("a-c-1", 2) + &account("a-c-2", 3))),
        ("a/.hidden.toml", "not TOML"),
        ("z/1.toml", &account("z-1", 4)),
    ]);
    let config = load_in(&dir, &[]).unwrap().config;
    let names: Vec<&str> = config.official_accounts.iter().map(|account| account.name.as_str()).collect();
    assert_eq!(names, ["main", "a-b", "a-c-1", "a-c-2", "z-1"]);
}

#[test]
fn mistakes_are_reported_in_order_of_files_and_lines() {
    let dir = dir_with(&[
        (
            "config.toml",
            &format!(
                "include = \"a/*.toml\"\n[poll]\nspread = 1\n[log]\nformat = \"xml\"\n{OFFICIAL_ACCOUNT}"
            ),
        ),
        ("a/1.toml", OFFICIAL_ACCOUNT),
        ("a/2.toml", "[[official_accounts]\n"),
    ]);
    let mistakes = load_in(&dir, &[("KFWATCH__API__TIMEOUT", "soon")]).unwrap_err();
    let mistakes = mistakes.to_string();
    let places: Vec<&str> = mistakes.lines().filter_map(|line| line.split(": ").next()).collect();
    let expected = ["config.toml:3", "config.toml:5", "a/1.toml:3", "a/1.toml:4", "a/2.toml:1:21"];
    let expected = expected.map(|place| dir.path().join(place).display().to_string());
    assert_eq!(places, [&expected[..], &["KFWATCH__API__TIMEOUT".to_owned()]].concat());
}

#[test]
fn ten_thousand_official_accounts_can_be_included() {
    let accounts: String = (0..1_000)
        .map(|n| {
            OFFICIAL_ACCOUNT
                .replace("shop", &format!("shop-FILE-{n}"))
                .replace("wx0123456789", &format!("wxFILE{n:05}"))
        })
        .collect();
    let files: Vec<(String, String)> = (0..10)
        .map(|file| (format!("a/{file}.toml"), accounts.replace("FILE", &format!("{file:05}"))))
        .collect();
    let mut files: Vec<(&str, &str)> =
        files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    files.push(("config.toml", "include = \"a/*.toml\""));
    let config = load_in(&dir_with(&files), &[]).unwrap().config;
    assert_eq!(config.official_accounts.len(), 10_000);
}

#[test]
fn official_account_inherits_schedule_of_poll() {
    let own = OFFICIAL_ACCOUNT
        .replace("shop", "own")
        .replace("wx0", "wx1")
        .replace("token", "timezone = \"UTC\"\ntoken");
    let text = format!("[poll]\nschedule = [\"0 * * * *\", \"@daily\"]\n{OFFICIAL_ACCOUNT}{own}");
    let accounts = load(&text).unwrap().config.official_accounts;
    let shown: Vec<String> = accounts.iter().map(|account| format!("{:?}", account.schedule)).collect();
    let expressions = "[\"0 0 * * * *\", \"0 0 0 * * *\"]";
    assert_eq!(shown, [format!("{expressions} in Asia/Shanghai"), format!("{expressions} in UTC")]);
}

#[test]
fn single_backoff_duration_sets_both_bounds() {
    let text = format!("[backoff]\nbusy = \"30s\"\nunbound = [\"10s\", \"24h\"]\n{OFFICIAL_ACCOUNT}");
    let policy = load(&text).unwrap().config.backoff_policy;
    let wait = |first, longest| {
        ExponentialBackoff::try_new(Duration::from_secs(first), Duration::from_secs(longest)).unwrap()
    };
    assert_eq!(
        policy,
        BackoffPolicy { busy: wait(30, 30), unbound: wait(10, 86_400), ..BackoffPolicy::default() }
    );
}

#[test]
fn paths_are_relative_to_the_main_file() {
    let text = format!(
        "[store]\npath = \"data/kf.db\"\n[[sinks]]\nname = \"log\"\ntype = \"jsonl\"\npath = \"/var/log/kf.jsonl\"\n\
         mode = \"0640\"\ngroup = \"adm\"\nstart = \"beginning\"\n{OFFICIAL_ACCOUNT}"
    );
    let config = load(&text).unwrap().config;
    assert_eq!(config.store.location.file(), Some(Path::new("/etc/kfwatch/data/kf.db")));
    let file =
        SinkTarget::File { path: "/var/log/kf.jsonl".into(), mode: 0o640, group: Some("adm".to_owned()) };
    assert_eq!(format!("{:?}", config.sinks[0].target), format!("{file:?}"));
    assert_eq!(config.sinks[0].start, SinkStart::Beginning);
}

#[test]
fn plain_http_is_local_unless_allowed() {
    for (url, allow_insecure) in [
        ("http://127.0.0.1:8080", false),
        ("http://[::1]:8080/wechat", false),
        ("http://localhost", false),
        ("http://wechat.internal", true),
    ] {
        let api = format!("[api]\nbase_url = \"{url}\"\nallow_insecure = {allow_insecure}\n");
        assert!(load(&(api + OFFICIAL_ACCOUNT)).is_ok(), "{url}");
    }
}

#[test]
fn readable_secret_files_cause_one_warning() {
    let second = OFFICIAL_ACCOUNT.replace("shop", "second").replace("wx0", "wx1");
    let text = (OFFICIAL_ACCOUNT.to_owned() + &second)
        .replace("secret = \"s3cret\"", "secret_file = \"shop.secret\"");
    let dir = dir_with(&[("config.toml", &text), ("shop.secret", "s3cret")]);
    let secret = dir.path().join("shop.secret");
    assert_eq!(load_in(&dir, &[]).unwrap().warnings, Vec::<String>::new());
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    let warning = format!(
        "secrets can be read by others than the owner of the file: {}; chmod 600 them",
        secret.display()
    );
    assert_eq!(load_in(&dir, &[]).unwrap().warnings, [warning]);
}

#[test]
fn non_loopback_listen_address_causes_warning() {
    let text = format!("[web]\nlisten = [\"127.0.0.1:9877\", \"0.0.0.0:9878\"]\n{OFFICIAL_ACCOUNT}");
    let warning = "web.listen: 0.0.0.0:9878 is reachable from other machines, without authentication";
    assert_eq!(load(&text).unwrap().warnings, [warning]);
}

#[test]
fn official_account_inherits_rate_limit_of_poll() {
    let own = OFFICIAL_ACCOUNT
        .replace("shop", "own")
        .replace("wx0", "wx1")
        .replace("token", "max_requests_per_minute = 600000\ntoken");
    let limits = |text: &str| {
        let accounts = load(text).unwrap().config.official_accounts;
        accounts
            .iter()
            .map(|account| account.max_requests_per_minute.map(NonZeroU32::get))
            .collect::<Vec<_>>()
    };
    let both = OFFICIAL_ACCOUNT.to_owned() + &own;
    assert_eq!(limits(&both), [None, Some(600_000)]);
    assert_eq!(limits(&format!("[poll]\nmax_requests_per_minute = 30\n{both}")), [Some(30), Some(600_000)]);
}

#[test]
fn schedule_beyond_rate_limit_causes_warning() {
    let warnings = |schedule: &str, limit: u32, accounts: &str| {
        let poll =
            format!("[poll]\nschedule = \"{schedule}\"\nmax_requests_per_minute = {limit}\n{accounts}");
        load(&poll).unwrap().warnings
    };
    assert_eq!(
        warnings("*/15 * * * * *", 2, OFFICIAL_ACCOUNT),
        [
            "official account \"shop\": the schedule needs 8 calls a minute, but max_requests_per_minute is 2: each kf \
             account is polled only about every 1m, and the ticks in between are overruns; poll less often, or raise the \
             limit"
        ]
    );
    assert_eq!(warnings("*/15 * * * * *", 8, OFFICIAL_ACCOUNT), Vec::<String>::new());
    // The two calls of a tick have five minutes.
    assert_eq!(warnings("0 */5 * * * *", 1, OFFICIAL_ACCOUNT), Vec::<String>::new());
    let five: String = (0..5)
        .map(|n| OFFICIAL_ACCOUNT.replace("shop", &format!("shop-{n}")).replace("wx0", &format!("wx{n}")))
        .collect();
    let warnings = warnings("* * * * * *", 60, &five);
    assert_eq!(warnings.len(), 4);
    assert_eq!(
        warnings[3],
        "the schedules of 2 more official accounts need more calls than max_requests_per_minute allows"
    );
}

#[test]
fn missing_or_binary_file_is_reported() {
    let dir = dir_with(&[]);
    let path = dir.path().join("config.toml");
    let message = || load_in(&dir, &[]).unwrap_err().to_string();
    assert_eq!(message(), format!("{}: there is no such file", path.display()));
    fs::write(&path, b"a = 1\nb = \"\xff\"\n").unwrap();
    assert_eq!(message(), format!("{}: is not UTF-8 in line 2", path.display()));
}

#[test]
fn values_beyond_limits_are_refused() {
    let numbered = |count: usize, text: &str| {
        (0..count).map(|n| text.replace("{n}", &n.to_string())).collect::<String>()
    };
    let sinks = numbered(33, "[[sinks]]\nname = \"{n}\"\ntype = \"jsonl\"\npath = \"{n}.jsonl\"\n");
    let kf_accounts = numbered(1_001, "\"test{n}@test\", ");
    let listen = numbered(17, "\"127.0.0.1:200{n}\", ");
    let schedules: String = (100..201)
        .map(|n| {
            let account =
                OFFICIAL_ACCOUNT.replace("shop", &n.to_string()).replace("abcdef", &format!("abc{n}"));
            account.replace("token", &format!("schedule = \"{} {} * * * *\"\ntoken", n % 60, n / 60))
        })
        .collect();
    for (text, message) in [
        (sinks + OFFICIAL_ACCOUNT, "sinks: has 33 sinks, but at most 32 are allowed"),
        (
            OFFICIAL_ACCOUNT.replace("\"test1@test\", \"test2@test\"", &kf_accounts),
            "official_accounts.kf_accounts: has 1001 elements, but at most 1000 are allowed",
        ),
        (
            format!("[web]\nlisten = [{listen}]\n{OFFICIAL_ACCOUNT}"),
            "web.listen: has 17 elements, but at most 16 are allowed",
        ),
        (schedules, "official_accounts: there are 101 different schedules, but at most 100 are allowed"),
    ] {
        let mistakes = load(&text).unwrap_err().to_string();
        assert!(mistakes.ends_with(message), "{mistakes}");
    }
}

#[test]
fn official_accounts_of_one_component_share_it() {
    let account = |n: usize| {
        let token = format!(
            "[official_accounts.token]\nsource = \"component\"\ncomponent_appid = \"wxaaaaaaaaaaaaaaaa\"\n\
             secret = \"s3cret\"\nticket_file = \"ticket\"\nrefresh_token = \"r{n}\""
        );
        let text = OFFICIAL_ACCOUNT.replace("shop", &format!("shop{n}")).replace("wx0", &format!("wx{n}"));
        text.replace("token.secret = \"s3cret\"", &token)
    };
    let accounts = load(&(account(1) + &account(2))).unwrap().config.official_accounts;
    let component = |n: usize| match &accounts[n].token {
        TokenConfig::Component { credentials, refresh_token } => {
            (Arc::clone(credentials), refresh_token.as_ref().unwrap().expose_secret())
        }
        TokenConfig::Own(source) => panic!("{source:?}"),
    };
    let ((first, first_token), (second, second_token)) = (component(0), component(1));
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!((first_token, second_token), ("r1", "r2"));
}

#[test]
fn control_socket_is_found_whatever_mistakes_the_file_has() {
    let found = |text: &str| {
        let dir = dir_with(&[("config.toml", text)]);
        let control = Config::load_control(&dir.path().join("config.toml"), &Environment::default()).unwrap();
        let path = control.socket_path();
        path.strip_prefix(dir.path()).unwrap_or(&path).to_owned()
    };
    for (text, path) in [
        ("", "kfwatch.db-control"),
        ("[store]\npath = \"a.db\"\nunknown = 1\n[poll]\nspread = 1", "a.db-control"),
        ("[store]\npath = \"a.db\"\n[poll\nspread = \"1s\"", "a.db-control"),
        ("shutdown_timeout = \n[store]\npath = 'a\"b.db'", "a\"b.db-control"),
        ("store = [\npath = \"a.db\"", "kfwatch.db-control"),
        ("control.socket = \"c.sock\"\n[poll", "c.sock"),
        ("store.backend = \"postgresql\"\ncluster.name = \"one\"\n[poll", "/run/kfwatch/one.sock"),
        (
            "store.backend = \"postgresql\"\nstore.url_file = \"none\"\n[cluster]\nname = \"two\"",
            "/run/kfwatch/two.sock",
        ),
    ] {
        assert_eq!(found(text), Path::new(path), "{text}");
    }
}
