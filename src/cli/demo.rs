//! `kfwatch demo`: the simulated WeChat API and the ordinary daemon, in one process.
//!
//! On a terminal it prints one readable line per event ([`event_lines`]), which it reads from the event log, and only warnings from
//! the log. Into a pipe it prints CloudEvents, from the same sink that a configuration without sinks gets.

mod event_lines;

use std::{
    future::Future,
    io::IsTerminal,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use self::event_lines::EventPrinter;
use super::{
    CliError, init_logging, output, parse_listen,
    run::AFTER_DRAIN,
    signals::{Shutdown, ShutdownSignal},
    simulate::{self, cannot_listen},
};
use crate::{
    app::{App, AppError, clock::SystemClock},
    config::{self, Config, Environment},
    domain::{account::AccountState, clock::Clock},
    logging::LogFormat,
    simulator::{Scenario, Simulator},
    status::AccountView,
    store::{EventFilter, EventPage, Store, StoredEvent},
    web::{WebListener, WebState},
};

/// The address of the status page, unless it is in use.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9877);

const STORE: &str = "kfwatch.db";

/// Events read at a time.
const PAGE: usize = 1000;

/// How often new events are read.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);

/// How long the last events may take to be printed: a terminal may be stopped (Ctrl-S).
const LAST_EVENTS_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(super) struct DemoArgs {
    /// Stop after this time, for example 30s
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    run_for: Option<Duration>,

    /// Keep the store in this directory instead of a temporary one
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// Where to serve the status page and metrics [default: 127.0.0.1:9877, or another port if that is in use]
    #[arg(long, value_name = "ADDRESS", value_parser = parse_listen)]
    listen: Option<SocketAddr>,

    /// Seed of the simulated customers: another seed plays another history
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// How to print events [default: text on a terminal, json otherwise]
    #[arg(long, value_enum)]
    format: Option<DemoFormat>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum DemoFormat {
    /// One readable line per event
    Text,
    /// One CloudEvent a line, as sinks receive them
    Json,
}

/// Runs the demo until Ctrl-C or until its time is up.
pub(super) async fn run(args: DemoArgs, shutdown: Shutdown) -> Result<(), CliError> {
    let default_format = || match std::io::stdout().is_terminal() {
        true => DemoFormat::Text,
        false => DemoFormat::Json,
    };
    let format = args.format.unwrap_or_else(default_format);
    let filter = match format {
        // Failed polls, which the scenario has on purpose, are left out: what they lead to is an event.
        DemoFormat::Text => "warn,kfwatch::poll=off",
        DemoFormat::Json => "info",
    };
    init_logging(filter, LogFormat::Text)?;
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
    let text = configuration(&simulator, &scenario, args.listen.unwrap_or_else(free_address), format);
    let loaded = Config::from_toml(&text, &directory, &Environment::default())?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let app = Box::pin(App::build(loaded.config, Arc::clone(&clock))).await.map_err(|error| match error {
        AppError::Listen { address, source } => cannot_listen(address, source).into(),
        error => CliError::from(error),
    })?;
    let mut events = NewEvents::open(&directory, &*clock).await?;
    // The configuration has one address.
    let page: String = app.addresses().iter().map(|address| format!("http://{address}/")).collect();
    introduce(&page, &simulator, format);
    let web = app.web();
    let printer = (format == DemoFormat::Text).then(|| EventPrinter::new(Arc::clone(&web)));
    let grace = app.config().shutdown_timeout.saturating_add(AFTER_DRAIN);
    let stop = stop_after(args.run_for, shutdown.within(grace));
    let done = Box::pin(run_app(app, stop, &mut events, printer)).await;
    simulator.stop().await;
    events.read().await?;
    summarize(&web, events.read, &page);
    done
}

/// The ordinary configuration, with frequent polls, so that there is something to see.
fn configuration(
    simulator: &Simulator,
    scenario: &Scenario,
    listen: SocketAddr,
    format: DemoFormat,
) -> String {
    let accounts = simulate::configuration_of(&simulator.base_url(), scenario);
    let sink = match format {
        // Standard output has the readable lines: the default sink would write CloudEvents there.
        DemoFormat::Text => "[[sinks]]\nname = \"archive\"\ntype = \"jsonl\"\npath = \"events.jsonl\"\n",
        DemoFormat::Json => "",
    };
    format!(
        "{accounts}\n[poll]\nschedule = \"*/3 * * * * *\"\n[web]\nlisten = \"{listen}\"\n\
         [store]\npath = \"{STORE}\"\n{sink}"
    )
}

/// The default port, so that the links in the documentation work, or any port if that one is in use.
fn free_address() -> SocketAddr {
    match WebListener::bind(DEFAULT_LISTEN) {
        Ok(_) => DEFAULT_LISTEN,
        Err(_) => SocketAddr::new(DEFAULT_LISTEN.ip(), 0),
    }
}

/// Completes at a signal or after this time.
async fn stop_after(run_for: Option<Duration>, signal: ShutdownSignal) {
    let timer = tokio::time::sleep(run_for.unwrap_or(Duration::MAX));
    tokio::select! {
        () = signal => {}
        () = timer => {}
    }
}

/// Runs the daemon and prints events until it should stop, or until nobody reads the output.
async fn run_app(
    app: App,
    stop: impl Future<Output = ()>,
    events: &mut NewEvents,
    printer: Option<EventPrinter>,
) -> Result<(), CliError> {
    let Some(mut printer) = printer else { return Ok(app.run(stop).await?) };
    let (nobody_reads, ended) = (CancellationToken::new(), CancellationToken::new());
    let running = async {
        let stop = async {
            tokio::select! {
                () = stop => {}
                () = nobody_reads.cancelled() => {}
            }
        };
        let done = app.run(stop).await;
        ended.cancel();
        done
    };
    let printing = async {
        let printed = tokio::select! {
            printed = print_until(&ended, events, &mut printer) => printed,
            () = after(&ended, LAST_EVENTS_TIMEOUT) => Ok(()),
        };
        nobody_reads.cancel();
        printed
    };
    let (done, printed) = tokio::join!(running, printing);
    done?;
    printed
}

/// Prints events until the daemon has ended or nobody reads them.
async fn print_until(
    ended: &CancellationToken,
    events: &mut NewEvents,
    printer: &mut EventPrinter,
) -> Result<(), CliError> {
    loop {
        let is_last = tokio::time::timeout(FOLLOW_INTERVAL, ended.cancelled()).await.is_ok();
        let is_open = printer.print(&events.read().await?).await?;
        if is_last || !is_open {
            return Ok(());
        }
    }
}

async fn after(event: &CancellationToken, delay: Duration) {
    event.cancelled().await;
    tokio::time::sleep(delay).await;
}

/// The events committed since the demo was started.
struct NewEvents {
    store: Store,
    unread: EventFilter,
    read: usize,
}

impl NewEvents {
    async fn open(directory: &Path, clock: &dyn Clock) -> Result<Self, CliError> {
        let store = Store::open_to_read(&directory.join(STORE))?;
        let now = clock.now().wall;
        let after = store.position_before(now).await?;
        Ok(Self { store, unread: EventFilter { after, since: Some(now), ..EventFilter::default() }, read: 0 })
    }

    /// The events that this has not returned yet.
    async fn read(&mut self) -> Result<Vec<StoredEvent>, CliError> {
        let mut all = Vec::new();
        loop {
            let EventPage { events, next } = self.store.read_events(self.unread.clone(), PAGE).await?;
            self.unread.after = next;
            let is_last = events.len() < PAGE;
            all.extend(events);
            if is_last {
                self.read += all.len();
                return Ok(all);
            }
        }
    }
}

fn introduce(page: &str, simulator: &Simulator, format: DemoFormat) {
    let output = match format {
        DemoFormat::Text => "Each line is an event: a session starts or ends, or a kf account changes state.",
        DemoFormat::Json => {
            "Standard output has one event a line as a CloudEvent; standard error has the log."
        }
    };
    output::message(format_args!(
        "\nkfwatch demo: three simulated official accounts, polled every 3 seconds.\n\n  \
         status page   {page}\n  \
         metrics       {page}metrics\n  \
         WeChat API    {} (simulated)\n\n\
         {output}\n\
         Some kf accounts fail on purpose: three are not bound to a WeChat user (errcode\n\
         65402), one does not exist (65401). The status page lists them first.\n\
         Press Ctrl-C to stop.\n",
        simulator.base_url()
    ));
}

fn summarize(web: &WebState, events: usize, page: &str) {
    let accounts = web.table.views();
    let sum = |of: fn(&AccountView) -> u32| accounts.iter().map(|(_, view)| u64::from(of(view))).sum::<u64>();
    let unbound: Vec<String> = accounts
        .iter()
        .filter(|(_, view)| view.state == AccountState::Unbound)
        .map(|(account, _)| account.to_string())
        .collect();
    output::message(format_args!(
        "\nSummary\n  \
         events        {events}\n  \
         sessions      {} started, {} ended, {} open now\n  \
         accounts      {} polls of {} kf accounts, {} failed\n  \
         unbound       {}{}\n  \
         status page   {} (while the demo runs)",
        sum(|view| view.counters.started),
        sum(|view| view.counters.ended),
        sum(|view| view.sessions.unwrap_or(0)),
        sum(|view| view.counters.polls),
        accounts.len(),
        sum(|view| view.counters.failures),
        unbound.len(),
        unbound.iter().map(|name| format!("\n                {name}")).collect::<String>(),
        page,
    ));
}

fn duration(text: &str) -> Result<Duration, String> {
    config::parse_duration(text).ok_or_else(|| "write a duration such as 30s or 5m".to_owned())
}
