//! A store in PostgreSQL, and the control socket.

use kfwatch::config::StoreLocation;

use super::*;

const URL: &str = "postgres://kfwatch:hunter2@one.example:5433,two.example/kf";

fn postgres(more: &str) -> String {
    format!("{more}\n{OFFICIAL_ACCOUNT}")
}

fn refusal(text: &str) -> String {
    load(&postgres(text)).unwrap_err().to_string()
}

#[test]
fn database_and_replica_are_read() {
    let text = format!(
        "[store]\nbackend = \"postgresql\"\nurl = \"{URL}\"\nschema = \"kf_2\"\n[cluster]\nname = \"one\"\nadvertise = \"https://one.example/\""
    );
    let config = load(&postgres(&text)).unwrap().config;
    assert!(!format!("{config:?}").contains("hunter2"));
    let StoreLocation::Postgres(cluster) = &config.store.location else { panic!("{:?}", config.store) };
    assert_eq!(cluster.database.to_string(), "one.example,two.example/kf (schema kf_2)");
    assert_eq!(cluster.database.server.get_ports(), [5433, 5432]);
    assert_eq!(
        (&*cluster.name, cluster.advertise.as_ref().unwrap().as_str()),
        ("one", "https://one.example/")
    );
    assert_eq!(config.control.socket_path(), Path::new("/run/kfwatch/one.sock"));
}

#[test]
fn url_of_the_database_is_a_secret() {
    let dir = dir_with(&[
        ("config.toml", &postgres("[store]\nbackend = \"postgresql\"\nurl_file = \"url\"")),
        ("url", &format!("{URL}\n")),
    ]);
    let config = load_in(&dir, &[("RUNTIME_DIRECTORY", "/run/a:/run/b")]).unwrap().config;
    assert_eq!(config.control.socket_path(), Path::new("/run/a/control.sock"));
    for url in ["hunter2", "postgres://:hunter2", "mysql://kfwatch:hunter2@db/kf"] {
        let refused = refusal(&format!("[store]\nbackend = \"postgresql\"\nurl = \"{url}\""));
        assert!(refused.contains("store.url: is not a URL of a PostgreSQL database"), "{refused}");
        assert!(!refused.contains("ter2"), "{refused}");
    }
}

#[test]
fn keys_of_another_backend_are_refused() {
    for (text, expected) in [
        ("[store]\nbackend = \"postgresql\"", "has no url; set one of url_file, url_env or url"),
        ("[store]\nbackend = \"mysql\"", "\"mysql\" is not one of \"sqlite\", \"postgresql\""),
        (
            "[store]\nbackend = \"postgresql\"\nurl = \"postgres://a@b/c\"\npath = \"kf.db\"",
            "store.path: applies to backend = \"sqlite\", not to \"postgresql\"; remove it",
        ),
        (
            "[store]\nschema = \"kf\"",
            "store.schema: applies to backend = \"postgresql\", not to \"sqlite\"; remove it",
        ),
        (
            "[cluster]\nname = \"a\"",
            "cluster.name: applies to store.backend = \"postgresql\", not to \"sqlite\"",
        ),
        (
            "[store]\nbackend = \"postgresql\"\nurl = \"postgres://a@b/c\"\nschema = \"KF\"",
            "store.schema: \"KF\" is not the name of a schema",
        ),
        (
            "[store]\nbackend = \"postgresql\"\nurl = \"postgres://a@b/c\"\n[cluster]\nname = \"a/b\"",
            "cluster.name: \"a/b\" is not a name for a replica",
        ),
    ] {
        let refused = refusal(text);
        assert!(refused.contains(expected), "{text}: {refused}");
    }
}

#[test]
fn control_socket_may_be_anywhere() {
    let config = load(&postgres("[control]\nsocket = \"run/kf.sock\"")).unwrap().config;
    assert_eq!(config.control.socket_path(), Path::new("/etc/kfwatch/run/kf.sock"));
}
