//! What a person reads who types a command line as other programs take it.

use std::fs;

use crate::support::{process::Home, wait::eventually};

/// Asserts that a command line is refused with exactly this message before the usage.
#[track_caller]
fn assert_refused(home: &Home, arguments: &str, message: &str) {
    let ended = home.run(arguments);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{ended:?}");
    let before_usage = ended.stderr.split("\nUsage: ").next().unwrap();
    let text = before_usage.split("\nFor more information").next().unwrap();
    assert_eq!(text.trim_end(), message, "{ended:?}");
}

#[test]
fn configuration_without_its_option_is_answered_with_the_command() {
    let home = Home::new().set("LANG", "zh_CN.UTF-8");
    home.write("my config", "");
    assert_refused(
        &home,
        "run config.toml",
        "error: unexpected argument 'config.toml' found\n\n  tip: did you mean `kfwatch run -c config.toml`?",
    );
    assert_refused(
        &home,
        "events --format json /etc/kfwatch/shop.toml",
        "error: the subcommand '/etc/kfwatch/shop.toml' cannot be used with '--format <FORMAT>'\n\n  tip: did you mean `kfwatch \
         events --format json -c /etc/kfwatch/shop.toml`?",
    );
    assert_refused(
        &home,
        "config.toml",
        "error: unrecognized subcommand 'config.toml'\n\n  tip: did you mean `kfwatch run -c config.toml`?",
    );
    assert_refused(
        &home,
        "sinks config.toml",
        "error: unrecognized subcommand 'config.toml'\n\n  tip: did you mean `kfwatch sinks -c config.toml`?",
    );
    assert_refused(&home, "run now", "error: unexpected argument 'now' found");
}

#[test]
fn listen_takes_a_port_alone() {
    let home = Home::new();
    let simulator = home.spawn("simulate --listen 0");
    eventually("the address", || simulator.stdout().contains("base_url = \"http://127.0.0.1:").then_some(()));
    for wrong in [":9877", "localhost:9877", "70000"] {
        assert_refused(
            &home,
            &format!("demo --listen {wrong}"),
            &format!(
                "error: invalid value '{wrong}' for '--listen <ADDRESS>': write a port, or an IP address and a port, like \
                 127.0.0.1:9877"
            ),
        );
    }
}

#[test]
fn example_can_be_written_into_an_empty_directory() {
    let home = Home::new();
    let printed = home.run("config example");
    let example = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config.example.toml")).unwrap();
    assert_eq!((printed.code, printed.stderr.as_str()), (Some(0), ""), "{printed:?}");
    assert_eq!(printed.stdout, example);
    home.write("config.toml", &printed.stdout);
    let checked = home.run("check");
    let missing = format!(
        "kfwatch: config.toml:{}: official_accounts.token.secret_file: \"{}\" does not exist; create it with the secret as its only \
         line\n",
        1 + example.lines().position(|line| line.starts_with("secret_file")).unwrap(),
        home.path("shop.secret").display()
    );
    assert_eq!((checked.code, checked.stderr), (Some(78), missing));
    // A file that is being written must not disturb, nor one with mistakes.
    home.write("config.toml", "not TOML");
    assert_eq!(home.run("config example").code, Some(0));
}

#[test]
fn help_lists_completions_and_manual_pages() {
    let help = Home::new().run("help").stdout;
    for command in [
        "config       Print a configuration to start from",
        "completions  Print the completion",
        "man          Write",
    ] {
        assert!(help.contains(command), "{command} in {help}");
    }
}

#[test]
fn documented_scenario_runs() {
    let reference =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/en/reference/scenarios.md")).unwrap();
    let scenario = reference.split("```toml scenario\n").nth(1).unwrap().split("```").next().unwrap();
    let home = Home::new();
    home.write("scenario.toml", scenario);
    let simulator = home.spawn("simulate --listen 0 --scenario scenario.toml");
    let configuration = eventually("the configuration", || {
        let printed = simulator.stdout();
        printed.contains("secret = ").then_some(printed)
    });
    home.write("config.toml", &format!("{configuration}\n[web]\nlisten = \"127.0.0.1:0\"\n"));
    assert_eq!(home.run("check").code, Some(0));
    let polled = home.run("poll --format json").stdout;
    assert!(polled.contains("\"result\":\"ok\"") && polled.contains("\"result\":\"unbound\""), "{polled}");
}

#[test]
fn manual_of_the_configuration_is_written_beside_the_commands() {
    let home = Home::new();
    assert_eq!(home.run("man pages").code, Some(0));
    let page = fs::read_to_string(home.path("pages/kfwatch-config.5")).unwrap();
    assert!(page.contains(".TH kfwatch-config 5"), "{page}");
    let main = fs::read_to_string(home.path("pages/kfwatch.1")).unwrap();
    assert!(main.contains("kfwatch\\-config\\fR(5)"), "{main}");
    assert!(home.path("pages/kfwatch-config-example.1").exists());
}
