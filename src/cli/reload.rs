//! `kfwatch reload`: makes the running daemon apply its changed configuration, and shows what changes. The daemon reads the file with
//! which it was started; this command only needs the control socket to find it, whatever mistakes the file has.

use super::{
    CliError, ConfigArgs, output,
    store_access::{ask_daemon, daemon_name},
};
use crate::{
    config::{Config, Environment},
    control::client::ControlClient,
    reload::{PlannedChange, ReloadMode},
};

#[derive(Debug, clap::Args)]
pub(super) struct ReloadArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// Only show what would change
    #[arg(long)]
    dry_run: bool,

    /// How to print what changes
    #[arg(long, value_enum, default_value = "table")]
    format: output::OutputFormat,
}

impl ReloadArgs {
    /// The result when a signal ends the command.
    pub(super) fn interrupted(&self) -> Result<(), CliError> {
        Err(match self.mode() {
            ReloadMode::Apply => CliError::Unconfirmed,
            ReloadMode::DryRun => CliError::Interrupted,
        })
    }

    fn mode(&self) -> ReloadMode {
        if self.dry_run { ReloadMode::DryRun } else { ReloadMode::Apply }
    }
}

pub(super) async fn run(args: ReloadArgs) -> Result<(), CliError> {
    let control = Config::load_control(&args.config.find()?, &Environment::from_process())?;
    let request = async { ControlClient::new(control.path_of_daemon())?.reload(args.mode()).await };
    let Some(outcome) = ask_daemon(&control, request).await? else {
        // A mistake may be the reason why the daemon is searched in the wrong place.
        args.config.load_local()?;
        return Err(anyhow::anyhow!(
            "{} does not run, so there is nothing to reload: start it with `kfwatch run` or `systemctl start kfwatch`, which reads the \
             configuration. If it does run and store.path has changed since it was started: undo that, or restart it",
            daemon_name(&control, None)
        )
        .into());
    };
    let report = outcome?;
    for warning in report.warnings {
        output::message(format_args!("warning: {warning}"));
    }
    report.deferred.iter().for_each(output::note);
    output::print_rows(&report.changes, args.format, || table(&report.changes, args.mode())).await
}

fn table(changes: &[PlannedChange], mode: ReloadMode) -> String {
    let end = match (changes, mode) {
        ([], _) => {
            return "Nothing to do: the daemon already runs with this configuration.\n".to_owned();
        }
        (_, ReloadMode::Apply) => "The daemon now runs with the changed configuration.",
        (_, ReloadMode::DryRun) => "Nothing has changed; \"kfwatch reload\" applies this.",
    };
    let headings = ["action", "part", "name", "details"];
    let rows = changes.iter().map(|change| {
        let PlannedChange { action, part, name, details } = change;
        vec![action.to_string(), part.to_string(), name.clone(), details.join(", ")]
    });
    format!("{}\n{end}\n", output::wrapped_table(&headings, &["details"], rows))
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use arc_swap::ArcSwapOption;
    use jiff::Timestamp;
    use tempfile::TempDir;
    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        control::{
            client::ControlClientError,
            executor::{CommandExecutor, CommandTargets},
            operations::{CommandLimits, Operations},
            server::ControlServer,
            socket::ControlSocket,
        },
        dispatch::admin::SinkAdmin,
        domain::{
            backoff::BackoffPolicy,
            clock::{Clock, Moment},
        },
        reload::{
            ChangeAction, ChangedPart, ReloadOutcome, ReloadRefusal, ReloadReport, ReloadRequest,
            ReloadRequests, ReloadTrigger,
        },
        store::Store,
    };

    #[test]
    fn table_shows_each_change_and_whether_it_is_applied() {
        let change = PlannedChange {
            action: ChangeAction::Change,
            part: ChangedPart::OfficialAccount,
            name: "shop".to_owned(),
            details: vec!["token".to_owned(), "schedule".to_owned()],
        };
        let text = table(std::slice::from_ref(&change), ReloadMode::DryRun);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                " ACTION  PART              NAME  DETAILS",
                " change  official account  shop  token, schedule",
                "",
                "Nothing has changed; \"kfwatch reload\" applies this."
            ]
        );
        assert!(
            table(&[change], ReloadMode::Apply)
                .ends_with("\nThe daemon now runs with the changed configuration.\n")
        );
        assert!(table(&[], ReloadMode::Apply).starts_with("Nothing to do"));
    }

    struct StoppedClock;

    impl Clock for StoppedClock {
        fn now(&self) -> Moment {
            Moment { wall: Timestamp::UNIX_EPOCH, monotonic: Duration::ZERO }
        }
    }

    /// A control server without accounts, the client for it, and the requests that it passes on.
    struct Scene {
        _directory: TempDir,
        server: ControlServer,
        client: ControlClient,
        reloads: mpsc::Receiver<ReloadRequest>,
    }

    impl Scene {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let (path, socket) = (directory.path().join("kfwatch.db"), directory.path().join("socket"));
            let limits = CommandLimits {
                in_flight: 1,
                per_official_account: 1,
                deadline: Duration::from_secs(1),
                backoff_policy: BackoffPolicy::default(),
            };
            let (requests, reloads) = ReloadRequests::channel();
            let operations = Operations::new(Vec::new(), Arc::new(StoppedClock), limits);
            let sinks = SinkAdmin::new(Store::open(&path).unwrap());
            let targets = CommandTargets { operations, sinks: Arc::new(sinks) };
            let targets = Arc::new(ArcSwapOption::from_pointee(targets));
            let executor = Arc::new(CommandExecutor { targets, reloads: requests, replicas: None });
            let client = ControlClient::new(socket.clone()).unwrap();
            let socket = ControlSocket::bind(socket).unwrap();
            Self {
                _directory: directory,
                server: ControlServer::new(socket, executor, Arc::default()),
                client,
                reloads,
            }
        }

        /// Requests a reload that ends with this outcome.
        async fn reload(self, outcome: Option<ReloadOutcome>) -> Result<ReloadOutcome, ControlClientError> {
            let Self { _directory, server, client, mut reloads } = self;
            let stop = CancellationToken::new();
            let app = async {
                let request = reloads.recv().await.unwrap();
                assert_eq!((request.mode, request.trigger), (ReloadMode::DryRun, ReloadTrigger::Command));
                if let Some(outcome) = outcome {
                    request.answer(outcome);
                }
            };
            let asking = async {
                let outcome = client.reload(ReloadMode::DryRun).await;
                stop.cancel();
                outcome
            };
            tokio::join!(asking, app, server.run(stop.clone())).0
        }
    }

    #[tokio::test]
    async fn reload_returns_the_plan() {
        let report = ReloadReport {
            changes: ["a", "b"]
                .map(|name| PlannedChange {
                    action: ChangeAction::Change,
                    part: ChangedPart::OfficialAccount,
                    name: name.to_owned(),
                    details: vec!["schedule".to_owned()],
                })
                .into(),
            deferred: vec!["later".to_owned()],
            warnings: vec!["beware".to_owned()],
        };
        assert_eq!(Scene::new().reload(Some(Ok(report.clone()))).await.unwrap(), Ok(report));
    }

    #[tokio::test]
    async fn reload_without_changes_returns_an_empty_plan() {
        let report = ReloadReport::default();
        assert_eq!(Scene::new().reload(Some(Ok(report.clone()))).await.unwrap(), Ok(report));
    }

    #[tokio::test]
    async fn refused_reload_returns_every_reason() {
        let refusal = ReloadRefusal { reasons: vec!["config.toml:1: a".to_owned(), "b".to_owned()] };
        assert_eq!(Scene::new().reload(Some(Err(refusal.clone()))).await.unwrap(), Err(refusal));
    }

    #[tokio::test]
    async fn reload_that_is_not_carried_out_is_no_refusal() {
        let error = Scene::new().reload(None).await.unwrap_err();
        assert_eq!(error.to_string(), "the daemon is being stopped");
    }
}
