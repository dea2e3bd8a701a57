//! What the daemon observed of one kf account: the ledger's answers in order, and what is uncertain about each.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
};

use kfwatch::simulator::{
    AccountToWatch, ApiCall, Fault, Ledger, PollRecord, RecordedResponse, SessionRecord, SimulatorControl,
};

use crate::support::{
    events::{Account, Session},
    site::Tokens,
    wait::eventually,
};

/// One process of the daemon, from start to end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Life {
    /// UNIX milliseconds, before the process was started.
    pub(crate) from_ms: i64,
    /// UNIX milliseconds, after the process had ended.
    pub(crate) to_ms: i64,
    /// Whether it was killed rather than drained.
    pub(crate) killed: bool,
    /// The timeout of its calls, on the clock of the polls. A scripted clock passes minutes between two polls.
    pub(crate) client_timeout_ms: i64,
}

/// One request and its answer.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    /// When the request reached the simulator: the answer shows the simulator's state at this millisecond.
    pub(crate) received_ms: i64,
    pub(crate) observed: Observed,
    /// Whether the daemon may have counted the answer or not.
    pub(crate) uncertain: bool,
    /// Bounds of the time when the request was sent.
    pub(crate) sent_ms: [i64; 2],
    /// Bounds of the time when the answer had been received, if it was.
    pub(crate) taken_ms: [i64; 2],
    /// Whether the daemon was killed, or drained, before the next exchange.
    pub(crate) then: Then,
}

/// What the daemon could learn from an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Observed {
    Listed(BTreeSet<Session>),
    Keyless,
    Refused(i64),
    Nothing,
    /// No conclusive answer for `blind_after`, with the cause that consumers receive.
    Silence {
        errcode: Option<i64>,
        source: &'static str,
    },
    /// The configuration no longer has the account.
    Removed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    GoesOn,
    Drained,
    Killed,
}

/// Everything known about one kf account.
#[derive(Debug, Clone)]
pub(crate) struct History {
    pub(crate) account: Account,
    pub(crate) exchanges: Vec<Exchange>,
    /// When each session was opened, and when it was closed, if it was.
    pub(crate) truth: BTreeMap<Session, (i64, Option<i64>)>,
}

impl History {
    /// Returns the histories of all kf accounts.
    pub(crate) fn all(
        accounts: &[(AccountToWatch, Tokens)],
        ledger: &Ledger,
        lives: &[Life],
    ) -> Vec<History> {
        let mut polls = HashMap::<_, Vec<&PollRecord>>::new();
        for poll in &ledger.polls {
            polls.entry((&*poll.appid, &*poll.kf_account)).or_default().push(poll);
        }
        let mut sessions = HashMap::<_, Vec<&SessionRecord>>::new();
        for session in &ledger.sessions {
            sessions.entry((&*session.appid, &*session.kf_account)).or_default().push(session);
        }
        let kf_accounts = accounts.iter().flat_map(|(official, _)| {
            official.kf_accounts.iter().map(move |kf_account| (official, kf_account))
        });
        kf_accounts
            .map(|(AccountToWatch { name, appid, .. }, kf_account)| {
                let key = (&**appid, &**kf_account);
                let [official_account, appid] = [name, appid].map(String::clone);
                let account = Account { official_account, appid, kf_account: kf_account.clone() };
                let sessions = sessions.remove(&key).unwrap_or_default();
                History::from_records(
                    account,
                    polls.remove(&key).unwrap_or_default(),
                    &sessions,
                    (ledger, lives),
                )
            })
            .collect()
    }

    /// Returns the history of one kf account.
    pub(crate) fn of(account: &Account, ledger: &Ledger, lives: &[Life]) -> History {
        let is_ours =
            |appid: &str, kf_account: &str| appid == account.appid && kf_account == account.kf_account;
        let polls = ledger.polls.iter().filter(|poll| is_ours(&poll.appid, &poll.kf_account)).collect();
        let ours = ledger.sessions.iter().filter(|session| is_ours(&session.appid, &session.kf_account));
        History::from_records(account.clone(), polls, &ours.collect::<Vec<_>>(), (ledger, lives))
    }

    /// Adds that the account was removed from the configuration at these times, in UNIX milliseconds. Its polls show where it was
    /// watched again.
    pub(crate) fn removed_at(mut self, times_ms: &[i64]) -> History {
        for &ms in times_ms {
            let at = self.exchanges.partition_point(|exchange| exchange.received_ms <= ms);
            let removal = Exchange {
                received_ms: ms,
                observed: Observed::Removed,
                uncertain: false,
                sent_ms: [ms, ms],
                taken_ms: [ms, ms],
                then: Then::GoesOn,
            };
            self.exchanges.insert(at, removal);
        }
        self
    }

    fn from_records(
        account: Account,
        mut polls: Vec<&PollRecord>,
        sessions: &[&SessionRecord],
        (ledger, lives): (&Ledger, &[Life]),
    ) -> History {
        // At most one poll is in flight, so the order of starts is the order of all.
        polls.sort_by_key(|poll| poll.received_at_ms);
        let exchanges = (0..polls.len()).map(|at| exchange(&polls, at, lives, ledger)).collect();
        let truth = sessions
            .iter()
            .map(|record| (session(record), (record.opened_at_ms, record.closed_at_ms)))
            .collect();
        History { account, exchanges, truth }
    }
}

fn session(record: &SessionRecord) -> Session {
    Session { openid: record.openid.to_string(), createtime: record.createtime }
}

fn exchange(polls: &[&PollRecord], at: usize, lives: &[Life], ledger: &Ledger) -> Exchange {
    let poll = polls[at];
    let life = life_of(poll, lives);
    let next = polls.get(at + 1).filter(|next| life_of(next, lives).from_ms == life.from_ms);
    let then = match next {
        Some(_) => Then::GoesOn,
        None if life.killed => Then::Killed,
        None => Then::Drained,
    };
    let (observed, questionable) = observation(&poll.response, ledger);
    // The client may have given up before the answer came, but not when plenty of time was left. On a busy machine it
    // gives up later than its timeout; it did not give up if it sent its next request before. A daemon that was killed
    // may or may not have received its last answer, and may or may not have committed it. The answer before that was
    // committed, because an account has one poll at a time.
    let given_up_before = next.map_or(life.to_ms, |next| next.received_at_ms);
    let late =
        poll.answered_at_ms.is_some_and(|sent| sent - poll.received_at_ms > life.client_timeout_ms / 2)
            || given_up_before - poll.received_at_ms > life.client_timeout_ms / 5 * 3;
    let uncertain = questionable || late || then == Then::Killed;
    Exchange {
        received_ms: poll.received_at_ms,
        observed,
        uncertain,
        sent_ms: [not_sent_before(polls, at, life), poll.received_at_ms],
        // Times are rounded to milliseconds, outwards.
        taken_ms: [poll.received_at_ms, next.map_or(life.to_ms, |next| next.received_at_ms + 1)],
        then,
    }
}

fn life_of(poll: &PollRecord, lives: &[Life]) -> Life {
    // A process sends no request in the millisecond in which it is started.
    *lives.iter().rfind(|life| life.from_ms < poll.received_at_ms).unwrap_or(&lives[0])
}

/// A request is sent after the previous answer was received. When a connection breaks without an answer, the same
/// request may be sent again; then it was first sent at the first attempt.
fn not_sent_before(polls: &[&PollRecord], at: usize, life: Life) -> i64 {
    let broke =
        |poll: &PollRecord| matches!(poll.response, RecordedResponse::Failed(Fault::Close | Fault::Reset));
    let before = polls[..at].iter().rfind(|poll| !broke(poll));
    before.map_or(life.from_ms, |poll| poll.received_at_ms.max(life.from_ms))
}

/// Returns what an answer says, and whether a strict client may refuse it.
fn observation(answer: &RecordedResponse, ledger: &Ledger) -> (Observed, bool) {
    let listed =
        |indices: &[u32]| indices.iter().map(|index| session(&ledger.sessions[*index as usize])).collect();
    match answer {
        RecordedResponse::Listed(indices) => (Observed::Listed(listed(indices)), false),
        RecordedResponse::Questionable(answered) => (observation(answered, ledger).0, true),
        RecordedResponse::Keyless => (Observed::Keyless, false),
        RecordedResponse::Refused(errcode) => (Observed::Refused(*errcode), false),
        RecordedResponse::Failed(_) | RecordedResponse::NotSent => (Observed::Nothing, false),
    }
}

/// Waits until a server has read all that processes that were killed had sent to it: it has no connection any more, nor
/// one that it has not accepted yet.
pub(crate) fn wait_for_last_requests(server: SocketAddr) {
    // proc(5): the local address and the state, of which these mean that there may be something to read.
    const READABLE: [&str; 3] = ["01", "03", "08"]; // established, just opened, closed by the client
    let port = format!(":{:04X}", server.port());
    eventually("the last request was read", || {
        let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let is_readable = |socket: &str| {
            let fields: Vec<_> = socket.split_whitespace().collect();
            fields[1].ends_with(&port) && READABLE.contains(&fields[3])
        };
        (!sockets.lines().skip(1).any(is_readable)).then_some(())
    });
}

/// Returns the ledger once the daemon has ended and the last request is recorded.
pub(crate) fn whole_ledger(control: &SimulatorControl) -> Ledger {
    let ledger = eventually("every request is in the ledger", || {
        let ledger = control.ledger();
        (ledger.polls.len() as u64 == control.requests(ApiCall::GetSessionList)).then_some(ledger)
    });
    assert!(!ledger.incomplete);
    ledger
}
