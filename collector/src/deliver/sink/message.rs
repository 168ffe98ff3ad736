//! What a sink is sent of one round, in its format.

use super::queue::{Bound, Header, Message, Round};
use crate::config::{Sink, SinkFormat};
use crate::runtime::Names;
use crate::store::EvidenceFile;
use cgpath_evidence::{Cursor, Evidence, PartitionKey, PodUid, TenantBundle, bundle::ProveError, eat};
use sha2::{Digest as _, Sha256};
use std::io::{self, Read};

/// Why a round has no form that the sink takes.
#[derive(Debug, thiserror::Error)]
pub(super) enum MessageError {
    /// The evidence's file.
    #[error("the file of the evidence: {0}")]
    File(#[from] io::Error),
    /// It cannot be wrapped.
    #[error(transparent)]
    Format(#[from] cgpath_evidence::Error),
    /// No bundle can be made for a pod.
    #[error("a bundle of pod {pod}: {source}")]
    Bundle {
        /// The pod.
        pod: String,
        /// Why not.
        source: ProveError,
    },
}

/// Pods of the evidence that a sink is sent, and how many it might be that have no name yet.
fn selected(evidence: &Evidence, sink: &Sink, names: &Names) -> (Vec<PodUid>, u64) {
    let mut pods: Vec<PodUid> = sink
        .pods
        .iter()
        .filter_map(|pod| PodUid::parse(pod.as_bytes()))
        .collect();
    let mut unnamed = 0;
    if sink.is_by_name() {
        for log in &evidence.partitions {
            let PartitionKey::Pod(uid) = log.key else { continue };
            match names.of(uid) {
                Some(pod) if sink.selects(&pod) && !pods.contains(&uid) => pods.push(uid),
                Some(_) => {}
                None => unnamed += u64::from(!pods.contains(&uid)),
            }
        }
    }
    (pods, unnamed)
}

/// The messages of a round; `None` where they cannot fit into the sink's spool, which also bounds the memory
/// that this takes.
pub(super) fn make(
    mut evidence: EvidenceFile,
    sink: &Sink,
    node: &str,
    bound: &Bound,
    names: &Names,
) -> Result<Option<Round>, MessageError> {
    let limit = sink.spool << 20;
    if evidence.len > limit {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(evidence.len).unwrap_or_default());
    evidence.file.read_to_end(&mut bytes)?;
    if sink.is_of_pods() {
        let whole = Evidence::from_cbor(&bytes)?;
        let (pods, unnamed) = selected(&whole, sink, names);
        let messages = pods.into_iter().map(|uid| {
            let pod = uid.to_string();
            match TenantBundle::prove(&whole, uid, 0) {
                Ok(bundle) => Ok(message(node, bound, "bundle", Some(pod), bundle.to_cbor())),
                Err(source) => Err(MessageError::Bundle { pod, source }),
            }
        });
        return Ok(Some(Round {
            messages: messages.collect::<Result<_, MessageError>>()?,
            position: None,
            unnamed,
        }));
    }
    let wrapped = |bytes: &[u8]| -> Result<eat::Message, MessageError> {
        Ok(eat::unsigned(&eat::claims(&Evidence::from_cbor(bytes)?)?))
    };
    let (format, payload) = match sink.format {
        SinkFormat::Evidence if evidence.is_delta => ("part", bytes),
        SinkFormat::Evidence => ("evidence", bytes),
        SinkFormat::Eat => ("eat", wrapped(&bytes)?.bytes),
        SinkFormat::Cmw => ("cmw", eat::cmw_cbor(&[wrapped(&bytes)?])),
    };
    let message = message(node, bound, format, None, payload);
    let position = evidence.reached.map(|reached| Cursor {
        base: message.header.sha256,
        ..reached
    });
    Ok(Some(Round {
        messages: vec![message],
        position,
        unnamed: 0,
    }))
}

fn message(node: &str, bound: &Bound, format: &str, pod: Option<String>, payload: Vec<u8>) -> Message {
    Message {
        header: Header {
            node: node.to_owned(),
            sequence: 0,
            format: format.to_owned(),
            pod,
            nonce: bound.nonce().to_vec(),
            bound: Some(bound.clone()),
            sha256: Sha256::digest(&payload).into(),
            length: payload.len() as u64,
            dropped: 0,
        },
        payload,
    }
}
