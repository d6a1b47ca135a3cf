//! The answer as bytes: they are part of the request's memory until they are sent.

use std::{
    convert::Infallible,
    io::{self, Write},
    mem,
    sync::{Mutex, PoisonError},
};

use app::memory::RequestMemory;
use async_graphql::Value;
use axum::{
    body::{Body as HttpBody, Bytes},
    http::{HeaderValue, header},
    response::Response,
};
use futures::stream;
use model::Problem;
use serde::Serialize;

/// The bytes that are handed to the connection at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// Bytes in chunks, each reserved before it is written.
pub(super) struct Chunks<'a> {
    memory: &'a RequestMemory,
    full: Vec<Bytes>,
    last: Vec<u8>,
    refused: Option<Problem>,
}

impl<'a> Chunks<'a> {
    pub(super) fn new(memory: &'a RequestMemory) -> Self {
        Self { memory, full: Vec::new(), last: Vec::new(), refused: None }
    }

    /// Writes bytes; an error stays in the chunks.
    #[inline]
    pub(super) fn put(&mut self, bytes: &[u8]) {
        if bytes.len() <= self.last.capacity() - self.last.len() {
            self.last.extend_from_slice(bytes);
        } else {
            let _ = self.write_all(bytes);
        }
    }

    /// Adds chunks that were written separately.
    fn append(&mut self, chunks: Vec<Bytes>) {
        let last = mem::take(&mut self.last);
        self.full.push(last.into());
        self.full.extend(chunks);
    }

    /// All that was written.
    ///
    /// # Errors
    /// As [`RequestMemory::add`], when there was too little for all of it.
    pub(super) fn finish(mut self) -> Result<Vec<Bytes>, Problem> {
        if let Some(problem) = self.refused {
            return Err(problem);
        }
        self.full.push(self.last.into());
        self.full.retain(|chunk| !chunk.is_empty());
        Ok(self.full)
    }
}

impl Write for Chunks<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.last.len() == self.last.capacity() {
            if self.refused.is_some() {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
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

/// The parts of an answer that are written already. A binary value, which the schema does not have, stands for each.
#[derive(Default)]
pub(super) struct Parts(Mutex<Vec<Vec<Bytes>>>);

impl Parts {
    /// Keeps a part, and gives the value that stands for it.
    pub(super) fn add(&self, part: Vec<Bytes>) -> Value {
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        parts.push(part);
        Value::Binary(Bytes::copy_from_slice(&(parts.len() - 1).to_ne_bytes()))
    }

    /// The part that a value stands for.
    fn take(&self, value: &Bytes) -> Option<Vec<Bytes>> {
        let index = usize::from_ne_bytes(value.as_ref().try_into().ok()?);
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        parts.get_mut(index).map(mem::take)
    }
}

/// The JSON of an answer.
pub(super) struct Body<'a> {
    chunks: Chunks<'a>,
    parts: &'a Parts,
}

impl<'a> Body<'a> {
    pub(super) fn new(memory: &'a RequestMemory, parts: &'a Parts) -> Self {
        Self { chunks: Chunks::new(memory), parts }
    }

    /// Writes JSON as it is.
    pub(super) fn raw(&mut self, json: &str) {
        self.chunks.put(json.as_bytes());
    }

    /// Writes a value as JSON.
    pub(super) fn json(&mut self, value: &impl Serialize) {
        let _ = serde_json::to_writer(&mut self.chunks, value);
    }

    /// Writes a value of the library, with the parts in place of their placeholders.
    pub(super) fn value(&mut self, value: &Value) {
        match value {
            Value::Binary(part) => self.chunks.append(self.parts.take(part).unwrap_or_default()),
            Value::Object(members) => {
                self.raw("{");
                for (place, (name, value)) in members.iter().enumerate() {
                    self.raw(if place > 0 { "," } else { "" });
                    self.json(name);
                    self.raw(":");
                    self.value(value);
                }
                self.raw("}");
            }
            value => self.json(value),
        }
    }

    /// The response with this body.
    ///
    /// # Errors
    /// As [`RequestMemory::add`].
    pub(super) fn response(self, memory: RequestMemory) -> Result<Response, Problem> {
        let chunks = self.chunks.finish()?;
        let length: usize = chunks.iter().map(Bytes::len).sum();
        let body =
            HttpBody::from_stream(stream::unfold((chunks.into_iter(), memory), |(mut chunks, memory)| async move {
                let chunk = chunks.next()?;
                Some((Ok::<_, Infallible>(chunk), (chunks, memory)))
            }));
        let mut response = Response::new(body);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
        Ok(response)
    }
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
        let parts = Parts::default();
        let json = |memory: RequestMemory| {
            let mut body = Body::new(&memory, &parts);
            body.json(&value);
            body.response(memory.clone())
        };
        let response = json(budget.for_request(usize::MAX)).unwrap();
        let held = 1024 * 1024 - budget.free_bytes();
        assert!((300_000..400_000).contains(&held), "{held}");
        let length = response.headers()[header::CONTENT_LENGTH].clone();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&bytes).unwrap(), value);
        assert_eq!(length, bytes.len().to_string());
        assert_eq!(budget.free_bytes(), 1024 * 1024);
        let refused = json(budget.for_request(200_000)).unwrap_err();
        assert!(refused.why.contains("too large"), "{refused}");
        assert_eq!(budget.free_bytes(), 1024 * 1024);
    }
}
