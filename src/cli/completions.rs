//! `kfwatch completions`: prints the completion script for a shell.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, CliError, output};

#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub(super) async fn run(args: &CompletionsArgs) -> Result<(), CliError> {
    output::print(script(args.shell)).await
}

fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "kfwatch", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn scripts_complete_all_commands() {
        for shell in Shell::value_variants() {
            let script = script(*shell);
            for word in ["simulate", "online", "load-accounts", "completions", "example"] {
                assert!(script.contains(word), "{word} for {shell}");
            }
        }
    }
}
