//! Speaking to a running relay over its Unix socket: HTTP/1.1 through ureq-proto, one request a call.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use ureq_proto::client::{Call, RecvResponseResult, SendRequestResult};
use ureq_proto::http::{Method, Request, header};

/// How long the relay has for an answer.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// A larger answer than any that the API gives.
const ANSWER_MAX: usize = 64 << 20;

/// Why a command got no answer.
#[derive(Debug)]
pub(super) enum ClientError {
    /// No relay listens there.
    NotRunning(PathBuf, io::Error),
    /// The connection broke, or what came is not HTTP or not JSON.
    Broken(String),
    /// The relay refused: its HTTP status and its words.
    Refused(u16, String),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRunning(path, error) => write!(
                f,
                "no relay answers at {}: {error}; is it running, with this --data-dir or --config?",
                path.display()
            ),
            Self::Broken(why) => write!(f, "the relay's answer was not understood: {why}"),
            Self::Refused(_, text) => f.write_str(text),
        }
    }
}

impl std::error::Error for ClientError {}

/// The admin API of one relay.
#[derive(Debug, Clone)]
pub(super) struct Client {
    socket: PathBuf,
}

impl Client {
    /// The relay that uses this data directory.
    #[must_use]
    pub(super) fn new(data_dir: &Path) -> Self {
        Self {
            socket: data_dir.join("admin.sock"),
        }
    }

    /// Asks for something.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, &[])
    }

    /// Asks for a change.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(super) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &[u8],
    ) -> Result<T, ClientError> {
        self.call(Method::POST, path, body)
    }

    /// A relay that is starting has bound its ports, and replaces the socket of the one before soon.
    fn connect(&self) -> io::Result<UnixStream> {
        for _ in 0..20 {
            match UnixStream::connect(&self.socket) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                other => return other,
            }
        }
        UnixStream::connect(&self.socket)
    }

    fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &[u8],
    ) -> Result<T, ClientError> {
        let mut stream = self
            .connect()
            .map_err(|error| ClientError::NotRunning(self.socket.clone(), error))?;
        let (status, answer) = exchange(&mut stream, method, path, body)
            .map_err(|error| ClientError::Broken(error.to_string()))?;
        if (200..300).contains(&status) {
            return serde_json::from_slice(&answer)
                .map_err(|error| ClientError::Broken(error.to_string()));
        }
        let text = serde_json::from_slice::<serde_json::Value>(&answer)
            .ok()
            .and_then(|value| Some(value.get("error")?.as_str()?.to_owned()))
            .unwrap_or_else(|| format!("HTTP status {status}"));
        Err(ClientError::Refused(status, text))
    }
}

fn exchange(
    stream: &mut UnixStream,
    method: Method,
    path: &str,
    body: &[u8],
) -> Result<(u16, Vec<u8>), Box<dyn std::error::Error>> {
    stream.set_read_timeout(Some(ANSWER_WAIT))?;
    stream.set_write_timeout(Some(ANSWER_WAIT))?;
    let mut request = Request::builder()
        .method(method)
        .uri(format!("http://localhost{path}"))
        .header(header::CONNECTION, "close");
    if !body.is_empty() {
        request = request
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONTENT_LENGTH, body.len());
    }
    let mut out = vec![0; 4096 + body.len()];
    let mut call = Call::new(request.body(())?)?.proceed();
    let mut len = 0;
    while !call.can_proceed() {
        len += call.write(&mut out[len..])?;
    }
    let mut call = match call.proceed()?.ok_or("the request was not sent whole")? {
        SendRequestResult::RecvResponse(call) => call,
        SendRequestResult::SendBody(mut call) => {
            let mut rest = body;
            while !call.can_proceed() {
                let (used, written) = call.write(rest, &mut out[len..])?;
                rest = &rest[used..];
                len += written;
            }
            call.proceed().ok_or("the request was not sent whole")?
        }
        SendRequestResult::Await100(_) => return Err("nobody asked for 100-continue".into()),
    };
    stream.write_all(&out[..len])?;
    let mut input = Vec::new();
    stream.take(ANSWER_MAX as u64).read_to_end(&mut input)?;
    let (used, response) = call.try_response(&input, false)?;
    let status = response
        .ok_or("the connection ended early")?
        .status()
        .as_u16();
    let mut answer = Vec::new();
    if let Some(RecvResponseResult::RecvBody(mut call)) = call.proceed() {
        let mut rest = &input[used..];
        let mut piece = vec![0; 64 * 1024];
        while !rest.is_empty() {
            let (used, read) = call.read(rest, &mut piece)?;
            answer.extend_from_slice(&piece[..read]);
            rest = &rest[used..];
            if used == 0 {
                break;
            }
        }
    }
    Ok((status, answer))
}
