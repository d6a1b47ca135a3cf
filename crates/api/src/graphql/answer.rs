//! The answer as bytes: they are part of the request's memory until they are sent.

use std::{convert::Infallible, io, mem};

use app::memory::RequestMemory;
use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, header},
    response::Response,
};
use futures::stream;
use model::Problem;
use serde::Serialize;

/// The bytes that are handed to the connection at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// JSON in chunks, each reserved before it is written.
struct Chunks<'a> {
    memory: &'a RequestMemory,
    full: Vec<Bytes>,
    last: Vec<u8>,
    refused: Option<Problem>,
}

impl io::Write for Chunks<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.last.len() == self.last.capacity() {
            if let Err(problem) = self.memory.add(CHUNK_BYTES) {
                self.refused = Some(problem);
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            let full = mem::replace(&mut self.last, Vec::with_capacity(CHUNK_BYTES));
            self.full.push(full.into());
        }
        let fitting = bytes.len().min(self.last.capacity() - self.last.len());
        self.last.extend_from_slice(&bytes[..fitting]);
        Ok(fitting)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A body of JSON as a response.
///
/// # Errors
/// As [`RequestMemory::add`].
pub(super) fn json(body: &impl Serialize, memory: RequestMemory) -> Result<Response, Problem> {
    let mut chunks = Chunks { memory: &memory, full: Vec::new(), last: Vec::new(), refused: None };
    let written = serde_json::to_writer(&mut chunks, body);
    if let Some(problem) = chunks.refused {
        return Err(problem);
    }
    written.expect("answers have string keys and finite numbers");
    let Chunks { mut full, last, .. } = chunks;
    full.push(last.into());
    let length: usize = full.iter().map(Bytes::len).sum();
    let body = Body::from_stream(stream::unfold((full.into_iter(), memory), |(mut chunks, memory)| async move {
        let chunk = chunks.find(|chunk| !chunk.is_empty())?;
        Some((Ok::<_, Infallible>(chunk), (chunks, memory)))
    }));
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    Ok(response)
}

#[cfg(test)]
mod tests {
    use app::memory::MemoryBudget;
    use http_body_util::BodyExt;
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn an_answer_holds_its_memory_until_it_is_sent() {
        let budget = MemoryBudget::new(1);
        let value = json!({"text": "\u{1}".repeat(50_000), "more": "x".repeat(10)});
        let response = json(&value, budget.for_request(usize::MAX)).unwrap();
        let held = 1024 * 1024 - budget.free_bytes();
        assert!((300_000..400_000).contains(&held), "{held}");
        let length = response.headers()[header::CONTENT_LENGTH].clone();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&bytes).unwrap(), value);
        assert_eq!(length, bytes.len().to_string());
        assert_eq!(budget.free_bytes(), 1024 * 1024);
        let refused = json(&value, budget.for_request(200_000)).unwrap_err();
        assert!(refused.why.contains("too large"), "{refused}");
        assert_eq!(budget.free_bytes(), 1024 * 1024);
    }
}
