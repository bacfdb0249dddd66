use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::unpack::UnpackError;
use super::*;

/// RFC 8460 appendix B, shortened.
const TLS: &str = r#"{
    "organization-name": "Company-X",
    "date-range": {
        "start-datetime": "2016-04-01T00:00:00Z",
        "end-datetime": "2016-04-01T23:59:59Z"
    },
    "contact-info": "sts-reporting@company-x.example",
    "report-id": "5065427c",
    "policies": [{
        "policy": {
            "policy-type": "sts",
            "policy-string": ["version: STSv1", "mode: testing"],
            "policy-domain": "company-y.example",
            "mx-host": "*.mail.company-y.example"
        },
        "summary": {
            "total-successful-session-count": 5326,
            "total-failure-session-count": 303
        },
        "failure-details": [{
            "result-type": "certificate-expired",
            "sending-mta-ip": "2001:db8:abcd:0012::1",
            "receiving-mx-hostname": "mx1.mail.company-y.example",
            "failed-session-count": 100
        }]
    }]
}"#;

/// RFC 7489 appendix C, with elements of a later schema.
const DMARC: &str = r#"<?xml version="1.0" encoding="UTF-8" ?>
<feedback xmlns="urn:ietf:params:xml:ns:dmarc-2.0">
  <version>1.0</version>
  <report_metadata>
    <org_name>Mail &amp; Co</org_name>
    <email>dmarc@receiver.example</email>
    <report_id>abc-1</report_id>
    <date_range><begin>1795392000</begin><end>1795478399</end></date_range>
    <generator>none of ours</generator>
  </report_metadata>
  <policy_published><domain>a.example</domain><p>reject</p><sp>none</sp><np>none</np></policy_published>
  <record>
    <row>
      <source_ip>192.0.2.1</source_ip><count>12</count>
      <policy_evaluated><disposition>none</disposition><dkim>pass</dkim><spf>fail</spf></policy_evaluated>
    </row>
    <identifiers><header_from>a.example</header_from></identifiers>
    <auth_results>
      <dkim><domain>a.example</domain><selector>r1</selector><result>pass</result></dkim>
      <dkim><domain>b.example</domain><result>fail</result></dkim>
      <spf><domain>bounces.a.example</domain><result>softfail</result></spf>
    </auth_results>
  </record>
  <record>
    <row><source_ip>2001:db8::1</source_ip><count>1</count></row>
    <identifiers><header_from>a.example</header_from></identifiers>
  </record>
</feedback>
"#;

fn gzip(octets: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(octets).unwrap();
    gzip.finish().unwrap()
}

fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(io::Cursor::new(Vec::new()));
    for (name, octets) in entries {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(octets).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn mail(kind: &str, octets: &[u8]) -> Vec<u8> {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(octets);
    let lines: Vec<&str> = (0..encoded.len())
        .step_by(76)
        .map(|at| &encoded[at..encoded.len().min(at + 76)])
        .collect();
    format!(
        "From: r@receiver.example\r\nSubject: Report Domain: a.example\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; boundary=\"b\"\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\n\
         This is a report.\r\n--b\r\nContent-Type: {kind}\r\nContent-Transfer-Encoding: base64\r\n\r\n\
         {}\r\n--b--\r\n",
        lines.join("\r\n")
    )
    .into()
}

fn forwarded(mail: &[u8]) -> Vec<u8> {
    let head = "From: me@a.example\r\nMIME-Version: 1.0\r\nContent-Type: message/rfc822\r\n\r\n";
    [head.as_bytes(), mail].concat()
}

fn tls_report() -> Report {
    Report::Tls(tls::parse(TLS.as_bytes()).unwrap())
}

fn dmarc_report() -> Report {
    Report::Dmarc(dmarc::parse(DMARC.as_bytes()).unwrap())
}

#[test]
fn a_report_is_found_however_it_is_wrapped() {
    for (octets, report) in [
        (TLS.as_bytes().to_vec(), tls_report()),
        (gzip(TLS.as_bytes()), tls_report()),
        (
            mail("application/tlsrpt+gzip", &gzip(TLS.as_bytes())),
            tls_report(),
        ),
        (
            mail("application/tlsrpt+json", TLS.as_bytes()),
            tls_report(),
        ),
        (DMARC.as_bytes().to_vec(), dmarc_report()),
        (
            [b"\xef\xbb\xbf\n", DMARC.as_bytes()].concat(),
            dmarc_report(),
        ),
        (gzip(DMARC.as_bytes()), dmarc_report()),
        (zip(&[("a.xml", DMARC.as_bytes())]), dmarc_report()),
        (
            mail("application/zip", &zip(&[("a.xml", DMARC.as_bytes())])),
            dmarc_report(),
        ),
        (
            mail("application/octet-stream", &gzip(DMARC.as_bytes())),
            dmarc_report(),
        ),
        (
            forwarded(&mail("text/xml", DMARC.as_bytes())),
            dmarc_report(),
        ),
    ] {
        assert_eq!(unpack(&octets).unwrap(), [report]);
    }
    let two = zip(&[("a.xml", DMARC.as_bytes()), ("b.json", TLS.as_bytes())]);
    assert_eq!(unpack(&two).unwrap(), [dmarc_report(), tls_report()]);
}

#[test]
fn what_is_no_report_is_said_so() {
    let nested = (0..6).fold(TLS.as_bytes().to_vec(), |inside, _| gzip(&inside));
    let forwards = (0..6).fold(mail("text/xml", DMARC.as_bytes()), |inside, _| {
        forwarded(&inside)
    });
    let mut cut = gzip(TLS.as_bytes());
    cut.truncate(cut.len() / 2);
    let mut broken = zip(&[("a.xml", DMARC.as_bytes())]);
    broken.truncate(100);
    for (octets, wanted) in [
        (b"".to_vec(), "holds no report"),
        (b"hello".to_vec(), "holds no report"),
        (mail("text/html", b"<p>Hello"), "holds no report"),
        (zip(&[]), "holds no report"),
        (
            b"{}".to_vec(),
            "is no TLS report that can be read: missing field",
        ),
        (
            b"<html></html>".to_vec(),
            "is no DMARC report that can be read",
        ),
        (
            b"<feedback>".to_vec(),
            "is no DMARC report that can be read",
        ),
        (
            DMARC.replace("<count>12", "<count>-1").into(),
            "is no DMARC report that can be read",
        ),
        (cut, "is no gzip that can be read"),
        (broken, "is no zip that can be read"),
        (nested, "parts in parts"),
        (forwards, "parts in parts"),
        (vec![b' '; SIZE_MAX + 1], "unpacks to more than 64 MiB"),
    ] {
        let why = unpack(&octets).unwrap_err().to_string();
        assert!(why.contains(wanted), "{why:?} for {wanted:?}");
    }
}

#[test]
fn bombs_do_not_go_off() {
    let zeros = vec![0; SIZE_MAX];
    let bomb = gzip(&zeros);
    assert!(bomb.len() < 100_000);
    for octets in [
        bomb.clone(),
        gzip(&bomb),
        zip(&[("a", &zeros)]),
        zip(&[("a", &zeros[..SIZE_MAX / 2]), ("b", &zeros[..SIZE_MAX / 2])]),
        mail("application/gzip", &bomb),
    ] {
        let error = unpack(&octets).unwrap_err();
        assert!(matches!(error, UnpackError::TooLarge), "{error}");
    }
    // An entity that stands for a billion others is not known, and so not expanded.
    let laughs = DMARC.replace(
        "<feedback",
        "<!DOCTYPE f [<!ENTITY a \"&b;&b;\">]><feedback",
    );
    let laughs = laughs.replace("Mail &amp; Co", "&a;");
    assert!(unpack(laughs.as_bytes()).is_err());
}

fn shown(octets: &[u8], format: Format) -> String {
    let path =
        std::env::temp_dir().join(format!("report-{}-{:?}", std::process::id(), octets.len()));
    std::fs::write(&path, octets).unwrap();
    let (mut out, mut problems) = (Vec::new(), Vec::new());
    let fine = report(std::slice::from_ref(&path), format, &mut out, &mut problems).unwrap();
    std::fs::remove_file(path).unwrap();
    assert!(fine, "{}", String::from_utf8_lossy(&problems));
    String::from_utf8(out).unwrap()
}

#[test]
fn tables_say_what_was_counted() {
    let text = shown(TLS.as_bytes(), Format::Text);
    for part in [
        "5065427c by Company-X",
        "5326",
        "certificate-expired",
        "203",
        "not detailed",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let text = shown(DMARC.as_bytes(), Format::Text);
    for part in [
        "abc-1 by Mail & Co (dmarc@receiver.example), 2026-11-23T",
        "a.example published p=reject",
        "a.example pass, b.example fail",
        "bounces.a.example softfail",
        "2001:db8::1",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let evil = TLS.replace("Company-X", "\\u001b[2JX\\n");
    assert!(shown(evil.as_bytes(), Format::Text).contains("?[2JX?"));
    let far = DMARC.replace("1795478399", "18446744073709551615");
    assert!(shown(far.as_bytes(), Format::Text).contains("abc-1"));
}

#[test]
fn json_has_the_names_of_the_reports() {
    let json: serde_json::Value =
        serde_json::from_str(&shown(TLS.as_bytes(), Format::Json)).unwrap();
    assert_eq!(json[0]["type"], "tls");
    assert_eq!(
        json[0]["policies"][0]["summary"]["total-failure-session-count"],
        303
    );
    let json: serde_json::Value =
        serde_json::from_str(&shown(DMARC.as_bytes(), Format::Json)).unwrap();
    assert_eq!(json[0]["type"], "dmarc");
    assert_eq!(
        json[0]["record"][0]["auth_results"]["dkim"][1]["domain"],
        "b.example"
    );
}
