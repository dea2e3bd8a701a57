//! Other programs that a bench needs, and the processors they run on.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

/// A child process that is killed when this value is dropped.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns a command for the program, pinned to a processor if that processor and `taskset` exist.
pub(crate) fn pinned(program: &str, processor: usize) -> Command {
    let on_processor = |program: &str| {
        let mut command = Command::new("taskset");
        command.args(["-c", &processor.to_string(), program]);
        command
    };
    let works = on_processor("true").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if works.is_ok_and(|status| status.success()) { on_processor(program) } else { Command::new(program) }
}

/// Starts the simulator of so many official accounts. Returns it and the configuration that it prints.
pub(crate) fn simulator(processor: usize, official_accounts: usize, options: &[&str]) -> (Running, String) {
    let mut command = pinned(env!("CARGO_BIN_EXE_kfwatch"), processor);
    command.args(["simulate", "--listen", "127.0.0.1:0"]).args(options);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let mut configuration = String::new();
    let mut secrets = 0;
    for line in stdout.lines().map(Result::unwrap) {
        configuration.push_str(&line);
        configuration.push('\n');
        // The last line of an official account.
        secrets += usize::from(line.starts_with("secret = "));
        if secrets == official_accounts {
            break;
        }
    }
    (Running(child), configuration)
}
