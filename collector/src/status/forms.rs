//! The status as lines for people, and as metrics for Prometheus.
//!
//! Promise: pure; both forms say everything that the daemon says. Untrusted text (a runtime's error, a
//! sink's) is escaped and cut. Not here: asking the daemon (see [`crate::control`]), the JSON form, which is
//! [`Status`] itself.

use super::{Budgets, PodUse, Status, Timing};
use cgpath_evidence::text::foreign;
use cgpath_evidence::{GuardMode, PodUid};
use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};
use prometheus_client::registry::Registry;
use std::fmt::{self, Write as _};
use std::sync::atomic::AtomicU64;

/// A mode of the guard in the configuration's word.
pub(crate) fn guard_mode(mode: GuardMode) -> &'static str {
    match mode {
        GuardMode::Off => "off",
        GuardMode::Record => "record",
        GuardMode::Deny => "deny",
    }
}

/// A line for each thing that the daemon says.
pub fn text(status: &Status) -> String {
    let mut rows: Vec<(&str, String)> = Vec::new();
    let checkpoint = match status.checkpoint {
        Some(number) => format!("{number}, the last one"),
        None => "none yet".to_owned(),
    };
    rows.push(("checkpoint", checkpoint));
    if let Some(first) = status.blind {
        let text = format!(
            "checkpoint {first} was sealed while the programs may have been off: this boot cannot be \
             attested any more; reboot"
        );
        rows.push(("BLIND", text));
    }
    rows.push((
        "list",
        format!("{} entries, {} bytes", status.list_len, status.list_bytes),
    ));
    for (name, timing) in [("seals", status.seals), ("quotes", status.quotes)] {
        let mean = timing.seconds / timing.count.max(1) as f64;
        rows.push((
            name,
            format!(
                "{}, {mean:.3} s each, the last {:.3} s",
                timing.count, timing.last_seconds
            ),
        ));
    }
    let pods = status.partitions.iter().filter(|(key, _)| is_pod(key));
    rows.push((
        "records",
        format!(
            "{} in {} partitions, {} of them pods; {} wait for their entry",
            status.records,
            status.partitions.len(),
            pods.count(),
            status.unjoined
        ),
    ));
    if status.predating > 0 {
        let what = "that ran before the programs were loaded: `predates collector` until they end";
        rows.push(("predating", format!("{} pods {what}", status.predating)));
    }
    rows.push(("lost", format!("{} records", status.lost)));
    if let Some(ring) = status.ring {
        rows.push(("ring", format!("{} of {} bytes used", ring.used, ring.size)));
    }
    if status.stalled {
        rows.push((
            "STALLED",
            "the disk takes no more records: make room in state_dir; they wait in the kernel's ring \
             meanwhile"
                .into(),
        ));
    }
    let on = |yes: bool| if yes { "on" } else { "off" };
    let p = status.protection;
    rows.push((
        "programs",
        format!(
            "guard {}, TPM {}, enforce {}, fail_closed {}; executions denied in {} cgroups",
            guard_mode(p.guard),
            guard_mode(p.tpm),
            on(p.enforce),
            on(p.fail_closed),
            status.denied
        ),
    ));
    if let Some(budgets) = &status.budgets {
        budget_rows(budgets, &mut rows);
    }
    for sink in &status.sinks {
        let mut text = format!(
            "{} ({}): {} delivered, {} waiting ({} bytes), {} dropped",
            foreign(&sink.name),
            foreign(&sink.kind),
            sink.delivered,
            sink.waiting,
            sink.waiting_bytes,
            sink.dropped
        );
        if sink.unnamed > 0 {
            let _ = write!(text, ", {} pods without a name yet", sink.unnamed);
        }
        if let Some(error) = &sink.error {
            let _ = write!(text, "; last error: {}", foreign(error));
        }
        rows.push(("sink", text));
    }
    if let Some(runtime) = &status.runtime {
        let mut text = format!("{}: {} pods", foreign(&runtime.socket), runtime.pods);
        match runtime.answered_ago {
            Some(seconds) => {
                let _ = write!(text, ", answered {seconds} s ago");
            }
            None => text.push_str(", has not answered yet"),
        }
        if runtime.unnamed > 0 {
            let _ = write!(text, ", {} pods and containers without a name", runtime.unnamed);
        }
        if runtime.labels_left_out > 0 {
            let _ = write!(
                text,
                ", {} sandboxes with too many or too long labels",
                runtime.labels_left_out
            );
        }
        if let Some(error) = &runtime.error {
            let _ = write!(text, "; last error: {}", foreign(error));
        }
        rows.push(("runtime", text));
    }
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let mut out = String::new();
    for (name, text) in rows {
        let _ = writeln!(out, "{name:width$}  {text}");
    }
    out
}

/// Whether a partition of this key is a pod's.
fn is_pod(partition: &str) -> bool {
    PodUid::parse(partition.as_bytes()).is_some()
}

/// A line for all budgets, and one for each pod that went beyond its own or used half of it.
fn budget_rows(budgets: &Budgets, rows: &mut Vec<(&str, String)>) {
    let mut all = format!(
        "{} pods, {} units at once and {} a second each; {} pods went beyond, {} events of theirs have no \
         record",
        budgets.pods, budgets.burst, budgets.per_second, budgets.beyond, budgets.refused
    );
    if budgets.entries != 0 {
        let _ = write!(
            all,
            "; {} pods have all of {} entries",
            budgets.full, budgets.entries
        );
    }
    rows.push(("budgets", all));
    let is_much = |used: u64, of: u32| of != 0 && used >= u64::from(of).div_ceil(2);
    let is_shown = |pod: &&PodUse| {
        pod.refused > 0 || is_much(pod.used, budgets.burst) || is_much(pod.entries, budgets.entries)
    };
    for pod in budgets.top.iter().filter(is_shown) {
        let mut text = format!(
            "{}: {} of {} units used, {} entries",
            pod.name(),
            pod.used,
            budgets.burst,
            pod.entries
        );
        if pod.refused > 0 {
            let _ = write!(
                text,
                "; {} refused ({} executions, {} mappings, {} denials, {} repeats), {} stated as lost",
                pod.refused, pod.executions, pod.mappings, pod.denials, pod.repeats, pod.lost
            );
        }
        rows.push(("budget", text));
    }
    let shown = budgets.top.iter().filter(|pod| pod.refused > 0).count() as u64;
    if budgets.beyond > shown {
        let more = format!("{} more pods went beyond theirs", budgets.beyond - shown);
        rows.push(("budget", more));
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Sink {
    sink: String,
    kind: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Partition {
    partition: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Pod {
    pod: String,
}

/// In place of a partition's key: all pods together.
const PODS: &str = "pods";

struct Metrics(Registry);

impl Metrics {
    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        let gauge: Gauge = Gauge::default();
        gauge.set(signed(value));
        self.0.register(name, help, gauge);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        let counter: Counter = Counter::default();
        counter.inc_by(value);
        self.0.register(name, help, counter);
    }

    fn timing(&mut self, name: &str, what: &str, timing: Timing) {
        self.counter(
            &format!("{name}s"),
            &format!("{what}, since the daemon started"),
            timing.count,
        );
        let seconds: Counter<f64, AtomicU64> = Counter::default();
        seconds.inc_by(timing.seconds);
        let help = format!("What these took together: {what}");
        self.0.register(format!("{name}_seconds"), help, seconds);
        let last: Gauge<f64, AtomicU64> = Gauge::default();
        last.set(timing.last_seconds);
        self.0
            .register(format!("{name}_last_seconds"), "What the last one took", last);
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Of the text that [`metrics`] gives.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// In the text format of OpenMetrics, names beginning with `cgpathd_`; without a status the daemon did not
/// answer.
///
/// # Errors
/// When the text cannot be written, which a `String` never refuses.
pub fn metrics(status: Option<&Status>) -> Result<String, fmt::Error> {
    let mut all = Metrics(Registry::with_prefix("cgpathd"));
    // A gauge: the node exporter refuses a text that has a type `info` as a whole.
    let build = Family::<Build, Gauge>::default();
    build
        .get_or_create(&Build {
            version: env!("CARGO_PKG_VERSION"),
        })
        .set(1);
    all.0
        .register("build_info", "1, with the version of this program", build);
    all.gauge("up", "Whether the daemon answers", u64::from(status.is_some()));
    if let Some(status) = status {
        known(&mut all, status);
    }
    let mut out = String::new();
    encode(&mut out, &all.0)?;
    Ok(out)
}

fn known(all: &mut Metrics, status: &Status) {
    if let Some(number) = status.checkpoint {
        all.gauge("checkpoint", "Number of the last checkpoint of this boot", number);
    }
    all.gauge(
        "blind",
        "Whether a checkpoint of this boot was sealed while the programs may have been off",
        u64::from(status.blind.is_some()),
    );
    all.gauge(
        "list_entries",
        "Entries of IMA's list that were read",
        status.list_len,
    );
    all.gauge(
        "list_bytes",
        "Their bytes, which the kernel keeps in memory",
        status.list_bytes,
    );
    all.timing("seal", "Checkpoints for a request", status.seals);
    all.timing("quote", "Quotes of the TPM", status.quotes);
    all.counter("records", "Records of this boot", status.records);
    all.gauge(
        "records_unjoined",
        "Records whose entry was not seen yet",
        status.unjoined,
    );
    all.counter("records_lost", "Records of this boot that were lost", status.lost);
    if let Some(ring) = status.ring {
        all.gauge(
            "ring_used_bytes",
            "Bytes of records that wait in the kernel's ring buffer",
            ring.used,
        );
        all.gauge("ring_size_bytes", "Bytes that the ring buffer holds", ring.size);
    }
    all.gauge(
        "stalled",
        "Whether the disk takes no more records",
        u64::from(status.stalled),
    );
    all.gauge(
        "denied_cgroups",
        "Cgroups in which executions are denied",
        u64::try_from(status.denied).unwrap_or(u64::MAX),
    );
    let partitions = Family::<Partition, Counter>::default();
    for (partition, records) in &status.partitions {
        // Each pod of the boot has one, and a series for each would stay until the next boot.
        let partition = if is_pod(partition) { PODS } else { partition }.to_owned();
        partitions
            .get_or_create(&Partition { partition })
            .inc_by(*records);
    }
    let help = "Records of this boot of the host, the boot, of nobody known, and of all pods together";
    all.0.register("partition_records", help, partitions);
    if let Some(found) = &status.budgets {
        budgets(all, found);
    }
    sinks(all, status);
    if let Some(runtime) = &status.runtime {
        all.gauge(
            "runtime_pods",
            "Pods that the container runtime named",
            runtime.pods,
        );
        all.gauge(
            "runtime_unnamed",
            "Pods and containers that are there and that the container runtime has not named",
            runtime.unnamed,
        );
        all.gauge(
            "runtime_labels_left_out",
            "Sandboxes of pods that are named without their labels, since these are too many or too long",
            runtime.labels_left_out,
        );
        all.gauge(
            "runtime_failing",
            "Whether the last question to the container runtime had no whole answer",
            u64::from(runtime.error.is_some()),
        );
    }
}

fn budgets(all: &mut Metrics, found: &Budgets) {
    all.gauge("budget_pods", "Pods with a budget of records", found.pods);
    all.gauge(
        "budget_pods_beyond",
        "Pods that went beyond their budget",
        found.beyond,
    );
    all.gauge(
        "budget_pods_full",
        "Pods with as many entries of IMA's list as they may have",
        found.full,
    );
    all.gauge(
        "budget_refused",
        "Events of pods that are there for which there is no record, since these went beyond their budgets",
        found.refused,
    );
    type Gauges = Family<Pod, Gauge>;
    let (used, refused) = (Gauges::default(), Gauges::default());
    let (lost, entries) = (Gauges::default(), Gauges::default());
    for pod in &found.top {
        let label = Pod { pod: pod.name() };
        used.get_or_create(&label).set(signed(pod.used));
        refused.get_or_create(&label).set(signed(pod.refused));
        lost.get_or_create(&label).set(signed(pod.lost));
        entries.get_or_create(&label).set(signed(pod.entries));
    }
    for (name, help, family) in [
        (
            "pod_budget_used",
            "Units of the pod's budget that are used up",
            used,
        ),
        (
            "pod_budget_refused",
            "Events of the pod without a record",
            refused,
        ),
        ("pod_budget_lost", "Those of them that a record states", lost),
        ("pod_list_entries", "Entries of IMA's list of the pod", entries),
    ] {
        all.0.register(name, help, family);
    }
}

fn sinks(all: &mut Metrics, status: &Status) {
    type Gauges = Family<Sink, Gauge>;
    type Counters = Family<Sink, Counter>;
    let (waiting, bytes, failing, unnamed) = (
        Gauges::default(),
        Gauges::default(),
        Gauges::default(),
        Gauges::default(),
    );
    let (delivered, dropped) = (Counters::default(), Counters::default());
    for sink in &status.sinks {
        let label = Sink {
            sink: sink.name.clone(),
            kind: sink.kind.clone(),
        };
        waiting.get_or_create(&label).set(signed(sink.waiting));
        bytes.get_or_create(&label).set(signed(sink.waiting_bytes));
        failing.get_or_create(&label).set(i64::from(sink.error.is_some()));
        unnamed.get_or_create(&label).set(signed(sink.unnamed));
        delivered.get_or_create(&label).inc_by(sink.delivered);
        dropped.get_or_create(&label).inc_by(sink.dropped);
    }
    all.0.register("sink_waiting", "Messages that wait", waiting);
    all.0.register("sink_waiting_bytes", "Bytes that wait", bytes);
    all.0
        .register("sink_failing", "Whether the last try failed", failing);
    all.0.register(
        "sink_unnamed_pods",
        "Pods that the last round left out for want of a name",
        unnamed,
    );
    all.0
        .register("sink_delivered", "Messages that were delivered", delivered);
    all.0
        .register("sink_dropped", "Rounds that were dropped", dropped);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::RuntimeStatus;
    use crate::status::SinkStatus;

    fn pod_use(cgroup: u64, used: u64) -> PodUse {
        PodUse {
            pod: None,
            cgroup,
            used,
            refused: 0,
            executions: 0,
            mappings: 0,
            denials: 0,
            repeats: 0,
            lost: 0,
            entries: 4,
        }
    }

    fn status() -> Status {
        Status {
            checkpoint: Some(7),
            blind: None,
            list_len: 85,
            list_bytes: 9_001,
            seals: Timing {
                count: 4,
                seconds: 2.0,
                last_seconds: 0.25,
            },
            quotes: Timing {
                count: 2,
                seconds: 3.0,
                last_seconds: 1.75,
            },
            records: 92,
            unjoined: 1,
            lost: 3,
            ring: Some(crate::bpf::RingFill {
                used: 4_096,
                size: 65_536,
            }),
            stalled: false,
            predating: 2,
            protection: cgpath_evidence::Protection {
                guard: GuardMode::Deny,
                tpm: GuardMode::Record,
                enforce: true,
                fail_closed: false,
            },
            denied: 2,
            budgets: Some(Budgets {
                burst: 100,
                per_second: 5,
                entries: 1000,
                pods: 40,
                beyond: 3,
                full: 1,
                refused: 700,
                top: vec![
                    PodUse {
                        pod: Some("11111111-0000-4000-8000-000000000001".into()),
                        cgroup: 71,
                        used: 99,
                        refused: 600,
                        executions: 10,
                        mappings: 90,
                        denials: 200,
                        repeats: 300,
                        lost: 512,
                        entries: 1000,
                    },
                    pod_use(72, 50),
                    pod_use(73, 49),
                ],
            }),
            partitions: vec![
                ("host".into(), 80),
                ("11111111-0000-4000-8000-000000000001".into(), 12),
            ],
            sinks: vec![SinkStatus {
                name: "audit".into(),
                kind: "file".into(),
                waiting: 4,
                waiting_bytes: 5,
                delivered: 6,
                dropped: 8,
                error: Some("no\nroute \u{1b}[31m".into()),
                unnamed: 9,
            }],
            runtime: Some(RuntimeStatus {
                socket: "/run/containerd/containerd.sock".into(),
                pods: 10,
                answered_ago: Some(11),
                unnamed: 12,
                labels_left_out: 13,
                error: None,
            }),
        }
    }

    #[test]
    fn people_read_every_figure_and_no_line_is_broken_by_what_others_sent() {
        let text = text(&status());
        for part in [
            "7, the last one",
            "85 entries, 9001 bytes",
            "4, 0.500 s each, the last 0.250 s",
            "2, 1.500 s each, the last 1.750 s",
            "92 in 2 partitions, 1 of them pods; 1 wait for their entry",
            "3 records",
            "4096 of 65536 bytes used",
            "guard deny, TPM record, enforce on, fail_closed off; executions denied in 2 cgroups",
            "40 pods, 100 units at once and 5 a second each; 3 pods went beyond, 700 events of theirs have \
             no record; 1 pods have all of 1000 entries",
            "11111111-0000-4000-8000-000000000001: 99 of 100 units used, 1000 entries; 600 refused (10 \
             executions, 90 mappings, 200 denials, 300 repeats), 512 stated as lost",
            "cgroup 72: 50 of 100 units used, 4 entries\n",
            "2 more pods went beyond theirs",
            "audit (file): 6 delivered, 4 waiting (5 bytes), 8 dropped, 9 pods without a name yet",
            "predating   2 pods that ran before",
            "10 pods, answered 11 s ago, 12 pods and containers without a name, 13 sandboxes with too many \
             or too long labels",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("BLIND") && !text.contains("STALLED") && !text.contains('\u{1b}'));
        assert!(!text.contains("cgroup 73"), "{text}");
        assert_eq!(text.lines().count(), 15, "{text}");
    }

    #[test]
    fn what_ends_a_boots_attestation_stands_out() {
        let text = text(&Status {
            blind: Some(2),
            stalled: true,
            ..status()
        });
        assert!(text.contains("BLIND") && text.contains("checkpoint 2") && text.contains("reboot"));
        assert!(text.contains("STALLED"));
    }

    #[test]
    fn the_node_exporter_takes_the_text() {
        let text = metrics(Some(&status())).unwrap();
        // Source: Prometheus' text format 0.0.4, which the textfile collector reads.
        let known = ["counter", "gauge", "histogram", "summary", "untyped"];
        let types: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .collect();
        assert!(types.len() > 20, "{text}");
        for line in types {
            let (name, kind) = line.split_once(' ').unwrap();
            assert!(known.contains(&kind), "{name} is of type {kind}");
        }
        let version = env!("CARGO_PKG_VERSION");
        let build = format!("cgpathd_build_info{{version=\"{version}\"}} 1");
        assert!(text.lines().any(|line| line == build), "{text}");
    }

    #[test]
    fn as_many_pods_as_a_boot_may_have_are_one_series_of_records() {
        let uid = |n: u64| format!("11111111-0000-4000-8000-{n:012}");
        let mut many = status();
        many.partitions = ["boot", "host", "unattributed"]
            .map(|key| (key.to_owned(), 5))
            .into();
        many.partitions.extend((0..1000).map(|n| (uid(n), n)));
        let text = metrics(Some(&many)).unwrap();
        let mut series: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("cgpathd_partition_records_total"))
            .collect();
        series.sort_unstable();
        assert_eq!(
            series,
            [
                "{partition=\"boot\"} 5",
                "{partition=\"host\"} 5",
                "{partition=\"pods\"} 499500",
                "{partition=\"unattributed\"} 5",
            ]
        );
    }

    #[test]
    fn prometheus_gets_every_figure_and_a_daemon_that_is_down_is_seen() {
        let up = metrics(Some(&status())).unwrap();
        for sample in [
            "cgpathd_up 1",
            "cgpathd_checkpoint 7",
            "cgpathd_blind 0",
            "cgpathd_list_entries 85",
            "cgpathd_list_bytes 9001",
            "cgpathd_seals_total 4",
            "cgpathd_seal_seconds_total 2.0",
            "cgpathd_seal_last_seconds 0.25",
            "cgpathd_quotes_total 2",
            "cgpathd_quote_seconds_total 3.0",
            "cgpathd_quote_last_seconds 1.75",
            "cgpathd_records_total 92",
            "cgpathd_records_unjoined 1",
            "cgpathd_records_lost_total 3",
            "cgpathd_ring_used_bytes 4096",
            "cgpathd_ring_size_bytes 65536",
            "cgpathd_stalled 0",
            "cgpathd_denied_cgroups 2",
            "cgpathd_partition_records_total{partition=\"host\"} 80",
            "cgpathd_partition_records_total{partition=\"pods\"} 12",
            "cgpathd_budget_pods 40",
            "cgpathd_budget_pods_full 1",
            "cgpathd_pod_list_entries{pod=\"cgroup 72\"} 4",
            "cgpathd_budget_pods_beyond 3",
            "cgpathd_budget_refused 700",
            "cgpathd_pod_budget_used{pod=\"cgroup 73\"} 49",
            "cgpathd_pod_budget_refused{pod=\"11111111-0000-4000-8000-000000000001\"} 600",
            "cgpathd_pod_budget_lost{pod=\"11111111-0000-4000-8000-000000000001\"} 512",
            "cgpathd_sink_waiting{sink=\"audit\",kind=\"file\"} 4",
            "cgpathd_sink_waiting_bytes{sink=\"audit\",kind=\"file\"} 5",
            "cgpathd_sink_delivered_total{sink=\"audit\",kind=\"file\"} 6",
            "cgpathd_sink_dropped_total{sink=\"audit\",kind=\"file\"} 8",
            "cgpathd_sink_failing{sink=\"audit\",kind=\"file\"} 1",
            "cgpathd_sink_unnamed_pods{sink=\"audit\",kind=\"file\"} 9",
            "cgpathd_runtime_pods 10",
            "cgpathd_runtime_unnamed 12",
            "cgpathd_runtime_labels_left_out 13",
            "cgpathd_runtime_failing 0",
        ] {
            assert!(up.lines().any(|line| line == sample), "{sample}: {up}");
        }
        assert_eq!(
            cgpath_testkit::monitoring::not_served("cgpathd_", &up),
            Vec::<String>::new(),
            "named in deploy/prometheus or deploy/grafana"
        );
        let down = metrics(None).unwrap();
        assert!(down.lines().any(|line| line == "cgpathd_up 0"));
        assert!(!down.contains("cgpathd_records"));
    }
}
