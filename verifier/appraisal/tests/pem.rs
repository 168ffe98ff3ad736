//! Attestation keys in PEM: which of them are the collector's.

use cgpath_appraisal::{KeyError, PinnedKey};
use cgpath_evidence::tpm::{Attributes, Public, VerifyingKey};
use cgpath_testkit::{AttestationKey, KeyKind};
use p256::pkcs8::{EncodePublicKey as _, LineEnding};

/// What the collector's key may do: TPM 2.0 Part 2, 8.3.
const ATTRIBUTES: u32 = Attributes::FIXED_TPM
    | Attributes::FIXED_PARENT
    | Attributes::SENSITIVE_DATA_ORIGIN
    | Attributes::USER_WITH_AUTH
    | Attributes::NO_DA
    | Attributes::RESTRICTED
    | Attributes::SIGN;

fn pem(key: &AttestationKey) -> String {
    let public = Public::parse(&key.public()).unwrap();
    let text = match public.verifying_key().unwrap() {
        VerifyingKey::P256(key) => p256::PublicKey::from(key).to_public_key_pem(LineEnding::LF),
        VerifyingKey::Rsa(key) => key.to_public_key_pem(LineEnding::LF),
    };
    text.unwrap()
}

#[test]
fn a_key_in_pem_is_the_one_that_the_collector_made_and_no_other() {
    for kind in [KeyKind::EcdsaP256, KeyKind::Rsassa2048] {
        let mut key = AttestationKey::new(kind, 1);
        key.attributes = ATTRIBUTES;
        let text = pem(&key);
        let pinned = PinnedKey::from_public(text.as_bytes()).unwrap();
        assert_eq!(pinned, PinnedKey::Public(key.public()), "{text}");
        assert_eq!(pinned.name(), Some(key.name()));
        let padded = format!("\n\n{}", text.replace('\n', "\r\n"));
        assert_eq!(PinnedKey::from_public(padded.as_bytes()), Ok(pinned.clone()));
        // The same numbers in a key that may sign what anybody gives it.
        key.attributes &= !Attributes::RESTRICTED;
        assert_ne!(pinned.name(), Some(key.name()));
    }
    let (one, two) = (
        AttestationKey::new(KeyKind::EcdsaP256, 1),
        AttestationKey::new(KeyKind::EcdsaP256, 2),
    );
    assert_ne!(
        PinnedKey::from_public(pem(&one).as_bytes()).unwrap(),
        PinnedKey::from_public(pem(&two).as_bytes()).unwrap()
    );
}

/// The base64 of a PEM text, in lines of this length.
fn wrapped(text: &str, columns: usize) -> String {
    let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    let lines: Vec<&str> = (0..body.len())
        .step_by(columns)
        .map(|at| &body[at..body.len().min(at + columns)])
        .collect();
    format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        lines.join("\n")
    )
}

#[test]
fn a_key_in_pem_is_taken_in_each_form_that_programs_and_editors_give_it() {
    for kind in [KeyKind::EcdsaP256, KeyKind::Rsassa2048] {
        let mut key = AttestationKey::new(kind, 1);
        key.attributes = ATTRIBUTES;
        let text = pem(&key);
        let printed = "Public-Key: (256 bit)\npub:\n    04:ab:cd\nASN1 OID: prime256v1\n";
        for form in [
            format!("{text}\n"),
            format!("{text}\n  \n\t\n"),
            text.trim_end().to_owned(),
            format!("\n \n{text}"),
            format!("\u{feff}{text}"),
            format!("\u{feff}\r\n{}", text.replace('\n', "\r\n")),
            text.replace('\n', "\r"),
            text.replace('\n', " \t\n"),
            text.replace('\n', "\n  "),
            text.replace('\n', "\n\n"),
            format!("{printed}{text}"),
            format!("{text}{printed}"),
            wrapped(&text, 48),
            wrapped(&text, 76),
            wrapped(&text, 4096),
            wrapped(&text, 1),
        ] {
            assert_eq!(
                PinnedKey::from_public(form.as_bytes()),
                Ok(PinnedKey::Public(key.public())),
                "{form}"
            );
        }
        // What is not the key need not be UTF-8.
        let latin = [&b"N\xfcrnberg\n"[..], text.as_bytes()].concat();
        assert_eq!(
            PinnedKey::from_public(&latin),
            Ok(PinnedKey::Public(key.public()))
        );
    }
}

#[test]
fn what_is_in_pem_and_no_such_key_is_refused_with_what_it_is() {
    let text = pem(&AttestationKey::new(KeyKind::EcdsaP256, 1));
    let relabelled = |label: &str| text.replace("PUBLIC KEY", label);
    // An Ed25519 key: RFC 8410, section 10.1.
    let other = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n\
                 -----END PUBLIC KEY-----\n";
    for (bad, why) in [
        (relabelled("CERTIFICATE"), "CERTIFICATE"),
        (relabelled("RSA PUBLIC KEY"), "RSA PUBLIC KEY"),
        (relabelled("PRIVATE KEY"), "PRIVATE KEY"),
        (text.replacen("M", "*", 1), "not base64"),
        (text.replacen("M", "M=", 1), "not base64"),
        (text.replacen("M", "", 1), "not base64"),
        (
            text.replacen("Y-----\n", "Y-----\nProc-Type: 4,ENCRYPTED\n\n", 1),
            "not base64",
        ),
        (text[..text.len() - 30].to_owned(), "no END line"),
        (text.replace("END PUBLIC", "END PRIVATE"), "does not fit"),
        (text.replacen("KEY-----", "KEY", 1), "BEGIN line is none"),
        (format!("{text}-----END PUBLIC KEY-----\n"), "does not fit"),
        (format!("{text}{text}"), "more than one"),
        (format!("{text}{}", relabelled("CERTIFICATE")), "more than one"),
        (format!("{}{text}", relabelled("EC PARAMETERS")), "more than one"),
        (
            "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n".to_owned(),
            "neither",
        ),
        (other.to_owned(), "neither NIST P-256 nor RSA"),
    ] {
        let error = PinnedKey::from_public(bad.as_bytes()).unwrap_err();
        assert!(
            matches!(error, KeyError::Pem(_)) && error.to_string().contains(why),
            "{bad}: {error}"
        );
    }
}
