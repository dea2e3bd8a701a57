//! The lines of a family, each much like the one before.
//!
//! A page of 100,000 accounts has more than a million of them, and what each is made of is short. So the text before the
//! name is put together once for each official account; texts are copied in blocks of a fixed length, which are a few
//! instructions, where a copy of any length is a call; they go to a slice, where a `Vec` would be asked for room by each; and
//! digits are written where they stay, because a processor waits when it has to read at once, in larger pieces, what it has
//! just written.

use super::Page;

/// What stands before a name is copied in pieces of that many bytes; nearly always one is enough.
const HEAD_BLOCK: usize = 128;

/// And a name in pieces of that many.
pub(super) const NAME_BLOCK: usize = 32;

/// Room enough for what stands behind a name, 24 bytes at most, and for the rest of the last block of a text.
const BEHIND_NAME: usize = 24 + HEAD_BLOCK;

/// A text with what stands behind it in memory, up to the end of its last block.
#[derive(Clone, Copy)]
pub(super) struct Padded<'a, const BLOCK: usize> {
    bytes: &'a [u8],
    len: usize,
}

impl<'a, const BLOCK: usize> Padded<'a, BLOCK> {
    /// The first `len` of `bytes`, which go on for a block at least.
    pub(super) fn new(bytes: &'a [u8], len: usize) -> Self {
        Self { bytes, len }
    }

    /// Writes it to the beginning of `line`, where it may leave more behind, and gives the rest.
    fn put(self, line: &mut [u8]) -> &mut [u8] {
        let blocks = self.bytes.as_chunks::<BLOCK>().0.iter().take(self.len.div_ceil(BLOCK));
        for (to, block) in line.as_chunks_mut::<BLOCK>().0.iter_mut().zip(blocks) {
            *to = *block;
        }
        &mut line[self.len..]
    }
}

impl<E: FnMut(Vec<u8>) -> bool> Page<E> {
    /// Lines that begin alike, one for each name that has a value.
    pub(super) fn lines<'n>(
        &mut self,
        head: &str,
        names: impl Iterator<Item = Padded<'n, NAME_BLOCK>>,
        values: impl Iterator<Item = Option<u64>>,
    ) {
        let padded = [head.as_bytes(), &[0; HEAD_BLOCK]].concat();
        let head = Padded::<HEAD_BLOCK>::new(&padded, head.len());
        for (name, value) in names.zip(values) {
            let Some(value) = value else { continue };
            let room = self.room(head.len + name.len + BEHIND_NAME);
            let before = room.len();
            let rest = name.put(head.put(room));
            let rest = put_number(put(rest, b"\"} "), value);
            let unused = put(rest, b"\n").len();
            self.chunk.len += before - unused;
        }
    }
}

fn put<'a, const N: usize>(line: &'a mut [u8], text: &[u8; N]) -> &'a mut [u8] {
    let (to, rest) = line.split_at_mut(N);
    to.copy_from_slice(text);
    rest
}

fn put_number(line: &mut [u8], mut number: u64) -> &mut [u8] {
    // Most numbers of a page are this small.
    if number < 10 {
        return put(line, &[b'0' + number as u8]);
    }
    let (digits, rest) = line.split_at_mut(number.ilog10() as usize + 1);
    let mut pairs = digits.rchunks_exact_mut(2);
    for pair in &mut pairs {
        pair.copy_from_slice(&PAIRS[(number % 100) as usize]);
        number /= 100;
    }
    if let [first] = pairs.into_remainder() {
        *first = b'0' + number as u8;
    }
    rest
}

/// The digits of the numbers from 0 to 99.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut number = 0;
    while number < pairs.len() {
        pairs[number] = [b'0' + number as u8 / 10, b'0' + number as u8 % 10];
        number += 1;
    }
    pairs
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::exposition::{CHUNK, Chunk};

    #[test]
    fn a_line_is_whole_wherever_a_chunk_ends() {
        let (head, name) = ("h".repeat(HEAD_BLOCK + 1), "n".repeat(NAME_BLOCK + 1));
        let line = format!("{head}{name}\"}} {}\n", u64::MAX);
        let padded = [name.as_bytes(), &[b' '; NAME_BLOCK]].concat();
        for len in CHUNK - 512..=CHUNK {
            let mut text = Vec::new();
            let emit = |chunk| {
                text.extend::<Vec<u8>>(chunk);
                true
            };
            let mut page = Page { chunk: Chunk { bytes: vec![b'x'; CHUNK], len }, emit, open: true };
            page.lines(&head, [Padded::new(&padded, name.len())].into_iter(), [Some(u64::MAX)].into_iter());
            page.flush();
            assert_eq!(String::from_utf8_lossy(&text[len..]), line);
        }
    }

    #[test]
    fn a_text_of_any_length_is_written_whole() {
        for len in 0..4 * NAME_BLOCK {
            let text: String = ('a'..='z').cycle().take(len).collect();
            let padded = [text.as_bytes(), &[b' '; NAME_BLOCK]].concat();
            let mut line = [0; 5 * NAME_BLOCK];
            let unused = Padded::<NAME_BLOCK>::new(&padded, len).put(&mut line).len();
            assert_eq!(String::from_utf8_lossy(&line[..line.len() - unused]), text);
        }
    }

    #[test]
    fn a_number_of_any_length_is_written_as_it_is_printed() {
        for number in [0, 9, 10, 99, 100, 1_795_331_551, u64::MAX / 10, u64::MAX] {
            let mut line = [0; 20];
            let unused = put_number(&mut line, number).len();
            assert_eq!(String::from_utf8_lossy(&line[..line.len() - unused]), number.to_string());
        }
    }
}
