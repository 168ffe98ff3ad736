//! The one call of the container runtime interface that is made: `ListPodSandbox` of CRI v1, over a local
//! socket.
//!
//! The messages hold the fields that are read and no others, so that nothing is generated and no protoc is
//! needed; what else an answer has is passed over. Source: k8s.io/cri-api/pkg/apis/runtime/v1/api.proto.

use hyper::http::uri::PathAndQuery;
use prost::Message;
use prost::bytes::Bytes;
use std::collections::HashMap;
use std::path::Path;
use tonic::transport::Endpoint;
use tonic::{Request, client::Grpc};
use tonic_prost::ProstCodec;

const METHOD: &str = "/runtime.v1.RuntimeService/ListPodSandbox";
/// Bytes of an answer, and of one pod in it.
const MAX_ANSWER: usize = 4 << 20;
const MAX_POD: usize = 64 << 10;

/// Why the runtime stated nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum CriError {
    /// No connection.
    #[error("{}", with_causes(.0))]
    Connect(#[from] tonic::transport::Error),
    /// It refused, or its answer is too long or no message.
    #[error("ListPodSandbox: {:?}: {}", .0.code(), .0.message())]
    Answer(Box<tonic::Status>),
    /// One pod of the answer is too long or no message.
    #[error("ListPodSandbox: pod {number} of the answer: {why}")]
    Pod {
        /// From 0.
        number: usize,
        /// Why not.
        why: String,
    },
}

/// The error alone says "transport error".
fn with_causes(error: &tonic::transport::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// With no filter: all of them.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ListPodSandboxRequest {}

/// The pods as bytes: each is decoded by itself, within limits.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ListPodSandboxResponse {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(super) items: Vec<Bytes>,
}

/// A pod's sandbox.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PodSandbox {
    #[prost(message, optional, tag = "2")]
    pub(super) metadata: Option<PodSandboxMetadata>,
    /// Nanoseconds since 1970.
    #[prost(int64, tag = "4")]
    pub(super) created_at: i64,
    #[prost(map = "string, string", tag = "5")]
    pub(super) labels: HashMap<String, String>,
}

/// As in the pod's own metadata.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PodSandboxMetadata {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) uid: String,
    #[prost(string, tag = "3")]
    pub(super) namespace: String,
}

/// All sandboxes that the runtime knows. It has no time limit of its own.
pub(super) async fn list_pod_sandboxes(socket: &Path) -> Result<Vec<PodSandbox>, CriError> {
    let channel = Endpoint::try_from(format!("unix:{}", socket.display()))?
        .connect()
        .await?;
    let mut client = Grpc::new(channel).max_decoding_message_size(MAX_ANSWER);
    client.ready().await?;
    let codec = ProstCodec::<ListPodSandboxRequest, ListPodSandboxResponse>::default();
    let request = Request::new(ListPodSandboxRequest {});
    let answer = client
        .unary(request, PathAndQuery::from_static(METHOD), codec)
        .await
        .map_err(|status| CriError::Answer(Box::new(status)))?;
    let decode = |(number, bytes): (usize, Bytes)| {
        let pod = |why: String| CriError::Pod { number, why };
        if bytes.len() > MAX_POD {
            return Err(pod(format!("{} bytes, at most {MAX_POD}", bytes.len())));
        }
        PodSandbox::decode(bytes).map_err(|e| pod(e.to_string()))
    };
    // One more than are taken, so that too many are seen as such.
    let items = answer.into_inner().items.into_iter().take(super::MAX_PODS + 1);
    items.enumerate().map(decode).collect()
}
