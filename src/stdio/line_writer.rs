//! Writes lines so that each is whole or recognizably cut off.

use std::os::fd::AsFd;

use super::{WriteError, write_all};

/// Writes whole lines. After one that was cut off, the next begins on a line of its own.
#[derive(Debug)]
pub struct LineWriter<T> {
    to: T,
    /// Whether the last line was cut off.
    is_cut_off: bool,
}

impl<T: AsFd> LineWriter<T> {
    /// A writer at the start of a line.
    pub fn new(to: T) -> Self {
        Self { to, is_cut_off: false }
    }

    /// Writes one or more lines, each with its newline.
    pub fn write(&mut self, lines: &[u8]) -> Result<(), WriteError> {
        if self.is_cut_off {
            write_all(&self.to, b"\n")?;
            self.is_cut_off = false;
        }
        write_all(&self.to, lines).inspect_err(|error| {
            let last = error.written.checked_sub(1).and_then(|last| lines.get(last));
            self.is_cut_off = last.is_some_and(|last| *last != b'\n');
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use nix::fcntl::{FcntlArg, fcntl};

    use super::*;

    #[test]
    fn partly_written_line_is_cut_off() {
        // The reader leaves while the write waits for room.
        let (mut reader, writer) = std::io::pipe().unwrap();
        fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
        let mut lines = LineWriter::new(writer);
        let cut_off = std::thread::spawn(move || {
            let error = lines.write(&[b'x'; 100_000]).unwrap_err();
            assert!(error.is_broken_pipe() && error.written >= 4096, "{error}");
            lines
        });
        reader.read_exact(&mut [0; 4096]).unwrap();
        drop(reader);
        assert!(cut_off.join().unwrap().is_cut_off);
    }

    #[test]
    fn cut_off_line_is_ended_first() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut lines = LineWriter { to: writer, is_cut_off: true };
        lines.write(b"a\n").unwrap();
        lines.write(b"b\nc\n").unwrap();
        drop(lines);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "\na\nb\nc\n");
    }
}
