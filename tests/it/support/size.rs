//! How much a test does. It does more in `tests/run.sh --long`.

use std::str::FromStr;

/// The number in this environment variable, or `default` if it is not set.
pub(crate) fn size_from<T: FromStr>(variable: &str, default: T) -> T {
    #[expect(
        clippy::disallowed_methods,
        reason = "the size of a test is not part of the program's configuration"
    )]
    let Ok(number) = std::env::var(variable) else { return default };
    number.parse().unwrap_or_else(|_| panic!("{variable}={number} is no number"))
}
