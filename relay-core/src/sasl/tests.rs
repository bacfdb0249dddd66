use proptest::prelude::*;

use super::*;
use crate::rng::Rng;

/// RFC 7677 §3: the user "user" with the password "pencil".
const C1: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
const S1: &str =
    "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const C2: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                  p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
const S2: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";

fn rfc7677_verifier() -> Verifier {
    let salt = [
        91, 109, 153, 104, 157, 18, 53, 142, 236, 160, 75, 20, 18, 54, 250, 129,
    ];
    Verifier::derive("pencil", salt, 4096)
}

fn decoy() -> Decoy {
    Decoy::new([9; 32], ITERATIONS_DEFAULT)
}

fn challenge(step: Step) -> String {
    let Step::Challenge(bytes) = step else {
        panic!("no challenge but {step:?}")
    };
    String::from_utf8(bytes).unwrap()
}

fn refused(name: &str) -> Step {
    Step::Failed(Failure::Refused {
        name: name.to_owned(),
    })
}

const MALFORMED: Step = Step::Failed(Failure::Malformed);

#[test]
fn the_server_speaks_the_exchange_of_rfc_7677() {
    let (mut server, step) = Server::start(Mechanism::ScramSha256, None, Some(C1.as_bytes()));
    assert_eq!(
        step,
        Step::Credential {
            name: "user".to_owned()
        }
    );
    assert_eq!(
        challenge(server.credential_with_nonce(&rfc7677_verifier(), SERVER_NONCE)),
        S1
    );
    assert_eq!(challenge(server.step(C2.as_bytes())), S2);
    assert_eq!(
        server.step(b""),
        Step::Accepted {
            name: "user".to_owned()
        }
    );
    assert_eq!(server.step(b""), MALFORMED);
}

#[test]
fn the_client_speaks_the_exchange_of_rfc_7677() {
    let nonce = "rOprNGfwEbeRWgbNEkqO".to_owned();
    let (mut client, first) = Client::scram("user", "pencil".to_owned(), false, None, nonce);
    assert_eq!(first.as_deref(), Some(C1.as_bytes()));
    assert_eq!(client.respond(S1.as_bytes()).unwrap(), C2.as_bytes());
    assert_eq!(client.respond(S2.as_bytes()).unwrap(), b"");
    assert_eq!(client.finish(), Ok(()));
}

#[test]
fn a_verifier_reads_back_what_it_writes() {
    let verifier = rfc7677_verifier();
    let text = verifier.to_string();
    assert!(
        text.starts_with("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$"),
        "{text}"
    );
    assert_eq!(text.parse(), Ok(verifier.clone()));
    assert!(verifier.verify_password("pencil"));
    assert!(!verifier.verify_password("pencils"));
    assert!(!format!("{verifier:?}").contains("W22Z"));
}

#[test]
fn a_bad_verifier_says_what_is_wrong() {
    let good = rfc7677_verifier().to_string();
    let cases = [
        ("", BadVerifier::Form),
        (
            "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==",
            BadVerifier::Form,
        ),
        (&good.replace("SHA-256", "SHA-1"), BadVerifier::Scheme),
        (&good.replace("4096", "4095"), BadVerifier::Iterations),
        (&good.replace("4096", "4000000000"), BadVerifier::Iterations),
        (&good.replace("4096", "x"), BadVerifier::Iterations),
        (&good.replace("W22Z", "W2*Z"), BadVerifier::Salt),
        (
            &good.replace("W22ZaJ0SNY7soEsUEjb6gQ==", ""),
            BadVerifier::Salt,
        ),
        (&good[..good.len() - 5], BadVerifier::Key),
    ];
    for (text, expected) in cases {
        assert_eq!(text.parse::<Verifier>(), Err(expected), "{text}");
    }
}

#[test]
fn passwords_are_prepared_by_saslprep() {
    // U+2168 ROMAN NUMERAL NINE is "IX" after SASLprep; U+00AD SOFT HYPHEN is nothing: RFC 4013 §3.
    let verifier = Verifier::derive("I\u{ad}X", [1; 16], 4096);
    assert!(verifier.verify_password("\u{2168}"));
    // Prohibited: used as it is.
    assert!(Verifier::derive("\u{7}é", [1; 16], 4096).verify_password("\u{7}é"));
}

#[test]
fn plain_takes_a_name_and_a_password() {
    let ok = Step::Password {
        name: "app".to_owned(),
        password: "secret".to_owned(),
    };
    for (message, expected) in [
        (&b"\0app\0secret"[..], &ok),
        (b"app\0app\0secret", &ok),
        (b"admin\0app\0secret", &MALFORMED),
        (b"\0app\0", &MALFORMED),
        (b"\0\0secret", &MALFORMED),
        (b"\0app\0secret\0", &MALFORMED),
        (b"\0app", &MALFORMED),
        (b"", &MALFORMED),
        (b"\0app\0\xff", &MALFORMED),
    ] {
        let (_, step) = Server::start(Mechanism::Plain, None, Some(message));
        assert_eq!(&step, expected, "{message:?}");
        let (mut server, step) = Server::start(Mechanism::Plain, None, None);
        assert_eq!(challenge(step), "");
        assert_eq!(&server.step(message), expected, "{message:?}");
    }
    let long = format!("\0app\0{}", "x".repeat(SECRET_LEN_MAX + 1));
    assert_eq!(
        Server::start(Mechanism::Plain, None, Some(long.as_bytes())).1,
        MALFORMED
    );
}

#[test]
fn login_asks_for_both_or_takes_the_name_at_once() {
    let ok = Step::Password {
        name: "app".to_owned(),
        password: "secret".to_owned(),
    };
    let (mut server, step) = Server::start(Mechanism::Login, None, None);
    assert_eq!(challenge(step), "Username:");
    assert_eq!(challenge(server.step(b"app")), "Password:");
    assert_eq!(server.step(b"secret"), ok);

    let (mut server, step) = Server::start(Mechanism::Login, None, Some(b"app"));
    assert_eq!(challenge(step), "Password:");
    assert_eq!(server.step(b"secret"), ok);

    let huge = vec![b'B'; 1 << 20];
    let (mut server, _) = Server::start(Mechanism::Login, None, None);
    assert_eq!(server.step(&huge), MALFORMED);
}

/// Runs our client against our server; gives the server's last step and the client's verdict.
fn run(
    mechanism: Mechanism,
    password: &str,
    client_binding: Option<ChannelBinding>,
    server_binding: Option<ChannelBinding>,
    known: bool,
) -> (Step, Result<(), ClientError>) {
    let mut rng = Rng::from_number(1);
    let verifier = Verifier::derive("pencil", [3; 16], 4096);
    let (mut client, initial) = Client::start(
        mechanism,
        "a,=b",
        password,
        client_binding.as_ref(),
        &mut rng,
    );
    let (mut server, mut step) = Server::start(mechanism, server_binding, initial.as_deref());
    loop {
        step = match step {
            Step::Challenge(bytes) => match client.respond(&bytes) {
                Ok(response) => server.step(&response),
                Err(why) => return (Step::Challenge(bytes), Err(why)),
            },
            Step::Credential { name } => {
                assert_eq!(name, "a,=b");
                server.credential(known.then_some(&verifier), &decoy(), &mut rng)
            }
            done @ (Step::Password { .. }
            | Step::Token(_)
            | Step::External { .. }
            | Step::Accepted { .. }
            | Step::Failed(_)) => {
                return (done, client.finish());
            }
        }
    }
}

#[test]
fn our_client_logs_in_to_our_server() {
    let binding = Some([5; 32]);
    let accepted = Step::Accepted {
        name: "a,=b".to_owned(),
    };
    let shown = Step::Password {
        name: "a,=b".to_owned(),
        password: "pencil".to_owned(),
    };
    for (mechanism, binding, expected) in [
        (Mechanism::Plain, None, &shown),
        (Mechanism::Login, None, &shown),
        (Mechanism::ScramSha256, None, &accepted),
        (Mechanism::ScramSha256Plus, binding, &accepted),
    ] {
        let (step, verdict) = run(mechanism, "pencil", binding, binding, true);
        assert_eq!((&step, verdict), (expected, Ok(())), "{mechanism}");
    }
}

#[test]
fn a_wrong_password_and_an_unknown_name_end_alike() {
    for mechanism in [Mechanism::ScramSha256, Mechanism::ScramSha256Plus] {
        let binding = (mechanism == Mechanism::ScramSha256Plus).then_some([5; 32]);
        let wrong = run(mechanism, "pen", binding, binding, true);
        let unknown = run(mechanism, "pencil", binding, binding, false);
        assert_eq!(wrong.0, refused("a,=b"));
        assert_eq!(unknown.0, refused("a,=b"));
        assert_eq!(wrong.1, Err(ClientError::ServerSignature));
    }
}

#[test]
fn a_decoy_is_stable_and_fits_nothing() {
    let one = decoy().verifier("nobody");
    assert_eq!(one, decoy().verifier("nobody"));
    assert_ne!(one.salt(), decoy().verifier("nobody2").salt());
    assert_eq!(one.salt().len(), SALT_LEN);
    assert_eq!(one.iterations(), ITERATIONS_DEFAULT);
    assert!(!one.verify_password(""));
}

#[test]
fn channel_binding_must_be_the_same_on_both_sides() {
    let (ours, theirs) = (Some([5; 32]), Some([6; 32]));
    // Someone between, with another channel to each side.
    let (step, _) = run(Mechanism::ScramSha256Plus, "pencil", ours, theirs, true);
    assert_eq!(step, refused("a,=b"));
    // PLUS was offered, and the client was made to believe that it was not (flag y).
    assert_eq!(
        run(Mechanism::ScramSha256, "pencil", ours, ours, true).0,
        MALFORMED
    );
    // A client that could bind, on a server that cannot.
    let accepted = Step::Accepted {
        name: "a,=b".to_owned(),
    };
    assert_eq!(
        run(Mechanism::ScramSha256, "pencil", ours, None, true).0,
        accepted
    );
    // A client that cannot bind, on a server that can.
    assert_eq!(
        run(Mechanism::ScramSha256, "pencil", None, ours, true).0,
        accepted
    );
}

#[test]
fn the_flag_must_fit_the_mechanism() {
    let binding = Some([5; 32]);
    for (mechanism, binding, first) in [
        (Mechanism::ScramSha256, None, "p=tls-exporter,,n=u,r=x"),
        (Mechanism::ScramSha256, binding, "p=tls-exporter,,n=u,r=x"),
        (Mechanism::ScramSha256Plus, binding, "n,,n=u,r=x"),
        (Mechanism::ScramSha256Plus, binding, "y,,n=u,r=x"),
        (Mechanism::ScramSha256Plus, binding, "p=tls-unique,,n=u,r=x"),
        (Mechanism::ScramSha256Plus, None, "p=tls-exporter,,n=u,r=x"),
    ] {
        let (_, step) = Server::start(mechanism, binding, Some(first.as_bytes()));
        assert_eq!(step, MALFORMED, "{mechanism} {first}");
    }
}

#[test]
fn malformed_first_messages_are_refused() {
    for first in [
        "",
        "n",
        "n,",
        "n,,",
        "n,,n=u",
        "n,,n=u,r=",
        "n,,n=,r=x",
        "n,,n=u=,r=x",
        "n,,n=u=2c,r=x",
        "n,,r=x,n=u",
        "n,,m=x,n=u,r=x",
        "n,,n=u,r=x,m=1",
        "n,a=admin,n=u,r=x",
        "x,,n=u,r=x",
        "n,,n=u,r=a b",
        "n,,n=u,r=x,",
        "n,,n=u,r=x,1=2",
    ] {
        let (_, step) = Server::start(Mechanism::ScramSha256, None, Some(first.as_bytes()));
        assert_eq!(step, MALFORMED, "{first}");
    }
    for first in ["n,a=u,n=u,r=x", "n,,n=u,r=x,z=extension"] {
        let (_, step) = Server::start(Mechanism::ScramSha256, None, Some(first.as_bytes()));
        assert_eq!(
            step,
            Step::Credential {
                name: "u".to_owned()
            },
            "{first}"
        );
    }
}

#[test]
fn a_final_message_that_was_changed_or_replayed_is_refused() {
    let changed = |c2: &str| {
        let (mut server, _) = Server::start(Mechanism::ScramSha256, None, Some(C1.as_bytes()));
        let _ = server.credential_with_nonce(&rfc7677_verifier(), SERVER_NONCE);
        server.step(c2.as_bytes())
    };
    let user = refused("user");
    assert_eq!(changed(&C2.replace("$k0", "$k1")), user, "another nonce");
    assert_eq!(
        changed(&C2.replace("biws", "eSws")),
        user,
        "another gs2-header"
    );
    assert_eq!(changed(&C2.replace("dHzb", "dHzc")), user, "another proof");
    assert_eq!(
        changed(&C2.replace(",p=", ",m=1,p=")),
        MALFORMED,
        "a mandatory extension"
    );
    assert_eq!(
        changed(&C2.replace("AndVQ=", "AndVQ")),
        MALFORMED,
        "not base64"
    );
    assert_eq!(changed("c=biws"), MALFORMED);

    // The whole exchange once more: the server's nonce is a new one.
    let mut rng = Rng::from_number(2);
    let (mut server, _) = Server::start(Mechanism::ScramSha256, None, Some(C1.as_bytes()));
    let again = challenge(server.credential(Some(&rfc7677_verifier()), &decoy(), &mut rng));
    assert_ne!(again, S1);
    assert_eq!(server.step(C2.as_bytes()), user);
}

#[test]
fn a_client_does_not_trust_a_server_that_misbehaves() {
    let respond = |s1: &str| {
        let nonce = "rOprNGfwEbeRWgbNEkqO".to_owned();
        let (mut client, _) = Client::scram("user", "pencil".to_owned(), false, None, nonce);
        client.respond(s1.as_bytes()).map(|_| client)
    };
    let error = |s1: &str| respond(s1).err().unwrap();
    assert_eq!(error(&S1.replace("i=4096", "i=1")), ClientError::Iterations);
    assert_eq!(
        error(&S1.replace("i=4096", "i=4000000000")),
        ClientError::Iterations
    );
    assert_eq!(error(&S1.replace("r=rOpr", "r=rOps")), ClientError::Nonce);
    assert_eq!(error(&S1.replace(SERVER_NONCE, "")), ClientError::Nonce);
    assert_eq!(error(&format!("m=x,{S1}")), ClientError::Malformed);
    assert_eq!(error(""), ClientError::Malformed);

    assert_eq!(
        respond(S1).unwrap().finish(),
        Err(ClientError::ServerSignature),
        "no v= before 235"
    );
    let mut client = respond(S1).unwrap();
    assert_eq!(
        client.respond(S2.replace("6rri", "6rrj").as_bytes()),
        Err(ClientError::ServerSignature)
    );
    assert_eq!(
        respond(S1).unwrap().respond(b"e=invalid-proof"),
        Err(ClientError::Refused)
    );
}

#[test]
fn the_best_mechanism_is_chosen() {
    let all = [
        "LOGIN",
        "scram-sha-256-plus",
        "GSSAPI",
        "PLAIN",
        "SCRAM-SHA-256",
    ];
    assert_eq!(
        Mechanism::best(all, Some(&[0; 32])),
        Some(Mechanism::ScramSha256Plus)
    );
    assert_eq!(Mechanism::best(all, None), Some(Mechanism::ScramSha256));
    assert_eq!(
        Mechanism::best(["LOGIN", "PLAIN"], None),
        Some(Mechanism::Plain)
    );
    assert_eq!(Mechanism::best(["LOGIN"], None), Some(Mechanism::Login));
    assert_eq!(
        Mechanism::best(["GSSAPI", "SCRAM-SHA-256-PLUS"], None),
        None
    );
}

#[test]
fn digests_tell_names_and_passwords_apart() {
    let digest = |name, password| secret_digest(&[1; 32], name, password);
    assert_eq!(digest("ab", "c"), digest("ab", "c"));
    assert_ne!(digest("ab", "c"), digest("a", "bc"));
    assert_ne!(digest("ab", "c"), secret_digest(&[2; 32], "ab", "c"));
    let mut rng = Rng::from_number(4);
    let password = generate_password(&mut rng);
    assert_eq!(password.len(), 32);
    assert_ne!(password, generate_password(&mut rng));
}

proptest! {
    /// Whatever a client sends, nobody is let in without the secret, and nothing panics.
    #[test]
    fn no_bytes_are_accepted_by_chance(
        mechanism in prop::sample::select(Mechanism::ALL.to_vec()),
        bound in any::<bool>(),
        responses in prop::collection::vec(
            prop_oneof![
                any::<Vec<u8>>(),
                "[nyp]=?(tls-exporter)?,(a=[a-z=,2C3D]{0,4})?,n=[a-z=,]{0,5},r=[!-~]{0,9}(,m=1)?".prop_map(String::into_bytes),
                "c=(biws|eSws),r=[!-~]{0,40},p=[A-Za-z0-9+/=]{0,48}".prop_map(String::into_bytes),
            ],
            1..5,
        ),
    ) {
        let binding = bound.then_some([5; 32]);
        let mut rng = Rng::from_number(3);
        let mut responses = responses.iter();
        let initial = responses.next().map(Vec::as_slice);
        let (mut server, mut step) = Server::start(mechanism, binding, initial);
        loop {
            step = match step {
                Step::Challenge(_) => match responses.next() {
                    Some(response) => server.step(response),
                    None => break,
                },
                Step::Credential { .. } => server.credential(Some(&rfc7677_verifier()), &decoy(), &mut rng),
                Step::Accepted { name } => panic!("{name} was let in"),
                Step::Token(_) => server.refuse_token(),
                Step::Password { .. } | Step::External { .. } | Step::Failed(_) => break,
            };
        }
    }

    #[test]
    fn no_challenge_upsets_the_client(
        mechanism in prop::sample::select(Mechanism::ALL.to_vec()),
        challenges in prop::collection::vec(
            prop_oneof![
                any::<Vec<u8>>(),
                "r=[!-~]{0,30},s=[A-Za-z0-9+/=]{0,12},i=[0-9]{1,4}".prop_map(String::into_bytes),
                "[ve]=[ -~]{0,50}".prop_map(String::into_bytes),
            ],
            0..4,
        ),
    ) {
        let mut rng = Rng::from_number(3);
        let (mut client, _) = Client::start(mechanism, "u", "p", Some(&[5; 32]), &mut rng);
        let went_well = challenges.iter().all(|challenge| client.respond(challenge).is_ok());
        let believed = client.finish().is_ok();
        // A server that does not know the password is never believed where the mechanism can tell.
        let blind = mechanism.shows_password() || mechanism.proof() == Proof::Certificate;
        prop_assert!(blind || !believed || !went_well);
    }
}
