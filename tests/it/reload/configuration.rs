//! The random configurations of a storm, and the mistakes that make one of them unusable.

use std::{collections::BTreeSet, fmt::Write as _, fs, net::SocketAddr};

use crate::support::{
    process::{Home, appid},
    receiver::KEYS,
};

/// Official accounts, by their index in the simulator.
pub(crate) const STEADY: usize = 0;
pub(crate) const ROTATING: usize = 1;
pub(crate) const GUEST: usize = 2;
pub(crate) const FOUND: usize = 3;

/// Their names and numbers of kf accounts.
pub(crate) const OFFICIAL_ACCOUNTS: [(&str, usize); 4] =
    [("steady", 6), ("rotating", 6), ("guest", 4), ("found", 5)];

/// How many kf accounts of each are in every configuration, the first ones.
const KEPT: [usize; 4] = [6, 3, 0, 1];

/// The secret file of the official account whose AppSecret is rotated.
const SECRET_FILE: &str = "rotating.secret";

/// What does not change during a storm.
pub(crate) struct Surroundings {
    pub(crate) base_url: String,
    /// The address that every configuration listens on.
    pub(crate) web: SocketAddr,
    /// An address that some configurations listen on as well.
    pub(crate) other_web: SocketAddr,
    /// An address that another program uses.
    pub(crate) taken: SocketAddr,
    /// The URLs of the receivers of the webhook.
    pub(crate) receivers: [String; 2],
}

/// A usable configuration.
#[derive(Clone, Debug)]
pub(crate) struct Configuration {
    /// The numbers of the kf accounts of each official account that are watched, or may be discovered.
    pub(crate) kf_accounts: [BTreeSet<usize>; 4],
    /// The number of the AppSecret.
    pub(crate) secret: u32,
    pub(crate) spread: &'static str,
    pub(crate) level: &'static str,
    format: &'static str,
    timezone: &'static str,
    blind_after: &'static str,
    connect_timeout: &'static str,
    max_in_flight: [usize; 2],
    schedule: &'static str,
    max_requests_per_minute: Option<u32>,
    collectors: [&'static str; 4],
    nicknames: bool,
    event_retention: &'static str,
    shutdown_timeout: &'static str,
    reload_interval: &'static str,
    /// Which of two files has the token of the official account with patterns.
    token_file: usize,
    listens_twice: bool,
    reversed: bool,
    /// The receiver of the webhook.
    receiver: usize,
    key: usize,
    webhook_timeout: &'static str,
    webhook_in_flight: usize,
    /// The number of the file that the sink `moving` writes.
    file: usize,
    /// Whether the sink `extra` exists.
    extra: bool,
}

/// Why a configuration is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mistake {
    Toml,
    UnknownKey,
    MissingSecret,
    EmptyInclude,
    PortInUse,
    BadCa,
    BadSinkCa,
    OtherStore,
}

impl Mistake {
    pub(crate) const ALL: [Mistake; 8] = [
        Mistake::Toml,
        Mistake::UnknownKey,
        Mistake::MissingSecret,
        Mistake::EmptyInclude,
        Mistake::PortInUse,
        Mistake::BadCa,
        Mistake::BadSinkCa,
        Mistake::OtherStore,
    ];

    /// What the refusal must contain.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Mistake::Toml => "config.toml:1",
            Mistake::UnknownKey => "speed",
            Mistake::MissingSecret => "missing.secret",
            Mistake::EmptyInclude => "nothing.d",
            Mistake::PortInUse => "listen",
            Mistake::BadCa => "api.ca_file",
            Mistake::BadSinkCa => "ca_file of sink",
            Mistake::OtherStore => "restart",
        }
    }
}

impl Configuration {
    /// The first and the last configuration: everything is watched.
    pub(crate) fn whole(secret: u32) -> Self {
        Self {
            kf_accounts: OFFICIAL_ACCOUNTS.map(|(_, count)| (1..=count).collect()),
            secret,
            spread: "0s",
            level: "info",
            format: "text",
            timezone: "Asia/Shanghai",
            blind_after: "5m",
            connect_timeout: "1s",
            max_in_flight: [256, 16],
            schedule: "* * * * * *",
            max_requests_per_minute: None,
            collectors: ["10s", "off", "off", "off"],
            nicknames: true,
            event_retention: "30d",
            shutdown_timeout: "10s",
            reload_interval: "off",
            token_file: 0,
            listens_twice: false,
            reversed: false,
            receiver: 0,
            key: 0,
            webhook_timeout: "15s",
            webhook_in_flight: 8,
            file: 0,
            extra: true,
        }
    }

    /// The same with another AppSecret.
    pub(crate) fn with_secret(self, secret: u32) -> Self {
        Self { secret, ..self }
    }

    /// Another configuration, in which one to four things have changed.
    pub(crate) fn changed(&self, random: &mut fastrand::Rng) -> Self {
        let mut next = self.clone();
        for _ in 0..random.usize(1..=4) {
            next.change_one(random);
        }
        next
    }

    fn change_one(&mut self, random: &mut fastrand::Rng) {
        match random.u8(0..28) {
            0..=3 => self.change_kf_accounts(ROTATING, random),
            4..=6 if self.kf_accounts[GUEST].is_empty() => {
                self.kf_accounts[GUEST] = (1..=random.usize(1..=4)).collect();
            }
            4 | 5 => self.kf_accounts[GUEST].clear(),
            6 => self.change_kf_accounts(GUEST, random),
            7..=9 => self.change_kf_accounts(FOUND, random),
            10 => self.spread = pick(random, &["0s", "300ms"]),
            11 => self.level = pick(random, &["info", "debug", "warn", "info,kfwatch::poll=warn"]),
            12 => self.format = pick(random, &["text", "json"]),
            13 => self.timezone = pick(random, &["Asia/Shanghai", "Asia/Urumqi", "UTC"]),
            14 => self.blind_after = pick(random, &["5m", "6m"]),
            15 => self.connect_timeout = pick(random, &["1s", "2s"]),
            16 => self.max_in_flight = pick(random, &[[256, 16], [8, 4], [64, 3]]),
            17 => self.schedule = pick(random, &["* * * * * *", "*/2 * * * * *", "1-59/2 * * * * *"]),
            18 => self.max_requests_per_minute = pick(random, &[None, Some(1_200), Some(6_000)]),
            19 => {
                let kf_list = pick(random, &["10s", "11s"]);
                self.collectors =
                    pick(random, &[[kf_list, "off", "off", "off"], [kf_list, "10s", "10s", "10s"]]);
            }
            20 => (self.nicknames, self.event_retention) = (random.bool(), pick(random, &["30d", "20d"])),
            21 => self.listens_twice = !self.listens_twice,
            22 => self.reversed = !self.reversed,
            23 => {
                self.receiver = random.usize(0..2);
                self.key = random.usize(0..2);
                self.webhook_timeout = pick(random, &["15s", "10s"]);
                self.webhook_in_flight = pick(random, &[1, 8]);
            }
            24 => self.file = random.usize(0..3),
            25 => {
                self.shutdown_timeout = pick(random, &["10s", "8s"]);
                self.reload_interval = pick(random, &["off", "1s"]);
            }
            26 => self.token_file = random.usize(0..2),
            _ => self.extra = !self.extra,
        }
    }

    /// Adds or removes one or two kf accounts that are not kept.
    fn change_kf_accounts(&mut self, official_account: usize, random: &mut fastrand::Rng) {
        let volatile = KEPT[official_account] + 1..=OFFICIAL_ACCOUNTS[official_account].1;
        for _ in 0..random.usize(1..=2) {
            let number = random.usize(volatile.clone());
            let kf_accounts = &mut self.kf_accounts[official_account];
            if !kf_accounts.remove(&number) {
                kf_accounts.insert(number);
            }
        }
    }

    pub(crate) fn watches(&self, official_account: usize, number: usize) -> bool {
        self.kf_accounts[official_account].contains(&number)
    }

    /// Writes it, with a mistake if there is one.
    pub(crate) fn write(&self, home: &Home, surroundings: &Surroundings, mistake: Option<Mistake>) {
        if mistake.is_none() {
            home.write(SECRET_FILE, &app_secret(self.secret));
        }
        // At once, because the daemon may read the file at any time.
        home.write("next.toml", &self.render(surroundings, mistake));
        fs::rename(home.path("next.toml"), home.path("config.toml")).unwrap();
    }

    fn render(&self, surroundings: &Surroundings, mistake: Option<Mistake>) -> String {
        let Surroundings { base_url, web, other_web, taken, receivers } = surroundings;
        let if_mistaken = |which: Mistake, text: &str| {
            if mistake == Some(which) { text.to_owned() } else { String::new() }
        };
        let other_web = if self.listens_twice { format!(", \"{other_web}\"") } else { String::new() };
        let taken = if_mistaken(Mistake::PortInUse, &format!(", \"{taken}\""));
        let store = if mistake == Some(Mistake::OtherStore) { "other.db" } else { "kfwatch.db" };
        let [in_flight, per_official_account] = self.max_in_flight;
        let [kf_list, online, waiting, quota] = self.collectors;
        let mut text = format!(
            "{}{}shutdown_timeout = \"{}\"\nreload_interval = \"{}\"\n[web]\nlisten = [\"{web}\"{other_web}{taken}]\nenable_reload = true\n\
             [log]\nlevel = \"{}\"\nformat = \"{}\"\n[store]\npath = \"{store}\"\nevent_retention = \"{}\"\n\
             [api]\nbase_url = \"{base_url}\"\nconnect_timeout = \"{}\"\ntimeout = \"5s\"\nmax_in_flight = {in_flight}\n\
             max_in_flight_per_official_account = {per_official_account}\n{}\
             [poll]\nspread = \"{}\"\ntimezone = \"{}\"\nblind_after = \"{}\"\n{}\
             [collectors]\nkf_list = \"{kf_list}\"\nonline = \"{online}\"\nwaiting = \"{waiting}\"\nquota = \"{quota}\"\n\
             [metrics]\nnicknames = {}\n",
            if_mistaken(Mistake::Toml, "[web\n"),
            if_mistaken(Mistake::EmptyInclude, "include = [\"nothing.d/*.toml\"]\n"),
            self.shutdown_timeout,
            self.reload_interval,
            self.level,
            self.format,
            self.event_retention,
            self.connect_timeout,
            if_mistaken(Mistake::BadCa, "ca_file = \"bad.pem\"\n"),
            self.spread,
            self.timezone,
            self.blind_after,
            if_mistaken(Mistake::UnknownKey, "speed = \"high\"\n"),
            self.nicknames,
        );
        let mut order = vec![STEADY, ROTATING, GUEST, FOUND];
        if self.reversed {
            order.reverse();
        }
        for index in order {
            text.push_str(&self.official_account(index, mistake));
        }
        let ca = if_mistaken(Mistake::BadSinkCa, "ca_file = \"bad.pem\"\n");
        write!(
            text,
            "[[sinks]]\nname = \"file\"\ntype = \"jsonl\"\npath = \"events.jsonl\"\n\
             [[sinks]]\nname = \"moving\"\ntype = \"jsonl\"\npath = \"{}\"\n\
             [[sinks]]\nname = \"hook\"\ntype = \"webhook\"\nurl = \"{}\"\nsecret = \"{}\"\ntimeout = \"{}\"\nmax_in_flight = {}\n{ca}",
            moving_file(self.file), receivers[self.receiver], KEYS[self.key], self.webhook_timeout, self.webhook_in_flight,
        )
        .unwrap();
        if self.extra {
            text.push_str("[[sinks]]\nname = \"extra\"\ntype = \"jsonl\"\npath = \"extra.jsonl\"\nstart = \"beginning\"\ntypes = [\"ended\"]\n");
        }
        text
    }

    fn official_account(&self, index: usize, mistake: Option<Mistake>) -> String {
        let (name, count) = OFFICIAL_ACCOUNTS[index];
        let watched = &self.kf_accounts[index];
        if watched.is_empty() {
            return String::new();
        }
        let quoted = |numbers: &mut dyn Iterator<Item = usize>| {
            numbers.map(|number| format!("\"{}\"", kf_account(index, number))).collect::<Vec<_>>().join(", ")
        };
        let kf_accounts = match index {
            FOUND => {
                let excluded = quoted(&mut (1..=count + 1).filter(|number| !watched.contains(number)));
                format!("\"kf1@found\", \"kf*\"]\nexclude = [{excluded}")
            }
            _ => quoted(&mut watched.iter().copied()),
        };
        let secret_file =
            if mistake == Some(Mistake::MissingSecret) { "missing.secret" } else { SECRET_FILE };
        let token = match index {
            ROTATING => format!("source = \"stable\"\nsecret_file = \"{secret_file}\""),
            _ => format!("source = \"file\"\npath = \"{}\"", token_file(index, self.token_file)),
        };
        // The ticks of the first one never change.
        let schedule = match index {
            ROTATING => format!("schedule = \"{}\"\n", self.schedule),
            STEADY => "schedule = \"* * * * * *\"\ntimezone = \"Asia/Shanghai\"\n".to_owned(),
            _ => "schedule = \"* * * * * *\"\n".to_owned(),
        };
        let limit = self.max_requests_per_minute.filter(|_| index == ROTATING);
        let limit = limit.map(|most| format!("max_requests_per_minute = {most}\n")).unwrap_or_default();
        format!(
            "[[official_accounts]]\nname = \"{name}\"\nappid = \"{}\"\nkf_accounts = [{kf_accounts}]\n{schedule}{limit}\
             [official_accounts.token]\n{token}\n",
            appid(index)
        )
    }
}

/// The full name of a kf account.
pub(crate) fn kf_account(official_account: usize, number: usize) -> String {
    format!("kf{number}@{}", OFFICIAL_ACCOUNTS[official_account].0)
}

/// Whether every configuration watches it.
pub(crate) fn is_kept(official_account: usize, number: usize) -> bool {
    number <= KEPT[official_account]
}

/// One of the files with the token of an official account. Each has the same token.
pub(crate) fn token_file(official_account: usize, which: usize) -> String {
    let which = if official_account == FOUND { which } else { 0 };
    format!("{}-{which}.token", OFFICIAL_ACCOUNTS[official_account].0)
}

pub(crate) fn moving_file(number: usize) -> String {
    format!("moving-{number}.jsonl")
}

/// The AppSecret with this number.
pub(crate) fn app_secret(number: u32) -> String {
    format!("{number:032x}")
}

fn pick<T: Copy>(random: &mut fastrand::Rng, choices: &[T]) -> T {
    choices[random.usize(0..choices.len())]
}
