//! Language: texts keep the words of the field, and tables in Markdown are whole.
//!
//! The habits are those that made the first texts of this project hard to read. A hit is a place to look at, not a verdict, so
//! each kind of text has a limit: hits per 1,000 words. Descriptions of the API have a test of their own, `crates/api/tests`.

use devtools::environment::workspace;

use super::documents::{files_of, outside_fences, read, shown};

/// The most hits in 10,000 words of documents and of source files. A limit goes down when texts get better, and never up.
const DOCUMENTS_MAX: usize = 5;
const SOURCES_MAX: usize = 5;

/// Types of files that are read as a whole.
const DOCUMENTS: [&str; 5] = ["md", "yaml", "yml", "toml", "html"];

/// Types of files of which comments and long literals are read.
const SOURCES: [&str; 6] = ["rs", "py", "sh", "sql", "ts", "tsx"];

/// Files that quote what they forbid or what others wrote.
const QUOTING: [&str; 2] = ["xtask/tests/architecture/language.rs", "Cargo.toml"];

/// The alternatives of a habit, each a phrase. `a|b` is one of several words, `~` is any word.
struct Habit {
    name: &'static str,
    phrases: &'static [&'static str],
    /// A word that makes it something else when it follows.
    except_before: &'static [&'static str],
}

const fn habit(name: &'static str, phrases: &'static [&'static str]) -> Habit {
    Habit { name, phrases, except_before: &[] }
}

const HABITS: [Habit; 13] = [
    habit("persons without a role", &["nobody|somebody|whoever|anybody|everybody"]),
    habit(
        "hearsay",
        &["is|are|was|were|be|been told", "says so", "told as", "tell|tells as|so such|so", "tell|tells so"],
    ),
    habit("continues", &["go|goes|going|went on"]),
    Habit { name: "is", phrases: &["stand|stands"], except_before: &["for", "still", "alone"] },
    habit("automatically", &["by itself|themselves"]),
    habit("repairs", &["mend|mends|mended|mending", "made|make|makes again|anew", "put|puts back"]),
    habit("come", &["come again|by"]),
    habit(
        "per",
        &["one|each|a ~ a deployment|job|run|folder|file|team|floor|tick|request|key|lock|second|minute|day|row|noun"],
    ),
    Habit { name: "notification", phrases: &["bell|bells|ring|rings|rang"], except_before: &["buffer"] },
    habit("words of our own", &["namesake|namesakes", "sign|signs of life", "step|steps aside", "let go"]),
    habit("translated nouns", &["key table|tables", "processor time"]),
    habit("persons as owners", &["whose move|fault", "fight|fights back"]),
    habit("upstream", &["the reference"]),
];

const CLAUSE: &str = "a clause as subject (What is …, Who writes …)";
const BECAUSE: &str = ", for (because)";
const BARE_IT: &str = "a bare It at the start of a description";

#[test]
fn documents_and_source_files_keep_the_words_of_the_field() {
    for (kind, extensions, limit) in
        [("documents", &DOCUMENTS[..], DOCUMENTS_MAX), ("source files", &SOURCES, SOURCES_MAX)]
    {
        let (mut words, mut hits) = (0, Vec::new());
        for file in files_of(&workspace(), extensions) {
            let name = shown(&file);
            if QUOTING.iter().any(|quoting| name.ends_with(quoting)) {
                continue;
            }
            for (line, prose) in prose_of(&read(&file), DOCUMENTS.iter().any(|e| name.ends_with(&format!(".{e}")))) {
                words += words_of(&prose).count();
                hits.extend(habits_in(&prose).into_iter().map(|habit| format!("{name}:{line}: {habit}: {prose}")));
            }
        }
        assert!(words > 30_000, "only {words} words of {kind} were read");
        let rate = (hits.len() * 10_000).div_ceil(words);
        assert!(
            rate <= limit,
            "{} hits in {words} words of {kind}: {rate} in 10,000, and the limit is {limit}. Say these places as STYLE says:\n  {}",
            hits.len(),
            hits.join("\n  ")
        );
    }
}

#[test]
fn each_table_in_a_document_is_whole() {
    let mut broken = Vec::new();
    for document in files_of(&workspace(), &["md"]) {
        let found = broken_tables(&read(&document));
        broken.extend(found.into_iter().map(|(line, why)| format!("{}:{line}: {why}", shown(&document))));
    }
    assert!(broken.is_empty(), "broken tables:\n  {}", broken.join("\n  "));
}

#[test]
fn each_habit_is_found_and_plain_sentences_are_not() {
    // With plus signs for blanks, so that these examples are no texts of the project.
    for (habit, bad, good) in [
        (CLAUSE, "What+is+absent+stays+as+it+is.", "Omitted+fields+keep+their+value.+What+does+it+do?+Whatever."),
        (CLAUSE, "It+works:+Who+writes+waits.", "-+Who+is+this?"),
        ("persons without a role", "a+Job+that+somebody+deletes", "a+Job+that+is+being+deleted"),
        ("hearsay", "the+operator+is+told+of+it", "the+operator+was+notified"),
        ("hearsay", "the+log+says+so", "the+log+says+that+it+failed"),
        ("continues", "the+run+goes+on+without+it", "it+goes,+on+a+branch"),
        ("is", "what+stands+in+the+way", "it+stands+for+a+stand-alone+server;+stands+alone"),
        ("automatically", "it+restarts+by+itself", "it+restarts+automatically"),
        (BECAUSE, "one+per+folder,+for+two+would+fight,+for+the+lock+is+one", "wait,+for+example"),
        ("repairs", "it+is+made+anew", "it+is+made+of+wood"),
        ("repairs", "the+field+is+put+back", "put+it+back"),
        ("come", "please+come+again", "they+come+from+there"),
        ("per", "one+instance+a+folder", "one+instance+per+folder"),
        ("notification", "ring+the+bells+of+the+loop", "a+ring+buffer+of+bytes"),
        ("words of our own", "the+first+sign+of+life", "signs+of+wear"),
        ("translated nouns", "the+key+table+of+a+job", "the+key+of+a+table"),
        ("persons as owners", "it+says+whose+fault+it+is", "whose+turn+it+is"),
        ("upstream", "the+reference+has+none", "a+reference+to+it"),
        (BARE_IT, "description+=+\"It+is+stored.", "description+=+\"Its+name.\""),
    ] {
        let (bad, good) = (&*bad.replace('+', " "), &*good.replace('+', " "));
        assert!(habits_in(bad).contains(&habit), "{bad:?}: {:?}", habits_in(bad));
        assert_eq!(habits_in(good), Vec::<&str>::new(), "{good:?}");
    }
}

#[test]
fn of_a_source_file_comments_and_long_literals_are_read() {
    let text = "//! One\nlet x = 1; // Two\nlet a = \"short\"; let b = \"a literal of five words\";\nf(\"`code` a b c d e\") \\\n#[test]";
    let prose: Vec<_> = prose_of(text, false);
    assert_eq!(prose[0], (1, "One".into()));
    assert_eq!(prose[1], (2, "Two".into()));
    assert_eq!(prose[2], (3, "a literal of five words".into()));
    assert_eq!(prose[3], (4, "`code` a b c d e".into()));
    let document: Vec<_> = prose_of("Say `x y`.\n```\nno\n```\nend", true);
    assert_eq!(document, [(1, "Say CODE.".into()), (5, "end".into())]);
}

#[test]
fn a_table_with_a_gap_or_rows_of_different_lengths_is_broken() {
    let whole = "| a | b |\n| --- | --- |\n| 1 `x\\|y` | 2 |\n\ntext\n";
    assert_eq!(broken_tables(whole), []);
    let lines = |text: &str| broken_tables(text).into_iter().map(|(line, _)| line).collect::<Vec<_>>();
    assert_eq!(lines("| a | b |\n| --- | --- |\n| 1 | 2 |\n\n| 3 | 4 |\n"), [5]);
    assert_eq!(lines("| a | b |\n| --- | --- |\n| 1 |\n"), [3]);
    assert_eq!(lines("| a | b |\n| --- |\n| 1 | 2 |\n"), [2]);
    assert_eq!(lines("```\n| not | a | table |\n```\n"), Vec::<usize>::new());
}

/// Lines that people read, with their numbers: a document without its code; comments and literals of a source file.
fn prose_of(text: &str, is_document: bool) -> Vec<(usize, String)> {
    if is_document {
        return outside_fences(text).map(|(number, line)| (number, without_code(line))).collect();
    }
    let mut prose = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let comment = comment_of(line);
        prose.extend(comment.map(|comment| (index + 1, without_code(comment))));
        let literals = literals_of(line).filter(|literal| literal.matches(' ').count() >= 3);
        let before = prose.len();
        prose.extend(literals.map(|literal| (index + 1, literal.to_owned())));
        // A line of a literal that goes over several.
        if comment.is_none() && prose.len() == before && line.ends_with('\\') && line.matches(' ').count() > 4 {
            prose.push((index + 1, line.trim().to_owned()));
        }
    }
    prose
}

fn comment_of(line: &str) -> Option<&str> {
    ["///", "//!", "//", "#", "--"].iter().find_map(|sign| {
        line.match_indices(sign).find_map(|(at, _)| {
            let is_begun = line[..at].chars().next_back().is_none_or(char::is_whitespace);
            line[at + sign.len()..].strip_prefix(' ').filter(|_| is_begun)
        })
    })
}

/// Literals of at least 16 characters that begin and end in a line.
fn literals_of(line: &str) -> impl Iterator<Item = &str> {
    let mut found = Vec::new();
    let mut begun = None;
    let mut escaped = false;
    for (at, c) in line.char_indices() {
        match (c, begun) {
            _ if escaped => escaped = false,
            ('\\', _) => escaped = true,
            ('"', None) => begun = Some(at + 1),
            ('"', Some(from)) => {
                found.push(&line[from..at]);
                begun = None;
            }
            _ => {}
        }
    }
    found.into_iter().filter(|literal| literal.chars().count() >= 16)
}

/// A line with a word in place of each piece in backticks.
fn without_code(line: &str) -> String {
    let pieces: Vec<_> = line.split('`').collect();
    let is_closed = pieces.len() % 2 == 1;
    pieces
        .iter()
        .enumerate()
        .map(|(n, piece)| if n % 2 == 1 && (is_closed || n + 1 < pieces.len()) { "CODE" } else { *piece })
        .collect()
}

/// The words of a line: what is before each, and the word.
fn words_of(line: &str) -> impl Iterator<Item = (&str, &str)> {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '\'' | '_');
    let mut rest = line;
    std::iter::from_fn(move || {
        let begin = rest.find(is_part)?;
        let end = rest[begin..].find(|c| !is_part(c)).map_or(rest.len(), |length| begin + length);
        let found = (&rest[..begin], &rest[begin..end]);
        rest = &rest[end..];
        Some(found)
    })
}

/// The habits that a line has, each as often as it has it.
fn habits_in(line: &str) -> Vec<&'static str> {
    let words: Vec<(&str, String)> = words_of(line).map(|(gap, word)| (gap, word.to_lowercase())).collect();
    let mut found = Vec::new();
    for at in 0..words.len() {
        for habit in &HABITS {
            if let Some(length) = habit.phrases.iter().find_map(|phrase| matched(&words[at..], phrase)) {
                let next = words.get(at + length).filter(|(gap, _)| is_blank(gap) || *gap == "-");
                let next = next.map_or("", |(_, word)| word.as_str());
                if !habit.except_before.contains(&next) {
                    found.push(habit.name);
                }
            }
        }
    }
    found.extend(clauses(line).map(|()| CLAUSE));
    let reasons =
        ["the", "a", "it", "they", "that", "no", "most", "nothing", "there", "each", "what", "an", "neither", "its"];
    let is_reason = |(at, _): (usize, &str)| {
        let rest = &line[at + ", for ".len()..];
        reasons.iter().any(|word| rest.strip_prefix(word).is_some_and(|rest| rest.starts_with(' ')))
    };
    found.extend(line.match_indices(", for ").filter(|&hit| is_reason(hit)).map(|_| BECAUSE));
    if line.contains("description = \"It ") {
        found.push(BARE_IT);
    }
    found
}

/// How many words a phrase takes, when these words begin with it.
fn matched(words: &[(&str, String)], phrase: &str) -> Option<usize> {
    let mut length = 0;
    for (n, alternatives) in phrase.split(' ').enumerate() {
        let (gap, word) = words.get(n)?;
        let fits = alternatives == "~" || alternatives.split('|').any(|alternative| alternative == word);
        if !fits || (n > 0 && !is_blank(gap)) {
            return None;
        }
        length = n + 1;
    }
    Some(length)
}

fn is_blank(gap: &str) -> bool {
    !gap.is_empty() && gap.chars().all(char::is_whitespace)
}

/// Clauses that begin a sentence as its subject. A question is none.
fn clauses(line: &str) -> impl Iterator<Item = ()> {
    ["What ", "Who ", "Whoever ", "Whom "].into_iter().flat_map(move |word| {
        line.match_indices(word).filter_map(move |(at, _)| {
            let before = &line[..at];
            let begins = before.is_empty()
                || before.ends_with("- ")
                || [".", ":", ";", "!", "?", "|"]
                    .iter()
                    .any(|end| before.strip_suffix(' ').is_some_and(|b| b.ends_with(end)));
            let rest = &line[at + word.len()..];
            let is_question = ["does", "do", "did", "'s"].iter().any(|verb| rest.starts_with(verb))
                || rest.find(['.', '?', '!']).is_some_and(|end| rest[end..].starts_with('?'));
            (begins && !is_question && rest.starts_with(char::is_alphanumeric)).then_some(())
        })
    })
}

/// Rows that are apart from their table, and rows of another length than its head, each with the reason.
fn broken_tables(text: &str) -> Vec<(usize, &'static str)> {
    let rows: Vec<(usize, usize)> = outside_fences(text)
        .filter(|(_, line)| line.starts_with('|'))
        .map(|(number, line)| (number, cells(line)))
        .collect();
    let is_rule = |number: usize| {
        let line = text.lines().nth(number - 1).unwrap_or_default();
        line.contains("--") && line.chars().all(|c| matches!(c, '|' | '-' | ':' | ' '))
    };
    let mut broken = Vec::new();
    let mut head: Option<(usize, usize)> = None;
    let mut last = 0;
    for &(number, length) in &rows {
        if last + 1 == number && last > 0 {
            if head.is_some_and(|(_, cells)| cells != length) {
                broken.push((number, "it has another number of cells than the head of its table"));
            }
        } else {
            head = Some((number, length));
            if !is_rule(number + 1) {
                broken.push((number, "it is no head of a table, and its table ended before it"));
            }
        }
        last = number;
    }
    broken
}

/// How many cells a row has. A bar behind a backslash is text.
fn cells(row: &str) -> usize {
    let row = row.trim_end();
    let bars = row.char_indices().filter(|(at, c)| *c == '|' && !row[..*at].ends_with('\\')).count();
    bars - usize::from(row.ends_with('|'))
}
