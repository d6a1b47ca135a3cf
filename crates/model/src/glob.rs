//! Patterns that texts are compared with.

/// A pattern for a whole text, whatever the case of its letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(Vec<GlobPart>);

/// A part of a [`Glob`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GlobPart {
    /// This text.
    Text(String),
    /// One character.
    AnyCharacter,
    /// Any characters, or none.
    AnyText,
}

impl Glob {
    /// The pattern of a text without wildcards.
    pub fn exact(text: &str) -> Self {
        Self::parse(text, |_| None)
    }

    /// Reads a pattern; `wildcard` says which characters are wildcards.
    pub fn parse(pattern: &str, wildcard: impl Fn(char) -> Option<GlobPart>) -> Self {
        let mut parts = Vec::new();
        for character in pattern.chars() {
            match (wildcard(character), parts.last_mut()) {
                (Some(part), _) => parts.push(part),
                (None, Some(GlobPart::Text(text))) => text.push(character),
                (None, _) => parts.push(GlobPart::Text(character.into())),
            }
        }
        Self(parts)
    }

    /// The parts in their order; two texts never follow each other.
    pub fn parts(&self) -> &[GlobPart] {
        &self.0
    }

    /// Whether it has no wildcard.
    pub fn is_exact(&self) -> bool {
        matches!(self.0.as_slice(), [] | [GlobPart::Text(_)])
    }

    /// Whether every text matches.
    pub fn is_any(&self) -> bool {
        matches!(self.0.as_slice(), [GlobPart::AnyText])
    }

    /// Whether it is the beginning of a text, or a text: its only wildcards stand for any text at its end.
    pub fn is_beginning(&self) -> bool {
        let ends = self.0.iter().rev().take_while(|part| **part == GlobPart::AnyText).count();
        self.0[..self.0.len() - ends].iter().all(|part| matches!(part, GlobPart::Text(_)))
    }

    /// The same pattern with its texts in lower case.
    #[must_use]
    pub fn to_lowercase(&self) -> Self {
        let lower = |part: &GlobPart| match part {
            GlobPart::Text(text) => GlobPart::Text(text.to_lowercase()),
            part => part.clone(),
        };
        Self(self.0.iter().map(lower).collect())
    }
}

impl From<&str> for Glob {
    /// A pattern with `*` for any text and `?` for one character.
    fn from(pattern: &str) -> Self {
        Self::parse(pattern, |character| match character {
            '*' => Some(GlobPart::AnyText),
            '?' => Some(GlobPart::AnyCharacter),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_stand_between_texts() {
        let text = |text: &str| GlobPart::Text(text.into());
        assert_eq!(Glob::from("a?b*").parts(), [text("a"), GlobPart::AnyCharacter, text("b"), GlobPart::AnyText]);
        assert_eq!(Glob::exact("a*").parts(), [text("a*")]);
        assert!(Glob::exact("").is_exact() && Glob::exact("a%").is_exact() && !Glob::from("a*").is_exact());
        assert!(Glob::from("*").is_any() && !Glob::from("**").is_any() && !Glob::exact("").is_any());
    }

    #[test]
    fn a_beginning_has_wildcards_for_any_text_at_its_end_alone() {
        for (pattern, is_beginning) in [
            ("", true),
            ("a", true),
            ("a*", true),
            ("a**", true),
            ("*", true),
            ("*a", false),
            ("a?", false),
            ("a*b*", false),
        ] {
            assert_eq!(Glob::from(pattern).is_beginning(), is_beginning, "{pattern}");
        }
    }
}
