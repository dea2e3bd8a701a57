//! Independent worlds that run side by side, each with its own simulated WeChat, daemon and receivers.
//!
//! A round of kills waits for processes and for the clock more than it works, so several worlds take hardly longer than one.

/// The number of worlds.
const WORLDS: usize = 4;

/// Divides at least this number of rounds among worlds, and returns the results of all. `play` plays one world with its own
/// seed and its share of the rounds.
pub(crate) fn play_worlds<T: Send>(
    first_seed: u64,
    rounds: usize,
    play: impl Fn(u64, usize) -> T + Sync,
) -> Vec<T> {
    let (play, rounds) = (&play, rounds.div_ceil(WORLDS));
    std::thread::scope(|scope| {
        let seeds = (first_seed..).take(WORLDS);
        let worlds: Vec<_> = seeds.map(|seed| scope.spawn(move || play(seed, rounds))).collect();
        worlds.into_iter().map(|world| world.join().unwrap()).collect()
    })
}
