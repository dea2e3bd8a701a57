//! Third-party platforms: their tickets and tokens, and what official accounts have granted them. Pure: the time comes
//! in as an argument.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64};

use super::customers::derived_seed;
use super::routes::Endpoint;
use super::scenario::{ComponentParameter, ComponentScript, RequiredHeader, Rotation};
use super::token::TokenDesk;

/// A new ticket is pushed so often.
const TICKET_PERIOD_MS: i64 = 10 * 60 * 1_000;
/// A ticket can be used for so long after it was pushed.
const TICKET_LIFE_MS: i64 = 12 * 60 * 60 * 1_000;
const TICKET_PREFIX: &str = "ticket@@@";
const TICKET_NUMBER_DIGITS: usize = 8;
/// Characters of a ticket behind its number.
const TICKET_RANDOM_CHARS: usize = 72;
const REFRESH_TOKEN_PREFIX: &str = "refreshtoken@@@";
const REFRESH_TOKEN_RANDOM_CHARS: usize = 43;

/// One third-party platform.
#[derive(Debug)]
pub(super) struct Component {
    pub(super) appid: Arc<str>,
    pub(super) secret: Box<str>,
    pub(super) parameter: ComponentParameter,
    pub(super) ticket_header: Option<RequiredHeader>,
    /// SpreadPlan in the scenario of the official accounts that have ever granted it, in the order of its list.
    pub(super) authorizers: Vec<usize>,
    pub(super) desk: Mutex<TokenDesk>,
    pub(super) tickets: Mutex<Tickets>,
    /// Whether its address is off the allow-list: every call gets 61004.
    pub(super) address_refused: AtomicBool,
    pub(super) requests: [AtomicU64; Endpoint::ALL.len()],
}

impl Component {
    pub(super) fn new(script: &ComponentScript, desk: TokenDesk, tickets: Tickets) -> Self {
        Component {
            appid: script.component_appid.as_str().into(),
            secret: script.secret.as_str().into(),
            parameter: script.component_parameter,
            ticket_header: script.ticket_header.clone(),
            authorizers: Vec::with_capacity(script.authorizers.len()),
            desk: Mutex::new(desk),
            tickets: Mutex::new(tickets),
            address_refused: AtomicBool::new(false),
            requests: Default::default(),
        }
    }
}

/// What a presented ticket is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TicketVerdict {
    Valid,
    /// Pushed too long ago: 61005.
    Expired,
    /// Never pushed: 61006.
    Unknown,
}

/// The tickets that are pushed to a component, numbered from the start of the simulation.
#[derive(Debug)]
pub(super) struct Tickets {
    seed: u64,
    start_ms: i64,
    /// The last one that was pushed, once pushing has stopped.
    stopped_at: Option<i64>,
}

impl Tickets {
    pub(super) fn new(seed: u64, start_ms: i64) -> Self {
        Tickets { seed, start_ms, stopped_at: None }
    }

    /// The one that was pushed last.
    pub(super) fn newest(&self, now_ms: i64) -> String {
        self.ticket(self.newest_number(now_ms))
    }

    pub(super) fn judge(&self, ticket: &str, now_ms: i64) -> TicketVerdict {
        let digits = ticket.strip_prefix(TICKET_PREFIX).and_then(|rest| rest.get(..TICKET_NUMBER_DIGITS));
        let number = digits.and_then(|digits| i64::from_str_radix(digits, 16).ok());
        let pushed = |number: &i64| *number <= self.newest_number(now_ms) && self.ticket(*number) == *ticket;
        match number.filter(pushed) {
            None => TicketVerdict::Unknown,
            Some(number) if now_ms < self.pushed_ms(number) + TICKET_LIFE_MS => TicketVerdict::Valid,
            Some(_) => TicketVerdict::Expired,
        }
    }

    /// Pushes no more.
    pub(super) fn stop(&mut self, now_ms: i64) {
        self.stopped_at = Some(self.newest_number(now_ms));
    }

    /// Pushes again, the ticket of the current period first.
    pub(super) fn resume(&mut self) {
        self.stopped_at = None;
    }

    fn newest_number(&self, now_ms: i64) -> i64 {
        self.stopped_at.unwrap_or_else(|| (now_ms - self.start_ms).div_euclid(TICKET_PERIOD_MS).max(0))
    }

    fn pushed_ms(&self, number: i64) -> i64 {
        self.start_ms.saturating_add(number.saturating_mul(TICKET_PERIOD_MS))
    }

    fn ticket(&self, number: i64) -> String {
        let mut ticket = format!("{TICKET_PREFIX}{number:0TICKET_NUMBER_DIGITS$x}");
        let seed = derived_seed(self.seed, &["ticket", &ticket]);
        extend_randomly(&mut ticket, &mut fastrand::Rng::with_seed(seed), TICKET_RANDOM_CHARS);
        ticket
    }
}

/// What one official account has granted to its component.
#[derive(Debug)]
pub(super) struct Authorization {
    /// The component's place in the scenario.
    pub(super) component: usize,
    rng: fastrand::Rng,
    rotation: Rotation,
    /// None once it is withdrawn.
    grant: Option<Grant>,
}

#[derive(Debug)]
struct Grant {
    granted_ms: i64,
    refresh_token: Box<str>,
    /// Replaced by `refresh_token`, and valid until that one is used.
    former: Option<Box<str>>,
}

/// Why a refresh token gives no access token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RefreshRefusal {
    /// The official account has withdrawn its authorization: 61003.
    Withdrawn,
    /// Not its refresh token, or no more: 61023.
    Invalid,
}

impl Authorization {
    pub(super) fn new(component: usize, rotation: Rotation, seed: u64, now_ms: i64) -> Self {
        let rng = fastrand::Rng::with_seed(seed);
        let mut authorization = Authorization { component, rng, rotation, grant: None };
        authorization.grant(now_ms);
        authorization
    }

    /// Grants it (anew): the refresh token is another one.
    pub(super) fn grant(&mut self, now_ms: i64) {
        let refresh_token = self.mint();
        self.grant = Some(Grant { granted_ms: now_ms, refresh_token, former: None });
    }

    pub(super) fn withdraw(&mut self) {
        self.grant = None;
    }

    pub(super) fn is_granted(&self) -> bool {
        self.grant.is_some()
    }

    /// The refresh token as the authorizer list gives it, and when the authorization was granted.
    pub(super) fn listed(&self) -> Option<(&str, i64)> {
        self.grant.as_ref().map(|grant| (&*grant.refresh_token, grant.granted_ms))
    }

    /// Makes the refresh token void; only the authorizer list tells the one that takes its place.
    pub(super) fn replace_refresh_token(&mut self) {
        let refresh_token = self.mint();
        if let Some(grant) = &mut self.grant {
            (grant.refresh_token, grant.former) = (refresh_token, None);
        }
    }

    /// Takes a refresh token, and gives the one to use the next time.
    pub(super) fn refresh(&mut self, presented: &str) -> Result<Box<str>, RefreshRefusal> {
        let grant = self.grant.as_mut().ok_or(RefreshRefusal::Withdrawn)?;
        if grant.former.as_deref() == Some(presented) {
            return Ok(grant.refresh_token.clone());
        }
        if *presented != *grant.refresh_token {
            return Err(RefreshRefusal::Invalid);
        }
        grant.former = None;
        if self.rotation != Rotation::Never {
            let used = std::mem::replace(&mut grant.refresh_token, mint(&mut self.rng));
            grant.former = (self.rotation == Rotation::WhenUsed).then_some(used);
        }
        Ok(grant.refresh_token.clone())
    }

    fn mint(&mut self) -> Box<str> {
        mint(&mut self.rng)
    }
}

fn mint(rng: &mut fastrand::Rng) -> Box<str> {
    let mut token = REFRESH_TOKEN_PREFIX.to_owned();
    extend_randomly(&mut token, rng, REFRESH_TOKEN_RANDOM_CHARS);
    token.into()
}

fn extend_randomly(text: &mut String, rng: &mut fastrand::Rng, chars: usize) {
    text.extend((0..chars).map(|_| rng.alphanumeric()));
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_331_551_000;

    #[test]
    fn a_ticket_lives_for_twelve_hours_while_newer_ones_come_every_ten_minutes() {
        let tickets = Tickets::new(1, NOW);
        let first = tickets.newest(NOW + TICKET_PERIOD_MS - 1);
        let second = tickets.newest(NOW + TICKET_PERIOD_MS);
        assert_ne!(first, second);
        assert_eq!(tickets.judge(&first, NOW + TICKET_LIFE_MS - 1), TicketVerdict::Valid);
        assert_eq!(tickets.judge(&first, NOW + TICKET_LIFE_MS), TicketVerdict::Expired);
        assert_eq!(tickets.judge(&second, NOW + TICKET_LIFE_MS), TicketVerdict::Valid);
        assert_eq!(tickets.judge(&second, NOW), TicketVerdict::Unknown, "it has not been pushed yet");
    }

    #[test]
    fn made_up_tickets_are_unknown() {
        let tickets = Tickets::new(1, NOW);
        let others = Tickets::new(2, NOW).newest(NOW);
        for ticket in ["", "ticket@@@", "ticket@@@00000000", "ticket@@@你好你好", &others] {
            assert_eq!(tickets.judge(ticket, NOW), TicketVerdict::Unknown, "{ticket}");
        }
    }

    #[test]
    fn the_last_ticket_stays_the_newest_while_none_are_pushed() {
        let mut tickets = Tickets::new(1, NOW);
        let last = tickets.newest(NOW);
        tickets.stop(NOW);
        assert_eq!(tickets.newest(NOW + TICKET_LIFE_MS), last);
        assert_eq!(tickets.judge(&last, NOW + TICKET_LIFE_MS), TicketVerdict::Expired);
        tickets.resume();
        let resumed = tickets.newest(NOW + TICKET_LIFE_MS);
        assert_eq!(tickets.judge(&resumed, NOW + TICKET_LIFE_MS), TicketVerdict::Valid);
    }

    fn authorization(rotation: Rotation) -> (Authorization, String) {
        let authorization = Authorization::new(0, rotation, 1, NOW);
        let token = authorization.listed().unwrap().0.to_owned();
        (authorization, token)
    }

    #[test]
    fn a_refresh_token_that_does_not_rotate_is_used_again_and_again() {
        let (mut authorization, token) = authorization(Rotation::Never);
        for _ in 0..3 {
            assert_eq!(authorization.refresh(&token).as_deref(), Ok(&*token));
        }
        assert_eq!(authorization.refresh("other"), Err(RefreshRefusal::Invalid));
    }

    #[test]
    fn a_rotated_refresh_token_is_void_at_once_or_when_the_new_one_was_used() {
        let (mut strict, first) = authorization(Rotation::AtOnce);
        let second = strict.refresh(&first).unwrap();
        assert_ne!(*second, *first);
        assert_eq!(strict.refresh(&first), Err(RefreshRefusal::Invalid));

        let (mut lenient, first) = authorization(Rotation::WhenUsed);
        let second = lenient.refresh(&first).unwrap();
        assert_eq!(lenient.refresh(&first), Ok(second.clone()), "an answer may have been lost");
        let third = lenient.refresh(&second).unwrap();
        assert_ne!(third, second);
        assert_eq!(lenient.refresh(&first), Err(RefreshRefusal::Invalid));
    }

    #[test]
    fn what_was_withdrawn_and_granted_again_has_another_refresh_token() {
        let (mut authorization, first) = authorization(Rotation::Never);
        authorization.withdraw();
        assert_eq!(authorization.refresh(&first), Err(RefreshRefusal::Withdrawn));
        assert_eq!(authorization.listed(), None);
        authorization.grant(NOW + 1);
        let (second, granted_ms) = authorization.listed().unwrap();
        assert_ne!(second, first);
        assert_eq!(granted_ms, NOW + 1);
        assert_eq!(authorization.refresh(&first), Err(RefreshRefusal::Invalid));
    }
}
