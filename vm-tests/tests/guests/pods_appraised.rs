//! The demo's five pods, as a test: real pods of containerd on the oldest supported kernel and on the demo's
//! own.

use vm_tests::Stock;
use vm_tests::demo::{self, DemoOptions};
use vm_tests::pods::Runtime;

fn five_pods(stock: Stock) {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("demo");
    let options = DemoOptions {
        patched: None,
        stock,
        runtime: Runtime::Containerd,
        out,
        keep: false,
        quiet: false,
        // What firmware measured is judged on 6.12, and cannot be on 6.1.
        restored: stock == Stock::V6_1,
        domain: None,
    };
    appraised(&options);
}

/// That the demo is as it must be, stage by stage.
pub(crate) fn appraised(options: &DemoOptions) {
    let outcome = demo::run(options).unwrap();
    println!(
        "{}TIME five pods on {}: {:.1} s",
        demo::table(&outcome),
        options.stock,
        outcome.seconds
    );
    let failed: Vec<_> = outcome
        .stages
        .iter()
        .flat_map(|s| &s.checks)
        .filter(|check| !check.ok)
        .collect();
    assert!(outcome.ok, "{failed:#?}");
    let report = std::fs::read_to_string(&outcome.report).unwrap();
    for pod in demo::PODS {
        assert!(
            report.contains(&demo::uid(pod)),
            "the report does not name pod {pod}"
        );
    }
}

#[test]
fn five_pods_are_appraised_by_name_on_6_12() {
    five_pods(Stock::V6_12);
}

#[test]
fn five_pods_are_appraised_by_name_on_6_1() {
    five_pods(Stock::V6_1);
}
