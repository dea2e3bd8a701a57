//! The lines of a family, each much like the one before.
//!
//! A page of 100,000 accounts has more than a million of them, and what each is made of is short. So the text before the
//! name is put together once for each official account; texts are appended in blocks of a fixed length, which are a few
//! instructions, where a copy of any length is a call; and digits are written where they stay, because a processor waits when
//! it has to read at once, in larger pieces, what it has just written.

use super::Page;

/// Texts are copied in pieces of that many bytes.
const BLOCK: usize = 32;

/// A text with what stands behind it in memory, up to the end of its last block.
#[derive(Clone, Copy)]
pub(super) struct Padded<'a> {
    bytes: &'a [u8],
    len: usize,
}

impl<'a> Padded<'a> {
    /// Behind a text this is enough.
    pub(super) const PADDING: &'static str = match str::from_utf8(&[b' '; BLOCK]) {
        Ok(spaces) => spaces,
        Err(_) => "",
    };

    /// The first `len` of `bytes`, which go on for a block at least.
    pub(super) fn new(bytes: &'a [u8], len: usize) -> Self {
        Self { bytes, len }
    }

    fn append_to(self, chunk: &mut Vec<u8>) {
        let end = chunk.len() + self.len;
        let (blocks, _) = self.bytes.as_chunks::<BLOCK>();
        for block in blocks.iter().take(self.len.div_ceil(BLOCK)) {
            chunk.extend_from_slice(block);
        }
        chunk.truncate(end);
    }
}

impl<E: FnMut(Vec<u8>) -> bool> Page<E> {
    /// Lines that begin alike, one for each name that has a value.
    pub(super) fn lines<'n>(
        &mut self,
        head: &str,
        names: impl Iterator<Item = Padded<'n>>,
        values: &mut impl Iterator<Item = Option<u64>>,
    ) {
        let padded = [head, Padded::PADDING].concat();
        let head = Padded::new(padded.as_bytes(), head.len());
        // The names first: of a value without a name the next call would be in want.
        for (name, value) in names.zip(values) {
            let Some(value) = value else { continue };
            head.append_to(&mut self.chunk);
            name.append_to(&mut self.chunk);
            self.chunk.extend_from_slice(b"\"} ");
            append_number(&mut self.chunk, value);
            self.chunk.push(b'\n');
            self.flush_if_full();
        }
    }
}

fn append_number(chunk: &mut Vec<u8>, mut number: u64) {
    let begin = chunk.len();
    let end = begin + number.checked_ilog10().map_or(1, |log| log as usize + 1);
    chunk.extend_from_slice(&[b'0'; 20]);
    for digit in chunk[begin..end].iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    chunk.truncate(end);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_any_length_is_appended_whole_and_alone() {
        for len in 0..4 * BLOCK {
            let text: String = ('a'..='z').cycle().take(len).collect();
            let padded = [&text, Padded::PADDING].concat();
            let mut chunk = b"before".to_vec();
            Padded::new(padded.as_bytes(), len).append_to(&mut chunk);
            assert_eq!(String::from_utf8_lossy(&chunk), format!("before{text}"));
        }
    }

    #[test]
    fn a_number_of_any_length_is_appended_as_it_is_printed() {
        for number in [0, 9, 10, 99, 100, 1_795_331_551, u64::MAX / 10, u64::MAX] {
            let mut chunk = b"before".to_vec();
            append_number(&mut chunk, number);
            assert_eq!(String::from_utf8_lossy(&chunk), format!("before{number}"));
        }
    }
}
