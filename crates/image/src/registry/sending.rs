//! The content of a blob as the body of a request: read while it is sent, a few hundred kilobytes at a time.

use std::{
    fs::File,
    io::{self, Read as _},
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::sync::mpsc;

/// The source of a blob.
#[derive(Debug, Clone)]
pub enum BlobContent {
    /// A file of this machine.
    File(PathBuf),
    /// Memory.
    Bytes(Vec<u8>),
}

const PART_BYTES: usize = 128 * 1024;
/// Parts that are read ahead.
const PARTS_AHEAD: usize = 2;

/// How much of a body was taken, and why reading it failed.
#[derive(Debug, Clone, Default)]
pub(super) struct Sent(Arc<(AtomicU64, Mutex<Option<io::Error>>)>);

impl Sent {
    pub(super) fn bytes(&self) -> u64 {
        self.0.0.load(Ordering::Relaxed)
    }

    pub(super) fn error(&self) -> Option<io::Error> {
        self.0.1.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn fail(&self, error: io::Error) -> io::Error {
        let copy = io::Error::new(error.kind(), error.to_string());
        *self.0.1.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        copy
    }
}

struct Sending {
    parts: mpsc::Receiver<io::Result<Bytes>>,
    left: u64,
    sent: Sent,
}

impl Body for Sending {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.parts.poll_recv(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(part))) => {
                let bytes = part.len() as u64;
                self.left = self.left.saturating_sub(bytes);
                self.sent.0.0.fetch_add(bytes, Ordering::Relaxed);
                Poll::Ready(Some(Ok(Frame::data(part))))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(self.sent.fail(error)))),
            Poll::Ready(None) if self.left > 0 => {
                let error = io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was sent");
                Poll::Ready(Some(Err(self.sent.fail(error))))
            }
            Poll::Ready(None) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// The body, and what tells how much of it was taken.
pub(super) fn body(content: &BlobContent, bytes: u64) -> io::Result<(reqwest::Body, Sent)> {
    let sent = Sent::default();
    let (parts_in, parts) = mpsc::channel(PARTS_AHEAD);
    match content {
        BlobContent::Bytes(content) => {
            let content = Bytes::copy_from_slice(content);
            tokio::spawn(async move {
                let _ = parts_in.send(Ok(content)).await;
            });
        }
        BlobContent::File(path) => {
            let mut file = File::open(path)?.take(bytes);
            tokio::task::spawn_blocking(move || {
                loop {
                    let mut part = vec![0; PART_BYTES];
                    let read = match file.read(&mut part) {
                        Ok(0) => return,
                        Ok(read) => {
                            part.truncate(read);
                            Ok(Bytes::from(part))
                        }
                        Err(error) => Err(error),
                    };
                    let failed = read.is_err();
                    if parts_in.blocking_send(read).is_err() || failed {
                        return;
                    }
                }
            });
        }
    }
    Ok((reqwest::Body::wrap(Sending { parts, left: bytes, sent: sent.clone() }), sent))
}
