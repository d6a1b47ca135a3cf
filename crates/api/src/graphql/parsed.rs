//! Queries that were parsed before. Programs send the same few texts, and parsing one takes a tenth of the CPU time of a page.

use std::{
    collections::VecDeque,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use async_graphql::{Request, ServerError, parser::types::ExecutableDocument};

/// The most queries that are kept; the oldest makes room.
const KEPT_MAX: usize = 16;

/// The longest query that is kept. The operations page's has 900 bytes.
const KEPT_MAX_BYTES: usize = 4 * 1024;

/// Texts with their documents.
#[derive(Debug, Default)]
struct Kept(Mutex<VecDeque<(String, Arc<ExecutableDocument>)>>);

static KEPT: LazyLock<Kept> = LazyLock::new(Kept::default);

/// Parses the query of a request, unless that was done before.
///
/// # Errors
/// When the text is no query.
pub(super) fn parse(request: &mut Request) -> Result<&ExecutableDocument, ServerError> {
    KEPT.parse(request)
}

impl Kept {
    fn parse<'r>(&self, request: &'r mut Request) -> Result<&'r ExecutableDocument, ServerError> {
        if request.query.len() > KEPT_MAX_BYTES {
            return request.parsed_query();
        }
        if let Some(document) = self.find(&request.query) {
            request.set_parsed_query((*document).clone());
            return request.parsed_query();
        }
        let document = Arc::new(request.parsed_query()?.clone());
        self.add(request.query.clone(), document);
        request.parsed_query()
    }

    fn find(&self, query: &str) -> Option<Arc<ExecutableDocument>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|(text, _)| text == query).map(|(_, document)| Arc::clone(document))
    }

    fn add(&self, query: String, document: Arc<ExecutableDocument>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back((query, document));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(kept: &Kept, query: &str) -> Result<usize, String> {
        let mut request = Request::new(query);
        let document = kept.parse(&mut request).map_err(|error| error.message)?;
        Ok(document.operations.iter().map(|(_, operation)| operation.node.selection_set.node.items.len()).sum())
    }

    fn texts(kept: &Kept) -> Vec<String> {
        kept.0.lock().unwrap().iter().map(|(text, _)| text.clone()).collect()
    }

    #[test]
    fn a_query_is_parsed_once_and_the_oldest_makes_room() {
        let kept = Kept::default();
        for _ in 0..2 {
            assert_eq!(fields(&kept, "{ a b c }"), Ok(3));
            assert_eq!(fields(&kept, "{ a b }"), Ok(2));
        }
        assert_eq!(texts(&kept), ["{ a b c }", "{ a b }"]);
        // The kept document is what is given.
        let other = kept.find("{ a b }").unwrap();
        kept.0.lock().unwrap()[0].1 = other;
        assert_eq!(fields(&kept, "{ a b c }"), Ok(2));
        for number in 0..KEPT_MAX - 1 {
            assert_eq!(fields(&kept, &format!("{{ a{number} }}")), Ok(1));
        }
        assert_eq!((texts(&kept).len(), texts(&kept)[0].as_str()), (KEPT_MAX, "{ a b }"));
    }

    #[test]
    fn long_texts_and_such_that_are_no_query_are_not_kept() {
        let kept = Kept::default();
        assert!(fields(&kept, "{ a").is_err());
        assert_eq!(fields(&kept, &format!("{{ a }}{}", " ".repeat(KEPT_MAX_BYTES))), Ok(1));
        assert_eq!(texts(&kept), Vec::<String>::new());
    }
}
