//! `PUT|POST /-/reload`: asks for a reload, if the configuration enables it.
//!
//! A page of another site that somebody visits must not reload the configuration: browsers mark such requests.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};

use super::WebState;
use crate::reload::{ReloadMode, ReloadReport, ReloadTrigger};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The status is 200 with what has changed, or 500 with the mistakes of the configuration, which is not applied.
pub(super) async fn reload(State(state): State<Arc<WebState>>, headers: HeaderMap) -> Response {
    if !state.settings().enable_reload {
        let remedy =
            "reloads by HTTP are not enabled: set web.enable_reload = true, or use \"kfwatch reload\"\n";
        return (StatusCode::FORBIDDEN, remedy).into_response();
    }
    if is_from_other_site(&headers) {
        return (StatusCode::FORBIDDEN, "a page of another site may not reload the configuration\n")
            .into_response();
    }
    match state.reload_requests.outcome(ReloadMode::Apply, ReloadTrigger::Http).await {
        Ok(Ok(report)) => text(&report).into_response(),
        Ok(Err(refusal)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{refusal}\n")).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}

/// Whether a browser sent it for a page of another site. `Sec-Fetch-Site` is only sent over TLS and to this machine; `Origin` always.
fn is_from_other_site(headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get(SEC_FETCH_SITE) {
        return site != "same-origin" && site != "none";
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return false };
    let origin = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
    let origin = origin.as_ref().and_then(Uri::authority).map(|authority| authority.as_str());
    origin.is_none() || origin != headers.get(header::HOST).and_then(|host| host.to_str().ok())
}

fn text(report: &ReloadReport) -> String {
    if report.changes.is_empty() {
        return "Nothing to do: kfwatch already runs with this configuration.\n".to_owned();
    }
    let changes = report.changes.iter().map(ToString::to_string);
    let deferred = report.deferred.iter().cloned();
    let warnings = report.warnings.iter().map(|warning| format!("warning: {warning}"));
    changes.chain(deferred).chain(warnings).map(|line| line + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_other_sites_are_recognized() {
        let check = |headers: &[(&'static str, &'static str)], is_other: bool| {
            let headers = headers
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
                .collect();
            assert_eq!(is_from_other_site(&headers), is_other, "{headers:?}");
        };
        check(&[], false);
        for (site, is_other) in
            [("same-origin", false), ("none", false), ("same-site", true), ("cross-site", true)]
        {
            check(&[("sec-fetch-site", site)], is_other);
        }
        let host = ("host", "kf.example:9877");
        check(&[host], false);
        check(&[host, ("origin", "http://kf.example:9877")], false);
        check(&[host, ("origin", "http://kf.example")], true);
        check(&[host, ("origin", "https://evil.example")], true);
        check(&[host, ("origin", "null")], true);
    }
}
