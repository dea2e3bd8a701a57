//! The dashboards of deploy/grafana: rules that their files must follow, and a check that each panel shows data of a
//! running kfwatch.

mod board;
mod breaks;
mod live;
mod rules;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

use board::{Board, RUNBOOK, boards, list, repository, text};
use breaks::BREAKS;
use rules::RULES;

#[test]
fn both_dashboards_keep_every_rule() {
    let complaints: Vec<String> =
        boards().iter().flat_map(|board| RULES.iter().flat_map(|(_, check)| check(board))).collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn every_dashboard_rule_detects_its_violation() {
    for (rule, check) in RULES {
        let breaks: Vec<_> = BREAKS.iter().filter(|(broken, ..)| broken == rule).collect();
        assert!(!breaks.is_empty(), "no violation of {rule} is tested");
        for (_, how, break_it) in breaks {
            let mut board = boards().remove(1);
            break_it(&mut board.json);
            let complaints = check(&board);
            assert_eq!(complaints.len(), 1, "{rule}, {how}: {complaints:?}");
            assert!(complaints[0].starts_with("kfwatch.json"), "{rule}: {complaints:?}");
        }
    }
    let known: BTreeSet<&str> = RULES.iter().map(|(rule, _)| *rule).collect();
    assert!(BREAKS.iter().all(|(rule, ..)| known.contains(rule)));
}

#[test]
fn alert_table_links_runbook_section_of_every_alert() {
    let sections = sections();
    let runbook = fs::read_to_string(repository("deploy/runbook.md")).unwrap();
    for (alert, section) in &sections {
        assert_eq!(section, &alert.to_lowercase());
        assert!(runbook.contains(&format!("\n## {alert}\n")), "the runbook has no section {alert}");
    }
    let rules = fs::read_to_string(repository("deploy/prometheus/kfwatch.rules.yml")).unwrap();
    let alerts = rules.lines().filter_map(|line| line.trim_start().strip_prefix("- alert: "));
    // These alerts only inhibit others, so the table leaves them out.
    let for_people: Vec<&str> = alerts.filter(|alert| !alert.ends_with("Inhibitor")).collect();
    assert!(!for_people.is_empty());
    let missing: Vec<_> = for_people.iter().filter(|alert| !sections.contains_key(**alert)).collect();
    assert!(missing.is_empty(), "value mappings of \"Active alerts\" in kfwatch.json lack {missing:?}");
}

#[test]
fn dashboard_links_lead_to_runbook_sections() {
    let sections: BTreeSet<String> = sections().into_values().collect();
    let mut found = 0;
    for board in boards() {
        let written = board.json.to_string();
        let address = format!("{RUNBOOK}#");
        let anchors = written.split(&address).skip(1);
        for anchor in anchors.filter(|anchor| !anchor.starts_with("${__value")) {
            let end = anchor.find(|character: char| !character.is_ascii_alphanumeric()).unwrap();
            assert!(sections.contains(&anchor[..end]), "{}: no alert {}", board.file, &anchor[..end]);
            found += 1;
        }
        // Sections that a column's link takes from a label of its row.
        for target in board.targets() {
            let labels = target
                .expression
                .split("\"section\", \"")
                .skip(1)
                .map(|rest| rest.split_once('"').unwrap().0);
            for section in labels.filter(|section| *section != "$1") {
                assert!(sections.contains(section), "{}: no alert {section}", target.place);
                found += 1;
            }
        }
    }
    assert!(found >= 10, "{found}");
}

/// Returns the sections of the runbook by alert, as the table of alerts links them.
fn sections() -> BTreeMap<String, String> {
    let boards = boards();
    let panels = boards.iter().flat_map(Board::panels);
    let table = panels.into_iter().find(|panel| panel["title"] == "Active alerts").unwrap();
    let overrides = list(&table["fieldConfig"]["overrides"]).iter();
    let runbook = overrides.filter(|one| one["matcher"]["options"] == "Runbook");
    let properties = runbook.flat_map(|one| list(&one["properties"])).filter(|it| it["id"] == "mappings");
    let mappings = properties.flat_map(|property| property["value"][0]["options"].as_object().unwrap());
    mappings.map(|(alert, shown)| (alert.clone(), text(&shown["text"]).to_owned())).collect()
}

/// A script of tests/python.
fn python(script: &str) -> Command {
    #[expect(clippy::disallowed_methods, reason = "the caller chooses the interpreter that has the packages")]
    let interpreter = std::env::var("KFWATCH_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut command = Command::new(interpreter);
    command.arg(repository("tests/python").join(script));
    command
}
