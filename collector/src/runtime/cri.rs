//! The calls of the container runtime interface that are made: three questions of CRI v1, over a local
//! socket.
//!
//! The messages hold the fields that are read and no others, so that nothing is generated and no protoc is
//! needed; what else an answer has is passed over. Promises: an answer takes memory within limits, whatever
//! it holds. Source: k8s.io/cri-api/pkg/apis/runtime/v1/api.proto.

use hyper::http::uri::PathAndQuery;
use prost::bytes::{Buf, BufMut, Bytes};
use prost::encoding::{self, DecodeContext, WireType};
use prost::{DecodeError, Message};
use std::collections::HashMap;
use std::path::Path;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, client::Grpc};
use tonic_prost::ProstCodec;

const LIST_SANDBOXES: &str = "/runtime.v1.RuntimeService/ListPodSandbox";
const LIST_CONTAINERS: &str = "/runtime.v1.RuntimeService/ListContainers";
const CONTAINER_STATUS: &str = "/runtime.v1.RuntimeService/ContainerStatus";

/// Sandboxes and containers of an answer at most. What more there is is not even held in memory.
pub(super) const MAX_PODS: usize = 4096;
pub(super) const MAX_CONTAINERS: usize = 8192;
/// Bytes of an answer: as many as the kubelet takes.
const MAX_ANSWER: usize = 16 << 20;
/// Of a longer sandbox the labels are not read: each takes many times its own bytes of memory.
const MAX_LABELLED: usize = 512 << 10;

/// Why the runtime stated nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum CriError {
    /// No connection.
    #[error("{}", with_causes(.0))]
    Connect(#[from] tonic::transport::Error),
    /// It refused, or its answer is too long or no message.
    #[error("{}: {:?}: {}", name(.method), .status.code(), .status.message())]
    Answer {
        /// What was asked.
        method: &'static str,
        /// What it said.
        status: Box<tonic::Status>,
    },
    /// More than are taken.
    #[error("{}: it tells of {found}, at most {most} are taken", name(.method))]
    TooMany {
        /// What was asked.
        method: &'static str,
        /// So many it says there are.
        found: usize,
        /// So many are taken.
        most: usize,
    },
}

fn name(method: &str) -> &str {
    method.rsplit('/').next().unwrap_or(method)
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
struct Everything {}

/// An answer that is a list: its items as bytes, so that each is decoded by itself, and no more than `MOST`
/// of them; ten million empty ones fit into an answer.
#[derive(Debug, Clone, Default, PartialEq)]
struct Items<const MOST: usize> {
    items: Vec<Bytes>,
    /// All that there were.
    found: usize,
}

impl<const MOST: usize> Message for Items<MOST> {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        for item in &self.items {
            encoding::bytes::encode(1, item, buf);
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        if tag == 1 {
            self.found += 1;
        }
        if tag != 1 || self.items.len() >= MOST {
            return encoding::skip_field(wire_type, tag, buf, ctx);
        }
        let mut item = Bytes::new();
        encoding::bytes::merge(wire_type, &mut item, buf, ctx)?;
        self.items.push(item);
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        let len = |item: &Bytes| encoding::bytes::encoded_len(1, item);
        self.items.iter().map(len).sum()
    }

    fn clear(&mut self) {
        *self = Items::default();
    }
}

/// A pod's sandbox.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PodSandbox {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(message, optional, tag = "2")]
    pub(super) metadata: Option<PodSandboxMetadata>,
    /// Nanoseconds since 1970.
    #[prost(int64, tag = "4")]
    pub(super) created_at: i64,
    #[prost(map = "string, string", tag = "5")]
    pub(super) labels: HashMap<String, String>,
}

/// Tag of [`PodSandbox::labels`].
const LABELS: u32 = 5;

/// A sandbox, and whether its labels were read.
#[derive(Debug, Clone)]
pub(super) struct Sandbox {
    pub(super) of: PodSandbox,
    pub(super) has_labels: bool,
}

impl Sandbox {
    fn decode(mut bytes: Bytes) -> Result<Sandbox, DecodeError> {
        let has_labels = bytes.len() <= MAX_LABELLED;
        let mut of = PodSandbox::default();
        while bytes.has_remaining() {
            let (tag, wire_type) = encoding::decode_key(&mut bytes)?;
            let ctx = DecodeContext::default();
            if tag == LABELS && !has_labels {
                encoding::skip_field(wire_type, tag, &mut bytes, ctx)?;
            } else {
                of.merge_field(tag, wire_type, &mut bytes, ctx)?;
            }
        }
        Ok(Sandbox { of, has_labels })
    }
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

/// A container, as lists have it.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Container {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(string, tag = "2")]
    pub(super) pod_sandbox_id: String,
    #[prost(message, optional, tag = "3")]
    pub(super) metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "4")]
    pub(super) image: Option<ImageSpec>,
    #[prost(string, tag = "5")]
    pub(super) image_ref: String,
    /// Nanoseconds since 1970.
    #[prost(int64, tag = "7")]
    pub(super) created_at: i64,
    /// Since CRI 1.30.
    #[prost(string, tag = "10")]
    pub(super) image_id: String,
}

/// As in the pod's specification.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ContainerMetadata {
    #[prost(string, tag = "1")]
    pub(super) name: String,
}

/// An image as it was asked for.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ImageSpec {
    /// What the kubelet asked for: most often an image id.
    #[prost(string, tag = "1")]
    pub(super) image: String,
    /// What the pod's specification has; kubelets since 1.28 say it.
    #[prost(string, tag = "18")]
    pub(super) user_specified_image: String,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerStatusRequest {
    #[prost(string, tag = "1")]
    container_id: String,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerStatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<ContainerStatus>,
}

/// What lists do not have: containerd says there which configuration an image has, and here which digest of
/// a repository.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ContainerStatus {
    #[prost(message, optional, tag = "8")]
    pub(super) image: Option<ImageSpec>,
    #[prost(string, tag = "9")]
    pub(super) image_ref: String,
    /// Since CRI 1.30.
    #[prost(string, tag = "17")]
    pub(super) image_id: String,
}

/// What could be read of a list.
#[derive(Debug)]
pub(super) struct Listed<T> {
    pub(super) items: Vec<T>,
    /// Why one was passed over, if one was: it keeps no other from having a name.
    pub(super) passed_over: Option<String>,
}

/// One connection. Its calls have no time limit of their own.
pub(super) struct Client(Grpc<Channel>);

impl Client {
    pub(super) async fn connect(socket: &Path) -> Result<Client, CriError> {
        let channel = Endpoint::try_from(format!("unix:{}", socket.display()))?
            .connect()
            .await?;
        Ok(Client(Grpc::new(channel).max_decoding_message_size(MAX_ANSWER)))
    }

    /// All sandboxes that the runtime knows.
    pub(super) async fn sandboxes(&mut self) -> Result<Listed<Sandbox>, CriError> {
        self.list::<_, MAX_PODS>(LIST_SANDBOXES, "pod", Sandbox::decode)
            .await
    }

    /// All containers that the runtime knows, those that ended included.
    pub(super) async fn containers(&mut self) -> Result<Listed<Container>, CriError> {
        self.list::<_, MAX_CONTAINERS>(LIST_CONTAINERS, "container", Container::decode)
            .await
    }

    /// What more the runtime says of a container; nothing where it has none to say.
    pub(super) async fn status(&mut self, container: &str) -> Result<ContainerStatus, CriError> {
        let question = ContainerStatusRequest {
            container_id: container.to_owned(),
        };
        let answer: ContainerStatusResponse = self.call(CONTAINER_STATUS, question).await?;
        Ok(answer.status.unwrap_or_default())
    }

    async fn list<T, const MOST: usize>(
        &mut self,
        method: &'static str,
        what: &str,
        decode: impl Fn(Bytes) -> Result<T, DecodeError>,
    ) -> Result<Listed<T>, CriError> {
        let answer: Items<MOST> = self.call(method, Everything {}).await?;
        if answer.found > MOST {
            return Err(CriError::TooMany {
                method,
                found: answer.found,
                most: MOST,
            });
        }
        let mut listed = Listed {
            items: Vec::new(),
            passed_over: None,
        };
        for (number, bytes) in answer.items.into_iter().enumerate() {
            match decode(bytes) {
                Ok(item) => listed.items.push(item),
                Err(why) => {
                    let name = name(method);
                    let why = || format!("{name}: {what} {number} of the answer is passed over: {why}");
                    listed.passed_over.get_or_insert_with(why);
                }
            }
        }
        Ok(listed)
    }

    async fn call<Q, A>(&mut self, method: &'static str, question: Q) -> Result<A, CriError>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        self.0.ready().await?;
        let codec = ProstCodec::<Q, A>::default();
        let path = PathAndQuery::from_static(method);
        let answer = self.0.unary(Request::new(question), path, codec).await;
        answer.map(tonic::Response::into_inner).map_err(|status| {
            let status = Box::new(status);
            CriError::Answer { method, status }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_ten_million_items_no_more_are_held_than_are_taken() {
        // Tag 1, no bytes.
        let answer = [0x0a_u8, 0].repeat(8 << 20);
        assert_eq!(answer.len(), MAX_ANSWER);
        let items = Items::<3>::decode(answer.as_slice()).unwrap();
        assert_eq!((items.items.len(), items.found), (3, 8 << 20));
        assert!(items.items.capacity() <= 4);
        // An item that is said to be longer than the answer is no item.
        assert!(Items::<3>::decode(&[0x0a_u8, 9, 1][..]).is_err());
        assert!(Items::<0>::decode(&[0x0a_u8, 9, 1][..]).is_err());
    }

    #[test]
    fn a_sandbox_that_is_too_long_for_its_labels_has_its_name_all_the_same() {
        let sandbox = |value: usize| PodSandbox {
            id: "d0".repeat(32),
            metadata: Some(PodSandboxMetadata {
                name: "till".into(),
                uid: "11111111-0000-4000-8000-000000000001".into(),
                namespace: "shop".into(),
            }),
            created_at: 7,
            labels: [("app".to_owned(), "x".repeat(value))].into(),
        };
        let short = Sandbox::decode(sandbox(9).encode_to_vec().into()).unwrap();
        assert_eq!((short.of, short.has_labels), (sandbox(9), true));
        let long = Sandbox::decode(sandbox(MAX_LABELLED).encode_to_vec().into()).unwrap();
        let bare = PodSandbox {
            labels: HashMap::new(),
            ..sandbox(0)
        };
        assert_eq!((long.of, long.has_labels), (bare, false));
    }

    #[test]
    fn fields_that_are_not_read_are_passed_over() {
        // A container with a state (6), labels (8) and annotations (9), and one field that nobody knows.
        let mut bytes = Container {
            id: "ab".repeat(32),
            image_id: "sha256:00".into(),
            ..Container::default()
        }
        .encode_to_vec();
        bytes.extend([0x30, 1, 0x42, 2, 0x0a, 0, 0x4a, 2, 0x0a, 0, 0xfa, 0x7d, 1, 7]);
        let read = Container::decode(bytes.as_slice()).unwrap();
        assert_eq!(read.image_id, "sha256:00");
    }
}
