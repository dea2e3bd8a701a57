//! The monitoring kit in deploy/, with shorter intervals and with integrations that send to a test.

use std::{fs, net::SocketAddr, path::Path};

use serde_json::{Value, json};

/// Reads a file of deploy/.
pub(crate) fn shipped(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)).unwrap_or_default()
}

pub(crate) fn read_yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

/// The shipped routes with shorter intervals, and with the integrations that the file has as comments, for these servers.
/// JSON is YAML.
pub(crate) fn routes_to(webhook: SocketAddr, wecom: SocketAddr, shorten: impl Fn(&str) -> String) -> Value {
    let file = uncommented(&shorten(&shipped("alertmanager/alertmanager.yml")));
    let mut file = read_yaml(&file.replace("https://alerts.example.com/", &format!("http://{webhook}/")));
    file["global"] = json!({"wechat_api_url": format!("http://{wecom}/cgi-bin/")});
    file
}

/// Uncomments integrations, as an operator does. No other comment starts with a key.
fn uncommented(text: &str) -> String {
    let is_key = |text: &str| {
        let name = text.trim_start().trim_start_matches("- ").split(':').next().unwrap_or_default();
        text.contains(':') && name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
    };
    let lines = text.lines().map(|line| match line.trim_start().strip_prefix("# ") {
        Some(rest) if line.starts_with("    ") && is_key(rest) => line.replacen("# ", "", 1),
        _ => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Shortens the intervals and windows of a shipped file: minutes to seconds, hours to minutes, and seconds to one second.
pub(crate) fn minutes_as_seconds(text: &str) -> String {
    shorter(text, 60)
}

/// Divides the intervals and windows of a shipped file. None becomes shorter than a second.
pub(crate) fn shorter(text: &str, by: u64) -> String {
    with_durations(text, |milliseconds| (milliseconds / by).max(1_000))
}

/// Divides the intervals, the windows, and the thresholds of times in a shipped file by ten.
pub(crate) fn a_tenth(text: &str) -> String {
    // The thresholds are ages of responses, messages and events in seconds.
    const AGES: [&str; 4] = ["600", "900", "1800", "10800"];
    let shortened = with_durations(text, |milliseconds| milliseconds / 10);
    let mut words = shortened.split_inclusive([' ', '\n']).peekable();
    let mut result = String::new();
    while let Some(word) = words.next() {
        result.push_str(word);
        if [">", "-"].contains(&word.trim_end())
            && let Some(next) = words.next_if(|next| AGES.contains(&next.trim_end()))
        {
            result.push_str(&next.replacen("00", "0", 1));
        }
    }
    result
}

/// Replaces each duration of a key, a window, a step or an offset.
fn with_durations(text: &str, shorten: impl Fn(u64) -> u64) -> String {
    const BEFORE: [&str; 6] = ["for: ", "_interval: ", "group_wait: ", "[", ":", "offset "];
    BEFORE.iter().fold(text.to_owned(), |text, before| {
        let mut parts = text.split(before);
        let mut shortened = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            shortened.push_str(before);
            let digits = part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let (number, rest) = part.split_at(digits);
            let unit = match rest.chars().next() {
                Some('s') => 1_000,
                Some('m') if !rest.starts_with("ms") => 60_000,
                Some('h') => 3_600_000,
                _ => 0,
            };
            match (number.parse::<u64>(), unit) {
                (Ok(number), 1..) => {
                    shortened.push_str(&format!("{}ms{}", shorten(number * unit), &rest[1..]))
                }
                _ => shortened.push_str(part),
            }
        }
        shortened
    })
}

#[test]
fn test_durations_and_ages_shrink() {
    let rule = "x[30m:5m] offset 1h > 600 for: 15m - 900\n] > 10800, 25) > 60 group_wait: 10s";
    assert_eq!(
        a_tenth(rule),
        "x[180000ms:30000ms] offset 360000ms > 60 for: 90000ms - 90\n] > 10800, 25) > 60 group_wait: 1000ms"
    );
    assert_eq!(
        minutes_as_seconds(rule),
        "x[30000ms:5000ms] offset 60000ms > 600 for: 15000ms - 900\n] > 10800, 25) > 60 group_wait: 1000ms"
    );
}
