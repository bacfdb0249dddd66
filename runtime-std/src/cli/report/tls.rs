//! TLS reports: which sessions towards us were encrypted as our policies ask, and which failed.
//!
//! RFC 8460 §4.4 (the JSON), §4.3.1 and §4.3.2 (result types).

use serde::{Deserialize, Serialize};

/// One report. Names are those of the JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct TlsReport {
    #[serde(default)]
    pub(super) organization_name: String,
    pub(super) date_range: DateRange,
    #[serde(default)]
    pub(super) contact_info: String,
    pub(super) report_id: String,
    pub(super) policies: Vec<Policy>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct DateRange {
    pub(super) start_datetime: String,
    pub(super) end_datetime: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Policy {
    pub(super) policy: Applied,
    pub(super) summary: Summary,
    #[serde(default)]
    pub(super) failure_details: Vec<Failure>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Applied {
    pub(super) policy_type: String,
    #[serde(default)]
    pub(super) policy_string: Texts,
    #[serde(default)]
    pub(super) policy_domain: String,
    #[serde(default)]
    pub(super) mx_host: Texts,
}

/// A list; some write the one text that they have without brackets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Texts {
    Many(Vec<String>),
    One(String),
}

impl Default for Texts {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Summary {
    #[serde(default)]
    pub(super) total_successful_session_count: u64,
    #[serde(default)]
    pub(super) total_failure_session_count: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Failure {
    pub(super) result_type: String,
    #[serde(default)]
    pub(super) sending_mta_ip: Option<String>,
    #[serde(default)]
    pub(super) receiving_mx_hostname: Option<String>,
    #[serde(default)]
    pub(super) receiving_mx_helo: Option<String>,
    #[serde(default)]
    pub(super) receiving_ip: Option<String>,
    #[serde(default)]
    pub(super) failed_session_count: u64,
    #[serde(default)]
    pub(super) additional_information: Option<String>,
    #[serde(default)]
    pub(super) failure_reason_code: Option<String>,
}

/// Reads a report.
pub(super) fn parse(json: &[u8]) -> Result<TlsReport, serde_json::Error> {
    serde_json::from_slice(json)
}
