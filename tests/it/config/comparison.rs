//! Configurations are equal exactly if they do the same: a reload is planned from their differences.

use super::*;

/// The content of every file that the example names, and another valid one.
fn files() -> Vec<(&'static str, [String; 2])> {
    let texts = |one: &str, other: &str| [one.to_owned(), other.to_owned()];
    let account = |name: &str| {
        OFFICIAL_ACCOUNT.replace("shop", name).replace("wx0123456789abcdef", "wx0000000000000003")
    };
    let ca = |der: &str| format!("-----BEGIN CERTIFICATE-----\n{der}=\n-----END CERTIFICATE-----\n");
    let keys = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    vec![
        ("accounts.d/third.toml", [account("third"), account("fourth")]),
        ("shop.secret", texts("0123456789abcdef0123456789abcdef", "1123456789abcdef0123456789abcdef")),
        ("ca.pem", [ca("MAA"), ca("MQA")]),
        ("tokens.header", texts("Authorization: Bearer a", "Authorization: Bearer b")),
        ("platform.secret", texts("a", "b")),
        ("merchant.refresh", texts("a", "b")),
        ("crm.keys", [keys.to_owned(), format!("{keys}\nwhsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")]),
        ("crm.header", texts("X-Api-Key: a", "X-Api-Key: b")),
        ("kf.creds", [credentials(), credentials()]),
        ("kf.nk", [(); 2].map(|()| nkeys::KeyPair::new_user().seed().unwrap())),
        ("kf.password", texts("a", "b")),
        ("robot.url", texts("https://robots.example/a", "https://robots.example/b")),
        ("robot.secret", texts("a", "b")),
    ]
}

/// The example with all its optional parts, in a directory in which it can be loaded again after changes.
struct Example {
    dir: TempDir,
    text: String,
    files: Vec<(&'static str, [String; 2])>,
}

impl Example {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let text = example_with_optional_parts(&["secret_env = ", "secret = "]);
        let example = Self { dir, text, files: files() };
        for (file, [content, other]) in &example.files {
            example.write(file, content);
            example.write(&format!("other/{file}"), other);
        }
        example
    }

    fn write(&self, file: &str, content: &str) {
        let path = self.dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn load(&self, text: &str) -> Config {
        let environment = Environment::from_iter([("A", "a"), ("B", "b")]);
        let loaded = Config::from_toml(text, self.dir.path(), &environment);
        loaded.unwrap_or_else(|mistakes| panic!("{mistakes}")).config
    }

    fn with_line(&self, n: usize, line: &str) -> String {
        let replaced = self.text.lines().enumerate().map(|(m, old)| if m == n { line } else { old });
        replaced.collect::<Vec<_>>().join("\n")
    }
}

/// Keys whose change alone does not change what kfwatch does: it only makes a plain address valid, or needs other keys.
fn has_no_effect_alone(section: &str, key: &str, value: &str) -> bool {
    match key {
        "allow_insecure" => section != "[api]",
        "type" | "backend" => true,
        "source" => value != "\"stable\"",
        _ => false,
    }
}

/// Another valid value for a key of the example.
fn another(key: &str, value: &str) -> String {
    let text = match (key, value.trim_matches('"')) {
        (_, "true") => return "false".to_owned(),
        (_, "false") => return "true".to_owned(),
        ("include", _) => "other/accounts.d/*.toml",
        ("reload_interval", _) => "30s",
        ("listen", _) => "127.0.0.1:9878",
        ("level", _) => "debug",
        ("format", _) => "json",
        ("language", _) => "zh",
        ("path" | "socket", _) => "other",
        ("base_url", _) => "https://wechat.example",
        ("http_version", _) => "2",
        ("proxy", _) => "http://other.example:3128",
        ("schedule", _) => "0 * * * * *",
        ("timezone", _) => "Asia/Tokyo",
        ("name", _) => "other",
        ("appid" | "component_appid", _) => "wx0000000000000009",
        ("kf_accounts", _) => return "[\"test9@test\", \"kf*\"]".to_owned(),
        ("exclude", _) => "kf1*",
        ("source", _) => "classic",
        ("json_pointer", _) => "/other",
        ("url", url) if url.starts_with("nats") => "nats://127.0.0.1:4223",
        ("url", _) => "https://other.example",
        ("ticket_file", _) => "/run/wechat/other",
        ("mode", _) => "0600",
        ("group", _) => "users",
        ("start", "now") => "beginning",
        ("start", _) => "now",
        ("types", _) => "state_changed",
        ("official_accounts", _) => "depot",
        ("vendor", _) => "feishu",
        ("subject_prefix", _) => "other",
        ("lang", _) => "zh",
        (_, file) if files().iter().any(|(known, _)| format!("[{known:?}]").contains(file)) => {
            return format!("\"other/{}\"", file.trim_matches(['[', ']', '"']));
        }
        // Durations and numbers.
        _ => return one_more(value),
    };
    format!("{text:?}")
}

/// The value with its first number increased.
fn one_more(value: &str) -> String {
    let start = value.find(|c: char| c.is_ascii_digit()).unwrap_or_else(|| panic!("add another {value}"));
    let digits = value[start..].find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len() - start);
    let number: u64 = value[start..start + digits].parse().unwrap();
    format!("{}{}{}", &value[..start], number + 1, &value[start + digits..])
}

#[test]
fn same_files_give_equal_configurations() {
    let example = Example::new();
    assert_eq!(example.load(&example.text), example.load(&example.text));
}

#[test]
fn change_of_any_key_is_a_difference() {
    let example = Example::new();
    let original = example.load(&example.text);
    let mut section = "";
    let mut changed = 0;
    for (n, line) in example.text.lines().enumerate() {
        if line.starts_with('[') {
            section = line;
        }
        let Some((key, value)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) else { continue };
        if has_no_effect_alone(section, key, value) {
            continue;
        }
        let mut text = example.with_line(n, &format!("{key} = {}", another(key, value)));
        if line == "name = \"shop\"" {
            text = text.replace("official_accounts = [\"shop\"]", "official_accounts = [\"other\"]");
        }
        assert_ne!(example.load(&text), original, "line {}: {line}", n + 1);
        changed += 1;
    }
    assert!(changed > 80, "only {changed} lines are keys");
}

#[test]
fn change_of_any_file_is_a_difference() {
    let example = Example::new();
    let nats = |login: &str| example.text.replace("credentials_file = \"kf.creds\"", login);
    for (file, [content, other]) in &example.files {
        let text = match *file {
            "kf.nk" => nats("nkey_file = \"kf.nk\""),
            "kf.password" => nats("user = \"kfwatch\"\nsecret_file = \"kf.password\""),
            _ => example.text.clone(),
        };
        let original = example.load(&text);
        example.write(file, other);
        assert_ne!(example.load(&text), original, "{file}");
        example.write(file, content);
        assert_eq!(example.load(&text), original, "{file}");
    }
}

#[test]
fn change_of_secret_elsewhere_is_a_difference() {
    let example = Example::new();
    for (line, secrets) in [
        ("secret_file = \"shop.secret\"", ["secret_env = \"A\"", "secret_env = \"B\"", "secret = \"c\""]),
        ("secret_file = \"platform.secret\"", ["secret_env = \"A\"", "secret = \"b\"", "secret = \"c\""]),
        (
            "refresh_token_file = \"merchant.refresh\"",
            ["refresh_token_env = \"B\"", "refresh_token = \"c\"", ""],
        ),
        ("secret_file = \"robot.secret\"", ["secret_env = \"A\"", "secret = \"b\"", ""]),
        ("credentials_file = \"kf.creds\"", ["secret = \"a\"", "user = \"u\"\nsecret = \"a\"", ""]),
        (
            "url_file = \"robot.url\"",
            [
                "url = \"https://robots.example/c\"",
                "url = \"https://robots.example/d\"",
                "url = \"https://robots.example/e\"",
            ],
        ),
    ] {
        let configs = [line].into_iter().chain(secrets).map(|other| {
            assert!(example.text.contains(line), "{line}");
            example.load(&example.text.replace(line, other))
        });
        let configs: Vec<Config> = configs.collect();
        for (n, one) in configs.iter().enumerate() {
            assert!(configs[..n].iter().all(|other| other != one), "{line}: {n}");
        }
    }
    let user = |user: &str| {
        let login = format!("user = \"{user}\"\nsecret = \"a\"");
        example.load(&example.text.replace("credentials_file = \"kf.creds\"", &login))
    };
    assert_ne!(user("a"), user("b"));
}
