//! Patterns of `like`, with `\` as the escape.

use model::glob::{Glob, GlobPart};

/// A pattern as an index can serve it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LikePattern {
    /// No wildcard.
    Equal(String),
    /// Begins with `prefix`; `rest` is the whole pattern where it says more.
    Prefix { prefix: String, rest: Option<String> },
}

impl LikePattern {
    pub(crate) fn of(glob: &Glob) -> Self {
        match glob.parts() {
            [] => Self::Equal(String::new()),
            [GlobPart::Text(text)] => Self::Equal(text.clone()),
            [GlobPart::Text(prefix), GlobPart::AnyText] => Self::Prefix { prefix: prefix.clone(), rest: None },
            [GlobPart::AnyText] => Self::Prefix { prefix: String::new(), rest: None },
            [first, ..] => {
                let prefix = match first {
                    GlobPart::Text(text) => text.clone(),
                    GlobPart::AnyCharacter | GlobPart::AnyText => String::new(),
                };
                Self::Prefix { prefix, rest: Some(matching(glob)) }
            }
        }
    }
}

/// The pattern of texts that match.
fn matching(glob: &Glob) -> String {
    let like = |part: &GlobPart| match part {
        GlobPart::Text(text) => escape(text),
        GlobPart::AnyCharacter => "_".into(),
        GlobPart::AnyText => "%".into(),
    };
    glob.parts().iter().map(like).collect()
}

/// The pattern of texts that contain this one.
pub(crate) fn containing(text: &str) -> String {
    format!("%{}%", escape(text))
}

/// Text as a part of a pattern that means itself.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_taken_apart_at_its_wildcards() {
        let of = |pattern: &str| LikePattern::of(&pattern.into());
        let like = |prefix: &str, rest: Option<&str>| LikePattern::Prefix {
            prefix: prefix.into(),
            rest: rest.map(str::to_owned),
        };
        assert_eq!(of("a%b\\"), LikePattern::Equal("a%b\\".into()));
        assert_eq!(of("daily*"), like("daily", None));
        assert_eq!(of("*"), like("", None));
        assert_eq!(of("*sales-x*"), like("", Some("%sales-x%")));
        assert_eq!(of("a*bcd"), like("a", Some("a%bcd")));
        assert_eq!(of("ab?"), like("ab", Some("ab_")));
    }

    #[test]
    fn texts_mean_themselves() {
        assert_eq!(containing("50%_\\"), "%50\\%\\_\\\\%");
        assert_eq!(
            LikePattern::of(&"a_*%?".into()),
            LikePattern::Prefix { prefix: "a_".into(), rest: Some("a\\_%\\%_".into()) }
        );
    }
}
