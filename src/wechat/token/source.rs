//! Where the token of an official account comes from, and how it is fetched there.

use std::{path::PathBuf, sync::Arc, time::Duration};

use secrecy::SecretString;

use super::{
    access_token::AccessToken,
    appsecret,
    authorizer::{Authorization, AuthorizerTokens},
    cache::FetchedToken,
    external::{self, TokenServer},
    journal::TokenJournal,
    min_fetch_interval::MinFetchInterval,
    observed_client::ObservedClient,
};
use crate::{
    domain::endpoint::Endpoint,
    secrets::RotatableSecret,
    wechat::{
        error::{CallError, CallFailure},
        origin::TokenOrigin,
    },
};

/// How long a token from a file is used before the file is read again. Reading is cheap, and a file states no lifetime.
const FILE_LIFETIME: Duration = Duration::from_secs(10);

/// How long a token from a token server is used before the server is asked again. WeChat recommends about a minute.
const SERVER_LIFETIME: Duration = Duration::from_secs(60);

/// The source of an official account's tokens, if it does not use a component.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the fields say what they are")]
pub enum TokenSource {
    /// `POST /cgi-bin/stable_token`, never with `force_refresh`.
    Stable { secret: RotatableSecret<SecretString> },
    /// `GET /cgi-bin/token`.
    Classic { secret: RotatableSecret<SecretString> },
    /// A file that another program rewrites. If it is JSON, the pointer says where the text is.
    File { path: PathBuf, json_pointer: Option<String> },
    /// The operator's central token server.
    Server(TokenServer),
}

/// Where the tokens of an official account come from.
pub enum ProviderSource {
    /// A source of its own.
    Own(TokenSource),
    /// A component that it has authorized.
    Component(Authorization),
}

impl From<TokenSource> for ProviderSource {
    fn from(source: TokenSource) -> Self {
        Self::Own(source)
    }
}

impl From<Authorization> for ProviderSource {
    fn from(authorization: Authorization) -> Self {
        Self::Component(authorization)
    }
}

/// A source that tokens are fetched from.
pub(super) enum Source {
    Own(TokenSource),
    /// Shared with the source that it replaces if both have the same component: it has the newest refresh token.
    Component(Arc<AuthorizerTokens>),
}

impl Source {
    pub(super) fn new(source: ProviderSource, appid: &Arc<str>, journal: &Arc<dyn TokenJournal>) -> Self {
        match source {
            ProviderSource::Own(source) => Self::Own(source),
            ProviderSource::Component(authorization) => {
                let tokens = AuthorizerTokens::new(Arc::clone(appid), authorization, Arc::clone(journal));
                Self::Component(Arc::new(tokens))
            }
        }
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        match self {
            Self::Own(TokenSource::Stable { .. }) => Endpoint::StableToken,
            Self::Own(TokenSource::Classic { .. } | TokenSource::File { .. }) => Endpoint::Token,
            Self::Own(TokenSource::Server(_)) => Endpoint::TokenServer,
            Self::Component(_) => Endpoint::AuthorizerToken,
        }
    }

    /// Why a token may be replaced before it expires; `None` if other programs are meant to fetch the tokens.
    pub(super) fn replacement_cause(&self) -> Option<&'static str> {
        match self {
            Self::Own(TokenSource::Stable { .. } | TokenSource::Classic { .. }) => Some(
                "another program fetches tokens for it; let that program use stable_token, or share one token with it",
            ),
            Self::Component(_) => Some("another program fetches tokens for it, or it was authorized again"),
            Self::Own(TokenSource::File { .. } | TokenSource::Server(_)) => None,
        }
    }

    pub(super) async fn fetch(
        &self,
        appid: &str,
        min_fetch_interval: &mut MinFetchInterval,
        client: ObservedClient<'_>,
    ) -> Result<FetchedToken, CallFailure> {
        let now = client.now();
        match self {
            Self::Own(TokenSource::File { path, json_pointer }) => {
                match external::read_token_file(path, json_pointer.as_deref()) {
                    Ok(token) => {
                        let token = AccessToken::new(token, Some(TokenOrigin::File(path.clone())));
                        Ok(FetchedToken { token, lifetime: FILE_LIFETIME, is_lifetime_stated: false })
                    }
                    Err(problem) => {
                        Err(CallFailure::new(self.endpoint(), CallError::TokenFile(problem.into()), now))
                    }
                }
            }
            Self::Own(TokenSource::Server(server)) => {
                min_fetch_interval.record(now).await;
                let origin = TokenOrigin::Server(server.name());
                let token = AccessToken::new(server.fetch(client).await?, Some(origin));
                Ok(FetchedToken { token, lifetime: SERVER_LIFETIME, is_lifetime_stated: false })
            }
            Self::Own(TokenSource::Stable { secret } | TokenSource::Classic { secret }) => {
                min_fetch_interval.record(now).await;
                appsecret::fetch(self.endpoint(), appid, secret, client).await
            }
            Self::Component(tokens) => tokens.fetch(min_fetch_interval, client).await,
        }
    }
}
