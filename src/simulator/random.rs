//! Seeds and random values. Each part of the simulation draws from its own stream, so that one part does not change
//! the values of another.

/// Random characters of a refresh token, after its prefix.
const REFRESH_TOKEN_RANDOM_CHARS: usize = 43;
const REFRESH_TOKEN_PREFIX: &str = "refreshtoken@@@";

/// Derives the seed of a stream from the seed of the scenario and the names that identify the stream (FNV-1a).
pub(super) fn derived_seed(seed: u64, names: &[&str]) -> u64 {
    let bytes = names.iter().flat_map(|name| name.bytes().chain([0]));
    let offset_basis = 0xcbf2_9ce4_8422_2325 ^ seed;
    bytes.fold(offset_basis, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Appends random letters and digits.
pub(super) fn push_alphanumeric(text: &mut String, rng: &mut fastrand::Rng, chars: usize) {
    text.extend((0..chars).map(|_| rng.alphanumeric()));
}

/// The refresh tokens of one authorization, in the order in which they are issued.
#[derive(Debug)]
pub(super) struct RefreshTokenGenerator(fastrand::Rng);

impl RefreshTokenGenerator {
    pub(super) fn new(scenario_seed: u64, appid: &str) -> Self {
        let seed = derived_seed(scenario_seed, &["refresh", appid]);
        RefreshTokenGenerator(fastrand::Rng::with_seed(seed))
    }

    pub(super) fn generate(&mut self) -> Box<str> {
        let mut token = REFRESH_TOKEN_PREFIX.to_owned();
        push_alphanumeric(&mut token, &mut self.0, REFRESH_TOKEN_RANDOM_CHARS);
        token.into()
    }
}

/// Whether a number can be a probability.
pub(super) fn is_probability(value: f64) -> bool {
    (0.0..=1.0).contains(&value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_changes_the_derived_seed() {
        assert_ne!(derived_seed(1, &["ab", "c"]), derived_seed(1, &["a", "bc"]));
        assert_ne!(derived_seed(1, &["a"]), derived_seed(2, &["a"]));
    }
}
