//! The component_verify_tickets that WeChat pushes to a component. Pure: the time is an argument.

use crate::simulator::random::{derived_seed, push_alphanumeric};

/// Time between two pushed tickets.
const TICKET_PERIOD_MS: i64 = 10 * 60 * 1_000;
/// How long a ticket is valid after it was pushed.
const TICKET_LIFETIME_MS: i64 = 12 * 60 * 60 * 1_000;
const TICKET_PREFIX: &str = "ticket@@@";
const TICKET_NUMBER_DIGITS: usize = 8;
/// Random characters of a ticket, after its number.
const TICKET_RANDOM_CHARS: usize = 72;

/// The errcode of a ticket that was pushed too long ago.
const TICKET_EXPIRED: i64 = 61005;
/// The errcode of a ticket that was never pushed.
const TICKET_UNKNOWN: i64 = 61006;

/// The tickets of one component, numbered from the start of the simulation.
#[derive(Debug)]
pub(crate) struct Tickets {
    seed: u64,
    start_ms: i64,
}

impl Tickets {
    pub(crate) fn new(seed: u64, start_ms: i64) -> Self {
        Tickets { seed, start_ms }
    }

    /// The ticket that was pushed last.
    pub(crate) fn newest(&self, now_ms: i64) -> String {
        self.ticket(self.newest_number(now_ms))
    }

    /// Returns an errcode unless the ticket is valid.
    pub(crate) fn validate(&self, ticket: &str, now_ms: i64) -> Result<(), i64> {
        let digits = ticket.strip_prefix(TICKET_PREFIX).and_then(|rest| rest.get(..TICKET_NUMBER_DIGITS));
        let number = digits.and_then(|digits| i64::from_str_radix(digits, 16).ok());
        let pushed = |number: &i64| *number <= self.newest_number(now_ms) && self.ticket(*number) == *ticket;
        match number.filter(pushed) {
            None => Err(TICKET_UNKNOWN),
            Some(number) if now_ms < self.pushed_ms(number) + TICKET_LIFETIME_MS => Ok(()),
            Some(_) => Err(TICKET_EXPIRED),
        }
    }

    fn newest_number(&self, now_ms: i64) -> i64 {
        (now_ms - self.start_ms).div_euclid(TICKET_PERIOD_MS).max(0)
    }

    fn pushed_ms(&self, number: i64) -> i64 {
        self.start_ms.saturating_add(number.saturating_mul(TICKET_PERIOD_MS))
    }

    fn ticket(&self, number: i64) -> String {
        let mut ticket = format!("{TICKET_PREFIX}{number:0TICKET_NUMBER_DIGITS$x}");
        let seed = derived_seed(self.seed, &["ticket", &ticket]);
        push_alphanumeric(&mut ticket, &mut fastrand::Rng::with_seed(seed), TICKET_RANDOM_CHARS);
        ticket
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_331_551_000;

    #[test]
    fn ticket_is_valid_for_twelve_hours() {
        let tickets = Tickets::new(1, NOW);
        let first = tickets.newest(NOW + TICKET_PERIOD_MS - 1);
        let second = tickets.newest(NOW + TICKET_PERIOD_MS);
        assert_ne!(first, second);
        assert_eq!(tickets.validate(&first, NOW + TICKET_LIFETIME_MS - 1), Ok(()));
        assert_eq!(tickets.validate(&first, NOW + TICKET_LIFETIME_MS), Err(TICKET_EXPIRED));
        assert_eq!(tickets.validate(&second, NOW + TICKET_LIFETIME_MS), Ok(()));
        assert_eq!(tickets.validate(&second, NOW), Err(TICKET_UNKNOWN), "it has not been pushed yet");
    }

    #[test]
    fn invented_tickets_are_unknown() {
        let tickets = Tickets::new(1, NOW);
        let others = Tickets::new(2, NOW).newest(NOW);
        for ticket in ["", "ticket@@@", "ticket@@@00000000", "ticket@@@你好你好", &others] {
            assert_eq!(tickets.validate(ticket, NOW), Err(TICKET_UNKNOWN), "{ticket}");
        }
    }
}
