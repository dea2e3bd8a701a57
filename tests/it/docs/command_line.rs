//! The reference lists exactly the commands, options and exit codes. Shown command lines parse.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use clap::{Arg, Command, CommandFactory, error::ErrorKind};
use kfwatch::cli::Cli;

use super::markdown::{Section, assert_same, code_spans, page, pages, root};

const REFERENCE: &str = "docs/en/reference/command-line.md";

/// The options of each command, by the name of the command. An option is identified by its names.
type Options = BTreeMap<String, BTreeMap<String, Shown>>;

/// What the reference must say about an option.
#[derive(Debug, Default, PartialEq)]
struct Shown {
    default: Option<String>,
    values: Vec<String>,
}

fn defined() -> Options {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    let mut options = Options::new();
    add_commands(&program, "kfwatch", &mut options);
    options
}

fn add_commands(parent: &Command, path: &str, options: &mut Options) {
    for command in parent.get_subcommands().filter(|command| !command.is_hide_set()) {
        let path = format!("{path} {}", command.get_name());
        let arguments = command.get_arguments().filter(|argument| argument.get_id() != "help");
        let shown = arguments.map(|argument| (names(argument), Shown::of(argument))).collect();
        options.insert(path.clone(), shown);
        add_commands(command, &path, options);
    }
}

fn names(argument: &Arg) -> String {
    let short = argument.get_short().map(|short| format!("-{short}"));
    let long = argument.get_long().map(|long| format!("--{long}"));
    let names: Vec<String> = short.into_iter().chain(long).collect();
    if names.is_empty() { argument.get_value_names().unwrap()[0].to_string() } else { names.join(", ") }
}

impl Shown {
    fn of(argument: &Arg) -> Self {
        let is_flag = !argument.get_action().takes_values();
        let default = argument.get_default_values().first().filter(|_| !is_flag);
        let values = argument.get_possible_values();
        let values = values.iter().filter(|_| !is_flag).map(|value| value.get_name().to_owned());
        Self { default: default.map(|value| value.to_string_lossy().into_owned()), values: values.collect() }
    }
}

/// Returns the names of an option in the first cell of its row, which are in backticks.
fn names_in(row: &[String]) -> String {
    code_spans(&row[0]).join(", ")
}

/// Returns the rows of options in a section.
fn option_rows(section: &Section) -> impl Iterator<Item = &Vec<String>> {
    section.rows.iter().filter(|row| row[0].starts_with('`'))
}

/// Returns the sections of the commands by name, and the section of the common options.
fn sections() -> (BTreeMap<String, Section>, Section) {
    let mut sections = page(REFERENCE).sections();
    let common = sections.remove(0);
    let of_commands = sections.into_iter().filter_map(|section| {
        let name = code_spans(&section.heading).first().copied()?.to_owned();
        Some((name, section))
    });
    (of_commands.collect(), common)
}

/// Returns the commands without the common options.
fn exceptions() -> Vec<String> {
    let page = page(REFERENCE);
    let sentence = page.prose().into_iter().find(|line| line.starts_with("Every command except")).unwrap();
    code_spans(sentence).into_iter().map(|name| format!("kfwatch {name}")).collect()
}

#[test]
fn reference_lists_exactly_the_commands_and_options() {
    let ((sections, common), exceptions) = (sections(), exceptions());
    let defined = defined();
    assert_same(&sections.keys().cloned().collect(), &defined.keys().cloned().collect(), REFERENCE);
    for (command, options) in &defined {
        let of_all = option_rows(&common).filter(|_| !exceptions.contains(command));
        let documented: BTreeSet<String> =
            option_rows(&sections[command]).chain(of_all).map(|row| names_in(row)).collect();
        assert_same(&documented, &options.keys().cloned().collect(), command);
    }
}

#[test]
fn reference_has_the_defaults_and_values_of_options() {
    let (sections, _) = sections();
    for (command, options) in defined() {
        for row in option_rows(&sections[&command]) {
            let Shown { default, values } = &options[&names_in(row)];
            if let Some(default) = default {
                assert_eq!(code_spans(&row[1]).first(), Some(&default.as_str()), "{command}: {}", row[0]);
            }
            let shown = code_spans(&row[2]);
            for value in values {
                assert!(shown.contains(&value.as_str()), "{command}: {} lacks {value}", row[0]);
            }
        }
    }
}

#[test]
fn reference_lists_exactly_the_exit_codes() {
    let exit_codes = page(REFERENCE).sections().into_iter().find(|section| section.heading == "Exit codes");
    let rows = exit_codes.unwrap().rows;
    let documented: BTreeSet<&str> =
        rows.iter().map(|row| row[0].as_str()).filter(|cell| !cell.contains("-")).collect();
    let source = fs::read_to_string(root().join("src/cli.rs")).unwrap();
    let constants = source.lines().filter_map(|line| line.split_once("const EX_")?.1.split_once("u8 = "));
    // Success, failure, and clap's own code for wrong usage have no constant.
    let mut defined: BTreeSet<&str> = constants.map(|(_, code)| code.trim_end_matches(';')).collect();
    assert!(defined.len() >= 2, "{defined:?}");
    defined.extend(["0", "1", "2", "exit code"]);
    assert_eq!(documented, defined);
}

/// How strictly a command line is checked.
#[derive(Clone, Copy, PartialEq)]
enum Strictness {
    /// It must be complete.
    Whole,
    /// Required arguments may be missing, as in the name of a command.
    Part,
}

fn check(words: &[String], strictness: Strictness, at: &str) {
    let result = Cli::command().try_get_matches_from(words);
    let Err(error) = result else { return };
    let is_fine = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => true,
        ErrorKind::MissingRequiredArgument
        | ErrorKind::MissingSubcommand
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => strictness == Strictness::Part,
        _ => false,
    };
    assert!(is_fine, "{at}: {}: {error}", words.join(" "));
}

/// Returns the words of each simple command in a line of shell. Supports only the syntax that this documentation uses.
fn commands(line: &str) -> Vec<Vec<String>> {
    let (mut commands, mut words, mut word) = (Vec::new(), Vec::new(), None::<String>);
    let (mut quote, mut depth) = (None, 0);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '(') => depth += 1,
            (None, ')') => depth -= 1,
            (None, '#') if word.is_none() => break,
            (None, ' ') if depth == 0 => words.extend(word.take()),
            (None, '|' | '&' | ';') if depth == 0 => {
                words.extend(word.take());
                commands.push(std::mem::take(&mut words));
            }
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    commands.push(words);
    commands
}

/// Returns the kfwatch command line of a simple command, whether it is run directly or by another program.
fn kfwatch_in(command: &[String]) -> Option<Vec<String>> {
    let end = command.iter().position(|word| word.starts_with(['>', '<'])).unwrap_or(command.len());
    let command = &command[..end];
    if command.first().is_some_and(|word| word == "cargo") && command.get(1).is_some_and(|word| word == "run")
    {
        let at = command.iter().position(|word| word == "--")?;
        return Some(with_program(&command[at + 1..]));
    }
    let by_compose = command.starts_with(&["docker".to_owned(), "compose".to_owned(), "run".to_owned()]);
    let at = command.iter().rposition(|word| word == "kfwatch")?;
    let is_program = at == 0 || by_compose || matches!(command[at - 1].as_str(), "--" | "kfwatch");
    is_program.then(|| with_program(&command[at + 1..]))
}

fn with_program(arguments: &[String]) -> Vec<String> {
    std::iter::once("kfwatch".to_owned()).chain(arguments.iter().cloned()).collect()
}

#[test]
fn shown_command_lines_parse() {
    let mut shown = 0;
    for page in pages() {
        for block in page.blocks("sh") {
            for (n, line) in block.text.lines().enumerate() {
                for words in commands(line).iter().filter_map(|command| kfwatch_in(command)) {
                    check(&words, Strictness::Whole, &format!("{}:{}", page.path.display(), block.line + n));
                    shown += 1;
                }
            }
        }
        for paragraph in page.paragraphs() {
            let spans = code_spans(&paragraph).into_iter();
            // Other blocks are abbreviated, or show output of kfwatch.
            for span in spans
                .filter(|span| span.starts_with("kfwatch ") && !span.contains('…') && !span.ends_with('.'))
            {
                for words in commands(span).iter().filter_map(|command| kfwatch_in(command)) {
                    check(&words, Strictness::Part, &page.path.display().to_string());
                    shown += 1;
                }
            }
        }
    }
    assert!(shown > 50, "only {shown} command lines are shown");
}

#[test]
fn kfwatch_is_found_in_lines_of_shell() {
    let found = |line: &str| -> Vec<String> {
        commands(line).iter().filter_map(|command| kfwatch_in(command)).map(|words| words.join(" ")).collect()
    };
    assert_eq!(found("kfwatch check   # comment"), ["kfwatch check"]);
    assert_eq!(found("sudo -u kfwatch kfwatch poll | less"), ["kfwatch poll"]);
    assert_eq!(found("cargo run --release -- demo && kfwatch run"), ["kfwatch demo", "kfwatch run"]);
    assert_eq!(found("kfwatch simulate > sim.toml"), ["kfwatch simulate"]);
    assert_eq!(found("kfwatch backup /b/k-$(date +%F).db"), ["kfwatch backup /b/k-$date +%F.db"]);
    assert_eq!(found("sudo systemctl enable --now kfwatch"), [""; 0]);
}
