//! Builds the status line that `systemctl status` shows.

use crate::{domain::account::AccountState, status::AccountTable, web::WebState};

/// What stalls, then the number of kf accounts by state, of open sessions, and of events that are pending for the sink that lags most.
pub(super) async fn status_line(web: &WebState) -> String {
    let stored = web.stored(web.settings()).await;
    let pending = stored.sinks.iter().map(|sink| sink.backlog.map(|backlog| backlog.events));
    let most = pending.reduce(|most, events| Some(most?.max(events?))).unwrap_or(Some(0));
    let pending = most.map_or("unknown".to_owned(), |events| events.to_string());
    let problem = web.liveness.problem().map_or_else(String::new, |problem| format!("{problem}; "));
    format!("{problem}{}; events pending: {pending}", StatusCounts::of(&web.table))
}

#[derive(Default)]
struct StatusCounts {
    kf_accounts: usize,
    /// In the order of [`SHOWN`].
    in_state: [usize; SHOWN.len()],
    /// `None` until an account was polled.
    sessions: Option<u64>,
}

/// The states of a watched kf account.
const SHOWN: [AccountState; 5] = [
    AccountState::Ok,
    AccountState::Unbound,
    AccountState::Invalid,
    AccountState::Blind,
    AccountState::Unknown,
];

impl StatusCounts {
    fn of(table: &AccountTable) -> Self {
        let mut counts = Self::default();
        for official_account in table.official_accounts().iter() {
            official_account.for_each_view(|_, view| counts.count(view.state, view.sessions));
        }
        counts
    }

    fn count(&mut self, state: AccountState, sessions: Option<u32>) {
        self.kf_accounts += 1;
        if let Some(sessions) = sessions {
            *self.sessions.get_or_insert_default() += u64::from(sessions);
        }
        if let Some(index) = SHOWN.iter().position(|shown| *shown == state) {
            self.in_state[index] += 1;
        }
    }
}

impl std::fmt::Display for StatusCounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", pluralize(self.kf_accounts as u64, "kf account"))?;
        let states = SHOWN.iter().zip(self.in_state).filter(|(_, count)| *count > 0);
        for (n, (state, count)) in states.enumerate() {
            write!(f, "{} {count} {}", if n == 0 { ":" } else { "," }, state.as_str())?;
        }
        match self.sessions {
            Some(sessions) => write!(f, "; {}", pluralize(sessions, "session")),
            None => f.write_str("; sessions unknown"),
        }
    }
}

fn pluralize(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_states_are_omitted() {
        let check = |accounts: &[(AccountState, Option<u32>)], expected: &str| {
            let mut counts = StatusCounts::default();
            accounts.iter().for_each(|(state, sessions)| counts.count(*state, *sessions));
            assert_eq!(counts.to_string(), expected);
        };
        check(&[], "0 kf accounts; sessions unknown");
        check(&[(AccountState::Unknown, None)], "1 kf account: 1 unknown; sessions unknown");
        check(&[(AccountState::Ok, Some(1))], "1 kf account: 1 ok; 1 session");
        check(
            &[
                (AccountState::Unknown, None),
                (AccountState::Unbound, Some(0)),
                (AccountState::Ok, Some(140)),
                (AccountState::Blind, Some(3)),
                (AccountState::Ok, Some(0)),
            ],
            "5 kf accounts: 2 ok, 1 unbound, 1 blind, 1 unknown; 143 sessions",
        );
    }
}
