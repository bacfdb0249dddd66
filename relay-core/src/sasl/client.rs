//! The client's side: logging in to a smart host.
//!
//! ```text
//!  start ──▶ initial response ──▶ respond(challenge) … ──▶ (235) finish() ──▶ Ok
//!                                        │                        │
//!                                        └───── ClientError ──────┘   the server is not to be trusted
//! ```
//!
//! With SCRAM, a server that does not know the password cannot pretend that it does: [`Client::finish`]
//! is an error unless the server's signature was seen and right.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use subtle::ConstantTimeEq as _;

use super::bearer::{self, Bearer};
use super::scram::{self, attribute, is_extension, is_nonce};
use super::verifier::{ITERATIONS_MAX, ITERATIONS_MIN, Keys};
use super::{ChannelBinding, MESSAGE_LEN_MAX, Mechanism};
use crate::rng::Rng;

/// Why the exchange cannot go on. The server, or someone between, is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientError {
    /// A challenge that is not of the mechanism.
    Malformed,
    /// The server's nonce does not begin with ours. RFC 5802 §5.1.
    Nonce,
    /// Fewer iterations than [`ITERATIONS_MIN`] (it fishes for the password) or more than
    /// [`ITERATIONS_MAX`] (it burns our time).
    Iterations,
    /// The server's signature is wrong or was never sent: it does not know the password.
    ServerSignature,
    /// The server says no (`e=`).
    Refused,
}

impl std::fmt::Display for ClientError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Malformed => f.write_str("the server's challenge makes no sense"),
            Self::Nonce => f.write_str("the server's nonce does not continue ours"),
            Self::Iterations => write!(
                f,
                "the server asks for an iteration count outside {ITERATIONS_MIN} to {ITERATIONS_MAX}"
            ),
            Self::ServerSignature => {
                f.write_str("the server did not prove that it knows the password")
            }
            Self::Refused => f.write_str("the server refused the proof"),
        }
    }
}

impl std::error::Error for ClientError {}

/// One exchange.
pub struct Client {
    state: State,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

enum State {
    LoginName {
        username: String,
        password: String,
    },
    LoginPassword {
        password: String,
    },
    ScramFirst {
        password: String,
        bare: String,
        nonce: String,
        binding_input: Vec<u8>,
    },
    ScramFinal {
        server_signature: [u8; 32],
    },
    /// A token is shown: a challenge says that it is not taken.
    Token(Mechanism),
    /// Nothing more to say; a 235 is to be believed.
    Complete,
    Failed,
}

impl Client {
    /// Begins, and gives the initial response, if the mechanism has one. `binding` is the data of the
    /// connection, whatever the mechanism: `SCRAM-SHA-256-PLUS` needs it, and `SCRAM-SHA-256` tells the
    /// server that we had it, so that a list of mechanisms that lost PLUS on the way is noticed.
    #[must_use]
    pub fn start(
        mechanism: Mechanism,
        username: &str,
        password: &str,
        binding: Option<&ChannelBinding>,
        rng: &mut Rng,
    ) -> (Self, Option<Vec<u8>>) {
        let password = password.to_owned();
        match mechanism {
            Mechanism::Plain => {
                let message = format!("\0{username}\0{password}").into_bytes();
                (
                    Self {
                        state: State::Complete,
                    },
                    Some(message),
                )
            }
            Mechanism::Login => {
                let username = username.to_owned();
                (
                    Self {
                        state: State::LoginName { username, password },
                    },
                    None,
                )
            }
            Mechanism::ScramSha256 | Mechanism::ScramSha256Plus => {
                let plus = mechanism == Mechanism::ScramSha256Plus;
                let mut random = [0; scram::NONCE_OCTETS];
                rng.fill(&mut random);
                Self::scram(username, password, plus, binding, BASE64.encode(random))
            }
            // These need no password; `bearer` begins the first two.
            Mechanism::XOAuth2 | Mechanism::OAuthBearer => {
                let bearer = Bearer {
                    name: Some(username.to_owned()),
                    token: password,
                };
                Self::bearer(mechanism, &bearer, "", 0)
            }
            Mechanism::External => {
                let state = State::Complete;
                (Self { state }, Some(username.as_bytes().to_vec()))
            }
        }
    }

    /// Begins with a token, for the server at this host and port.
    #[must_use]
    pub fn bearer(
        mechanism: Mechanism,
        bearer: &Bearer,
        host: &str,
        port: u16,
    ) -> (Self, Option<Vec<u8>>) {
        let state = State::Token(mechanism);
        (Self { state }, Some(bearer.message(mechanism, host, port)))
    }

    /// RFC 5802 §5: the gs2-header, the name and our nonce.
    pub(super) fn scram(
        username: &str,
        password: String,
        plus: bool,
        binding: Option<&ChannelBinding>,
        nonce: String,
    ) -> (Self, Option<Vec<u8>>) {
        let header = match (plus, binding) {
            (true, _) => format!("p={},,", scram::BINDING_NAME),
            (false, Some(_)) => "y,,".to_owned(),
            (false, None) => "n,,".to_owned(),
        };
        let mut binding_input = header.clone().into_bytes();
        if let (true, Some(data)) = (plus, binding) {
            binding_input.extend_from_slice(data);
        }
        let bare = format!("n={},r={nonce}", scram::escape(username));
        let message = format!("{header}{bare}").into_bytes();
        let state = State::ScramFirst {
            password,
            bare,
            nonce,
            binding_input,
        };
        (Self { state }, Some(message))
    }

    /// The response to a challenge, both without base64.
    ///
    /// # Errors
    /// [`ClientError`]: cancel the exchange and do not use this server.
    pub fn respond(&mut self, challenge: &[u8]) -> Result<Vec<u8>, ClientError> {
        let state = std::mem::replace(&mut self.state, State::Failed);
        match state {
            // What the prompts say differs between servers; their order does not.
            State::LoginName { username, password } => {
                self.state = State::LoginPassword { password };
                Ok(username.into_bytes())
            }
            State::LoginPassword { password } => {
                self.state = State::Complete;
                Ok(password.into_bytes())
            }
            State::ScramFirst {
                password,
                bare,
                nonce,
                binding_input,
            } => {
                let server_first = text(challenge)?;
                let (response, server_signature) =
                    prove(server_first, &password, &bare, &nonce, &binding_input)?;
                self.state = State::ScramFinal { server_signature };
                Ok(response)
            }
            State::ScramFinal { server_signature } => {
                check_signature(text(challenge)?, &server_signature)?;
                self.state = State::Complete;
                Ok(Vec::new())
            }
            // The reason is for people; what follows is the refusal. RFC 7628 §3.2.3.
            State::Token(mechanism) => Ok(bearer::acknowledgement(mechanism)),
            State::Complete | State::Failed => Err(ClientError::Malformed),
        }
    }

    /// The server says that the exchange succeeded (SMTP: 235).
    ///
    /// # Errors
    /// [`ClientError::ServerSignature`] if it did not prove itself before.
    pub fn finish(self) -> Result<(), ClientError> {
        match self.state {
            State::Complete | State::Token(_) => Ok(()),
            State::ScramFirst { .. } | State::ScramFinal { .. } => {
                Err(ClientError::ServerSignature)
            }
            State::LoginName { .. } | State::LoginPassword { .. } | State::Failed => {
                Err(ClientError::Malformed)
            }
        }
    }
}

fn text(challenge: &[u8]) -> Result<&str, ClientError> {
    if challenge.len() > MESSAGE_LEN_MAX {
        return Err(ClientError::Malformed);
    }
    std::str::from_utf8(challenge).map_err(|_| ClientError::Malformed)
}

/// RFC 5802 §3: the client's final message, and the signature that the server must answer with.
fn prove(
    server_first: &str,
    password: &str,
    bare: &str,
    client_nonce: &str,
    binding_input: &[u8],
) -> Result<(Vec<u8>, [u8; 32]), ClientError> {
    let mut attributes = server_first.split(',');
    let mut next = |key| attributes.next().and_then(|text| attribute(text, key));
    let (nonce, salt, iterations) = (next('r'), next('s'), next('i'));
    let (Some(nonce), Some(salt), Some(iterations)) = (nonce, salt, iterations) else {
        return Err(ClientError::Malformed);
    };
    if !attributes.all(is_extension) || !is_nonce(nonce) {
        return Err(ClientError::Malformed);
    }
    let server_part = nonce.strip_prefix(client_nonce).ok_or(ClientError::Nonce)?;
    if server_part.is_empty() {
        return Err(ClientError::Nonce);
    }
    let salt = BASE64.decode(salt).map_err(|_| ClientError::Malformed)?;
    let iterations: u32 = iterations.parse().map_err(|_| ClientError::Iterations)?;
    if salt.is_empty() {
        return Err(ClientError::Malformed);
    }
    if !(ITERATIONS_MIN..=ITERATIONS_MAX).contains(&iterations) {
        return Err(ClientError::Iterations);
    }
    let keys = Keys::derive(password, &salt, iterations);
    let without_proof = format!("c={},r={nonce}", BASE64.encode(binding_input));
    let auth_message = format!("{bare},{server_first},{without_proof}");
    let client_signature = scram::hmac(&keys.stored_key(), &[auth_message.as_bytes()]);
    let proof = BASE64.encode(scram::xor(&keys.client, &client_signature));
    let server_signature = scram::hmac(&keys.server, &[auth_message.as_bytes()]);
    Ok((
        format!("{without_proof},p={proof}").into_bytes(),
        server_signature,
    ))
}

fn check_signature(server_final: &str, expected: &[u8; 32]) -> Result<(), ClientError> {
    let first = server_final.split(',').next().unwrap_or_default();
    if attribute(first, 'e').is_some() {
        return Err(ClientError::Refused);
    }
    let signature = attribute(first, 'v').ok_or(ClientError::Malformed)?;
    let signature = BASE64
        .decode(signature)
        .map_err(|_| ClientError::Malformed)?;
    if bool::from(signature.as_slice().ct_eq(expected)) {
        Ok(())
    } else {
        Err(ClientError::ServerSignature)
    }
}
