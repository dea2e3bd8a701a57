//! Which shards a replica acquires and releases, so that every shard has an owner and no replica has much more than the others.
//!
//! There is no leader. Every replica computes the same from what the database says at about the same time, and carries out its own
//! part. Views may differ for a moment; then a shard is acquired a heartbeat later, or moved once more. The store alone decides who owns a
//! shard.
//!
//! A shard that nobody owns goes to the replica with the least weight. Then shards move from the heaviest replicas to the lightest, as
//! long as that makes two of them more equal. Each move lessens the sum of the squares of the weights, so that moves end.
//!
//! Shards with kf accounts are balanced by these, and the empty ones by themselves: they cost next to nothing, so that any number of them
//! on one replica would be no reason for kf accounts on another.

use std::{cmp::Reverse, collections::BTreeMap};

use uuid::Uuid;

use super::shard::ShardNumber;

/// How many shards a replica releases at a heartbeat: each is without polls for a moment. A draining replica releases all at once.
const MAX_RELEASED: usize = 8;

/// What the database says about the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterView {
    /// Replicas that are alive and not draining.
    pub replicas: Vec<Uuid>,
    /// Every shard.
    pub shards: Vec<ShardView>,
}

/// What the database says about a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardView {
    /// Which one.
    pub number: ShardNumber,
    /// Its owner, if it is alive.
    pub owner: Option<Uuid>,
    /// How many kf accounts it has.
    pub kf_accounts: u32,
}

impl ShardView {
    /// Its kf accounts. All empty shards have the same weight.
    fn weight(&self) -> u64 {
        u64::from(self.kf_accounts).max(1)
    }
}

/// Which shards one replica acquires and releases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardMoves {
    /// Shards that nobody owns, to acquire.
    pub acquire: Vec<ShardNumber>,
    /// Shards to release, so that others acquire them.
    pub release: Vec<ShardNumber>,
}

/// Computes which shards replica `me` acquires and releases.
pub fn plan_moves(view: &ClusterView, me: Uuid) -> ShardMoves {
    if !view.replicas.contains(&me) {
        // It is draining: the others acquire what it has.
        let release = owned_by(&view.shards, me).map(|shard| shard.number).collect();
        return ShardMoves { release, ..ShardMoves::default() };
    }
    let (empty, used): (Vec<_>, Vec<_>) = view.shards.iter().partition(|shard| shard.kf_accounts == 0);
    let mut moves = moves_of(&used, &view.replicas, me);
    let of_empty = moves_of(&empty, &view.replicas, me);
    moves.acquire.extend(of_empty.acquire);
    moves.release.extend(of_empty.release);
    moves.release.truncate(MAX_RELEASED);
    moves
}

/// The moves that balance these shards.
fn moves_of(shards: &[ShardView], replicas: &[Uuid], me: Uuid) -> ShardMoves {
    let mut weights: BTreeMap<Uuid, u64> = replicas.iter().map(|replica| (*replica, 0)).collect();
    for shard in shards {
        if let Some(weight) = shard.owner.and_then(|owner| weights.get_mut(&owner)) {
            *weight += shard.weight();
        }
    }
    let mut moves = ShardMoves::default();
    let mut unowned: Vec<&ShardView> = shards.iter().filter(|shard| shard.owner.is_none()).collect();
    unowned.sort_by_key(|shard| (Reverse(shard.weight()), shard.number));
    for shard in unowned {
        let Some((lightest, weight)) = weights.iter_mut().min_by_key(|(_, weight)| **weight) else { break };
        *weight += shard.weight();
        if *lightest == me {
            moves.acquire.push(shard.number);
        }
    }
    moves.release = shards_to_release(shards, me, weights);
    moves
}

/// Which shards `me` releases, given the weights that all replicas will have without moves.
fn shards_to_release(shards: &[ShardView], me: Uuid, mut weights: BTreeMap<Uuid, u64>) -> Vec<ShardNumber> {
    let mut released = Vec::new();
    let mut moved: Vec<ShardNumber> = Vec::new();
    while released.len() < MAX_RELEASED {
        let Some((&lightest, &least)) = weights.iter().min_by_key(|(_, weight)| **weight) else { break };
        // Moving less than the difference makes the two more equal; moving half of it, equal.
        let best_of = |owner: Uuid, weight: u64| {
            owned_by(shards, owner)
                .filter(|shard| shard.weight() < weight - least && !moved.contains(&shard.number))
                .min_by_key(|shard| ((2 * shard.weight()).abs_diff(weight - least), shard.number))
        };
        let mut heaviest_first: Vec<(Uuid, u64)> =
            weights.iter().map(|(replica, weight)| (*replica, *weight)).collect();
        heaviest_first.sort_by_key(|&(replica, weight)| (Reverse(weight), replica));
        let best =
            heaviest_first.into_iter().find_map(|(owner, weight)| Some((owner, best_of(owner, weight)?)));
        let Some((owner, shard)) = best else { break };
        moved.push(shard.number);
        *weights.entry(owner).or_default() -= shard.weight();
        *weights.entry(lightest).or_default() += shard.weight();
        if owner == me {
            released.push(shard.number);
        }
    }
    released
}

fn owned_by(shards: &[ShardView], owner: Uuid) -> impl Iterator<Item = &ShardView> {
    shards.iter().filter(move |shard| shard.owner == Some(owner))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn replicas(count: u128) -> Vec<Uuid> {
        (1..=count).map(Uuid::from_u128).collect()
    }

    fn unowned(kf_accounts: &[u32]) -> Vec<ShardView> {
        let shards = ShardNumber::all().zip(kf_accounts);
        shards
            .map(|(number, kf_accounts)| ShardView { number, owner: None, kf_accounts: *kf_accounts })
            .collect()
    }

    /// Has all replicas act on the same view. Returns how many shards were taken.
    fn act(view: &mut ClusterView, replicas: &[Uuid]) -> usize {
        let moves: Vec<(Uuid, ShardMoves)> =
            replicas.iter().map(|replica| (*replica, plan_moves(view, *replica))).collect();
        let mut taken = 0;
        for (replica, moves) in moves {
            for shard in &mut view.shards {
                if moves.acquire.contains(&shard.number) {
                    assert_eq!(shard.owner, None, "taken by one replica only");
                    shard.owner = Some(replica);
                    taken += 1;
                }
                if moves.release.contains(&shard.number) {
                    assert_eq!(shard.owner, Some(replica));
                    shard.owner = None;
                }
            }
        }
        taken
    }

    /// Has them act until nothing changes. Returns how many shards were taken.
    fn settle(view: &mut ClusterView) -> usize {
        let replicas = view.replicas.clone();
        let mut taken = 0;
        for _ in 0..200 {
            let before = view.clone();
            taken += act(view, &replicas);
            if *view == before {
                return taken;
            }
        }
        unreachable!("moves do not end: {view:?}");
    }

    fn weights(view: &ClusterView) -> Vec<u64> {
        let weight = |replica: &Uuid| owned_by(&view.shards, *replica).map(ShardView::weight).sum();
        view.replicas.iter().map(weight).collect()
    }

    /// Only the empty shards, or only the others.
    fn part(view: &ClusterView, is_empty: bool) -> ClusterView {
        let mut part = view.clone();
        part.shards.retain(|shard| (shard.kf_accounts == 0) == is_empty);
        part
    }

    fn assert_balanced(view: &ClusterView) {
        assert!(
            view.shards.iter().all(|shard| shard.owner.is_some_and(|owner| view.replicas.contains(&owner)))
        );
        for part in [true, false].map(|is_empty| part(view, is_empty)) {
            let weights = weights(&part);
            let least = weights.iter().min().unwrap();
            for (replica, weight) in view.replicas.iter().zip(&weights) {
                let owned = owned_by(&part.shards, *replica);
                let smallest = owned.map(ShardView::weight).min().unwrap_or(u64::MAX);
                assert!(smallest >= weight - least, "a move would help: {weights:?}");
            }
        }
    }

    #[test]
    fn equal_shards_are_spread_evenly() {
        let mut view = ClusterView { replicas: replicas(3), shards: unowned(&[0; 64]) };
        assert_eq!(settle(&mut view), 64, "each is taken once");
        let mut weights = weights(&view);
        weights.sort_unstable();
        assert_eq!(weights, [21, 21, 22]);
    }

    #[test]
    fn joining_replica_gets_its_share_and_nothing_else_moves() {
        let mut view = ClusterView { replicas: replicas(3), shards: unowned(&[100; 64]) };
        settle(&mut view);
        view.replicas = replicas(4);
        assert_eq!(settle(&mut view), 16);
    }

    #[test]
    fn shards_of_dead_replica_are_spread_and_nothing_else_moves() {
        let mut view = ClusterView { replicas: replicas(4), shards: unowned(&[100; 64]) };
        settle(&mut view);
        let dead = view.replicas.pop();
        view.shards.iter_mut().filter(|shard| shard.owner == dead).for_each(|shard| shard.owner = None);
        assert_eq!(settle(&mut view), 16);
    }

    #[test]
    fn draining_replica_releases_everything_and_acquires_nothing() {
        let mut view = ClusterView { replicas: replicas(2), shards: unowned(&[1; 64]) };
        settle(&mut view);
        let ending = view.replicas.pop().unwrap();
        let moves = plan_moves(&view, ending);
        assert_eq!((moves.release.len(), moves.acquire.len()), (32, 0));
    }

    #[test]
    fn heavy_shard_stays_alone() {
        let mut view = ClusterView { replicas: replicas(3), shards: unowned(&[1_000, 1, 1, 1, 1]) };
        settle(&mut view);
        let mut weights = weights(&view);
        weights.sort_unstable();
        assert_eq!(weights, [2, 2, 1_000]);
    }

    #[test]
    fn few_kf_accounts_are_spread_however_many_shards_are_empty() {
        let kf_accounts: Vec<u32> = (0..64).map(|shard| if shard < 12 { 3 } else { 0 }).collect();
        let mut view = ClusterView { replicas: replicas(1), shards: unowned(&kf_accounts) };
        settle(&mut view);
        view.replicas = replicas(2);
        assert_eq!(settle(&mut view), 32);
        assert_eq!((weights(&part(&view, false)), weights(&part(&view, true))), (vec![18, 18], vec![26, 26]));
    }

    proptest! {
        #[test]
        fn moves_end_with_balanced_shards(
            kf_accounts in prop::collection::vec(prop_oneof![Just(0), 0_u32..3_000], 64),
            owners in prop::collection::vec(0_u128..9, 64),
            count in 1_u128..9,
        ) {
            let mut view = ClusterView { replicas: replicas(count), shards: unowned(&kf_accounts) };
            for (shard, owner) in view.shards.iter_mut().zip(owners) {
                shard.owner = (1..=count).contains(&owner).then(|| Uuid::from_u128(owner));
            }
            settle(&mut view);
            assert_balanced(&view);
        }
    }
}
