//! Shards: the parts into which the official accounts of a cluster are divided. A shard has one owner at a time.

use sha2::{Digest, Sha256};

/// The number of a shard, from 0 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardNumber(i16);

impl ShardNumber {
    /// How many shards there are. It can never change: it decides where the accounts of the store are.
    pub const COUNT: i16 = 64;

    /// The shard of an official account: the first eight bytes of the SHA-256 of its appid, big endian, modulo [`COUNT`](Self::COUNT).
    pub fn from_appid(appid: &str) -> Self {
        let digest = Sha256::digest(appid);
        // 256 is a multiple of the number of shards, so that the last byte of the first eight is all that counts.
        Self(i16::from(digest[7]) % Self::COUNT)
    }

    /// The shard with this number, if there is one.
    pub fn new(number: i16) -> Option<Self> {
        (0..Self::COUNT).contains(&number).then_some(Self(number))
    }

    /// All shards.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT).map(Self)
    }

    /// The number.
    pub fn get(self) -> i16 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As documented, whatever the shortcut.
    #[test]
    fn shard_is_beginning_of_hash() {
        for appid in ["wx0123456789abcdef", "wxfedcba9876543210", ""] {
            let digest = Sha256::digest(appid);
            let beginning = u64::from_be_bytes(digest[..8].try_into().unwrap());
            assert_eq!(u64::try_from(ShardNumber::from_appid(appid).get()).unwrap(), beginning % 64);
        }
        assert_eq!(ShardNumber::all().count(), 64);
    }
}
