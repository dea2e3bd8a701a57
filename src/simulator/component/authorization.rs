//! The authorization of a component by an official account, with its refresh tokens. Pure: the time is an argument.

use crate::simulator::random::RefreshTokenGenerator;
use crate::simulator::scenario::RefreshTokenRotation;

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

/// Why a refresh token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefreshError {
    /// The official account has withdrawn its authorization: 61003.
    Withdrawn,
    /// Not a valid refresh token of the official account: 61023.
    Invalid,
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

    pub(crate) fn is_granted(&self) -> bool {
        self.grant.is_some()
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

    /// Uses a refresh token and returns the one for the next time.
    pub(crate) fn refresh(&mut self, presented: &str) -> Result<Box<str>, RefreshError> {
        let grant = self.grant.as_mut().ok_or(RefreshError::Withdrawn)?;
        if grant.previous.as_deref() == Some(presented) {
            return Ok(grant.refresh_token.clone());
        }
        if *presented != *grant.refresh_token {
            return Err(RefreshError::Invalid);
        }
        grant.previous = None;
        if self.rotation != RefreshTokenRotation::Never {
            let used = std::mem::replace(&mut grant.refresh_token, self.refresh_tokens.generate());
            grant.previous = (self.rotation == RefreshTokenRotation::WhenUsed).then_some(used);
        }
        Ok(grant.refresh_token.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_331_551_000;

    fn authorization(rotation: RefreshTokenRotation) -> (Authorization, String) {
        let authorization = Authorization::new(0, rotation, RefreshTokenGenerator::new(1, "wx1"), NOW);
        let token = authorization.listed().unwrap().0.to_owned();
        (authorization, token)
    }

    #[test]
    fn refresh_token_without_rotation_stays_valid() {
        let (mut authorization, token) = authorization(RefreshTokenRotation::Never);
        for _ in 0..3 {
            assert_eq!(authorization.refresh(&token).as_deref(), Ok(&*token));
        }
        assert_eq!(authorization.refresh("other"), Err(RefreshError::Invalid));
    }

    #[test]
    fn rotation_decides_when_old_refresh_token_becomes_invalid() {
        let (mut strict, first) = authorization(RefreshTokenRotation::AtOnce);
        let second = strict.refresh(&first).unwrap();
        assert_ne!(*second, *first);
        assert_eq!(strict.refresh(&first), Err(RefreshError::Invalid));

        let (mut lenient, first) = authorization(RefreshTokenRotation::WhenUsed);
        let second = lenient.refresh(&first).unwrap();
        assert_eq!(lenient.refresh(&first), Ok(second.clone()), "a response may have been lost");
        let third = lenient.refresh(&second).unwrap();
        assert_ne!(third, second);
        assert_eq!(lenient.refresh(&first), Err(RefreshError::Invalid));
    }

    #[test]
    fn renewed_authorization_has_new_refresh_token() {
        let (mut authorization, first) = authorization(RefreshTokenRotation::Never);
        authorization.withdraw();
        assert_eq!(authorization.refresh(&first), Err(RefreshError::Withdrawn));
        assert_eq!(authorization.listed(), None);
        authorization.grant(NOW + 1);
        let (second, granted_ms) = authorization.listed().unwrap();
        assert_ne!(second, first);
        assert_eq!(granted_ms, NOW + 1);
        assert_eq!(authorization.refresh(&first), Err(RefreshError::Invalid));
    }
}
