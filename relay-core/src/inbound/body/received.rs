//! The fields that the relay writes above a message.

use std::net::IpAddr;

use smtp_proto::{Domain, Mailbox};

use super::Headers;
use crate::id::MessageId;
use crate::time::UnixTime;

/// The longest client name that is repeated, in octets.
const HELO_MAX: usize = 255;

/// What the Received field says of how a message came in. RFC 5321 §4.4.
///
/// It never says with which credential: the field travels to the recipients.
#[derive(Debug, Clone)]
pub struct Received<'a> {
    /// The name that the client gave in EHLO or HELO.
    pub helo: &'a str,
    /// Its address; none if the message came without a connection, from the program itself.
    pub peer: Option<IpAddr>,
    /// Our name.
    pub hostname: &'a Domain,
    /// The message's id.
    pub id: MessageId,
    /// The client said EHLO, not HELO.
    pub extended: bool,
    /// TLS: version and suite, as `TLSv1.3 TLS_AES_256_GCM_SHA384`; none in clear text.
    pub tls: Option<&'a str>,
    /// The client proved who it is.
    pub authenticated: bool,
    /// SMTPUTF8 was asked for.
    pub smtputf8: bool,
    /// The recipient, if there is only one: others must not learn of each other.
    pub recipient: Option<&'a Mailbox>,
    /// When.
    pub time: UnixTime,
}

impl Received<'_> {
    /// The name of the protocol: RFC 3848 §1, RFC 6531 §4.3.
    #[must_use]
    pub fn protocol(&self) -> &'static str {
        let tls = self.tls.is_some();
        match (self.extended, self.smtputf8, tls, self.authenticated) {
            (false, _, _, _) => "SMTP",
            (true, false, false, false) => "ESMTP",
            (true, false, false, true) => "ESMTPA",
            (true, false, true, false) => "ESMTPS",
            (true, false, true, true) => "ESMTPSA",
            (true, true, false, false) => "UTF8SMTP",
            (true, true, false, true) => "UTF8SMTPA",
            (true, true, true, false) => "UTF8SMTPS",
            (true, true, true, true) => "UTF8SMTPSA",
        }
    }

    /// The field with its CRLF.
    #[must_use]
    pub fn field(&self) -> String {
        let mut out = String::with_capacity(256);
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) {
        let (hostname, id) = (self.hostname, self.id);
        // RFC 5321 §4.1.3: the tag that tells the families apart.
        let peer = self.peer.map(|peer| match peer.to_canonical() {
            IpAddr::V4(ip) => format!("[{ip}]"),
            IpAddr::V6(ip) => format!("[IPv6:{ip}]"),
        });
        match peer {
            Some(peer) => {
                let (helo, protocol) = (printable(self.helo), self.protocol());
                out.push_str(&format!("Received: from {helo} ({peer})\r\n"));
                out.push_str(&format!("\tby {hostname} with {protocol} id {id}"));
            }
            None => out.push_str(&format!("Received: by {hostname} id {id}")),
        }
        if let Some(recipient) = self
            .recipient
            .filter(|mailbox| self.smtputf8 || mailbox.is_ascii())
        {
            out.push_str(&format!("\r\n\tfor <{recipient}>"));
        }
        match self.tls.and_then(|tls| tls.split_once(' ')) {
            // RFC 8314 §4.3: the tls clause names the cipher suite.
            Some((version, suite)) => {
                let (version, suite) = (printable(version), printable(suite));
                out.push_str(&format!("\r\n\ttls {suite} ({version});\r\n"));
            }
            None => out.push_str(";\r\n"),
        }
        out.push_str(&format!("\t{}\r\n", self.time.to_rfc5322()));
    }
}

impl Headers {
    /// What goes before [`Headers::kept`]: the Received field, then Message-ID and Date if the message
    /// has none. RFC 6409 §8.2, §8.3.
    #[must_use]
    pub fn prepend(&self, received: &Received<'_>) -> String {
        let mut out = String::with_capacity(512);
        received.write(&mut out);
        if !self.has_message_id() {
            out.push_str(&format!(
                "Message-ID: <{}@{}>\r\n",
                received.id, received.hostname
            ));
        }
        if !self.has_date() {
            out.push_str(&format!("Date: {}\r\n", received.time.to_rfc5322()));
        }
        out
    }
}

/// What a client said of itself, as characters that mean nothing in a header field.
fn printable(text: &str) -> String {
    let harmless = |c: char| match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_' | ':' | '[' | ']' => c,
        _ => '?',
    };
    text.chars().take(HELO_MAX).map(harmless).collect()
}
