//! `kfwatch demo`: the simulated WeChat API and the ordinary daemon against it, in one process.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;

use super::{Failure, init_logging, signals, simulate};
use crate::{
    app::{App, clock::SystemClock},
    config::{self, Config, Environment},
    logging::Format,
    simulator::{Scenario, Simulator},
    status::{AccountView, OfficialAccountViews},
    web::{Listener, WebState},
};

/// Where the demo serves its pages unless told otherwise.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9877);

/// Options of `kfwatch demo`.
#[derive(Debug, clap::Args)]
pub(super) struct DemoArgs {
    /// Stop after this time and print a summary, for example 30s
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    run_for: Option<Duration>,

    /// Keep the store in this directory instead of a temporary one
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// Where to serve the status page and metrics [default: 127.0.0.1:9877, or another port if that is taken]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,

    /// Play another history of the simulated customers
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

/// Runs the demo until Ctrl-C or its time is up.
pub(super) async fn run(args: DemoArgs) -> Result<(), Failure> {
    init_logging("info", Format::Text)?;
    let scenario = Scenario { ledger: false, ..Scenario::demo(args.seed) };
    let simulator = Simulator::start(scenario.clone(), SocketAddr::new(DEFAULT_LISTEN.ip(), 0))
        .await
        .context("start the simulated WeChat API")?;
    let temporary;
    let directory = match &args.data {
        Some(directory) => {
            std::fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
            directory.canonicalize().with_context(|| format!("use {}", directory.display()))?
        }
        None => {
            temporary = tempfile::tempdir().context("create a temporary directory")?;
            temporary.path().to_path_buf()
        }
    };
    // The ordinary configuration, polled more often, so that there is something to see.
    let text = format!(
        "{}\n[poll]\nschedule = \"*/3 * * * * *\"\n[web]\nlisten = \"{}\"\n",
        simulate::configuration_of(&simulator.base_url(), &scenario),
        args.listen.unwrap_or_else(free_address)
    );
    let loaded = Config::from_toml(&text, &directory, &Environment::default())?;
    let app = App::build(loaded.config, Arc::new(SystemClock::default())).await?;
    introduce(&app, &simulator);
    let web = app.web();
    let done = signals::until_signal(|shutdown| {
        let timer = tokio::time::sleep(args.run_for.unwrap_or(Duration::MAX));
        app.run(async {
            tokio::select! {
                () = shutdown => {}
                () = timer => {}
            }
        })
    })
    .await;
    simulator.stop().await;
    summarize(&web);
    done
}

/// The port of every kfwatch, so that the links of the README work; another one where that is taken.
fn free_address() -> SocketAddr {
    match Listener::bind(DEFAULT_LISTEN) {
        Ok(_) => DEFAULT_LISTEN,
        Err(_) => SocketAddr::new(DEFAULT_LISTEN.ip(), 0),
    }
}

fn introduce(app: &App, simulator: &Simulator) {
    for address in app.addresses() {
        eprintln!(
            "\nkfwatch demo: three simulated official accounts, polled every 3 seconds.\n\n  \
             status page   http://{address}/\n  \
             metrics       http://{address}/metrics\n  \
             WeChat API    {} (simulated)\n\n\
             Session events appear on standard output, one JSON object a line; logs on standard error.\n\
             Some kf accounts are refused on purpose: not bound to a WeChat user (65402), or unknown (65401).\n\
             Now and then a session is transferred from one kf account to another.\n\
             Press Ctrl-C to stop.\n",
            simulator.base_url()
        );
    }
}

fn summarize(web: &WebState) {
    let read = web.table.read();
    let rows: Vec<&AccountView> =
        read.iter().flat_map(OfficialAccountViews::iter).map(|account| account.row).collect();
    let sum = |of: fn(&AccountView) -> u32| rows.iter().map(|row| u64::from(of(row))).sum::<u64>();
    eprintln!(
        "\nIn all: {} polls of {} kf accounts, {} of them failed; {} sessions started, {} ended, {} are open.",
        sum(|row| row.polls),
        rows.len(),
        sum(|row| row.failures),
        sum(|row| row.started),
        sum(|row| row.ended),
        sum(|row| row.sessions.unwrap_or(0)),
    );
}

fn duration(text: &str) -> Result<Duration, String> {
    config::duration(text).ok_or_else(|| "write a duration such as 30s or 5m".to_owned())
}
