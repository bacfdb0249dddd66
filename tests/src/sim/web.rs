//! What a site does with a connection: TLS, one request, one answer.

use std::time::Duration;

use relay_core::channel::Channel;

use super::certs::Papers;
use super::net::{ConnId, Found, Side};
use super::sites::SiteManner;
use super::world::{Event, World};

const SECOND: Duration = Duration::from_secs(1);

/// One connection to a site.
#[derive(Debug)]
pub(crate) struct Visit {
    pub(crate) site: usize,
    channel: Channel,
    input: Vec<u8>,
    /// What is left to be said, an octet a second.
    drips: Vec<u8>,
    answered: bool,
}

impl World {
    /// The relay's connection has arrived at a site.
    pub(crate) fn visit(&mut self, conn: ConnId, site: usize) {
        let mut channel = Channel::plain();
        let paper = self.sites.all[site].paper;
        if let Some(tls) = Papers::get().and_then(|papers| papers.host(paper)) {
            // It cannot fail on a channel that is new.
            let _ = channel.start_server(tls);
        }
        let visit = Visit {
            site,
            channel,
            input: Vec::new(),
            drips: Vec::new(),
            answered: false,
        };
        self.visits.insert(conn, visit);
    }

    /// Something arrived at a site.
    pub(crate) fn site_hears(&mut self, conn: ConnId) {
        let Some(mut visit) = self.visits.remove(&conn) else {
            return;
        };
        loop {
            let found = self
                .net
                .read(&mut self.agenda, conn, Side::Acceptor, 65_536);
            match found {
                Found::Bytes(bytes) => {
                    if !self.site_reads(conn, &mut visit, &bytes) {
                        return self.site_hangs_up(conn);
                    }
                }
                Found::End | Found::Broken(_) => return self.site_hangs_up(conn),
                Found::Nothing => break,
            }
        }
        self.visits.insert(conn, visit);
    }

    fn site_hangs_up(&mut self, conn: ConnId) {
        self.net.close(&mut self.agenda, conn, Side::Acceptor);
        self.owners.remove(&(conn, Side::Acceptor));
    }

    /// False if the connection is over.
    fn site_reads(&mut self, conn: ConnId, visit: &mut Visit, bytes: &[u8]) -> bool {
        if self.sites.all[visit.site].manner == SiteManner::Silent {
            return true;
        }
        let mut scratch = Vec::new();
        let Ok(plain) = visit.channel.receive(bytes, &mut scratch) else {
            return false;
        };
        visit.input.extend_from_slice(plain);
        let mut wire = Vec::new();
        visit.channel.flush(&mut wire);
        if !visit.answered
            && let Some(request) = whole(&visit.input)
        {
            visit.answered = true;
            let answer = self.answer_of(visit.site, &request);
            if self.sites.all[visit.site].manner == SiteManner::Dripping {
                visit.drips = answer.into_bytes();
                visit.drips.reverse();
                self.agenda.after(SECOND, Event::Drip(conn));
            } else {
                visit.channel.send(answer.as_bytes(), &mut wire);
            }
        }
        let written = self.net.write(
            &mut self.agenda,
            conn,
            Side::Acceptor,
            &wire,
            Duration::ZERO,
        );
        written.is_ok()
    }

    /// One octet more.
    pub(crate) fn drip(&mut self, conn: ConnId) {
        let Some(visit) = self.visits.get_mut(&conn) else {
            return;
        };
        let Some(octet) = visit.drips.pop() else {
            return;
        };
        let mut wire = Vec::new();
        visit.channel.send(&[octet], &mut wire);
        // A connection that broke meanwhile is noticed when it is read.
        let _ = self.net.write(
            &mut self.agenda,
            conn,
            Side::Acceptor,
            &wire,
            Duration::ZERO,
        );
        self.agenda.after(SECOND, Event::Drip(conn));
    }

    /// What a site answers to a request line.
    fn answer_of(&mut self, which: usize, request: &str) -> String {
        let site = &mut self.sites.all[which];
        let (status, kind, body) = match site.manner {
            SiteManner::Redirecting => (
                "301 Moved\r\nLocation: https://mta-sts.test/",
                "text/plain",
                String::new(),
            ),
            SiteManner::Failing => ("500 Broken", "text/plain", String::new()),
            SiteManner::Page => ("200 Ok", "text/html", "<p>Welcome!</p>".to_owned()),
            SiteManner::Well
            | SiteManner::Dripping
            | SiteManner::Unproven
            | SiteManner::Down
            | SiteManner::Silent => {
                let proven = site.paper == super::certs::Paper::Site;
                match &site.domain {
                    Some(_) if request.starts_with("GET /.well-known/mta-sts.txt ") => {
                        if proven {
                            site.served.insert(site.says.clone());
                        }
                        ("200 Ok", "text/plain", site.says.text())
                    }
                    None if request.starts_with("POST /") => {
                        ("200 Ok", "text/plain", String::new())
                    }
                    Some(_) | None => ("404 Not Found", "text/plain", String::new()),
                }
            }
        };
        let taken = status == "200 Ok" && site.domain.is_none();
        self.tell(format_args!("site {which} {request}: {status}"));
        if taken && let Some(domain) = request.strip_prefix("POST /") {
            let domain = domain.split(' ').next().unwrap_or_default().to_owned();
            self.report_posted(&domain);
        }
        let length = body.len();
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        )
    }
}

/// The first line of a request that is here with all of its body.
fn whole(input: &[u8]) -> Option<String> {
    let head = input.windows(4).position(|octets| octets == b"\r\n\r\n")?;
    let text = String::from_utf8_lossy(&input[..head]).into_owned();
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let its = name.eq_ignore_ascii_case("content-length");
        its.then(|| value.trim().parse::<usize>().ok()).flatten()
    });
    let body = input.len() - head - 4;
    (body >= length.unwrap_or(0)).then(|| text.lines().next().unwrap_or_default().to_owned())
}
