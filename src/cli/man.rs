//! `kfwatch man`: writes the manual pages: one for kfwatch, one for each command and subcommand, and kfwatch-config(5).
//!
//! Synopsis and options come from the definition of the command line. The sections on exit status, signals, environment and files
//! are written by hand, in `man/operator.roff`. kfwatch-config(5) is the configuration reference of the documentation.

mod markdown;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::{Command, CommandFactory};
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use super::{Cli, CliError};

/// The name of the page about the configuration, in section 5. The command `kfwatch config` has the same name in section 1.
const CONFIGURATION_PAGE: &str = "kfwatch-config";

/// The handwritten sections of kfwatch(1).
const OPERATOR: &str = include_str!("man/operator.roff");

/// The content of kfwatch-config(5).
const CONFIGURATION: &str = include_str!("../../docs/en/reference/configuration.md");

/// The source of all pages.
const SOURCE: &str = concat!("kfwatch ", env!("CARGO_PKG_VERSION"));

/// Source, issues and documentation.
const HOME: &str = "https://github.com/kfwatch/kfwatch";

#[derive(Debug, clap::Args)]
pub(super) struct ManArgs {
    /// The directory to write the pages to; created if missing
    directory: PathBuf,
}

pub(super) fn run(args: &ManArgs) -> Result<(), CliError> {
    let directory = &args.directory;
    write_to(directory)
        .with_context(|| format!("write manual pages to {}", directory.display()))
        .map_err(CliError::Other)
}

fn write_to(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for (name, page) in pages()? {
        fs::write(directory.join(name), page)?;
    }
    Ok(())
}

/// The file name and the roff text of each page; kfwatch(1) comes first.
fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut program = Cli::command().disable_help_subcommand(true).subcommand_help_heading("COMMANDS");
    program.build();
    let mut see_also = names_below(&program);
    see_also.push((CONFIGURATION_PAGE, 5));
    let mut pages = vec![page(&program, OPERATOR, &see_also)?];
    add_pages_below(&program, "kfwatch", &mut pages)?;
    pages.push((format!("{CONFIGURATION_PAGE}.5"), configuration_page()?));
    Ok(pages)
}

fn configuration_page() -> io::Result<Vec<u8>> {
    let mut roff = Roff::new();
    // The third is a date. An empty one would not be quoted.
    roff.control("TH", [CONFIGURATION_PAGE, "5", " ", SOURCE, "File Formats"]);
    roff.control("SH", ["NAME"]);
    roff.text([roman(format!("{CONFIGURATION_PAGE} - the configuration of kfwatch"))]);
    markdown::append(CONFIGURATION, &mut roff);
    let mut page = Vec::new();
    roff.to_writer(&mut page)?;
    see_also_section(&[("kfwatch", 1), ("kfwatch-check", 1)]).to_writer(&mut page)?;
    Ok(page)
}

fn add_pages_below(parent: &Command, name: &str, pages: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
    for command in commands_below(parent) {
        let see_also: Vec<_> = [(name, 1)].into_iter().chain(names_below(command)).collect();
        pages.push(page(command, "", &see_also)?);
        add_pages_below(command, command.get_display_name().unwrap_or_default(), pages)?;
    }
    Ok(())
}

fn commands_below(parent: &Command) -> impl Iterator<Item = &Command> {
    parent.get_subcommands().filter(|command| !command.is_hide_set())
}

/// The names of pages, each with its section of the manual.
fn names_below(parent: &Command) -> Vec<(&str, u8)> {
    commands_below(parent).filter_map(Command::get_display_name).map(|name| (name, 1)).collect()
}

fn page(command: &Command, sections: &str, see_also: &[(&str, u8)]) -> io::Result<(String, Vec<u8>)> {
    let man = Man::new(command.clone()).source(SOURCE).manual("User Commands");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    page.extend_from_slice(sections.as_bytes());
    see_also_section(see_also).to_writer(&mut page)?;
    Ok((man.get_filename(), page))
}

fn see_also_section(names: &[(&str, u8)]) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["SEE ALSO"]);
    for (name, section) in names {
        roff.text([bold(*name), roman(format!("({section}),"))]);
    }
    roff.text([roman(HOME)]);
    roff
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{EX_CONFIG, EX_UNAVAILABLE};

    fn page_of(name: &str) -> String {
        let page = pages().unwrap().into_iter().find(|(file, _)| file == name);
        String::from_utf8(page.unwrap_or_else(|| panic!("no page {name}")).1).unwrap()
    }

    #[test]
    fn every_visible_command_has_a_page() {
        let names: Vec<String> = pages().unwrap().into_iter().map(|(name, _)| name).collect();
        let commands = "run demo check poll sessions events events-replay events-dead sinks sinks-test sinks-stop \
                        sinks-resume reload health backup restore import simulate config config-example completions man";
        let expected = commands.split(' ').map(|command| format!("kfwatch-{command}.1"));
        let main = std::iter::once("kfwatch.1".to_owned());
        assert_eq!(names, main.chain(expected).chain(["kfwatch-config.5".to_owned()]).collect::<Vec<_>>());
        assert!(page_of("kfwatch-events-dead.1").contains(r"\-\-retry"));
        assert!(page_of("kfwatch-events.1").contains(r"\-\-since"));
        assert!(page_of("kfwatch.1").contains("kfwatch\\-poll(1)"));
    }

    #[test]
    fn configuration_page_has_every_section_and_key() {
        let page = page_of("kfwatch-config.5");
        for section in ["NAME", "THE FILE", "[poll]", "[official_accounts.token]", "[[sinks]]", "SEE ALSO"] {
            let headings = [format!("\n.SH {section}\n"), format!("\n.SH \"{section}\"\n")];
            assert!(headings.iter().any(|heading| page.contains(heading)), "{section} in {page}");
        }
        assert!(page.contains("\n.TP\n\\fBblind_after\\fR\nduration, 1s to 30d; default: "), "{page}");
        for markup in ["](", "```", "| key", "**"] {
            assert!(!page.contains(markup), "{markup} in {page}");
        }
    }

    #[test]
    fn main_page_has_all_sections() {
        let page = page_of("kfwatch.1");
        for section in ["OPTIONS", "COMMANDS", "EXIT STATUS", "SIGNALS", "ENVIRONMENT", "FILES", "SEE ALSO"] {
            let heading = format!("\n.SH {section}\n");
            let quoted = format!("\n.SH \"{section}\"\n");
            assert!(page.contains(&heading) || page.contains(&quoted), "{section} in {page}");
        }
    }

    #[test]
    fn exit_codes_match_the_program_and_the_reference() {
        let status = OPERATOR.split(".SH ").find(|section| section.starts_with("EXIT STATUS")).unwrap();
        let of_page: Vec<&str> =
            status.split(".TP\n.B ").skip(1).filter_map(|item| item.lines().next()).collect();
        let reference = include_str!("../../docs/en/reference/command-line.md");
        let of_reference: Vec<&str> = reference
            .lines()
            .skip_while(|line| !line.starts_with("| exit code |"))
            .skip(2)
            .map_while(|line| line.strip_prefix("| ")?.split(' ').next())
            .collect();
        assert_eq!(of_page, of_reference);
        for code in [EX_UNAVAILABLE, EX_CONFIG] {
            assert!(of_page.contains(&code.to_string().as_str()), "{code}");
        }
    }

    #[test]
    fn pages_are_written_into_new_directory() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("share/man1");
        run(&ManArgs { directory: directory.clone() }).unwrap();
        assert!(fs::read_to_string(directory.join("kfwatch-run.1")).unwrap().contains(".TH"));
        let error = run(&ManArgs { directory: directory.join("kfwatch.1") }).unwrap_err();
        assert!(crate::chain(&error).starts_with("write manual pages to /"), "{error}");
    }
}
