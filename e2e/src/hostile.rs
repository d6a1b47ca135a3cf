//! Requests that cost much more than they are worth: archives that unpack to a lot, bodies that never end, readers that
//! do not read.

use std::{
    io::{Cursor, Write as _},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

const MIB: usize = 1024 * 1024;

/// An archive of some hundred KB with one file of so many MiB of zeros.
pub fn zeros(mib: usize) -> Vec<u8> {
    one_file(mib * MIB, CompressionMethod::Deflated, |_| 0)
}

/// An archive of about so many bytes, with noise that can't be compressed. `seed` makes it another one.
pub fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    one_file(bytes.saturating_sub(200), CompressionMethod::Stored, move |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    })
}

fn one_file(bytes: usize, method: CompressionMethod, mut next: impl FnMut(usize) -> u8) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(method);
    writer.start_file("a/file", options).expect("an entry");
    let mut piece = vec![0; MIB];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(MIB);
        piece[..now].iter_mut().enumerate().for_each(|(at, byte)| *byte = next(at));
        writer.write_all(&piece[..now]).expect("memory");
        left -= now;
    }
    writer.finish().expect("an archive").into_inner()
}

/// An archive of about 51 bytes an entry, all of them in its directory: none has content, or a header of its own.
pub fn entries(count: u32) -> Vec<u8> {
    let mut archive = Vec::new();
    for number in 0..count {
        archive.extend(b"PK\x01\x02\x14\x03\x14\0");
        archive.extend([0; 20]);
        archive.extend([9, 0]);
        archive.extend([0; 16]);
        archive.extend(format!("a/{number:07}").bytes());
    }
    let (count, size) = (u64::from(count), archive.len() as u64);
    archive.extend(b"PK\x06\x06");
    archive.extend(44_u64.to_le_bytes());
    archive.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    archive.extend([count, count, size, 0].map(u64::to_le_bytes).concat());
    archive.extend(b"PK\x06\x07\0\0\0\0");
    archive.extend(size.to_le_bytes());
    archive.extend([1, 0, 0, 0]);
    archive.extend(b"PK\x05\x06\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0");
    archive
}

/// A GraphQL document that is expanded to two to the power of `depth` fields.
pub fn fragments(depth: usize) -> String {
    let doubled = |number: usize| {
        let next = number + 1;
        format!(" fragment f{number} on Query{{...f{next} ...f{next}}}")
    };
    let links: Vec<_> = (0..depth).map(doubled).collect();
    format!("{{...f0 ...f0}}{} fragment f{depth} on Query{{__typename}}", links.concat())
}

/// A connection with a small window, which reads the status of the response and then nothing.
#[derive(Debug)]
pub struct SlowReader {
    connection: TcpStream,
    /// The status, if a response began.
    pub status: Option<u16>,
}

impl SlowReader {
    /// Sends a GET and waits up to `longest` for the beginning of its response.
    pub async fn get(url: &str, longest: Duration) -> std::io::Result<Self> {
        let (address, path) = parts(url);
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(4096)?;
        let mut connection = socket.connect(address.parse().map_err(std::io::Error::other)?).await?;
        connection.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
        let mut begin = [0; 12];
        let read = timeout(longest, connection.read_exact(&mut begin)).await;
        let status = read.ok().and_then(Result::ok).and_then(|_| status_of(&begin));
        Ok(Self { connection, status })
    }

    /// Reads the rest, and says how many bytes came; `None` if the connection broke before the end of its response.
    pub async fn rest(mut self) -> Option<usize> {
        let mut bytes = Vec::new();
        self.connection.read_to_end(&mut bytes).await.ok()
    }
}

/// Sends the head of a request and a part of its body, and waits up to `longest` for a response.
pub async fn half_sent(
    url: &str,
    headers: &str,
    announced: usize,
    body: &[u8],
    longest: Duration,
) -> std::io::Result<(TcpStream, Option<u16>)> {
    let (address, path) = parts(url);
    let mut connection = TcpStream::connect(address).await?;
    let head = format!("POST {path} HTTP/1.1\r\nHost: {address}\r\n{headers}Content-Length: {announced}\r\n\r\n");
    let (mut reader, mut writer) = connection.split();
    let mut begin = [0; 12];
    let status = {
        let sending = async {
            writer.write_all(head.as_bytes()).await?;
            writer.write_all(body).await
        };
        let reading = timeout(longest, reader.read_exact(&mut begin));
        let (_, read) = tokio::join!(timeout(longest, sending), reading);
        read.ok().and_then(Result::ok).and_then(|_| status_of(&begin))
    };
    Ok((connection, status))
}

fn status_of(begin: &[u8]) -> Option<u16> {
    std::str::from_utf8(begin).ok()?.strip_prefix("HTTP/1.1 ")?.parse().ok()
}

/// `http://address/path` in its two parts.
fn parts(url: &str) -> (&str, String) {
    let rest = url.trim_start_matches("http://");
    match rest.split_once('/') {
        Some((address, path)) => (address, format!("/{path}")),
        None => (rest, "/".into()),
    }
}
