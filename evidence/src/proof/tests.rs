use super::*;
use crate::{PodUid, Record, partition::partitions_root, record::sample, wire};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn pod(n: u8) -> PartitionKey {
    PartitionKey::Pod(PodUid([n; 16]))
}

fn records(n: u64) -> Vec<Record> {
    (1..=n)
        .map(|seq| sample(seq, "/kubepods/x", &format!("/bin/{seq}")))
        .collect()
}

fn leaves(records: &[Record]) -> Vec<Hash> {
    records.iter().map(Record::leaf_hash).collect()
}

fn partition(key: PartitionKey, records: &[Record]) -> SealedPartition {
    SealedPartition {
        key,
        size: records.len() as u64,
        root: merkle::root(leaves(records)),
    }
}

fn tree(keys: impl IntoIterator<Item = PartitionKey>) -> PartitionTree {
    PartitionTree::new(
        keys.into_iter()
            .enumerate()
            .map(|(i, key)| partition(key, &records(i as u64 + 1))),
    )
}

fn is_refused(proof: &PartitionProof, key: PartitionKey, tree: &PartitionTree) -> bool {
    proof.check(key, &tree.sealed()).is_err()
}

#[test]
fn a_record_that_is_removed_from_a_partition_shows_though_the_proof_is_adjusted() {
    let all = records(9);
    let sealed = PartitionTree::new([
        partition(pod(1), &all),
        partition(PartitionKey::Host, &records(3)),
    ]);
    for gone in 0..all.len() {
        let mut fewer = all.clone();
        fewer.remove(gone);
        // The partition as it would have to be: consistent in itself, and not under the sealed root.
        let forged = PartitionTree::new([
            partition(pod(1), &fewer),
            partition(PartitionKey::Host, &records(3)),
        ]);
        let PartitionProof::Present(mut placed) = forged.prove(pod(1)) else {
            panic!()
        };
        assert_eq!(placed.partition.check_complete(leaves(&fewer)), Ok(()));
        assert!(is_refused(
            &PartitionProof::Present(placed.clone()),
            pod(1),
            &sealed
        ));
        // With the sealed size and root the records do not fit.
        placed.partition = partition(pod(1), &all);
        assert!(!is_refused(
            &PartitionProof::Present(placed.clone()),
            pod(1),
            &sealed
        ));
        assert!(matches!(
            placed.partition.check_complete(leaves(&fewer)),
            Err(ProofError::Records {
                found: 8,
                size: 9,
                ..
            })
        ));
        // Nor with either of the two alone.
        placed.partition.size -= 1;
        assert!(is_refused(&PartitionProof::Present(placed), pod(1), &sealed));
    }
}

#[test]
fn the_partition_of_another_pod_under_this_uid_is_refused() {
    let tree = tree([pod(1), pod(2), PartitionKey::Host]);
    let of_two = tree.prove(pod(2));
    assert_eq!(
        of_two.check(pod(1), &tree.sealed()),
        Err(ProofError::OtherPartition {
            found: pod(2),
            expected: pod(1)
        })
    );
    let PartitionProof::Present(mut placed) = of_two else {
        panic!()
    };
    placed.partition.key = pod(1);
    assert!(is_refused(&PartitionProof::Present(placed), pod(1), &tree));
}

#[test]
fn a_proof_for_a_tree_of_another_size_is_refused() {
    let keys: Vec<PartitionKey> = (1..=9).map(pod).collect();
    let all = tree(keys.clone());
    for n in 1..9 {
        let fewer = tree(keys[..n].iter().copied());
        for key in &keys {
            assert!(is_refused(&fewer.prove(*key), *key, &all), "{key} of {n}");
            assert!(is_refused(&all.prove(*key), *key, &fewer), "{key} for {n}");
        }
    }
    // The right tree with a size that the checkpoint does not state.
    for partitions in [0, 1, 7, 8, 10, 16, u64::MAX] {
        let other = SealedTree {
            partitions,
            ..all.sealed()
        };
        assert!(all.prove(pod(9)).check(pod(9), &other).is_err(), "{partitions}");
    }
}

#[test]
fn counts_that_overflow_are_refused() {
    let all = tree([pod(1), pod(2)]);
    let PartitionProof::Present(placed) = all.prove(pod(1)) else {
        panic!()
    };
    for (size, index) in [(0, 0), (u64::MAX, 0), (1, u64::MAX), (u64::MAX, u64::MAX)] {
        let partition = SealedPartition {
            size,
            ..placed.partition
        };
        let forged = Placed {
            partition,
            index,
            ..placed.clone()
        };
        assert!(is_refused(&PartitionProof::Present(forged.clone()), pod(1), &all));
        let absent = PartitionProof::Absent {
            before: Some(forged),
            after: None,
        };
        assert!(is_refused(&absent, pod(3), &all));
    }
    let grown = partition(pod(1), &records(3));
    let before = SealedPartition {
        size: u64::MAX,
        ..grown
    };
    assert!(grown.check_grown_from(&before, &Path::default()).is_err());
    // Beyond 64 bits: no CBOR integer holds it, and a float or a bignum is none.
    let mut bytes = wire::to_vec(&placed.partition);
    let at = bytes.windows(3).position(|w| w == [1, 1, 2]).unwrap();
    bytes.splice(at + 1..at + 2, [0xc2, 0x49, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert!(wire::from_slice::<SealedPartition>(&bytes, "partition", 1 << 20).is_err());
}

#[test]
fn an_absence_that_hides_a_partition_is_refused() {
    let keys = [pod(1), pod(3), pod(5), PartitionKey::Host];
    let all = tree(keys);
    let placed = |key| match all.prove(key) {
        PartitionProof::Present(placed) => Some(placed),
        PartitionProof::Absent { .. } => None,
    };
    let present: Vec<Option<Placed>> = keys.iter().map(|key| placed(*key)).chain([None]).collect();
    // Every pair of neighbours for a key that is there.
    for key in keys {
        for before in &present {
            for after in &present {
                let forged = PartitionProof::Absent {
                    before: before.clone(),
                    after: after.clone(),
                };
                assert!(is_refused(&forged, key, &all), "{key}");
            }
        }
    }
    // Of those for a key that is not, only the one pair.
    let mut accepted = 0;
    for before in &present {
        for after in &present {
            let proof = PartitionProof::Absent {
                before: before.clone(),
                after: after.clone(),
            };
            accepted += u32::from(!is_refused(&proof, pod(4), &all));
        }
    }
    assert_eq!(accepted, 1);
}

#[test]
fn what_never_held_a_record_is_absent_from_an_empty_tree_and_nothing_is_in_it() {
    let none = tree([]);
    let proof = none.prove(pod(1));
    assert_eq!(proof.check(pod(1), &none.sealed()), Ok(None));
    let lying = SealedTree {
        partitions: 0,
        root: [1; 32],
    };
    assert!(proof.check(pod(1), &lying).is_err());
    let PartitionProof::Present(placed) = tree([pod(1)]).prove(pod(1)) else {
        panic!()
    };
    assert!(is_refused(&PartitionProof::Present(placed), pod(1), &none));
}

#[test]
fn a_proof_in_another_form_than_the_deterministic_one_is_refused() {
    let bytes = wire::to_vec(&tree([pod(1), pod(2), pod(3)]).prove(pod(2)));
    let read = |bytes: &[u8]| wire::from_slice::<PartitionProof>(bytes, "proof", 1 << 20);
    assert!(read(&bytes).is_ok());
    for n in 0..bytes.len() {
        assert!(
            matches!(read(&bytes[..n]), Err(crate::Error::Incomplete { .. })),
            "{n}"
        );
    }
    // Index 1 with a longer argument.
    let at = bytes.windows(3).position(|w| w == [1, 1, 2]).unwrap();
    let mut longer = bytes.clone();
    longer.splice(at + 1..at + 2, [0x18, 1]);
    assert_eq!(
        read(&longer),
        Err(crate::Error::NotDeterministic { what: "proof" })
    );
}

proptest! {
    /// Against the tree that collectors seal: made from frontiers, by another function.
    #[test]
    fn every_key_is_proven_present_or_absent_under_the_root_that_is_sealed(
        sizes in proptest::collection::btree_map(0u8..24, 0u64..6, 0..20),
        asked in 0u8..24,
    ) {
        let logs: BTreeMap<u8, Vec<Record>> = sizes.iter().map(|(n, size)| (*n, records(*size))).collect();
        let frontiers: BTreeMap<PartitionKey, Frontier> = logs.iter().map(|(n, log)| {
            let mut frontier = Frontier::default();
            leaves(log).into_iter().for_each(|leaf| frontier.push(leaf));
            (pod(*n), frontier)
        }).collect();
        let tree = PartitionTree::new(logs.iter().map(|(n, log)| partition(pod(*n), log)));
        let sealed = SealedTree {
            partitions: sizes.values().filter(|size| **size > 0).count() as u64,
            root: partitions_root(&frontiers),
        };
        prop_assert_eq!(tree.sealed(), sealed);
        let proof = tree.prove(pod(asked));
        let found = proof.check(pod(asked), &sealed).unwrap();
        let log = logs.get(&asked).filter(|log| !log.is_empty());
        prop_assert_eq!(found, log.map(|log| partition(pod(asked), log)));
        let bytes = wire::to_vec(&proof);
        prop_assert_eq!(&wire::from_slice::<PartitionProof>(&bytes, "proof", 1 << 20).unwrap(), &proof);
        let json = serde_json::to_string(&proof).unwrap();
        prop_assert_eq!(serde_json::from_str::<PartitionProof>(&json).unwrap(), proof);
        if let (Some(found), Some(log)) = (found, log) {
            let hashes = leaves(log);
            for (i, leaf) in hashes.iter().enumerate() {
                let path = Path::inclusion(&hashes, i).unwrap();
                prop_assert_eq!(found.check_record(leaf, i as u64, &path), Ok(()));
            }
            for before in 0..=log.len() {
                let path = Path::consistency(&hashes, before).unwrap();
                let earlier = partition(pod(asked), &log[..before]);
                prop_assert_eq!(found.check_grown_from(&earlier, &path), Ok(()));
            }
        }
    }

    /// No changed byte of a proof proves anything else of the key.
    #[test]
    fn a_changed_byte_of_a_proof_proves_nothing_else(asked in 0u8..8, at in 0usize..4096, change in 1u8..) {
        let tree = tree((0..7).map(|n| pod(n * 2)));
        let proof = tree.prove(pod(asked));
        let mut bytes = wire::to_vec(&proof);
        let at = at % bytes.len();
        bytes[at] ^= change;
        if let Ok(other) = wire::from_slice::<PartitionProof>(&bytes, "proof", 1 << 20) {
            prop_assert!(other.check(pod(asked), &tree.sealed()).is_err());
        }
    }
}
