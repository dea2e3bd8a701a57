//! `kfwatch completions`: what a shell needs to complete kfwatch's command line, for those who make packages.

use clap::{Command, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Failure, output};

/// Options of `kfwatch completions`.
#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArgs {
    /// The shell to write them for
    shell: Shell,
}

/// Prints the script.
pub(super) fn run(args: &CompletionsArgs) -> Result<(), Failure> {
    output::print(&script(args.shell))
}

fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut visible(&Cli::command()), "kfwatch", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// The program without its hidden commands, which would be offered otherwise.
fn visible(program: &Command) -> Command {
    Command::new("kfwatch")
        .version(env!("CARGO_PKG_VERSION"))
        .args(program.get_arguments().cloned())
        .subcommands(program.get_subcommands().filter(|command| !command.is_hide_set()).cloned())
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_shell_learns_commands_and_options_but_hidden_ones() {
        for shell in Shell::value_variants() {
            let script = script(*shell);
            for word in ["simulate", "online", "load-accounts"] {
                assert!(script.contains(word), "{word} for {shell}");
            }
            assert!(!script.contains("Print completions") && !script.contains("__completions"), "{shell}");
        }
    }
}
