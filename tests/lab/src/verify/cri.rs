//! Container log files as the kubelet's runtime writes them: `TIME STREAM TAG MESSAGE` a line, where the tag `P` says that
//! the message goes on in the next line of the same stream, and `F` that it ends. No I/O.

/// Puts a container's log together, from pieces of any size.
#[derive(Debug, Default)]
pub struct CriLines {
    /// The end of what was fed: a line that is not complete yet.
    rest: Vec<u8>,
    /// Messages that go on, of standard output and of standard error.
    partial: [Vec<u8>; 2],
}

impl CriLines {
    /// Takes the next piece of the file and hands on each message that is complete, of either stream.
    pub fn feed(&mut self, mut piece: &[u8], take: &mut dyn FnMut(&[u8])) {
        while let Some(end) = piece.iter().position(|&byte| byte == b'\n') {
            if self.rest.is_empty() {
                line(&piece[..end], &mut self.partial, take);
            } else {
                self.rest.extend_from_slice(&piece[..end]);
                line(&self.rest, &mut self.partial, take);
                self.rest.clear();
            }
            piece = &piece[end + 1..];
        }
        self.rest.extend_from_slice(piece);
    }
}

fn line(line: &[u8], partial: &mut [Vec<u8>; 2], take: &mut dyn FnMut(&[u8])) {
    let mut fields = line.splitn(4, |&byte| byte == b' ');
    let (Some(_time), Some(stream), Some(tags)) = (fields.next(), fields.next(), fields.next())
    else {
        return;
    };
    let message = fields.next().unwrap_or_default();
    let partial = &mut partial[usize::from(stream == b"stderr")];
    // Tags are separated by colons, the first is P or F.
    if tags.first() == Some(&b'P') {
        partial.extend_from_slice(message);
    } else if partial.is_empty() {
        take(message);
    } else {
        partial.extend_from_slice(message);
        take(partial);
        partial.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-11-23T17:00:00.000000001Z stdout F one line with  blanks\n\
        2026-11-23T17:00:00.000000002Z stdout P two \n\
        2026-11-23T17:00:00.000000003Z stderr F between\n\
        2026-11-23T17:00:00.000000004Z stdout P parts \n\
        2026-11-23T17:00:00.000000005Z stdout F joined\n\
        2026-11-23T17:00:00.000000006Z stdout F \n\
        broken\n\
        2026-11-23T17:00:00.000000007Z stdout F not ended";

    #[test]
    fn messages_are_whole_whatever_the_pieces() {
        for size in [1, 3, 7, 64, 1_000] {
            let (mut lines, mut messages) = (CriLines::default(), Vec::new());
            for piece in LOG.as_bytes().chunks(size) {
                lines.feed(piece, &mut |message| {
                    messages.push(String::from_utf8_lossy(message).into_owned());
                });
            }
            assert_eq!(
                messages,
                ["one line with  blanks", "between", "two parts joined", ""],
                "pieces of {size}"
            );
            lines.feed(b"\n", &mut |message| {
                messages.push(String::from_utf8_lossy(message).into_owned());
            });
            assert_eq!(messages.last().map(String::as_str), Some("not ended"));
        }
    }
}
