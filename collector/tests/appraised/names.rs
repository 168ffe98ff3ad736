//! Selectors by names, with a container runtime that reports what the test wants.

use super::node::{Engine, PATIENCE, config, files, sink, until};
use bytes::Bytes;
use cgpath_evidence::{Evidence, Named, PodUid, TenantBundle};
use cgpath_testkit::pod;
use cgpathd::config::{Sink, SinkKind};
use cgpathd::deliver::sink::Sinks;
use cgpathd::pipeline::{Stated, Unnamed};
use cgpathd::runtime::{Line, Names, ask};
use hyper::http::{HeaderMap, Response};
use prost::Message;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::UnixListener;
use tokio::sync::watch;

/// More fields than the collector reads. Source: k8s.io/cri-api/pkg/apis/runtime/v1/api.proto.
#[derive(Clone, PartialEq, Message)]
struct Answer {
    #[prost(message, repeated, tag = "1")]
    items: Vec<Sandbox>,
}

#[derive(Clone, PartialEq, Message)]
struct Sandbox {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    metadata: Option<Metadata>,
    #[prost(int32, tag = "3")]
    state: i32,
    #[prost(int64, tag = "4")]
    created_at: i64,
    #[prost(map = "string, string", tag = "5")]
    labels: HashMap<String, String>,
    #[prost(map = "string, string", tag = "6")]
    annotations: HashMap<String, String>,
    #[prost(string, tag = "7")]
    runtime_handler: String,
}

#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
    #[prost(uint32, tag = "4")]
    attempt: u32,
}

fn sandbox(uid: PodUid, namespace: &str, app: &str) -> Sandbox {
    let labels = [("app", app), ("io.kubernetes.pod.uid", "whatever")];
    Sandbox {
        id: "d0".repeat(32),
        metadata: Some(Metadata {
            name: format!("pod-{}", uid.0[0]),
            uid: uid.to_string(),
            namespace: namespace.to_owned(),
            attempt: 3,
        }),
        state: 0,
        created_at: 1_700_000_000_000_000_000,
        labels: labels
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        annotations: [("a".to_owned(), "b".to_owned())].into(),
        runtime_handler: "runc".to_owned(),
    }
}

/// Source: as above.
#[derive(Clone, PartialEq, Message)]
struct Container {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    pod_sandbox_id: String,
    #[prost(message, optional, tag = "3")]
    metadata: Option<Attempt>,
    #[prost(message, optional, tag = "4")]
    image: Option<Image>,
    #[prost(string, tag = "5")]
    image_ref: String,
    #[prost(int32, tag = "6")]
    state: i32,
    #[prost(map = "string, string", tag = "9")]
    annotations: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct Attempt {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint32, tag = "2")]
    attempt: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(string, tag = "1")]
    image: String,
}

#[derive(Clone, PartialEq, Message)]
struct Containers {
    #[prost(message, repeated, tag = "1")]
    containers: Vec<Container>,
}

#[derive(Clone, PartialEq, Message)]
struct Question {
    #[prost(string, tag = "1")]
    container_id: String,
}

#[derive(Clone, PartialEq, Message)]
struct StatusAnswer {
    #[prost(message, optional, tag = "1")]
    status: Option<Status>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "9")]
    image_ref: String,
}

fn container(id: &str, sandbox: &str, name: &str) -> Container {
    Container {
        id: id.repeat(32),
        pod_sandbox_id: sandbox.repeat(32),
        metadata: Some(Attempt {
            name: name.to_owned(),
            attempt: 1,
        }),
        image: Some(Image {
            image: "registry.example/shop/web:7".to_owned(),
        }),
        image_ref: format!("sha256:{}", "0c".repeat(32)),
        state: 1,
        annotations: [("a".to_owned(), "b".to_owned())].into(),
    }
}

/// What a runtime says.
#[derive(Default)]
struct Says {
    sandboxes: Vec<u8>,
    containers: Vec<u8>,
    /// References of containers; of one that is not here the status is never answered.
    references: HashMap<String, String>,
}

type Said = Arc<Mutex<Says>>;

fn lists(said: &Said, items: Vec<Sandbox>) {
    said.lock().unwrap().sandboxes = Answer { items }.encode_to_vec();
}

/// The answer to a question; none where it hangs.
async fn answer(said: Said, request: hyper::http::Request<h2::RecvStream>) -> Option<Vec<u8>> {
    let method = request.uri().path().strip_prefix("/runtime.v1.RuntimeService/");
    match method.unwrap() {
        "ListPodSandbox" => Some(said.lock().unwrap().sandboxes.clone()),
        "ListContainers" => Some(said.lock().unwrap().containers.clone()),
        "ContainerStatus" => {
            let asked = request.into_body().data().await.unwrap().unwrap();
            // Behind the head of a message: whether it is compressed, and its length.
            let id = Question::decode(&asked[5..]).unwrap().container_id;
            let image_ref = said.lock().unwrap().references.get(&id)?.clone();
            let status = Some(Status { id, image_ref });
            Some(StatusAnswer { status }.encode_to_vec())
        }
        other => panic!("the runtime is asked for {other}"),
    }
}

/// A runtime that answers with these bytes.
fn runtime(socket: &Path, said: Said) {
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let said = Arc::clone(&said);
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else {
                    return;
                };
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let said = Arc::clone(&said);
                    tokio::spawn(async move {
                        let Some(message) = answer(said, request).await else {
                            return std::future::pending().await;
                        };
                        let mut body = vec![0];
                        body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
                        body.extend(message);
                        let head = Response::builder()
                            .header("content-type", "application/grpc")
                            .body(())
                            .unwrap();
                        // The one that asked may have gone.
                        let Ok(mut stream) = respond.send_response(head, false) else {
                            return;
                        };
                        let mut trailers = HeaderMap::new();
                        trailers.insert("grpc-status", "0".parse().unwrap());
                        let _ = stream
                            .send_data(Bytes::from(body), false)
                            .and_then(|()| stream.send_trailers(trailers));
                    });
                }
            });
        }
    });
}

/// A line whose other end is gone: for those who want no records.
fn no_line() -> Line {
    Line::new(1).0
}

fn labelled(name: &str, dir: &Path, app: &str) -> Sink {
    Sink {
        labels: [("app".to_owned(), app.to_owned())].into(),
        ..sink(name, SinkKind::File, dir.join(name).to_str().unwrap())
    }
}

const SOON: Duration = Duration::from_millis(100);

/// Waits until `done`.
#[track_caller]
fn come(done: impl Fn() -> bool) -> impl Future<Output = ()> {
    let (asked, started) = (std::panic::Location::caller(), Instant::now());
    async move {
        while !done() {
            assert!(
                started.elapsed() < PATIENCE,
                "what {asked} waits for does not come"
            );
            tokio::time::sleep(SOON).await;
        }
    }
}

#[tokio::test]
async fn a_runtime_that_lies_of_a_label_moves_a_pod_to_another_sink_and_changes_no_verdict() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let by_namespace = Sink {
        namespaces: vec!["shop".to_owned()],
        ..sink("shop", SinkKind::File, at("shop").to_str().unwrap())
    };
    let both = Sink {
        namespaces: vec!["bank".to_owned()],
        ..labelled("both", dir.path(), "till")
    };
    let elsewhere = Sink {
        nodes: vec!["db-*".to_owned()],
        ..sink("elsewhere", SinkKind::File, at("elsewhere").to_str().unwrap())
    };
    let whole = Sink {
        nodes: vec!["work*".to_owned()],
        whole_every: 1,
        ..sink("whole", SinkKind::File, at("whole").to_str().unwrap())
    };
    let sinks = vec![
        labelled("tills", dir.path(), "till"),
        labelled("books", dir.path(), "book"),
        by_namespace,
        both,
        elsewhere,
        whole,
    ];
    let config = config(dir.path(), sinks);
    let said = Said::default();
    lists(
        &said,
        vec![
            sandbox(pod(1), "shop", "till"),
            sandbox(pod(2), "shop", "book"),
            sandbox(pod(3), "bank", "till"),
        ],
    );
    runtime(config.runtimes.cri_socket().unwrap(), Arc::clone(&said));
    let names = Names::default();
    let (_stop, stopped) = watch::channel(false);
    tokio::spawn(ask(
        config.runtimes.cri_socket().unwrap().to_owned(),
        SOON,
        names.clone(),
        no_line(),
        stopped.clone(),
    ));
    come(|| names.of(pod(3)).is_some()).await;
    let engine = Engine::new(&names);
    let sinks = Sinks::open(&config, "worker-1", &names).unwrap();
    sinks.start("worker-1", &engine, &stopped);
    let status = until(&sinks, |all| all[..4].iter().all(|s| s.delivered > 1)).await;
    assert_eq!(
        status.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(),
        ["tills", "books", "shop", "both", "whole"]
    );
    // Nobody named pod 4: sinks that select by names are not sent it, and their status says so.
    assert_eq!(
        status.iter().map(|s| s.unnamed).collect::<Vec<_>>(),
        [1, 1, 1, 1, 0]
    );
    let pods = |name: &str| -> std::collections::BTreeSet<String> {
        files(&at(name)).iter().map(super::node::Arrived::pod).collect()
    };
    let of = |n: &[u8]| n.iter().map(|n| pod(*n).to_string()).collect();
    assert_eq!(pods("tills"), of(&[1, 3]));
    assert_eq!(pods("books"), of(&[2]));
    assert_eq!(pods("shop"), of(&[1, 2]));
    assert_eq!(pods("both"), of(&[3]));
    for bundle in files(&at("tills")) {
        let bundle = TenantBundle::from_cbor(&bundle.payload).unwrap();
        assert!([pod(1), pod(3)].contains(&bundle.pod));
    }

    // Pod 3 calls itself something else from now on, and so does its namespace.
    lists(&said, vec![sandbox(pod(3), "shop", "book")]);
    come(|| names.of(pod(3)).unwrap().namespace == "shop").await;
    // Rounds that wait, and one that is being made, may still go by the old names; none after them does.
    let old: Vec<u64> = sinks.status().iter().map(|s| s.delivered + s.waiting).collect();
    until(&sinks, |all| all[4].delivered > old[4] + 3).await;
    come(|| pods("books") == of(&[2, 3]) && pods("shop") == of(&[1, 2, 3])).await;
    assert!(sinks.status()[3].delivered <= old[3] + 1);
    assert!(!at("elsewhere").exists());

    // The reported names stand beside the verdict and are no part of it.
    let all = files(&at("whole"));
    let spaces: std::collections::BTreeSet<String> = all
        .iter()
        .map(|arrived| {
            let mut evidence = Evidence::from_cbor(&arrived.payload).unwrap();
            let mut appraised = engine.verdict(&evidence, &arrived.nonce());
            assert!(appraised.trusted, "{appraised}");
            let said = appraised.pods[2].told.take().unwrap();
            evidence.pods.clear();
            let mut unnamed = engine.verdict(&evidence, &arrived.nonce());
            for pod in unnamed.pods.iter_mut().chain(&mut appraised.pods) {
                pod.told = None;
            }
            assert_eq!(appraised, unnamed);
            said
        })
        .collect();
    assert_eq!(spaces, ["bank/pod-3", "shop/pod-3"].map(String::from).into());
}

#[tokio::test]
async fn a_runtime_that_is_silent_talks_too_much_or_is_gone_holds_up_no_round_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let plain = sink(
        "plain",
        SinkKind::File,
        dir.path().join("plain").to_str().unwrap(),
    );
    let config = config(dir.path(), vec![plain, labelled("tills", dir.path(), "till")]);
    let socket = config.runtimes.cri_socket().unwrap().to_owned();
    // It takes connections and says nothing.
    let silent = UnixListener::bind(&socket).unwrap();
    let names = Names::default();
    let (_stop, stopped) = watch::channel(false);
    tokio::spawn(ask(
        socket.clone(),
        SOON,
        names.clone(),
        no_line(),
        stopped.clone(),
    ));
    let sinks = Sinks::open(&config, "n", &names).unwrap();
    sinks.start("n", &Engine::new(&names), &stopped);
    let status = until(&sinks, |all| all[0].delivered >= 3).await;
    assert_eq!((status[1].delivered, status[1].unnamed), (0, 4), "{status:#?}");
    let error = |part: &'static str| {
        let names = names.clone();
        async move {
            come(|| {
                names
                    .status()
                    .unwrap()
                    .error
                    .is_some_and(|error| error.contains(part))
            })
            .await;
        }
    };
    error("no answer within").await;
    drop(silent);
    std::fs::remove_file(&socket).unwrap();
    error("No such file").await;

    let said = Said::default();
    lists(&said, vec![sandbox(pod(1), "shop", "till")]);
    runtime(&socket, Arc::clone(&said));
    until(&sinks, |all| all[1].delivered > 0).await;
    for (bytes, why) in [
        (
            Answer {
                items: vec![sandbox(pod(1), "shop", "till"); 5000],
            }
            .encode_to_vec(),
            "at most 4096",
        ),
        (
            Answer {
                items: vec![sandbox(pod(1), &"x".repeat(600_000), "till")],
            }
            .encode_to_vec(),
            "a name is passed over",
        ),
        (vec![0x0a; 17 << 20], "OutOfRange"),
        (vec![0x0a, 3, 0x12, 9, 9], "pod 0 of the answer"),
    ] {
        said.lock().unwrap().sandboxes = bytes;
        error(why).await;
        assert!(names.of(pod(1)).is_some(), "what was told before stands");
    }
    let delivered = sinks.status()[1].delivered;
    until(&sinks, |all| all[1].delivered > delivered).await;
}

/// The next answer in which these pods are.
async fn heard(end: &mut tokio::sync::mpsc::Receiver<Vec<Stated>>, pods: &[u8]) -> Vec<Stated> {
    let all_said = |said: &[Stated]| {
        pods.iter()
            .all(|n| said.iter().any(|stated| stated.uid == pod(*n)))
    };
    loop {
        let said = tokio::time::timeout(PATIENCE, end.recv()).await;
        let said = said.expect("the runtime is not asked").unwrap();
        if all_said(&said) {
            return said;
        }
    }
}

#[tokio::test]
async fn who_is_new_is_asked_for_at_once_and_a_container_of_which_the_status_hangs_is_named_by_the_list() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("cri.sock");
    let said = Said::default();
    let of = |n: u8, sandbox: &str| Sandbox {
        id: sandbox.repeat(32),
        ..self::sandbox(pod(n), "shop", "till")
    };
    // Somebody wrote an annotation that is too long for labels to be read beside it.
    let mut annotated = of(9, "d9");
    annotated.annotations = [("a".to_owned(), "b".repeat(600_000))].into();
    lists(&said, vec![annotated.clone(), of(1, "d1")]);
    let containers = vec![container("c1", "d1", "hangs"), container("c2", "d1", "web")];
    let index = format!("registry.example/shop/web@sha256:{}", "01".repeat(32));
    {
        let mut says = said.lock().unwrap();
        says.containers = Containers { containers }.encode_to_vec();
        says.references = [("c2".repeat(32), index.clone())].into();
    }
    runtime(&socket, Arc::clone(&said));
    let names = Names::default();
    let (_stop, stopped) = watch::channel(false);
    let (line, mut end) = Line::new(4);
    // Never of itself.
    let every = Duration::from_secs(100_000);
    tokio::spawn(ask(socket, every, names.clone(), line.clone(), stopped));

    let (long, stated): (Vec<Stated>, Vec<Stated>) = heard(&mut end, &[1, 9])
        .await
        .into_iter()
        .partition(|one| one.uid == pod(9));
    let of_pod = long.iter().find_map(|one| match &one.named {
        Named::Pod(name) => Some((name.labels_left_out, name.name.as_str())),
        Named::Container(_) => None,
    });
    assert_eq!(of_pod, Some((true, "pod-9")));
    let config = format!("sha256:{}", "0c".repeat(32));
    let references: HashMap<&str, &[String]> = stated
        .iter()
        .filter_map(|one| match &one.named {
            Named::Container(container) => Some((container.name.as_str(), &container.references[..])),
            Named::Pod(_) => None,
        })
        .collect();
    assert_eq!(references["hangs"], std::slice::from_ref(&config));
    assert_eq!(references["web"], [config, index]);
    assert_eq!((references[""].len(), references.len()), (0, 3));
    assert!(stated.iter().all(|one| one.boot_ns > 0 && one.uid == pod(1)));
    let status = names.status().unwrap();
    // Who wrote it makes no failure of the runtime.
    assert_eq!((status.labels_left_out, status.error), (1, None));

    // The kernel shows a directory that has no name.
    lists(&said, vec![annotated.clone(), of(1, "d1"), of(2, "d2")]);
    line.wants(Unnamed { seen: 1, left: 1 });
    heard(&mut end, &[1, 2]).await;
    // It has none yet, and is asked for until it has.
    lists(&said, vec![of(1, "d1"), of(2, "d2"), of(3, "d3")]);
    heard(&mut end, &[1, 2, 3]).await;
    come(|| names.status().unwrap().error.is_none()).await;
}

#[test]
fn a_selector_by_names_without_a_runtime_or_for_a_verifier_is_refused_with_the_key() {
    let parse = |text: &str| {
        cgpathd::config::Config::from_parts(Path::new("c.toml"), text, [], &[]).map_err(|e| e.to_string())
    };
    let sink = "[[sink]]\n\
        name = \"a\"\n\
        kind = \"file\"\n\
        to = \"/a\"\n\
        namespaces = [\"shop\"]\n\
        labels = { app = \"till\" }\n";
    let asked = format!("[runtimes]\ncri = \"unix:///run/containerd/containerd.sock\"\n{sink}");
    let good = parse(&asked).unwrap();
    assert_eq!(good.sink[0].labels["app"], "till");
    let error = parse(sink).unwrap_err();
    assert!(error.contains("runtimes.cri"), "{error}");
    let error = parse(
        &asked
            .replace("\"file\"", "\"verifier\"")
            .replace("\"/a\"", "\"https://v\""),
    )
    .unwrap_err();
    assert!(error.contains("whole node"), "{error}");
    let error = parse(&asked.replace("unix:///run", "unix://run")).unwrap_err();
    assert!(error.contains("unix:///PATH"), "{error}");
}
