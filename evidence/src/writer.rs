//! The one writer of evidence and of what is new in it: field by field, while lists and records come from
//! elsewhere.
//!
//! Promises: the numbers of the fields, their order and what is left out where it is empty are written here
//! and nowhere else. Nothing that a caller streams is held. Not here: how the fields are read (the decoders
//! of [`Evidence`] and [`EvidenceDelta`], which take no other bytes than these), where streamed items come
//! from (see `store` of `cgpathd`).

use crate::{
    Boot, Cursor, Entry, Evidence, EvidenceDelta, InFlight, PartitionKey, PartitionLog, PodInfo, Quotes,
    TdEvidence, Tier,
};
use minicbor::encode::{Encode, Encoder, Error, Write};

/// All that is written in one piece, and how much is streamed where a count decides about a field.
#[derive(Debug, Clone, Copy)]
pub struct Envelope<'a> {
    /// As in [`Evidence::version`].
    pub version: u32,
    /// As in [`Evidence::tier`].
    pub tier: Tier,
    /// As in [`Evidence::node`].
    pub node: &'a str,
    /// As in [`Evidence::boot_id`].
    pub boot_id: &'a [u8; 16],
    /// As in [`Evidence::quote`].
    pub quote: &'a Quotes,
    /// As in [`Evidence::pods`].
    pub pods: &'a [PodInfo],
    /// As in [`Evidence::kernel`].
    pub kernel: &'a str,
    /// As in [`Evidence::boot`].
    pub boot: Option<&'a Boot>,
    /// What a delta comes after; with `None` whole evidence is written.
    pub from: Option<&'a Cursor>,
    /// How many partitions have unsealed records.
    pub unsealed: u64,
    /// As in [`Evidence::in_flight`].
    pub in_flight: &'a [InFlight],
    /// As in [`Evidence::td`].
    pub td: Option<&'a TdEvidence>,
}

/// Writes [`Evidence`] or an [`EvidenceDelta`].
///
/// [`EvidenceWriter::list`], [`EvidenceWriter::checkpoints`], [`EvidenceWriter::partitions`],
/// [`EvidenceWriter::unsealed`] and [`EvidenceWriter::end`] are called in this order, each once. Each but the
/// last gives the encoder, for as many items as were announced.
#[derive(Debug)]
pub struct EvidenceWriter<'e, 'a, W> {
    e: &'e mut Encoder<W>,
    envelope: Envelope<'a>,
    next: u8,
}

impl<'e, 'a, W: Write> EvidenceWriter<'e, 'a, W> {
    /// Nothing is written yet.
    pub fn new(e: &'e mut Encoder<W>, envelope: Envelope<'a>) -> Self {
        EvidenceWriter { e, envelope, next: 0 }
    }

    /// What comes before the list; `len` entries are to follow.
    ///
    /// # Errors
    /// The sink's.
    pub fn list(&mut self, len: u64) -> Result<&mut Encoder<W>, Error<W::Error>> {
        let envelope = self.envelope;
        let (unsealed, in_flight) = (envelope.unsealed > 0, !envelope.in_flight.is_empty());
        if envelope.from.is_none() {
            let present = [
                envelope.boot.is_some(),
                unsealed,
                in_flight,
                envelope.td.is_some(),
            ];
            self.e.map(10 + present.into_iter().map(u64::from).sum::<u64>())?;
        } else {
            // An array ends with its last field that is not empty.
            self.e.array(match (unsealed, in_flight, envelope.td.is_some()) {
                (_, _, true) => 15,
                (_, true, false) => 14,
                (true, false, false) => 13,
                (false, false, false) => 12,
            })?;
        }
        self.field(0)?.u32(envelope.version)?;
        self.field(1)?.encode(envelope.tier)?;
        self.field(2)?.str(envelope.node)?;
        self.field(3)?.bytes(envelope.boot_id)?;
        self.field(4)?.encode(envelope.quote)?;
        self.field(5)?.array(len)
    }

    /// `len` files of checkpoints are to follow, as byte strings.
    ///
    /// # Errors
    /// The sink's.
    pub fn checkpoints(&mut self, len: u64) -> Result<&mut Encoder<W>, Error<W::Error>> {
        self.field(6)?.array(len)
    }

    /// `len` partitions are to follow, each by [`log`] and its records.
    ///
    /// # Errors
    /// The sink's.
    pub fn partitions(&mut self, len: u64) -> Result<&mut Encoder<W>, Error<W::Error>> {
        self.field(7)?.array(len)
    }

    /// What comes before the unsealed records; [`Envelope::unsealed`] partitions are to follow.
    ///
    /// # Errors
    /// The sink's.
    pub fn unsealed(&mut self) -> Result<&mut Encoder<W>, Error<W::Error>> {
        let envelope = self.envelope;
        self.field(8)?.encode(envelope.pods)?;
        self.field(9)?.str(envelope.kernel)?;
        match (envelope.boot, envelope.from) {
            (None, None) => self.next += 1,
            (boot, _) => {
                self.field(10)?.encode(boot)?;
            }
        }
        if let Some(from) = envelope.from {
            self.field(11)?.encode(from)?;
        }
        let is_more = !envelope.in_flight.is_empty() || envelope.td.is_some();
        let is_place_kept = envelope.from.is_some() && is_more;
        if envelope.unsealed > 0 || is_place_kept {
            let number = self.next;
            self.field(number)?.array(envelope.unsealed)?;
        } else {
            self.next += 1;
        }
        Ok(self.e)
    }

    /// The marks and what belongs to a trust domain's quote, if there are any.
    ///
    /// # Errors
    /// The sink's.
    pub fn end(mut self) -> Result<(), Error<W::Error>> {
        let Envelope {
            in_flight: marks,
            td,
            from,
            ..
        } = self.envelope;
        let is_place_kept = from.is_some() && td.is_some();
        if marks.is_empty() && !is_place_kept {
            self.next += 1;
        } else {
            let number = self.next;
            self.field(number)?.encode(marks)?;
        }
        if let Some(td) = td {
            let number = self.next;
            self.field(number)?.encode(td)?;
        }
        Ok(())
    }

    /// The encoder where a field's value is to be written: in evidence behind its number, in a delta behind
    /// the field before.
    fn field(&mut self, number: u8) -> Result<&mut Encoder<W>, Error<W::Error>> {
        debug_assert_eq!(self.next, number, "fields are written in their order");
        self.next = number + 1;
        if self.envelope.from.is_none() {
            self.e.u8(number)?;
        }
        Ok(self.e)
    }
}

/// What comes before the records of a [`PartitionLog`], of which `len` are to follow.
///
/// # Errors
/// The sink's.
pub fn log<W: Write>(e: &mut Encoder<W>, key: &PartitionKey, len: u64) -> Result<(), Error<W::Error>> {
    e.map(2)?.u8(0)?.encode(key)?.u8(1)?.array(len)?.ok()
}

impl<C> Encode<C> for PartitionLog {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, ctx: &mut C) -> Result<(), Error<W::Error>> {
        log(e, &self.key, self.records.len() as u64)?;
        items(&self.records, e, ctx)
    }
}

impl<C> Encode<C> for Evidence {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, ctx: &mut C) -> Result<(), Error<W::Error>> {
        let envelope = Envelope {
            version: self.version,
            tier: self.tier,
            node: &self.node,
            boot_id: &self.boot_id,
            quote: &self.quote,
            pods: &self.pods,
            kernel: &self.kernel,
            boot: self.boot.as_ref(),
            from: None,
            unsealed: self.unsealed.len() as u64,
            in_flight: &self.in_flight,
            td: self.td.as_ref(),
        };
        let lists = Lists {
            list: &self.list,
            checkpoints: &self.checkpoints,
            partitions: &self.partitions,
            unsealed: &self.unsealed,
        };
        lists.encode(envelope, e, ctx)
    }
}

impl<C> Encode<C> for EvidenceDelta {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, ctx: &mut C) -> Result<(), Error<W::Error>> {
        let envelope = Envelope {
            version: self.version,
            tier: self.tier,
            node: &self.node,
            boot_id: &self.boot_id,
            quote: &self.quote,
            pods: &self.pods,
            kernel: &self.kernel,
            boot: self.boot.as_ref(),
            from: Some(&self.from),
            unsealed: self.unsealed.len() as u64,
            in_flight: &self.in_flight,
            td: self.td.as_ref(),
        };
        let lists = Lists {
            list: &self.list,
            checkpoints: &self.checkpoints,
            partitions: &self.partitions,
            unsealed: &self.unsealed,
        };
        lists.encode(envelope, e, ctx)
    }
}

/// What is streamed, where it is in memory.
struct Lists<'a> {
    list: &'a [Entry],
    checkpoints: &'a [Vec<u8>],
    partitions: &'a [PartitionLog],
    unsealed: &'a [PartitionLog],
}

impl Lists<'_> {
    fn encode<C, W: Write>(
        &self,
        envelope: Envelope<'_>,
        e: &mut Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), Error<W::Error>> {
        let mut out = EvidenceWriter::new(e, envelope);
        items(self.list, out.list(self.list.len() as u64)?, ctx)?;
        let e = out.checkpoints(self.checkpoints.len() as u64)?;
        for file in self.checkpoints {
            e.bytes(file)?;
        }
        items(
            self.partitions,
            out.partitions(self.partitions.len() as u64)?,
            ctx,
        )?;
        items(self.unsealed, out.unsealed()?, ctx)?;
        out.end()
    }
}

fn items<C, T: Encode<C>, W: Write>(
    items: &[T],
    e: &mut Encoder<W>,
    ctx: &mut C,
) -> Result<(), Error<W::Error>> {
    items.iter().try_for_each(|item| item.encode(e, ctx))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PodUid, Quote, Record, TdQuote, record::sample, wire};
    use minicbor::{Encode, bytes::ByteVec};

    /// A structure whose encoder `minicbor` derives from the numbers of the fields.
    macro_rules! derived {
        ($name:ident, $form:ident $(, $from:tt)?; $unsealed:tt, $in_flight:tt, $td:tt) => {
            #[derive(Encode)]
            #[cbor($form)]
            struct $name {
                #[n(0)]
                version: u32,
                #[n(1)]
                tier: Tier,
                #[n(2)]
                node: String,
                #[n(3)]
                boot_id: ByteVec,
                #[n(4)]
                quote: Quotes,
                #[n(5)]
                list: Vec<Entry>,
                #[n(6)]
                checkpoints: Vec<ByteVec>,
                #[n(7)]
                partitions: Vec<DerivedLog>,
                #[n(8)]
                pods: Vec<PodInfo>,
                #[n(9)]
                kernel: String,
                #[n(10)]
                boot: Option<Boot>,
                $(
                    #[n($from)]
                    from: Cursor,
                )?
                #[n($unsealed)]
                unsealed: Option<Vec<DerivedLog>>,
                #[n($in_flight)]
                in_flight: Option<Vec<InFlight>>,
                #[n($td)]
                td: Option<TdEvidence>,
            }
        };
    }

    derived!(DerivedEvidence, map; 11, 12, 13);
    derived!(DerivedDelta, array, 11; 12, 13, 14);

    #[derive(Encode)]
    #[cbor(map)]
    struct DerivedLog {
        #[n(0)]
        key: PartitionKey,
        #[n(1)]
        records: Vec<Record>,
    }

    fn derived(logs: &[PartitionLog]) -> Vec<DerivedLog> {
        let log = |log: &PartitionLog| DerivedLog {
            key: log.key,
            records: log.records.clone(),
        };
        logs.iter().map(log).collect()
    }

    fn logs(count: u8) -> Vec<PartitionLog> {
        let log = |n: u8| PartitionLog {
            key: PartitionKey::Pod(PodUid([n; 16])),
            records: (0..30 * u64::from(n))
                .map(|seq| sample(seq, "/user.slice", "/bin/true"))
                .collect(),
        };
        (0..count).map(log).collect()
    }

    #[test]
    fn what_is_written_has_the_bytes_that_an_encoder_derived_from_the_fields_numbers_gives() {
        let boot = Boot {
            registers: vec![],
            log: Some(vec![7; 300]),
            command_line: None,
        };
        let from = Cursor {
            base: [1; 32],
            boot_id: [5; 16],
            entries: 70_000,
            checkpoint: 24,
            digest: [2; 32],
        };
        let mark = InFlight {
            tid: 300,
            since_ns: 1 << 40,
            cgroup: None,
        };
        let td = TdEvidence {
            register_log: vec![1; 100],
            ccel: Some(vec![2; 70]),
            auxblob: None,
        };
        let quote = || Quote {
            attest: vec![1; 200],
            signature: vec![],
            ak: vec![3],
        };
        let td_quote = || TdQuote {
            provider: "tdx_guest".to_owned(),
            outblob: vec![4; 300],
            nonce: vec![7; 32],
            checkpoint: [8; 48],
            node_key: [5; 33],
            possession: [6; 64],
        };
        for (with_boot, unsealed, marks, with_td, with_tpm) in (0..32).map(|n| {
            let with_td = n & 8 != 0;
            (
                n & 1 != 0,
                if n & 2 != 0 { 2 } else { 0 },
                usize::from(n & 4 != 0),
                with_td,
                !with_td || n & 16 != 0,
            )
        }) {
            let evidence = Evidence {
                version: wire::VERSION,
                tier: Tier::Bpf,
                node: "worker-1".to_owned(),
                boot_id: [5; 16],
                quote: Quotes {
                    tpm: with_tpm.then(quote),
                    td: with_td.then(td_quote),
                },
                list: vec![Entry::Full(vec![9; 70]); 30],
                checkpoints: vec![vec![], vec![8; 300]],
                partitions: logs(3),
                pods: vec![PodInfo {
                    uid: PodUid([1; 16]),
                    namespace: "shop".to_owned(),
                    name: "till".to_owned(),
                }],
                kernel: "6.12".to_owned(),
                boot: with_boot.then(|| boot.clone()),
                unsealed: logs(unsealed),
                in_flight: vec![mark.clone(); marks],
                td: with_td.then(|| td.clone()),
            };
            let e = evidence.clone();
            let (files, marks) = (e.checkpoints.clone(), e.in_flight.clone());
            let expected = DerivedEvidence {
                version: e.version,
                tier: e.tier,
                node: e.node,
                boot_id: e.boot_id.to_vec().into(),
                quote: e.quote,
                list: e.list,
                checkpoints: files.into_iter().map(ByteVec::from).collect(),
                partitions: derived(&e.partitions),
                pods: e.pods,
                kernel: e.kernel,
                boot: e.boot,
                unsealed: Some(derived(&e.unsealed)).filter(|logs| !logs.is_empty()),
                in_flight: Some(marks).filter(|marks| !marks.is_empty()),
                td: e.td,
            };
            assert_eq!(evidence.to_cbor(), wire::to_vec(&expected));
            let e = expected;
            let expected = DerivedDelta {
                version: e.version,
                tier: e.tier,
                node: e.node,
                boot_id: e.boot_id,
                quote: e.quote,
                list: e.list,
                checkpoints: e.checkpoints,
                partitions: e.partitions,
                pods: e.pods,
                kernel: e.kernel,
                boot: e.boot,
                from: from.clone(),
                // An array keeps the place of an empty list before what is not.
                unsealed: (e.unsealed).or_else(|| (e.in_flight.is_some() || e.td.is_some()).then(Vec::new)),
                in_flight: e.in_flight.or_else(|| e.td.as_ref().map(|_| vec![])),
                td: e.td,
            };
            let e = evidence;
            let delta = EvidenceDelta {
                version: e.version,
                tier: e.tier,
                node: e.node,
                boot_id: e.boot_id,
                quote: e.quote,
                list: e.list,
                checkpoints: e.checkpoints,
                partitions: e.partitions,
                pods: e.pods,
                kernel: e.kernel,
                boot: e.boot,
                from: from.clone(),
                unsealed: e.unsealed,
                in_flight: e.in_flight,
                td: e.td,
            };
            assert_eq!(delta.to_cbor(), wire::to_vec(&expected));
        }
    }
}
