//! Logs of executions.

/// A piece of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogChunk {
    /// The text, UTF-8 with what is not replaced.
    pub text: String,
    /// Bytes left out of the middle because the log grew past its limit.
    pub omitted_bytes: u64,
}

/// Which part of a log is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogPart {
    /// All of it that is kept.
    Whole,
    /// So many lines from its end.
    LastLines(usize),
}

impl LogChunk {
    /// The last `lines` lines.
    pub fn tail(&self, lines: usize) -> &str {
        let text = self.text.strip_suffix('\n').unwrap_or(&self.text);
        if lines == 0 {
            return "";
        }
        match text.rmatch_indices('\n').nth(lines - 1) {
            Some((at, _)) => &self.text[at + 1..],
            None => &self.text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_a_log_is_its_last_lines() {
        let log = LogChunk { text: "one\ntwo\nthree\n".into(), omitted_bytes: 0 };
        assert_eq!(log.tail(1), "three\n");
        assert_eq!(log.tail(2), "two\nthree\n");
        assert_eq!(log.tail(3), log.text);
        assert_eq!(log.tail(99), log.text);
        assert_eq!(log.tail(0), "");
        assert_eq!(LogChunk::default().tail(5), "");
    }
}
