//! The authorization of a component by an official account, with its refresh tokens. Pure: the time is an argument.

use crate::simulator::random::RefreshTokenGenerator;
use crate::simulator::scenario::RefreshTokenRotation;

/// The errcode for an official account that does not authorize the component.
pub(crate) const NOT_AUTHORIZED: i64 = 61003;

/// The authorization of one official account for its component.
#[derive(Debug)]
pub(crate) struct Authorization {
    /// Index of the component in the scenario.
    pub(crate) component: usize,
    refresh_tokens: RefreshTokenGenerator,
    rotation: RefreshTokenRotation,
    /// None after the authorization was withdrawn.
    grant: Option<Grant>,
}

#[derive(Debug)]
struct Grant {
    granted_ms: i64,
    refresh_token: Box<str>,
    /// The token before `refresh_token`. It stays valid until `refresh_token` is used.
    previous: Option<Box<str>>,
}

impl Authorization {
    pub(crate) fn new(
        component: usize,
        rotation: RefreshTokenRotation,
        refresh_tokens: RefreshTokenGenerator,
        now_ms: i64,
    ) -> Self {
        let mut authorization = Authorization { component, refresh_tokens, rotation, grant: None };
        authorization.grant(now_ms);
        authorization
    }

    /// Grants the authorization, with a new refresh token.
    pub(crate) fn grant(&mut self, now_ms: i64) {
        let refresh_token = self.refresh_tokens.generate();
        self.grant = Some(Grant { granted_ms: now_ms, refresh_token, previous: None });
    }

    pub(crate) fn withdraw(&mut self) {
        self.grant = None;
    }

    /// The entry in the authorizer list: the refresh token and the time of the grant.
    pub(crate) fn listed(&self) -> Option<(&str, i64)> {
        self.grant.as_ref().map(|grant| (&*grant.refresh_token, grant.granted_ms))
    }

    /// Replaces the refresh token. A client finds the new one only in the authorizer list.
    pub(crate) fn replace_refresh_token(&mut self) {
        let refresh_token = self.refresh_tokens.generate();
        if let Some(grant) = &mut self.grant {
            (grant.refresh_token, grant.previous) = (refresh_token, None);
        }
    }

    /// Uses a refresh token and returns the one for the next time, or an errcode.
    pub(crate) fn refresh(&mut self, presented: &str) -> Result<Box<str>, i64> {
        let grant = self.grant.as_mut().ok_or(NOT_AUTHORIZED)?;
        if grant.previous.as_deref() == Some(presented) {
            return Ok(grant.refresh_token.clone());
        }
        if *presented != *grant.refresh_token {
            return Err(61023);
        }
        grant.previous = None;
        if self.rotation != RefreshTokenRotation::Never {
            let used = std::mem::replace(&mut grant.refresh_token, self.refresh_tokens.generate());
            grant.previous = (self.rotation == RefreshTokenRotation::WhenUsed).then_some(used);
        }
        Ok(grant.refresh_token.clone())
    }
}
