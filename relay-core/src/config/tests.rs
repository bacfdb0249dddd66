use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use smtp_proto::Domain;

use super::*;

/// The page that users read, whole.
const EVERYTHING: &str = r#"
hostname = "relay.example.com"
data_dir = "/var/lib/smtp-relay"

[[listener]]
address = "[::]:587"
tls = "starttls"
proxy_protocol = false
trusted_networks = ["192.0.2.0/24", "2001:db8::/48", "198.51.100.7"]
trusted_as = "printers"

[tls]
certificate = "fullchain.pem"
key = "privkey.pem"

[[credential]]
name = "app"
verifier = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
senders = ["example.com", "news@example.org"]
networks = ["0.0.0.0/0"]
rate = "1000/h"

[[credential]]
name = "printers"
senders = ["*"]

[limits]
message_size = "50MiB"
recipients = 1000
connections = 10000
connections_per_ip = 100
auth_failures_per_ip = "10/10m"

[dns]
servers = ["127.0.0.1:53"]
trust_ad = false

[delivery]
port = 25
retry = "1m, 5m*2, 15m, 30m, 1h*4, 4h*"
expire = "3d"
tls = "opportunistic"
connections_per_lane = 10
messages_per_connection = 100
prohibited_hosts = ["127.0.0.0/8", "::1/128"]
ip_families = "both"
in_doubt = "retry"

[mta_sts]
enabled = true
port = 443
timeout = "1m"
allow_private = false

[[route]]
domain = "example.net"
hosts = ["smart.example.net:587"]
tls = "verify"
username = "u"
password_file = "secret"

[[domain]]
name = "example.com"
[[domain.dkim]]
selector = "r1"
key_file = "keys/example.com.r1.pem"

[admin]
address = "127.0.0.1:8587"
"#;

pub(super) fn parse(text: &str) -> Result<Parsed, Vec<ConfigError>> {
    let system = System {
        hostname: Some("host.example".to_owned()),
        ..System::default()
    };
    Config::parse(text, "/etc/relay/relay.toml", &system)
}

fn errors(text: &str) -> Vec<String> {
    parse(text)
        .err()
        .unwrap_or_default()
        .iter()
        .map(ConfigError::to_string)
        .collect()
}

pub(super) fn config(text: &str) -> Config {
    parse(text)
        .unwrap_or_else(|errors| panic!("{errors:#?}"))
        .config
}

/// The text is refused with exactly one error, which is at this place and says these words.
#[track_caller]
pub(super) fn one_error(text: &str, place: &str, words: &[&str]) {
    let errors = errors(text);
    assert_eq!(errors.len(), 1, "{text}\n{errors:#?}");
    let start = format!("/etc/relay/relay.toml:{place}: ");
    assert!(
        errors[0].starts_with(&start),
        "{text}\n{start}\n{errors:#?}"
    );
    for word in words {
        assert!(errors[0].contains(word), "{word}: {errors:#?}");
    }
}

#[test]
fn the_documented_configuration_is_read_whole() {
    let parsed = parse(EVERYTHING).unwrap();
    let config = parsed.config;
    assert_eq!(config.hostname.as_str(), "relay.example.com");
    assert_eq!(config.listeners[0].address.to_string(), "[::]:587");
    assert_eq!(
        config.listeners[0].trusted("192.0.2.9".parse().unwrap()),
        Some("printers")
    );
    assert_eq!(
        config.listeners[0].trusted("::ffff:198.51.100.7".parse().unwrap()),
        Some("printers")
    );
    assert_eq!(
        config.listeners[0].trusted("198.51.100.8".parse().unwrap()),
        None
    );
    assert_eq!(
        config.tls.as_ref().unwrap().key,
        PathBuf::from("/etc/relay/privkey.pem")
    );
    let app = config.credential("app").unwrap();
    assert!(app.verifier.as_ref().unwrap().verify_password("pencil"));
    assert_eq!(
        app.rate,
        Some(Rate {
            count: 1000,
            per: Duration::from_secs(3600)
        })
    );
    assert!(app.allows_from("192.0.2.1".parse().unwrap()));
    assert!(!app.allows_from("2001:db8::1".parse().unwrap()));
    // What the page shows is what holds without it, but for the networks that are refused besides.
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.dns, DnsConfig::default());
    assert_eq!(config.mta_sts, MtaStsConfig::default());
    let prohibited_hosts = DeliveryConfig::default().prohibited_hosts;
    assert_eq!(
        DeliveryConfig {
            prohibited_hosts,
            ..config.delivery
        },
        DeliveryConfig::default()
    );
    assert_eq!(
        config.routes[0].hosts[0].to_string(),
        "smart.example.net:587"
    );
    assert_eq!(config.domains[0].keys[0].selector, "r1");
    assert_eq!(config.admin.unwrap().port(), 8587);

    let files: Vec<_> = parsed
        .files
        .iter()
        .map(|file| (file.used_for, file.place.line))
        .collect();
    assert_eq!(
        files,
        [
            (FileUse::Certificate, Some(13)),
            (FileUse::Key, Some(14)),
            (FileUse::RoutePassword(0), Some(60)),
            (FileUse::DkimKey(0, 0), Some(66)),
        ]
    );
    assert_eq!(parsed.files[2].path, PathBuf::from("/etc/relay/secret"));
    assert_eq!(parsed.warnings, Vec::<String>::new());
}

#[test]
fn an_empty_configuration_is_the_default() {
    let config = config("");
    assert_eq!(config.hostname.as_str(), "host.example");
    assert_eq!(config.data_dir, PathBuf::from("/etc/relay/relay-data"));
    let listeners: Vec<_> = config
        .listeners
        .iter()
        .map(|l| (l.address.to_string(), l.tls))
        .collect();
    assert_eq!(
        listeners,
        [
            ("127.0.0.1:2587".to_owned(), ListenerTls::StartTls),
            ("127.0.0.1:2465".to_owned(), ListenerTls::Implicit)
        ]
    );
    assert_eq!(config.admin, None);
    let embedded = Draft::embedded(&System::default()).finish().unwrap().config;
    assert_eq!(embedded.listeners, config.listeners);
    assert_eq!(embedded.admin.unwrap().to_string(), "127.0.0.1:8587");
    assert_eq!(embedded.hostname.as_str(), "localhost");
    assert_eq!(embedded.data_dir, PathBuf::from("relay-data"));
}

#[test]
fn what_the_system_says_fills_gaps_and_data_dir_comes_first() {
    let system = System {
        hostname: Some("not a name".to_owned()),
        dns_servers: vec!["192.0.2.53:53".parse().unwrap()],
        data_dir: Some("/tmp/x".into()),
    };
    let parsed = Config::parse("data_dir = \"/y\"", "relay.toml", &system).unwrap();
    assert_eq!(parsed.config.data_dir, PathBuf::from("/tmp/x"));
    assert_eq!(parsed.config.dns.servers, system.dns_servers);
    assert_eq!(parsed.config.hostname.as_str(), "localhost");
    let parsed = Config::parse("[dns]\nservers = [\"[::1]:5353\"]", "relay.toml", &system).unwrap();
    assert_eq!(parsed.config.dns.servers[0].to_string(), "[::1]:5353");
}

#[test]
fn memory_is_what_the_machine_has_unless_it_is_said() {
    assert_eq!(Limits::default().memory, None);
    let config = config("[limits]\nmemory = \"96MiB\"\n");
    assert_eq!(config.limits.memory, Some(96 << 20));
    let lines = Config::embedded(config.hostname.clone(), "/nowhere").diff(&config);
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("limits.memory: a change needs a restart")),
        "{lines:?}"
    );
}

#[test]
fn every_error_is_reported_at_once() {
    let text = r#"hostnam = "x"
[[listener]]
tls = "startls"
[limits]
recipients = "many"
message_size = "1TiB"
[delivery]
retry = "1m, 5x"
prt = 25
"#;
    let found = errors(text);
    let expected = [
        ":1: hostnam: unknown key; did you mean `hostname`?",
        ":2: listener.address: is missing; allowed: an IP address and a port",
        ":3: listener.tls: \"startls\" cannot be read; allowed: \"starttls\", \"implicit\", \"none\"",
        ":5: limits.recipients: string where a number is expected; allowed: a number from 1 to 100000",
        ":6: limits.message_size: \"1TiB\" cannot be read; allowed: a size",
        ":8: delivery.retry: \"5x\" cannot be read; allowed: waits",
        ":9: delivery.prt: unknown key; did you mean `port`?",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            found.starts_with(&format!("/etc/relay/relay.toml{expected}")),
            "{found}\n{expected}"
        );
    }
}

#[test]
fn a_syntax_error_has_its_line() {
    let errors = errors("hostname = \"a.example\"\n[limits\nrecipients = 1\n");
    assert!(
        errors[0].starts_with("/etc/relay/relay.toml:2: "),
        "{errors:#?}"
    );
    let twice = self::errors("[limits]\nrecipients = 1\nrecipients = 2\n");
    assert!(
        twice[0].starts_with("/etc/relay/relay.toml:3: "),
        "{twice:#?}"
    );
}

#[test]
fn wrong_shapes_are_errors() {
    one_error(
        "listener = 1",
        "1: listener",
        &["integer where an array of tables", "[[listener]]"],
    );
    one_error(
        "[listener]\naddress = \"[::]:25\"",
        "1: listener",
        &["[[listener]]"],
    );
    one_error(
        "limits = \"x\"",
        "1: limits",
        &["string where a table", "[limits]"],
    );
    one_error(
        "[dns]\ntrust_ad = \"yes\"",
        "2: dns.trust_ad",
        &["true, false"],
    );
    one_error(
        "[dns]\nservers = \"127.0.0.1\"",
        "2: dns.servers",
        &["an array"],
    );
    one_error(
        "[dns]\nservers = [\"127.0.0.1\"]",
        "2: dns.servers",
        &["an IP address and a port"],
    );
    one_error("[dns]\nservers = []", "2: dns.servers", &["nobody to ask"]);
    one_error(
        "hostname = true",
        "1: hostname",
        &["boolean where a string"],
    );
    one_error(
        "hostname = \"a_b.example\"",
        "1: hostname",
        &["such as \"relay.example.com\""],
    );
}

#[test]
fn only_sizes_may_lack_their_quotes() {
    assert_eq!(
        config("[limits]\nmessage_size = 5000000")
            .limits
            .message_size,
        5_000_000
    );
    one_error(
        "data_dir = 5",
        "1: data_dir",
        &["integer where a string is expected"],
    );
}

#[test]
fn the_admin_page_off_loopback_needs_a_token() {
    let admin = |lines: &str| format!("[admin]\n{lines}");
    one_error(
        &admin("address = \"192.0.2.1:8587\""),
        "2: admin.address",
        &["not on loopback", "token_file"],
    );
    let parsed = parse(&admin("address = \"[::]:8587\"\ntoken_file = \"token\"")).unwrap();
    assert!(matches!(parsed.files[0].used_for, FileUse::AdminToken));
    for (listener, address) in [
        ("127.0.0.1:587", "127.0.0.1:587"),
        ("[::]:587", "127.0.0.1:587"),
    ] {
        let text =
            format!("[[listener]]\naddress = \"{listener}\"\n[admin]\naddress = \"{address}\"");
        one_error(&text, "4: admin.address", &["taken by the listener"]);
    }
}

#[test]
fn an_admin_address_that_stays_open_goes_on_asking_for_its_token() {
    let mut running = Config::embedded("relay.example".parse().unwrap(), "/nowhere");
    running.admin = Some("192.0.2.1:8587".parse().unwrap());
    running.admin_token = Some(Secret::new("0123456789abcdef"));
    let mut new = Config::embedded("relay.example".parse().unwrap(), "/nowhere");
    let kept = new.kept_open(&running);
    assert_eq!(
        (kept.admin, kept.admin_token),
        (running.admin, running.admin_token.clone())
    );
    new.admin_token = Some(Secret::new("another 89abcdef"));
    assert_eq!(new.kept_open(&running).admin_token, new.admin_token);
}

#[test]
fn an_open_relay_cannot_be_configured() {
    let listener =
        |lines: &str| format!("[[listener]]\naddress = \"127.0.0.1:25\"\n{lines}\n{PRINTERS}");
    for wide in [
        "0.0.0.0/0",
        "10.0.0.0/7",
        "::/0",
        "2001::/31",
        "::ffff:0.0.0.0/96",
        "::ffff:10.0.0.0/103",
    ] {
        let text = listener(&format!(
            "trusted_networks = [\"{wide}\"]\ntrusted_as = \"printers\""
        ));
        one_error(
            &text,
            "3: listener.trusted_networks",
            &["is wider than", "never an open relay"],
        );
    }
    for fine in [
        "10.0.0.0/8",
        "2001:db8::/32",
        "::ffff:10.0.0.0/104",
        "127.0.0.1",
    ] {
        config(&listener(&format!(
            "trusted_networks = [\"{fine}\"]\ntrusted_as = \"printers\""
        )));
    }
    one_error(
        &listener("trusted_networks = [\"10.0.0.0/8\"]"),
        "1: listener.trusted_as",
        &["is missing"],
    );
    one_error(
        &listener("trusted_networks = [\"10.0.0.0/8\"]\ntrusted_as = \"nobody\""),
        "4: listener.trusted_as",
        &["there is no credential \"nobody\"", "printers"],
    );
    one_error(
        &listener("proxy_protocol = true"),
        "1: listener.trusted_proxies",
        &["pretend"],
    );
}

const PRINTERS: &str = "[[credential]]\nname = \"printers\"\nsenders = [\"*\"]\n";

#[test]
fn clear_text_is_for_loopback_only() {
    for address in [
        "0.0.0.0:25",
        "[::]:25",
        "192.0.2.1:25",
        "[::ffff:192.0.2.1]:25",
    ] {
        let text = format!("[[listener]]\naddress = \"{address}\"\ntls = \"none\"");
        one_error(&text, "3: listener.tls", &["on loopback only"]);
    }
    for address in ["127.0.0.1:25", "[::1]:25", "127.8.8.8:25"] {
        config(&format!(
            "[[listener]]\naddress = \"{address}\"\ntls = \"none\""
        ));
    }
    let twice = "[[listener]]\naddress = \"[::1]:25\"\n".repeat(2);
    one_error(&twice, "4: listener.address", &["another listener"]);
}

#[test]
fn a_credential_is_checked() {
    let credential = |lines: &str| format!("[[credential]]\n{lines}");
    one_error(
        &credential("senders = [\"*\"]"),
        "1: credential.name",
        &["is missing"],
    );
    one_error(
        &credential("name = \"a\""),
        "1: credential.senders",
        &["could not send"],
    );
    one_error(
        &credential("name = \"a\"\nsenders = [\"a@\"]\n"),
        "3: credential.senders",
        &["a domain, an address"],
    );
    let secret = "name = \"a\"\nsenders = [\"*\"]\nverifier = \"hunter2\"";
    one_error(&credential(secret), "4: credential.verifier", &["RFC 5803"]);
    assert!(!errors(&credential(secret))[0].contains("hunter2"));
    let nowhere = "name = \"a\"\nsenders = [\"*\"]\nnetworks = []";
    one_error(
        &credential(nowhere),
        "4: credential.networks",
        &["names no network"],
    );
    let twice = PRINTERS.repeat(2);
    one_error(
        &twice,
        "5: credential.name",
        &["another credential (/etc/relay/relay.toml:2)"],
    );
    let warnings = parse(PRINTERS).unwrap().warnings;
    assert!(warnings[0].contains("nobody can log in"), "{warnings:?}");
}

#[test]
fn credentials_come_from_a_second_file_too() {
    let text = "[[listener]]\naddress = \"[::1]:25\"\ntrusted_networks = [\"::1\"]\ntrusted_as = \"printers\"\n";
    let system = System::default();
    let mut draft = Draft::parse(text, "relay.toml", &system);
    assert_eq!(draft.data_dir(), Path::new("relay-data"));
    draft.add_credentials(PRINTERS, "relay-data/credentials.toml");
    assert!(
        draft
            .finish()
            .unwrap()
            .config
            .credential("printers")
            .is_some()
    );

    let mut draft = Draft::parse(PRINTERS, "relay.toml", &system);
    draft.add_credentials(&format!("{PRINTERS}\n[limits]\n"), "credentials.toml");
    let errors: Vec<_> = draft
        .finish()
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(errors.len(), 2, "{errors:#?}");
    assert!(errors[0].starts_with("credentials.toml:2: credential.name: \"printers\""));
    assert!(errors[0].contains("(relay.toml:2)"));
    assert!(errors[1].starts_with("credentials.toml:5: limits: unknown key; allowed: credential"));

    // What is found late stands with the rest of its file.
    let mut draft = Draft::parse(&format!("{text}bogus = 1\n"), "relay.toml", &system);
    draft.add_credentials("bogus = 1", "credentials.toml");
    let errors = draft.finish().unwrap_err();
    let places: Vec<_> = errors.iter().map(|e| (&*e.file, e.line)).collect();
    let relay = |line| ("relay.toml", Some(line));
    assert_eq!(places, [relay(4), relay(5), ("credentials.toml", Some(1))]);
}

#[test]
fn a_route_speaks_smtp_unless_it_says_lmtp() {
    let protocol = |line: &str| {
        let text = format!("[[route]]\ndomain = \"*\"\nhosts = [\"127.0.0.1:24\"]\n{line}");
        config(&text).routes[0].protocol
    };
    assert_eq!(protocol(""), Protocol::Smtp);
    assert_eq!(protocol("protocol = \"smtp\""), Protocol::Smtp);
    assert_eq!(protocol("protocol = \"lmtp\""), Protocol::Lmtp);
    one_error(
        "[[route]]\ndomain = \"*\"\nhosts = [\"127.0.0.1:24\"]\nprotocol = \"uucp\"",
        "4: route.protocol",
        &["\"smtp\", \"lmtp\""],
    );
}

#[test]
fn a_route_may_say_how_tls_begins() {
    let route =
        |line: &str| format!("[[route]]\ndomain = \"*\"\nhosts = [\"smart.example:7465\"]\n{line}");
    let mode = |line: &str| config(&route(line)).routes[0].tls_mode;
    assert_eq!(mode(""), None);
    assert_eq!(mode("tls_mode = \"implicit\""), Some(TlsMode::Implicit));
    assert_eq!(mode("tls_mode = \"starttls\""), Some(TlsMode::StartTls));
    one_error(
        &route("tls_mode = \"ssl\""),
        "4: route.tls_mode",
        &["\"starttls\", \"implicit\""],
    );
    one_error(
        &route("tls = \"none\"\ntls_mode = \"implicit\""),
        "5: route.tls_mode",
        &["needs TLS"],
    );
}

#[test]
fn what_is_in_doubt_is_tried_again_or_held() {
    let hold = config("[delivery]\nin_doubt = \"hold\"");
    assert_eq!(hold.delivery.in_doubt, InDoubt::Hold);
    assert_eq!(config("").delivery.in_doubt, InDoubt::Retry);
    one_error(
        "[delivery]\nin_doubt = \"drop\"",
        "2: delivery.in_doubt",
        &["\"retry\"", "\"hold\""],
    );
}

#[test]
fn a_route_is_checked() {
    let route = |lines: &str| format!("[[route]]\ndomain = \"*\"\n{lines}");
    one_error(&route(""), "1: route.hosts", &["nobody to deliver to"]);
    one_error(
        &route("hosts = [\"smart.example\"]"),
        "3: route.hosts",
        &["has no port"],
    );
    for host in [
        "smart.example:0",
        "192.0.2.300:25",
        "1.2.3:25",
        "a b:25",
        ":25",
        "x:65536",
    ] {
        let errors = errors(&route(&format!("hosts = [\"{host}\"]")));
        assert!(errors[0].contains("3: route.hosts: "), "{errors:#?}");
    }
    let hosts = "hosts = [\"B\u{fc}cher.example:587\", \"192.0.2.1:25\", \"[2001:db8::1]:25\"]\n";
    let hosts: Vec<_> = config(&route(hosts)).routes[0]
        .hosts
        .iter()
        .map(HostPort::to_string)
        .collect();
    assert_eq!(
        hosts,
        [
            "xn--bcher-kva.example:587",
            "192.0.2.1:25",
            "[2001:db8::1]:25"
        ]
    );
    let smart = "hosts = [\"smart.example:587\"]\n";
    one_error(
        &route(&format!("{smart}username = \"u\"")),
        "1: route.password_file",
        &["missing"],
    );
    one_error(
        &route(&format!("{smart}password_file = \"p\"")),
        "1: route.username",
        &["missing"],
    );
    let login = "username = \"u\"\npassword_file = \"p\"\n";
    one_error(
        &route(&format!("{smart}{login}tls = \"none\"")),
        "6: route.tls",
        &["to loopback only"],
    );
    config(&route(&format!(
        "hosts = [\"127.0.0.1:25\"]\n{login}tls = \"none\""
    )));
    let warnings = parse(&route(&format!("{smart}{login}"))).unwrap().warnings;
    assert!(warnings[0].contains("opportunistic"), "{warnings:?}");
    let unreached = format!(
        "{}{}",
        route(smart),
        "[[route]]\ndomain = \"x.example\"\nhosts = [\"a:1\"]"
    );
    let warnings = parse(&unreached).unwrap().warnings;
    assert!(
        warnings[0].starts_with("/etc/relay/relay.toml:5: route.domain: is never reached"),
        "{warnings:?}"
    );
}

#[test]
fn a_route_by_mx_says_what_else_is_wanted_of_them() {
    let route =
        |lines: &str| format!("[dns]\ntrust_ad = true\n[[route]]\ndomain = \"x.example\"\n{lines}");
    let by_mx = config(&route("hosts = [\"mx\"]\ntls = \"dane\""));
    assert!(by_mx.routes[0].is_by_mx());
    assert_eq!(by_mx.routes[0].tls, Some(TlsLevel::Dane));
    one_error(
        &route("hosts = [\"mx\", \"smart.example:25\"]"),
        "5: route.hosts",
        &["stands alone"],
    );
    for line in [
        "username = \"u\"\npassword_file = \"p\"\ntls = \"verify\"",
        "tls_mode = \"implicit\"",
        "protocol = \"lmtp\"",
    ] {
        let wrong = errors(&route(&format!("hosts = [\"mx\"]\n{line}")));
        assert!(wrong[0].contains("those of MX"), "{wrong:?}");
    }
}

#[test]
fn dane_is_demanded_only_where_it_can_be_had() {
    let route = "[[route]]\ndomain = \"x.example\"\nhosts = [\"mx\"]\ntls = \"dane\"\n";
    for text in [route, "[delivery]\ntls = \"dane\"\n"] {
        let wrong = errors(text);
        assert!(
            wrong[0].contains("needs a resolver that says what is signed"),
            "{wrong:?}"
        );
        assert!(parse(&format!("{text}[dns]\ntrust_ad = true\n")).is_ok());
    }
    one_error(
        "[dns]\ntrust_ad = true\n[[route]]\ndomain = \"x.example\"\nhosts = [\"192.0.2.1:25\"]\ntls = \"dane\"",
        "6: route.tls",
        &["has no name"],
    );
}

#[test]
fn the_first_route_that_matches_is_taken() {
    let text = r#"
        [[route]]
        domain = "a.example"
        hosts = ["one:25"]
        [[route]]
        domain = "*.example"
        hosts = ["two:25"]
        [[route]]
        domain = "xn--bcher-kva.test"
        hosts = ["three:25"]
    "#;
    let config = config(text);
    let route = |domain: &str| {
        let domain = Domain::parse_utf8(domain).unwrap();
        config
            .route_for(&domain)
            .map(|route| route.hosts[0].host.clone())
    };
    assert_eq!(route("A.example").as_deref(), Some("one"));
    assert_eq!(route("b.a.EXAMPLE").as_deref(), Some("two"));
    assert_eq!(route("example"), None);
    assert_eq!(route("notexample"), None);
    assert_eq!(route("B\u{fc}cher.test").as_deref(), Some("three"));
}

#[test]
fn tls_files_come_in_pairs() {
    one_error("[tls]\ncertificate = \"c\"", "1: tls.key", &["is missing"]);
    one_error("[tls]\nkey = \"c\"", "1: tls.certificate", &["is missing"]);
    assert_eq!(config("[tls]").tls, None);
}

#[test]
fn a_signing_domain_is_checked() {
    let dkim = "[[domain.dkim]]\nselector = \"r1\"\nkey_file = \"k\"\n";
    let domain = "[[domain]]\nname = \"example.com\"\n";
    one_error(
        &format!("{domain}{dkim}{dkim}"),
        "7: domain.dkim.selector",
        &["twice"],
    );
    one_error(
        &format!("{domain}{domain}"),
        "4: domain.name",
        &["has a section already"],
    );
    one_error(
        &format!("{domain}[[domain.dkim]]\nselector = \"r1\""),
        "3: domain.dkim.key_file",
        &["is missing"],
    );
    assert_eq!(parse(domain).unwrap().warnings, Vec::<String>::new());
}

#[test]
fn durations_sizes_and_rates() {
    let duration = |text: &str| (value::DURATION.parse)(text).map(|d| d.as_secs()).ok();
    for (text, secs) in [
        ("90s", 90),
        ("5m", 300),
        ("1h30m", 5400),
        ("3d", 259_200),
        ("1w", 604_800),
    ] {
        assert_eq!(duration(text), Some(secs), "{text}");
    }
    for text in [
        "",
        "5",
        "m",
        "5x",
        "-5m",
        "0s",
        "5m 3",
        "99999999999999999999s",
        "9999w",
        "5\u{fc}",
    ] {
        assert_eq!(duration(text), None, "{text}");
    }
    let schedule = |text: &str| {
        let waits = (value::SCHEDULE.parse)(text).ok()?;
        Some(waits.iter().map(Duration::as_secs).collect::<Vec<_>>())
    };
    assert_eq!(schedule("1m"), Some(vec![60]));
    assert_eq!(schedule("1s*3,2s*"), Some(vec![1, 1, 1, 2]));
    for text in [
        "", ",", "1m,", "1m*, 2m", "1m*0", "1m*x", "8d", "1s*1001", "1m**",
    ] {
        assert_eq!(schedule(text), None, "{text}");
    }
    let size = |text: &str| (value::SIZE.parse)(text).ok();
    assert_eq!(size("50MiB"), Some(50 << 20));
    assert_eq!(size("10 MB"), Some(10_000_000));
    assert_eq!(size("2048"), Some(2048));
    assert_eq!(
        config("[limits]\nmessage_size = 2048").limits.message_size,
        2048
    );
    for text in [
        "",
        "MiB",
        "1",
        "3GiB",
        "1.5MiB",
        "-1MiB",
        "99999999999999999999GiB",
    ] {
        assert_eq!(size(text), None, "{text}");
    }
    let rate = |text: &str| {
        (value::RATE.parse)(text)
            .map(|r| (r.count, r.per.as_secs()))
            .ok()
    };
    assert_eq!(rate("10/10m"), Some((10, 600)));
    assert_eq!(rate("5/s"), Some((5, 1)));
    assert_eq!(rate("1000 / h"), Some((1000, 3600)));
    for text in ["1000/h", "10/10m", "5/s", "2/90s", "3/d", "1/2h"] {
        assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
    }
    for text in ["", "10", "0/h", "x/h", "10/", "10/0s", "/h"] {
        assert_eq!(rate(text), None, "{text}");
    }
}

#[test]
fn hosts_that_an_mx_may_not_point_at() {
    let delivery = DeliveryConfig::default();
    let prohibited = |text: &str| delivery.prohibits(text.parse::<IpAddr>().unwrap());
    for address in [
        "127.0.0.1",
        "::1",
        "0.0.0.0",
        "::",
        "::ffff:127.0.0.1",
        "10.1.2.3",
        "172.31.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "fe80::1",
        "fd00::1",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "100.64.0.1",
        "64:ff9b::7f00:1",
        "0.1.2.3",
    ] {
        assert!(prohibited(address).is_some(), "{address}");
    }
    for address in [
        "192.0.2.1",
        "2001:db8::1",
        "::ffff:192.0.2.1",
        "172.32.0.1",
        "64:ff9b::c000:201",
    ] {
        assert_eq!(prohibited(address), None, "{address}");
    }
    assert!(prohibited("127.9.9.9").unwrap().contains("127.0.0.0/8"));
    // What is configured replaces the list, but an address that is no host stays refused.
    let open = config("[delivery]\nprohibited_hosts = []").delivery;
    assert_eq!(open.prohibits("127.0.0.1".parse().unwrap()), None);
    assert!(open.prohibits("224.0.0.1".parse().unwrap()).is_some());
    assert!(open.prohibits("::".parse().unwrap()).is_some());
}

#[test]
fn what_is_said_in_reports_on_tls() {
    let text = "[tls_rpt]\nenabled = false\norganization = \"Ours\"\ncontact = \"us@example.com\"\n\
                from = \"tls@example.com\"\ntimeout = \"5s\"\nallow_private = true";
    let tls_rpt = config(text).tls_rpt;
    assert_eq!(tls_rpt.timeout.as_secs(), 5);
    assert_eq!(tls_rpt.contact.unwrap().to_string(), "us@example.com");
    for wrong in [
        "[tls_rpt]\ncontact = \"us\"",
        "[tls_rpt]\ntimeout = \"0s\"",
        "[mta_sts]\ntimeout = \"6m\"",
    ] {
        assert_eq!(errors(wrong).len(), 1, "{wrong}");
    }
    assert!(!tls_rpt.enabled && tls_rpt.allow_private);
    assert_eq!(tls_rpt.organization.as_deref(), Some("Ours"));
    assert_eq!(tls_rpt.from.unwrap().to_string(), "tls@example.com");
    assert!(config("").tls_rpt.enabled);
}

#[test]
fn a_reload_says_what_changes() {
    let old = config(EVERYTHING);
    assert_eq!(old.diff(&old), Vec::<String>::new());
    let text = EVERYTHING
        .replace("relay.example.com", "mx.example.com")
        .replace("/var/lib/smtp-relay", "/srv")
        .replace("1000/h", "5/h")
        .replace("\"printers\"", "\"scanners\"")
        .replace("recipients = 1000", "recipients = 10")
        .replace("smart.example.net:587", "smart.example.net:465");
    let lines = old.diff(&config(&text));
    assert_eq!(
        lines,
        [
            "hostname: \"relay.example.com\" -> \"mx.example.com\"",
            "data_dir: a change needs a restart; the old one stays in use",
            "listener [::]:587: changed",
            "credential app: changed",
            "credential scanners: added",
            "credential printers: removed",
            "limits.recipients: 1000 -> 10",
            "route example.net: changed",
        ]
    );
}

#[test]
fn a_reload_keeps_open_sockets_in_their_places() {
    const LISTENERS: &str = "[[listener]]\naddress = \"192.0.2.1:587\"\n\
                             [[listener]]\naddress = \"192.0.2.1:465\"\ntls = \"implicit\"\n";
    // Sessions of the public socket would else be taken for those of a listener that trusts them.
    const FIRST: &str = "[[listener]]\naddress = \"127.0.0.1:25\"\ntls = \"none\"\n\
                         trusted_networks = [\"10.0.0.0/8\"]\ntrusted_as = \"printers\"\n";
    let running = config(LISTENERS);
    let changed = LISTENERS.replace("\"implicit\"", "\"starttls\"");
    let new = config(&format!("data_dir = \"/srv\"\n{FIRST}{changed}{PRINTERS}"));
    let kept = new.kept_open(&running);
    let told = |config: &Config| -> Vec<_> {
        let told = config.listeners.iter().map(|l| (l.address.port(), l.tls));
        told.collect()
    };
    assert_eq!(
        told(&kept),
        [(587, ListenerTls::StartTls), (465, ListenerTls::StartTls)]
    );
    assert_eq!(kept.data_dir, running.data_dir);
    assert_eq!(kept.credentials, new.credentials);
    // What is not open is told again each time.
    for running in [&running, &kept] {
        let lines = running.diff(&new);
        assert!(
            lines.contains(&"listener 127.0.0.1:25: added; opened at a restart".to_owned()),
            "{lines:?}"
        );
    }

    let fewer = config("[[listener]]\naddress = \"192.0.2.1:465\"\n");
    assert_eq!(
        running.diff(&fewer),
        [
            "listener 192.0.2.1:465: changed",
            "listener 192.0.2.1:587: removed; open until a restart"
        ]
    );
    assert_eq!(told(&fewer.kept_open(&running))[0].0, 587);

    let mut chosen = config(LISTENERS);
    for listener in &mut chosen.listeners {
        listener.address.set_port(0);
    }
    assert_eq!(chosen.kept_open(&chosen).listeners, chosen.listeners);
}

#[test]
fn secrets_are_not_shown_by_debug() {
    let mut config = config(EVERYTHING);
    config.decoy_key = Some([77; 32]);
    config.routes[0].password = Some("hunter2".to_owned());
    let shown = format!("{config:?} {:?} {:?}", config.routes, config.credentials);
    assert!(
        !shown.contains("hunter2") && !shown.contains("77") && !shown.contains("W22Z"),
        "{shown}"
    );
}

proptest! {
    #[test]
    fn any_text_is_read_without_a_panic(text in "\\PC*", cut in 0..EVERYTHING.len()) {
        let _ = parse(&text);
        let broken = format!("{}{text}{}", &EVERYTHING[..cut], &EVERYTHING[cut..]);
        let _ = parse(&broken);
    }
}

#[test]
fn a_listener_may_be_for_strangers() {
    let parsed = parse(
        r#"
        [[listener]]
        address = "[::]:25"
        role = "inbound"
        dmarc = "reject"
        [[listener]]
        address = "[::]:26"
        role = "inbound"
        [[listener]]
        address = "[::]:587"
        "#,
    )
    .unwrap();
    let roles: Vec<Role> = parsed.config.listeners.iter().map(|l| l.role).collect();
    assert_eq!(
        roles,
        [
            Role::Inbound(DmarcAction::Reject),
            Role::Inbound(DmarcAction::Tag),
            Role::Submission
        ]
    );
    for (text, problem) in [
        ("role = \"smtp\"", "\"submission\", \"inbound\""),
        ("dmarc = \"reject\"", "has no meaning for submission"),
        (
            "role = \"inbound\"\ndmarc = \"maybe\"",
            "\"tag\", \"reject\"",
        ),
        (
            "role = \"inbound\"\ntrusted_networks = [\"192.0.2.1\"]\ntrusted_as = \"app\"\n\
             [[credential]]\nname = \"app\"\nsenders = [\"*\"]",
            "has no meaning where role is \"inbound\"",
        ),
    ] {
        let errors = errors(&format!("[[listener]]\naddress = \"[::]:25\"\n{text}\n"));
        assert!(
            errors.iter().any(|e| e.contains(problem)),
            "{text}: {errors:?}"
        );
    }
}

#[test]
fn a_route_that_forwards_needs_keys() {
    let route =
        "[[route]]\ndomain = \"list.example\"\nhosts = [\"a.example:25\"]\nforward = true\n";
    let key = "[[domain.dkim]]\nselector = \"r1\"\nkey_file = \"k.pem\"\n";
    let wrong = errors(route);
    assert!(wrong[0].contains("needs keys to seal with"), "{wrong:?}");
    for (name, keys, fits) in [
        ("example", key, true),
        ("host.example", key, true),
        ("list.example", key, true),
        ("other.example", key, false),
        ("list.example", "", false),
    ] {
        let text = format!("{route}[[domain]]\nname = \"{name}\"\n{keys}");
        assert_eq!(parse(&text).is_ok(), fits, "{name} {keys}");
    }
}

#[test]
fn a_trusted_resolver_is_near() {
    let warnings = |server: &str, trust: bool| {
        let text = format!("[dns]\nservers = [\"{server}\"]\ntrust_ad = {trust}");
        parse(&text).unwrap().warnings
    };
    for near in ["127.0.0.1:53", "10.1.2.3:53", "[::1]:53", "[fd00::1]:53"] {
        assert_eq!(warnings(near, true), Vec::<String>::new(), "{near}");
    }
    for far in ["192.0.2.53:53", "[2001:db8::53]:53"] {
        assert_eq!(warnings(far, false), Vec::<String>::new());
        let said = warnings(far, true);
        assert!(said[0].contains("3: dns.trust_ad"), "{said:?}");
        assert!(said[0].contains("can forge"), "{said:?}");
    }
}

#[test]
fn certificates_and_front_ends_are_read_and_checked() {
    let digest = "ab:".repeat(31) + "ab";
    let text = format!(
        "[[listener]]\naddress = \"127.0.0.1:465\"\ntls = \"implicit\"\nclient_ca = \"ca.pem\"\n\
         client_certificates = \"required\"\nxclient_from = [\"127.0.0.1\"]\n\
         [[credential]]\nname = \"machine\"\nsenders = [\"*\"]\n\
         certificates = [\"sha256:{digest}\", \"dns:App.Example.com\", \"uri:spiffe://a/b\"]\n"
    );
    let parsed = parse(&text).unwrap();
    let listener = &parsed.config.listeners[0];
    let asked = listener.client_certificates.as_ref().unwrap();
    assert_eq!(asked.demand, Demand::Required);
    assert_eq!(parsed.files[0].used_for, FileUse::ClientCa(0));
    assert!(listener.trusts_front_end("127.0.0.1".parse().unwrap()));
    let written = parsed.config.credentials[0].certificates.iter();
    let written: Vec<_> = written.map(ToString::to_string).collect();
    let plain = "ab".repeat(32);
    let wanted = [
        &*format!("sha256:{plain}"),
        "dns:app.example.com",
        "uri:spiffe://a/b",
    ];
    assert_eq!(written, wanted);
    assert!(parsed.warnings.is_empty(), "{:?}", parsed.warnings);

    let listener = |lines: &str| format!("[[listener]]\naddress = \"127.0.0.1:25\"\n{lines}");
    one_error(
        &listener("client_certificates = \"optional\""),
        "1: listener.client_ca",
        &["is missing"],
    );
    one_error(
        &listener("tls = \"none\"\nclient_ca = \"ca.pem\""),
        "4: listener.client_ca",
        &["there is no TLS"],
    );
    one_error(
        &listener("xclient_from = [\"0.0.0.0/0\"]"),
        "3: listener.xclient_from",
        &["never an open relay"],
    );
    for bad in [
        "sha256:ab",
        "sha256:zz",
        "cn=x",
        "dns:a b",
        "uri:nothing",
        &plain,
    ] {
        let text =
            format!("[[credential]]\nname = \"x\"\nsenders = [\"*\"]\ncertificates = [\"{bad}\"]");
        one_error(
            &text,
            "4: credential.certificates",
            &["64 hexadecimal digits"],
        );
    }
    let unasked =
        "[[credential]]\nname = \"x\"\nsenders = [\"*\"]\ncertificates = [\"dns:x.example\"]";
    let warnings = parse(unasked).unwrap().warnings;
    assert!(
        warnings[0].contains("no [[listener]] has a client_ca"),
        "{warnings:?}"
    );
}

#[test]
fn a_route_has_one_secret_that_its_mechanism_can_show() {
    let route = |lines: &str| {
        format!("[[route]]\ndomain = \"*\"\nhosts = [\"s.example:587\"]\ntls = \"verify\"\n{lines}")
    };
    let parsed = parse(&route(
        "username = \"u\"\ntoken_command = [\"/bin/token\", \"a b\"]\nmechanism = \"oauthbearer\"",
    ));
    let parsed = parsed.unwrap();
    let words = vec!["/bin/token".to_owned(), "a b".to_owned()];
    let only = &parsed.config.routes[0];
    assert_eq!(only.token, Some(TokenSource::Command(words)));
    assert_eq!(only.mechanism, Some(crate::sasl::Mechanism::OAuthBearer));
    let parsed = parse(&route("username = \"u\"\ntoken_file = \"token\"")).unwrap();
    assert_eq!(parsed.files[0].used_for, FileUse::RouteToken(0));
    for (lines, place, words) in [
        ("username = \"u\"", "1: route.password_file", "is missing"),
        ("token_file = \"t\"", "1: route.username", "is missing"),
        (
            "username = \"u\"\ntoken_file = \"t\"\npassword_file = \"p\"",
            "5: route.username",
            "more than one secret",
        ),
        (
            "username = \"u\"\npassword_file = \"p\"\nmechanism = \"xoauth2\"",
            "7: route.mechanism",
            "does not go with",
        ),
        (
            "username = \"u\"\ntoken_file = \"t\"\nmechanism = \"plain\"",
            "7: route.mechanism",
            "does not go with",
        ),
        (
            "username = \"u\"\npassword_file = \"p\"\nmechanism = \"external\"",
            "7: route.mechanism",
            "cannot be read",
        ),
        (
            "username = \"u\"\ntoken_command = []",
            "6: route.token_command",
            "no program",
        ),
    ] {
        one_error(&route(lines), place, &[words]);
    }
}
