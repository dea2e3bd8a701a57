//! The reference of scenarios has every key and fault. Shown scenarios are valid.

use std::collections::BTreeSet;

use kfwatch::simulator::Scenario;

use super::markdown::{assert_same, code_spans, page, pages};

const REFERENCE: &str = "docs/en/reference/scenarios.md";

const OFFICIAL_ACCOUNT: &str =
    "[[official_accounts]]\nname = \"shop\"\nappid = \"wx1\"\nsecret = \"s\"\nwechat_id = \"test\"\n";

/// Returns what serde expected in place of `no_such_name`.
fn expected(scenario: &str) -> BTreeSet<String> {
    let refused = format!("{:?}", Scenario::from_toml(scenario).unwrap_err());
    let (_, names) = refused.split_once("`, expected ").unwrap_or_else(|| panic!("{scenario}: {refused}"));
    code_spans(names.lines().next().unwrap()).into_iter().map(str::to_owned).collect()
}

/// Returns the keys that the section with this heading lists.
fn documented(heading: &str) -> BTreeSet<String> {
    let section = page(REFERENCE).sections().into_iter().find(|section| section.heading == heading).unwrap();
    let keys = section.rows.iter().filter(|row| row.len() > 3).flat_map(|row| code_spans(&row[0]));
    keys.map(str::to_owned).collect()
}

#[test]
fn reference_lists_exactly_the_keys_of_a_scenario() {
    let component = "[[components]]\ncomponent_appid = \"wx2\"\nsecret = \"s\"\nauthorizers = []\n";
    for (heading, before) in [
        ("Top level", ""),
        ("`[tokens]`", "[tokens]\n"),
        ("`[customers]`", "[customers]\n"),
        ("`[transfers]`", "[transfers]\n"),
        ("`[[official_accounts]]`", OFFICIAL_ACCOUNT),
        (
            "`kf_accounts`",
            &format!("{OFFICIAL_ACCOUNT}[[official_accounts.kf_accounts]]\nprefix = \"kf1\"\n"),
        ),
        ("`[official_accounts.style]`", &format!("{OFFICIAL_ACCOUNT}[official_accounts.style]\n")),
        ("`[[components]]`", component),
        ("`[token_server]`", "[token_server]\n"),
        ("`[[faults]]`", "[[faults]]\nfault = \"hang\"\n"),
    ] {
        assert_same(&documented(heading), &expected(&format!("{before}no_such_name = 1\n")), heading);
    }
}

#[test]
fn reference_names_every_fault_and_endpoint() {
    let text = page(REFERENCE).text;
    let faults = expected("[[faults]]\nfault = \"no_such_name\"\n");
    let endpoints = expected("[[faults]]\nfault = \"hang\"\nendpoint = \"no_such_name\"\n");
    assert!(faults.len() > 20 && endpoints.len() > 10, "{faults:?} {endpoints:?}");
    for name in faults {
        let is_named =
            [format!("`{name}`"), format!("{{ {name} = ")].iter().any(|span| text.contains(span.as_str()));
        assert!(is_named, "{name}");
    }
    for name in endpoints {
        assert!(text.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn shown_scenarios_are_valid() {
    let blocks: Vec<_> = pages().iter().flat_map(|page| page.blocks("toml scenario")).collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        Scenario::from_toml(&block.text).unwrap();
    }
}
