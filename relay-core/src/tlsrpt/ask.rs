//! The errands of TLS-RPT: who wants a report, and its way by HTTPS. RFC 8460 §3, §5.4.

use std::sync::Arc;

use super::rua::{Rua, ruas};
use crate::channel::ClientTls;
use crate::config::Config;
use crate::dns::DnsFailure;
use crate::https::{Answer, Ask, Exchange, Request};
use crate::machine::{Input, Machine, Output};
use crate::time::Now;

/// Asks for the TXT record of a domain.
#[derive(Debug)]
pub struct Inquiry {
    domain: String,
    asked: bool,
    found: Option<Result<Vec<Rua>, String>>,
}

impl Inquiry {
    /// About this domain.
    #[must_use]
    pub fn new(domain: String) -> Self {
        Self {
            domain,
            asked: false,
            found: None,
        }
    }

    /// Who wants reports, after `Close`.
    ///
    /// # Errors
    /// The DNS did not say; it may later.
    pub fn into_found(self) -> Result<Vec<Rua>, String> {
        self.found
            .unwrap_or_else(|| Err("the search was given up".to_owned()))
    }
}

impl Machine for Inquiry {
    type Request = Request;
    type Answer = Answer;

    fn handle_input(&mut self, _: Now, input: Input<'_, Answer>) {
        if let Input::Answer(Answer::Texts(answer)) = input {
            self.found = Some(match answer {
                Ok(texts) => Ok(ruas(texts.texts.iter().map(Vec::as_slice))),
                Err(DnsFailure::Temporary(why)) => Err(why),
                Err(
                    DnsFailure::NoSuchDomain
                    | DnsFailure::NoRecord
                    | DnsFailure::NullMx
                    | DnsFailure::BadName(_),
                ) => Ok(Vec::new()),
            });
        }
    }

    fn poll_output(&mut self, _: &mut Vec<u8>) -> Output<Request> {
        if std::mem::replace(&mut self.asked, true) {
            return Output::Close;
        }
        Output::Request(Request::Texts(format!("_smtp._tls.{}", self.domain)))
    }
}

/// Posts a report. RFC 8460 §5.4.
#[derive(Debug)]
pub struct Posting {
    start: Option<Ask>,
    tls: Arc<ClientTls>,
    config: Arc<Config>,
    exchange: Option<Box<Exchange>>,
}

impl Posting {
    /// Of this to its host.
    #[must_use]
    pub fn new(ask: Ask, tls: Arc<ClientTls>, config: Arc<Config>) -> Self {
        Self {
            start: Some(ask),
            tls,
            config,
            exchange: None,
        }
    }

    /// Whether it arrived, after `Close`.
    ///
    /// # Errors
    /// Why it did not.
    pub fn into_result(self) -> Result<(), String> {
        let Some(exchange) = self.exchange else {
            return Err("it was given up".to_owned());
        };
        match exchange.into_result() {
            Ok(response) if (200..300).contains(&response.status) => Ok(()),
            Ok(response) => Err(format!("status {}", response.status)),
            Err(why) => Err(why.to_string()),
        }
    }
}

impl Machine for Posting {
    type Request = Request;
    type Answer = Answer;

    fn handle_input(&mut self, now: Now, input: Input<'_, Answer>) {
        if let Some(ask) = self.start.take() {
            // The time enters with the first input: until then the exchange cannot begin.
            let (tls, config) = (Arc::clone(&self.tls), Arc::clone(&self.config));
            self.exchange = Some(Box::new(Exchange::new(ask, tls, config, now)));
        } else if let Some(exchange) = &mut self.exchange {
            exchange.handle_input(now, input);
        }
    }

    fn poll_output(&mut self, wire: &mut Vec<u8>) -> Output<Request> {
        match &mut self.exchange {
            Some(exchange) => exchange.poll_output(wire),
            None => Output::Request(Request::Flush),
        }
    }
}
