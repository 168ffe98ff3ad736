//! What a sink is sent of one round, in its format.

use super::queue::{Header, Message, Round};
use crate::config::{Sink, SinkFormat};
use crate::store::EvidenceFile;
use evidence::{Evidence, PodUid, Position, TenantBundle, eat, tenant::ProveError};
use sha2::{Digest as _, Sha256};
use std::io::{self, Read};

/// Why a round has no form that the sink takes.
#[derive(Debug, thiserror::Error)]
pub(super) enum MessageError {
    /// The evidence's file.
    #[error("the file of the evidence: {0}")]
    File(#[from] io::Error),
    /// It can not be wrapped.
    #[error(transparent)]
    Format(#[from] evidence::Error),
    /// No bundle can be made for a pod.
    #[error("a bundle of pod {pod}: {source}")]
    Bundle {
        /// The pod.
        pod: String,
        /// Why not.
        source: ProveError,
    },
}

/// The messages of a round; `None` where they can not fit into the sink's spool, which also bounds the memory that this takes.
pub(super) fn make(
    mut evidence: EvidenceFile,
    sink: &Sink,
    node: &str,
    nonce: &[u8],
) -> Result<Option<Round>, MessageError> {
    let limit = sink.spool << 20;
    if evidence.len > limit {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(evidence.len).unwrap_or_default());
    evidence.file.read_to_end(&mut bytes)?;
    if !sink.pods.is_empty() {
        let whole = Evidence::from_cbor(&bytes)?;
        let messages = sink.pods.iter().map(|pod| {
            let uid = PodUid::parse(pod.as_bytes()).unwrap_or(PodUid([0; 16]));
            let bundle = TenantBundle::prove(&whole, uid, 0).map_err(|source| MessageError::Bundle {
                pod: pod.clone(),
                source,
            })?;
            Ok(message(
                node,
                nonce,
                "bundle",
                Some(pod.clone()),
                bundle.to_cbor(),
            ))
        });
        return Ok(Some(Round {
            messages: messages.collect::<Result<_, MessageError>>()?,
            position: None,
        }));
    }
    let wrapped = |bytes: &[u8]| -> Result<eat::Message, MessageError> {
        Ok(eat::unsigned(&eat::claims(&Evidence::from_cbor(bytes)?)?))
    };
    let (format, payload) = match sink.format {
        SinkFormat::Evidence if evidence.is_part => ("part", bytes),
        SinkFormat::Evidence => ("evidence", bytes),
        SinkFormat::Eat => ("eat", wrapped(&bytes)?.bytes),
        SinkFormat::Cmw => ("cmw", eat::cmw_cbor(&[wrapped(&bytes)?])),
    };
    let message = message(node, nonce, format, None, payload);
    let position = evidence.reached.map(|reached| Position {
        base: message.header.sha256,
        ..reached
    });
    Ok(Some(Round {
        messages: vec![message],
        position,
    }))
}

fn message(node: &str, nonce: &[u8], format: &str, pod: Option<String>, payload: Vec<u8>) -> Message {
    Message {
        header: Header {
            node: node.to_owned(),
            sequence: 0,
            format: format.to_owned(),
            pod,
            nonce: nonce.to_vec(),
            sha256: Sha256::digest(&payload).into(),
            length: payload.len() as u64,
            dropped: 0,
        },
        payload,
    }
}
