//! From a destination domain to a lane: routes first, then address literals, then MX. RFC 5321 §5.1.
//!
//! Where a domain has an MTA-STS policy in force, exchangers that it does not name are marked before the
//! lane is chosen: a delivery leaves them out unless DANE decides over the policy. RFC 8461 §2, §5. A
//! message that goes by no policy (`TLS-Required: No`, RFC 8689 §4.2.2) has a lane without: it does not wait
//! for what only a policy forbids.

use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use smtp_proto::{AddressLiteral, Domain};

use super::conclude::Finding;
use super::{Engine, Output};
use crate::config::{Config, DomainPattern, HostPort, Protocol, Route, TlsLevel, TlsMode};
use crate::dns::{DnsFailure, Mx, MxAnswer, MxSet};
use crate::id::ResolveId;
use crate::outbound::{Evidence, Hop, Lane, Login, LoginSecret, Outcome, Reason, TlsFailureKind};
use crate::queue::handling::TlsWish;
use crate::queue::job::JobState;
use crate::queue::lanes::{Caps, LaneNo};
use crate::sts;

/// Mail exchangers of a lane, at most.
const HOSTS_MAX: usize = 16;

/// Where the answer for a domain leads.
enum Way {
    Lane,
    Deferred(Reason),
    /// The domain's policy forbids all of its hosts: only messages that go by none have a lane, this one.
    Forbidden(Reason, Box<Lane>),
    Bounced(Reason),
}

impl Engine {
    /// Sends a picked job that is due on its way: to its lane, or to wait for its domain's hosts.
    pub(super) fn dispatch(&mut self, job: u32) {
        if !self.may_go(job) {
            return;
        }
        let domain = self.table.jobs[job].domain;
        let now = self.clock.tick();
        let lane = self
            .domains
            .lane(domain, now)
            .filter(|&no| self.lanes.get(no).is_some())
            .or_else(|| self.lane_without_names(domain));
        match lane {
            Some(no) if self.goes_by_no_policy(job) => {
                let lane = self.lanes.get(no).map(|lane| lane.spec.without_policy());
                let no = lane.map_or(no, |lane| self.lane(lane));
                self.enqueue(job, no);
            }
            Some(no) => self.enqueue(job, no),
            None => {
                self.table.set_state(job, JobState::Resolving);
                self.domains.ask(domain, job);
            }
        }
    }

    /// Whether a job is still to be delivered, now.
    fn may_go(&mut self, job: u32) -> bool {
        let message = self.table.jobs[job].message;
        if self.table.messages[message].held {
            self.table.set_state(job, JobState::Parked);
            return false;
        }
        if self.is_expired(message) {
            self.expire(job);
            return false;
        }
        true
    }

    fn enqueue(&mut self, job: u32, no: LaneNo) {
        let entry = &self.table.jobs[job];
        let (message, attempts) = (entry.message, entry.attempts);
        let now = self.clock.tick();
        self.table.set_state(job, JobState::Ready);
        if let Some(lane) = self.lanes.get_mut(no) {
            lane.push(job, attempts, self.table.messages[message].priority);
            if lane.backed_off(now).is_some() {
                self.table.unload(self.table.messages[message].id);
            }
        }
        self.held.wanted(no);
        self.lanes.enlist(no, self.caps(), now);
    }

    fn goes_by_no_policy(&self, job: u32) -> bool {
        let message = self.table.jobs[job].message;
        self.table.messages[message].wants.tls() == TlsWish::NotRequired
    }

    /// The lane that a job was in last, or is in.
    pub(super) fn lane_of(&self, job: u32) -> Option<LaneNo> {
        let no = self.domains.last_lane(self.table.jobs[job].domain)?;
        match self.goes_by_no_policy(job) {
            true => self.lane_of_no_policy(no),
            false => Some(no),
        }
    }

    /// The lane of the same hosts for messages that go by no policy, if there is one.
    pub(super) fn lane_of_no_policy(&self, no: LaneNo) -> Option<LaneNo> {
        let lane = self.lanes.get(no)?.spec.without_policy();
        self.lanes.find(&lane_key(&lane))
    }

    pub(super) fn caps(&self) -> Caps {
        let delivery = &self.config.delivery;
        Caps {
            all: delivery.connections.min(self.capacity.deliveries).max(1),
            lane: delivery.connections_per_lane.max(1),
        }
    }

    /// Puts the questions that may be put now.
    pub(super) fn ask_names(&mut self) {
        while let Some((id, domain)) = self.domains.question(self.questions_max()) {
            let name = self.domains.name(domain).to_string();
            self.out.push_back(Output::Resolve(id, name));
        }
    }

    /// The mail exchangers of a domain were found, or not.
    pub(super) fn resolved(&mut self, id: ResolveId, answer: MxAnswer) {
        let Some(domain) = self.domains.answered(id) else {
            return;
        };
        if let Some(answer) = self.policy_first(domain, answer) {
            self.go_ways(domain, answer);
        }
    }

    /// All is known of a domain: its jobs go where that leads.
    pub(super) fn go_ways(&mut self, domain: u32, answer: MxAnswer) {
        let way = self.way_of(domain, answer);
        for job in self.domains.take_waiting(domain) {
            if self.table.free_if_gone(job) {
                continue;
            }
            self.table.set_state(job, JobState::Picked);
            let outcome = match &way {
                Way::Lane => {
                    self.dispatch(job);
                    continue;
                }
                Way::Forbidden(_, lane) if self.goes_by_no_policy(job) => {
                    if self.may_go(job) {
                        let no = self.lane(Lane::clone(lane));
                        self.enqueue(job, no);
                    }
                    continue;
                }
                Way::Deferred(reason) | Way::Forbidden(reason, _) => Outcome::Deferred {
                    reason: reason.clone(),
                    retry_after: None,
                    in_doubt: false,
                },
                Way::Bounced(reason) => Outcome::Bounced(reason.clone()),
            };
            let recipients = self.table.jobs[job].recipients.to_vec();
            self.conclude(
                job,
                Finding {
                    outcomes: recipients
                        .into_iter()
                        .map(|r| (r, outcome.clone()))
                        .collect(),
                    evidence: Evidence::default(),
                    loaded: None,
                },
            );
        }
        self.domains.forget_if_unused(domain);
    }

    fn way_of(&mut self, domain: u32, answer: MxAnswer) -> Way {
        match answer {
            Ok(set) => self.way_of_hosts(domain, set),
            Err(DnsFailure::NoSuchDomain) => Way::Bounced(reason(
                "5.1.2",
                "no-such-domain",
                "The domain does not exist",
            )),
            Err(DnsFailure::NoRecord) => Way::Bounced(reason(
                "5.4.4",
                "no-mail-host",
                "The domain has no mail exchanger and no address",
            )),
            // RFC 7505 §4.1: 556 and X.1.10 say that a domain takes no mail.
            Err(DnsFailure::NullMx) => Way::Bounced(reason(
                "5.1.10",
                "null-mx",
                "The domain takes no mail (null MX)",
            )),
            Err(DnsFailure::BadName(why)) => Way::Bounced(reason("5.1.2", "bad-name", &why)),
            Err(DnsFailure::Temporary(why)) => {
                Way::Deferred(reason("4.4.3", "dns-temporary", &why))
            }
        }
    }

    fn way_of_hosts(&mut self, domain: u32, set: MxSet) -> Way {
        let hosts = without_self(&set.hosts, self.config.hostname.as_str());
        if hosts.is_empty() {
            let us = &self.config.hostname;
            let text = format!("The domain's mail exchanger is this relay ({us}): a loop");
            return Way::Bounced(reason("5.4.6", "mx-is-self", &text));
        }
        let policy = self.policy_of(domain).map(Arc::clone);
        let sts = policy.as_ref().map(|policy| policy.mode);
        let enforced = policy.filter(|policy| policy.mode == sts::Mode::Enforce);
        let hops = hops(&hosts, enforced.as_deref(), self.config.delivery.port);
        let name = Arc::clone(self.domains.name(domain));
        let tls = mx_tls(&self.config, route_of(&self.config, &name));
        let lane = self.mx_lane(hops, tls, set.authentic, sts);
        // A delivery learns whether DANE lets it use hosts that the policy does not name.
        let dane = set.authentic && self.config.dns.trust_ad;
        if let Some(policy) = enforced
            && !dane
            && lane.hosts.iter().all(|hop| hop.stray)
        {
            let names: Vec<&str> = hosts.iter().take(4).map(|mx| &*mx.host).collect();
            let kind = TlsFailureKind::ValidationFailure;
            let why = "the MTA-STS policy names none of the mail exchangers";
            self.count_policy_failure(&policy.domain, Some(&policy), kind, names[0], why);
            let text = format!(
                "The MTA-STS policy of {} ({}) names none of its mail exchangers: {}",
                policy.domain,
                policy.describe(self.clock.now().unix),
                names.join(", ")
            );
            let reason = reason("4.7.5", "mta-sts-mx", &text);
            return Way::Forbidden(reason, Box::new(lane.without_policy()));
        }
        let no = self.lane(lane);
        self.remember(domain, no);
        Way::Lane
    }

    /// The lane of a domain that needs no names: by a route, or by an address literal.
    fn lane_without_names(&mut self, domain: u32) -> Option<LaneNo> {
        let name = Arc::clone(self.domains.name(domain));
        let config = Arc::clone(&self.config);
        let route = route_of(&config, &name);
        let tls = mx_tls(&config, route);
        let no = match route.filter(|route| !route.is_by_mx()) {
            Some(route) => self.route_lane(route),
            None => {
                let ip = AddressLiteral::parse(&name).ok()?.ip();
                let host = HostPort {
                    host: ip.to_string(),
                    port: config.delivery.port,
                };
                let hop = Hop {
                    host,
                    preference: 0,
                    stray: false,
                };
                let lane = self.mx_lane(vec![hop], tls, true, None);
                self.lane(lane)
            }
        };
        self.remember(domain, no);
        Some(no)
    }

    fn mx_lane(
        &self,
        hosts: Vec<Hop>,
        tls: TlsLevel,
        authentic: bool,
        sts: Option<sts::Mode>,
    ) -> Lane {
        let delivery = &self.config.delivery;
        let name = hosts
            .first()
            .map(|hop| hop.host.host.clone())
            .unwrap_or_default();
        Lane {
            hosts,
            name,
            tls,
            tls_mode: None,
            login: None,
            route: false,
            authentic,
            sts,
            protocol: Protocol::Smtp,
            source: None,
            messages_max: delivery.messages_per_connection,
        }
    }

    fn route_lane(&mut self, route: &Route) -> LaneNo {
        let delivery = &self.config.delivery;
        let login = route.username.as_ref().map(|username| Login {
            username: username.clone(),
            secret: match &route.token {
                Some(source) => LoginSecret::Token(source.clone()),
                None => LoginSecret::Password(route.password.clone().unwrap_or_default()),
            },
            mechanism: route.mechanism,
        });
        let hosts = route
            .hosts
            .iter()
            .cloned()
            .map(|host| Hop {
                host,
                preference: 0,
                stray: false,
            })
            .collect();
        let name = route
            .hosts
            .first()
            .map(|host| format!("{}:{}", host.host, host.port))
            .unwrap_or_default();
        self.lane(Lane {
            hosts,
            name,
            tls: route.tls.unwrap_or(delivery.tls),
            tls_mode: route.tls_mode,
            login,
            route: true,
            authentic: true,
            sts: None,
            protocol: route.protocol,
            source: None,
            messages_max: delivery.messages_per_connection,
        })
    }

    fn lane(&mut self, spec: Lane) -> LaneNo {
        let key = lane_key(&spec);
        let now = self.clock.tick();
        self.lanes.find_or_make(&key, now, || spec)
    }

    /// What a new delivery is told of its lane: mail exchangers of one preference in random order.
    ///
    /// RFC 5321 §5.1: "the sender-SMTP MUST randomize them to spread the load across multiple mail
    /// exchangers". A route's hosts are tried in the order of the configuration.
    pub(super) fn shuffled(&mut self, spec: &Arc<Lane>) -> Arc<Lane> {
        if spec.route || spec.hosts.len() < 2 {
            return Arc::clone(spec);
        }
        let mut lane = Lane::clone(spec);
        for group in lane.hosts.chunk_by_mut(|a, b| a.preference == b.preference) {
            for last in (1..group.len()).rev() {
                let other = usize::try_from(self.rng.below(last as u64 + 1)).unwrap_or(0);
                group.swap(last, other);
            }
        }
        Arc::new(lane)
    }
}

/// The route of a destination: a domain, or an address literal.
fn route_of<'c>(config: &'c Config, name: &str) -> Option<&'c Route> {
    match Domain::parse_utf8(name) {
        Ok(domain) => config.route_for(&domain),
        Err(_) => config
            .routes
            .iter()
            .find(|route| route.domain == DomainPattern::Any),
    }
}

/// The TLS that a destination's mail exchangers are asked for.
fn mx_tls(config: &Config, route: Option<&Route>) -> TlsLevel {
    let own = route.and_then(|route| route.tls);
    own.unwrap_or(config.delivery.tls)
}

/// The exchangers that may be used: not ourselves, nor any that is no better than we are.
///
/// RFC 5321 §5.1: where our own name is among them, "all records at that preference level and
/// higher-numbered ones MUST be discarded from consideration."
fn without_self<'m>(hosts: &'m [Mx], hostname: &str) -> Vec<&'m Mx> {
    let ours = hosts
        .iter()
        .filter(|mx| mx.host.eq_ignore_ascii_case(hostname))
        .map(|mx| mx.preference);
    let limit = ours.min();
    hosts
        .iter()
        .filter(|mx| limit.is_none_or(|limit| mx.preference < limit))
        .collect()
}

/// The hops to mail exchangers, as many as a lane has; those first that an enforced policy names.
fn hops(hosts: &[&Mx], enforced: Option<&sts::Policy>, port: u16) -> Vec<Hop> {
    let hop = |mx: &&Mx| Hop {
        stray: enforced.is_some_and(|policy| !policy.allows(&mx.host)),
        ..Hop::from_mx(mx, port)
    };
    let mut hops: Vec<Hop> = hosts.iter().map(hop).collect();
    hops.sort_by_key(|hop| hop.stray);
    hops.truncate(HOSTS_MAX);
    hops.sort_by_key(|hop| hop.preference);
    hops
}

/// The text by which lanes are the same.
fn lane_key(lane: &Lane) -> String {
    let tls = match lane.tls {
        TlsLevel::None => "none",
        TlsLevel::Opportunistic => "opportunistic",
        TlsLevel::Require => "require",
        TlsLevel::Verify => "verify",
        TlsLevel::Dane => "dane",
    };
    // Two routes to one host may log in differently. A hash, since a key may be printed.
    let login = lane.login.as_ref().map_or(0, |login| {
        let mut hasher = DefaultHasher::new();
        (&login.username, &login.secret, login.mechanism).hash(&mut hasher);
        hasher.finish()
    });
    let way = match (lane.route, lane.authentic, lane.protocol) {
        (true, _, Protocol::Smtp) => "route",
        (true, _, Protocol::Lmtp) => "lmtp",
        (false, true, _) => "mx-authentic",
        (false, false, _) => "mx",
    };
    let sts = match lane.sts {
        Some(sts::Mode::Enforce) => "sts",
        Some(sts::Mode::Testing) => "sts-testing",
        Some(sts::Mode::None) | None => "-",
    };
    let mode = match lane.tls_mode {
        None => "",
        Some(TlsMode::StartTls) => " starttls",
        Some(TlsMode::Implicit) => " implicit",
    };
    let mut key = format!("{way} {tls}{mode} {sts} {login:x}");
    for Hop {
        host: HostPort { host, port },
        preference,
        stray,
    } in &lane.hosts
    {
        let mark = if *stray { "!" } else { "" };
        // Writing to a String does not fail.
        let _ = write!(key, " {mark}{preference} {host} {port}");
    }
    key
}

fn reason(status: &str, rule: &str, text: &str) -> Reason {
    let mut text = text.to_owned();
    crate::queue::reason::truncate(&mut text, crate::queue::reason::LINE_MAX);
    Reason {
        stage: "resolve".to_owned(),
        code: None,
        status: status.to_owned(),
        text,
        rule: rule.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mx(preference: u16, host: &str) -> Mx {
        Mx {
            preference,
            host: host.into(),
        }
    }

    #[test]
    fn routes_share_a_lane_only_with_the_same_login() {
        let key = |username: &str, password: &str| {
            lane_key(&Lane {
                hosts: Vec::new(),
                name: String::new(),
                tls: TlsLevel::Verify,
                tls_mode: None,
                login: Some(Login {
                    username: username.into(),
                    secret: LoginSecret::Password(password.into()),
                    mechanism: None,
                }),
                route: true,
                authentic: true,
                sts: None,
                protocol: Protocol::Smtp,
                source: None,
                messages_max: 1,
            })
        };
        assert_eq!(key("user", "secret"), key("user", "secret"));
        assert_ne!(key("user", "secret"), key("user", "other"));
        assert_ne!(key("user", "secret"), key("users", "ecret"));
        assert!(!key("user", "secret").contains("secret"));
    }

    #[test]
    fn exchangers_that_are_no_better_than_we_are_are_left_out() {
        let hosts = [mx(5, "a"), mx(10, "b"), mx(10, "us.example"), mx(20, "c")];
        assert_eq!(without_self(&hosts, "US.example"), [&hosts[0]]);
        assert_eq!(without_self(&hosts, "other.example").len(), 4);
        assert!(without_self(&hosts[2..], "us.example").is_empty());
    }
}
