//! What the HTTP clients have in common: which failed requests may be repeated at once.
//!
//! A server may close an idle connection at the very moment at which a request is sent on it. Neither side is at fault, so
//! clients repeat the request once, on a new connection, if a repetition is harmless. hyper by itself only repeats a request of
//! which nothing was sent yet.

/// Whether the connection broke before the answer. A new connection that broke looks the same; a repetition is no worse for it.
pub(crate) fn broke_before_answer(error: &reqwest::Error) -> bool {
    let broke = error.is_request() && !error.is_timeout() && !error.is_connect();
    broke && !is_answered_with_something_else(error)
}

/// Whether the server sent bytes that are not HTTP.
fn is_answered_with_something_else(error: &reqwest::Error) -> bool {
    crate::causes(error).any(|cause| cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse))
}
