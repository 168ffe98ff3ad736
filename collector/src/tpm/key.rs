//! The attestation key: its kinds and the template that it is made from.
//!
//! Promise: the same template for the same kind, always: another one is another key. Not here: making it (see
//! [`super::Tpm::open`]).
//!
//! Source: TPM 2.0 Library, Part 1, 27.2 on templates.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tss_esapi::attributes::ObjectAttributesBuilder;
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::structures::{
    Digest, EccPoint, EccScheme, HashScheme, Public, PublicBuilder, PublicEccParametersBuilder, PublicKeyRsa,
    PublicRsaParametersBuilder, RsaExponent, RsaScheme,
};

/// The kind of attestation key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyKind {
    /// ECDSA over NIST P-256 with SHA-256.
    #[serde(rename = "ecc-p256")]
    EccP256,
    /// RSASSA-PKCS1-v1_5 with 2048 bits and SHA-256.
    #[serde(rename = "rsa-2048")]
    Rsa2048,
}

/// A TPM Name: TPM_ALG_SHA256, big-endian, and the SHA-256 of the TPMT_PUBLIC. TPM 2.0 Part 1, section 16.
pub fn name(tpmt_public: &[u8]) -> Vec<u8> {
    [&[0x00, 0x0b][..], &Sha256::digest(tpmt_public)].concat()
}

/// A TPM Name as printed for enrolment.
pub fn fingerprint(tpmt_public: &[u8]) -> String {
    hex::encode(name(tpmt_public))
}

/// The fixed template. Changing anything in it changes every node's key.
pub(super) fn template(kind: KeyKind) -> Result<Public, tss_esapi::Error> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_restricted(true)
        .with_sign_encrypt(true)
        .build()?;
    let builder = PublicBuilder::new()
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_auth_policy(Digest::default());
    match kind {
        KeyKind::EccP256 => builder
            .with_public_algorithm(PublicAlgorithm::Ecc)
            .with_ecc_parameters(
                PublicEccParametersBuilder::new_unrestricted_signing_key(
                    EccScheme::EcDsa(HashScheme::new(HashingAlgorithm::Sha256)),
                    EccCurve::NistP256,
                )
                .with_restricted(true)
                .build()?,
            )
            .with_ecc_unique_identifier(EccPoint::default())
            .build(),
        KeyKind::Rsa2048 => builder
            .with_public_algorithm(PublicAlgorithm::Rsa)
            .with_rsa_parameters(
                PublicRsaParametersBuilder::new_unrestricted_signing_key(
                    RsaScheme::RsaSsa(HashScheme::new(HashingAlgorithm::Sha256)),
                    RsaKeyBits::Rsa2048,
                    RsaExponent::default(),
                )
                .with_restricted(true)
                .build()?,
            )
            .with_rsa_unique_identifier(PublicKeyRsa::default())
            .build(),
    }
}
