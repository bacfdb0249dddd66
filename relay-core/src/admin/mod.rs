//! Administration: requests and answers as data, and the HTTP/1.1 connection that carries them.

pub mod api;
pub mod http;
#[cfg(test)]
mod tests;

pub use api::Origin;

use crate::id::MessageId;

/// Which messages. A misspelt narrowing would widen it, so what is not known is refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Selector {
    /// This one.
    pub id: Option<String>,
    /// With a recipient in this domain.
    pub domain: Option<String>,
    /// From this address, or from this domain, as `example.com` or `@example.com`; empty or `<>` for
    /// the null sender.
    pub sender: Option<String>,
    /// Accepted longer ago than this many seconds.
    pub older_than_secs: Option<u64>,
}

/// Which TLS-RPT reports.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsReportSelector {
    /// Of this day (UTC), as `2026-11-24`.
    pub day: Option<Day>,
    /// Of this domain, in A-labels and lower case.
    pub domain: Option<String>,
}

impl TlsReportSelector {
    pub(crate) fn fits(&self, day: u64, domain: &str) -> bool {
        self.day.is_none_or(|wanted| wanted.0 == day)
            && self.domain.as_deref().is_none_or(|wanted| wanted == domain)
    }
}

/// A day in days since 1970, written as `2026-11-24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Day(u64);

impl std::str::FromStr for Day {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a day, such as 2026-11-24");
        let day: jiff::civil::Date = text.parse().map_err(|_| wrong())?;
        let since = day.since(jiff::civil::date(1970, 1, 1));
        let days = since.map_err(|_| wrong())?.get_days();
        u64::try_from(days).map(Self).map_err(|_| wrong())
    }
}

impl TryFrom<String> for Day {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Day> for String {
    fn from(Day(days): Day) -> Self {
        let text = crate::events::rfc3339(crate::time::UnixTime::from_secs(days * 86_400));
        text[..10].to_owned()
    }
}

/// What an administrator asks the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminRequest {
    /// What runs, how deep the queue is, what waits and why.
    Status,
    /// Messages in the queue, oldest first, after an id.
    List {
        /// Which.
        selector: Selector,
        /// Only with ids above this.
        after: Option<MessageId>,
        /// At most so many.
        limit: usize,
    },
    /// One message.
    Show(MessageId),
    /// Do this to messages.
    Act(Action, Selector),
    /// What is counted for TLS-RPT, and not told yet.
    TlsReports(TlsReportSelector),
    /// Tell it now.
    SendTlsReports(TlsReportSelector),
}

/// What is done to queued messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Try now.
    Retry,
    /// Do not try until released.
    Hold,
    /// Undo a hold.
    Release,
    /// Give up now, and report that to the sender.
    Bounce,
    /// Drop without a report.
    Remove,
}

/// What the engine answers.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(untagged)]
pub enum AdminResponse {
    /// To `Status`.
    Status(Box<Status>),
    /// To `List`.
    List(Vec<QueueEntry>),
    /// To `Show`; none if no such message is queued.
    Show(Option<Box<QueueEntry>>),
    /// To `Act`: how many messages it was done to.
    Acted {
        /// How many.
        messages: usize,
    },
    /// To `TlsReports`.
    TlsReports(Vec<TlsReportEntry>),
    /// To `SendTlsReports`: how many are on their way.
    TlsReportsSent {
        /// How many.
        reports: usize,
    },
}

/// What is counted for one domain and a day, or a part of one.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct TlsReportEntry {
    /// The domain.
    pub domain: String,
    /// The first second, as RFC 3339.
    pub start: String,
    /// The first second after it.
    pub end: String,
    /// Sessions that were as the policy has it.
    pub successes: u64,
    /// Those that were not.
    pub failures: u64,
    /// `counting`, `waiting`, `due`, `sending`.
    pub state: String,
    /// When it is sent, if that is known.
    pub next: Option<String>,
    /// Where it arrived already.
    pub sent: Vec<String>,
    /// Tries that failed.
    pub tries: u32,
    /// What came of the last one.
    pub last: Option<String>,
    /// The report as it is sent, where one domain was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<serde_json::Value>,
}

/// The state of the relay.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Status {
    /// Its name.
    pub hostname: String,
    /// Seconds since the start.
    pub uptime_secs: u64,
    /// Open client connections.
    pub sessions: u64,
    /// Open connections to receivers.
    pub deliveries: u64,
    /// Recipients, counted since the start: accepted = delivered + bounced + expired + removed + queued.
    pub accepted: u64,
    /// Delivered recipients.
    pub delivered: u64,
    /// Bounced recipients.
    pub bounced: u64,
    /// Expired recipients.
    pub expired: u64,
    /// Recipients removed by an administrator.
    pub removed: u64,
    /// Recipients that were in the queue at the start.
    pub recovered: u64,
    /// Recipients in the queue, held ones included.
    pub queued: u64,
    /// Held recipients.
    pub held: u64,
    /// Messages in the queue.
    pub messages: u64,
    /// MTA-STS policies that rule now, in the mode `enforce`.
    #[serde(default)]
    pub mta_sts_enforce: u64,
    /// The same in the mode `testing`.
    #[serde(default)]
    pub mta_sts_testing: u64,
    /// The lanes with most jobs, at most 50.
    pub lanes: Vec<LaneStatus>,
    /// What the store says.
    pub store: crate::queue::store::StoreStatus,
}

/// The state of a lane.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LaneStatus {
    /// Its name.
    pub name: String,
    /// Jobs that are due.
    pub ready: u64,
    /// Jobs that wait for their next attempt.
    pub waiting: u64,
    /// Open connections.
    pub connections: u64,
    /// Why nothing is tried, and until when.
    pub backed_off: Option<String>,
    /// When the first job that waits is due, as RFC 3339.
    pub next: Option<String>,
    /// The last reply or reason of that job.
    pub last: Option<String>,
    /// The MTA-STS policy of one of its domains, as `enforce id=20260101 age=3600s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mta_sts: Option<String>,
}

/// A queued message.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct QueueEntry {
    /// Its id.
    pub id: String,
    /// MAIL FROM, if it is known without reading the store.
    pub from: Option<String>,
    /// When it was accepted, as RFC 3339.
    pub accepted: String,
    /// When it expires, as RFC 3339.
    pub expires: String,
    /// Octets.
    pub size: u64,
    /// Whether it is held.
    pub held: bool,
    /// Its jobs.
    pub jobs: Vec<JobEntry>,
}

/// One destination of a queued message.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct JobEntry {
    /// The domain.
    pub domain: String,
    /// How many recipients are not settled.
    pub recipients: usize,
    /// Attempts so far.
    pub attempts: u32,
    /// `ready`, `delivering`, `waiting`, `held`, `resolving`.
    pub state: String,
    /// When the next attempt is due, as RFC 3339.
    pub next: Option<String>,
    /// The last reply or reason.
    pub last: Option<String>,
    /// The final reply of an attempt never came: it may have been delivered.
    #[serde(default)]
    pub in_doubt: bool,
}
