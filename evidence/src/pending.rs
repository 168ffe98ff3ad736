//! What stands behind the last seal: threads that were inside IMA when evidence was made, and how evidence
//! carries them and the records that the next checkpoint is to seal.
//!
//! An entry whose record is not sealed yet is *pending*. Its record travels unsealed, or the thread that made
//! it is named by a mark. Not here: what follows from either (see `cgpath-appraisal`).

use crate::record::lossy_path_option;
use crate::{PartitionKey, cgroup::partition_of};
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// Evidence has at most so many marks: the bound of the map that our eBPF programs keep them in.
pub const MAX_IN_FLIGHT: usize = 65_536;

/// A mark: a thread that began to add an entry and had not ended when evidence was made.
///
/// Thread and moment together name it in all rounds in which it stays open.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct InFlight {
    /// Thread id in the initial pid namespace.
    #[n(0)]
    pub tid: u32,
    /// When the kernel's `ima_add_template_entry` began, in nanoseconds of CLOCK_BOOTTIME.
    #[n(1)]
    pub since_ns: u64,
    /// The cgroup's path at that moment, from the hierarchy's root, raw bytes; absent where unknown.
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(default, with = "lossy_path_option", skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<Vec<u8>>,
}

impl InFlight {
    /// The partition that the thread belongs to.
    pub fn key(&self) -> PartitionKey {
        partition_of(self.cgroup.as_deref())
    }
}

/// A list that is left out where it is empty.
pub(crate) mod list {
    use minicbor::{Decode, Decoder};

    pub(crate) fn decode<'b, C, T: Decode<'b, C>>(
        d: &mut Decoder<'b>,
        ctx: &mut C,
    ) -> Result<Vec<T>, minicbor::decode::Error> {
        Vec::decode(d, ctx)
    }

    pub(crate) fn nil<T>() -> Option<Vec<T>> {
        Some(Vec::new())
    }
}

/// The same for marks, of which there are at most [`MAX_IN_FLIGHT`].
pub(crate) mod marks {
    use super::{InFlight, MAX_IN_FLIGHT};
    use minicbor::{Decoder, decode::Error};
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de};

    pub(crate) use super::list::nil;

    pub(crate) fn decode<C>(d: &mut Decoder<'_>, ctx: &mut C) -> Result<Vec<InFlight>, Error> {
        let at = d.position();
        let count = d.probe().array()?;
        if count.is_some_and(|count| count > MAX_IN_FLIGHT as u64) {
            let why = format!("more marks than {MAX_IN_FLIGHT}");
            return Err(Error::message(why).at(at));
        }
        // A list of indefinite length is refused when it is encoded again; it ends with the input before
        // that.
        super::list::decode(d, ctx)
    }

    pub(crate) fn serialize<S: Serializer>(marks: &[InFlight], s: S) -> Result<S::Ok, S::Error> {
        marks.serialize(s)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<InFlight>, D::Error> {
        let marks = Vec::deserialize(d)?;
        if marks.len() > MAX_IN_FLIGHT {
            return Err(de::Error::custom(format!("more marks than {MAX_IN_FLIGHT}")));
        }
        Ok(marks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cursor, Evidence, EvidenceDelta, PartitionLog, Quote, Tier, record::sample};

    fn mark(tid: u32) -> InFlight {
        InFlight {
            tid,
            since_ns: 1_000_000_007,
            cgroup: (tid % 2 == 1).then(|| vec![b'/', 0xff]),
        }
    }

    fn evidence(unsealed: usize, in_flight: usize) -> Evidence {
        let records = (0..unsealed as u64).map(|n| sample(10 + n, "/user.slice", "/bin/late"));
        Evidence {
            version: 1,
            tier: Tier::Bpf,
            node: "n".to_owned(),
            boot_id: [5; 16],
            quote: Quote {
                attest: vec![],
                signature: vec![],
                ak: vec![],
            }
            .into(),
            list: vec![],
            checkpoints: vec![],
            partitions: vec![],
            pods: vec![],
            kernel: String::new(),
            boot: None,
            unsealed: (unsealed > 0)
                .then(|| PartitionLog {
                    key: PartitionKey::Host,
                    records: records.collect(),
                })
                .into_iter()
                .collect(),
            in_flight: (0..in_flight as u32).map(mark).collect(),
            td: None,
        }
    }

    fn delta(evidence: &Evidence) -> EvidenceDelta {
        let Evidence {
            tier,
            node,
            boot_id,
            quote,
            list,
            checkpoints,
            partitions,
            pods,
            kernel,
            boot,
            unsealed,
            in_flight,
            ..
        } = evidence.clone();
        EvidenceDelta {
            version: 1,
            tier,
            node,
            boot_id,
            quote,
            list,
            checkpoints,
            partitions,
            pods,
            kernel,
            boot,
            from: Cursor {
                base: [0; 32],
                boot_id,
                entries: 0,
                checkpoint: 0,
                digest: [0; 32],
            },
            unsealed,
            in_flight,
            td: None,
        }
    }

    #[test]
    fn what_is_pending_survives_cbor_and_json_in_evidence_and_in_a_part() {
        for (unsealed, in_flight) in [(0, 0), (2, 0), (0, 3), (2, 3)] {
            let evidence = evidence(unsealed, in_flight);
            let bytes = evidence.to_cbor();
            assert_eq!(Evidence::from_cbor(&bytes).unwrap(), evidence);
            assert_eq!(
                Evidence::from_json(&evidence.to_json().unwrap()).unwrap(),
                evidence
            );
            let delta = delta(&evidence);
            assert_eq!(EvidenceDelta::from_cbor(&delta.to_cbor()).unwrap(), delta);
        }
    }

    #[test]
    fn evidence_without_anything_pending_has_the_bytes_that_it_had_before_there_were_marks() {
        // Ten fields and no boot; a delta has twelve.
        assert_eq!(evidence(0, 0).to_cbor()[0], 0xaa);
        assert_eq!(delta(&evidence(0, 0)).to_cbor()[0], 0x8c);
    }

    #[test]
    fn an_empty_list_that_is_written_out_is_refused() {
        let mut bytes = evidence(0, 0).to_cbor();
        bytes[0] = 0xab;
        for key in [11, 12] {
            let longer = [&bytes[..], &[key, 0x80]].concat();
            assert_eq!(
                Evidence::from_cbor(&longer),
                Err(crate::Error::NotDeterministic { what: "evidence" })
            );
        }
        let mut bytes = delta(&evidence(0, 0)).to_cbor();
        bytes[0] = 0x8d;
        bytes.push(0x80);
        assert_eq!(
            EvidenceDelta::from_cbor(&bytes),
            Err(crate::Error::NotDeterministic {
                what: "part of evidence"
            })
        );
    }

    #[test]
    fn more_marks_than_the_bound_are_refused_before_they_are_read() {
        let full = evidence(0, MAX_IN_FLIGHT);
        assert_eq!(Evidence::from_cbor(&full.to_cbor()).unwrap(), full);
        let over = evidence(0, MAX_IN_FLIGHT + 1);
        let error = Evidence::from_cbor(&over.to_cbor()).unwrap_err().to_string();
        assert!(error.contains("more marks than 65536"), "{error}");
        let error = Evidence::from_json(&over.to_json().unwrap())
            .unwrap_err()
            .to_string();
        assert!(error.contains("more marks than 65536"), "{error}");
        // The count is enough, whatever the items are.
        let mut bytes = evidence(0, 0).to_cbor();
        bytes[0] = 0xab;
        bytes.extend([12, 0x9a, 0, 1, 0, 1]);
        bytes.extend([0; MAX_IN_FLIGHT + 1]);
        let error = Evidence::from_cbor(&bytes).unwrap_err().to_string();
        assert!(error.contains("more marks than 65536"), "{error}");
    }

    #[test]
    fn a_mark_belongs_to_the_pod_of_its_cgroup_and_to_nobody_without_one() {
        let mut mark = mark(2);
        assert_eq!(mark.key(), PartitionKey::Unattributed);
        mark.cgroup = Some(b"/kubepods/pod11111111-2222-3333-4444-555555555555/c".to_vec());
        assert_eq!(mark.key().to_string(), "11111111-2222-3333-4444-555555555555");
        mark.cgroup = Some(b"/user.slice".to_vec());
        assert_eq!(mark.key(), PartitionKey::Host);
    }
}
