//! DMARC aggregate reports: which hosts sent mail in a domain's name, and what became of it.
//!
//! RFC 7489 appendix C (the XML schema; what came after it adds elements, which are skipped).

use serde::{Deserialize, Serialize};

/// One report. Names are those of the XML.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DmarcReport {
    pub(super) report_metadata: Metadata,
    pub(super) policy_published: Published,
    #[serde(default)]
    pub(super) record: Vec<Record>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Metadata {
    #[serde(default)]
    pub(super) org_name: String,
    #[serde(default)]
    pub(super) email: String,
    #[serde(default)]
    pub(super) report_id: String,
    pub(super) date_range: DateRange,
}

/// In seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DateRange {
    pub(super) begin: u64,
    pub(super) end: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Published {
    pub(super) domain: String,
    #[serde(default)]
    pub(super) p: String,
    #[serde(default)]
    pub(super) sp: String,
    #[serde(default)]
    pub(super) adkim: String,
    #[serde(default)]
    pub(super) aspf: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) row: Row,
    pub(super) identifiers: Identifiers,
    #[serde(default)]
    pub(super) auth_results: Results,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) source_ip: String,
    pub(super) count: u64,
    #[serde(default)]
    pub(super) policy_evaluated: Evaluated,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Evaluated {
    #[serde(default)]
    pub(super) disposition: String,
    #[serde(default)]
    pub(super) dkim: String,
    #[serde(default)]
    pub(super) spf: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identifiers {
    pub(super) header_from: String,
    #[serde(default)]
    pub(super) envelope_from: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Results {
    #[serde(default)]
    pub(super) dkim: Vec<Verified>,
    #[serde(default)]
    pub(super) spf: Vec<Verified>,
}

/// What one signature, or SPF, came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Verified {
    #[serde(default)]
    pub(super) domain: String,
    #[serde(default)]
    pub(super) selector: String,
    #[serde(default)]
    pub(super) result: String,
}

/// Reads a report.
pub(super) fn parse(xml: &[u8]) -> Result<DmarcReport, String> {
    let text = std::str::from_utf8(xml).map_err(|_| "it is not UTF-8".to_owned())?;
    quick_xml::de::from_str(text).map_err(|error| error.to_string())
}
