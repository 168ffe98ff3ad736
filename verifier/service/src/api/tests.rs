//! The service without its listener: who is answered what.

use super::*;
use crate::{nonce, setup, store};
use axum::http::Request;
use std::net::SocketAddr;
use tower::ServiceExt;

const STRANGER: &str = "192.0.2.1:5";
const LOCAL: &str = "127.0.0.1:5";

/// The answer to a request from `peer`.
async fn answer(app: &Arc<App>, peer: &str, request: Request<Body>) -> Response {
    let peer: SocketAddr = peer.parse().unwrap();
    let router = router(Arc::clone(app))
        .layer(Extension(Peer(peer)))
        .layer(Extension(Connection::alone()))
        .layer(Extension(Shown::default()));
    router.oneshot(request).await.unwrap()
}

/// The answer's status.
async fn status(app: &Arc<App>, peer: &str, method: &str, path: &str, body: Vec<u8>) -> StatusCode {
    let request = Request::builder().method(method).uri(path);
    let request = request.body(Body::from(body)).unwrap();
    answer(app, peer, request).await.status()
}

/// A request that shows this token.
fn with(method: &str, path: &str, token: &str) -> Request<Body> {
    let request = Request::builder().method(method).uri(path);
    let request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    request.body(Body::empty()).unwrap()
}

/// A service in `dir` that knows one node, `n1`, and no token.
fn app(dir: &std::path::Path) -> Arc<App> {
    app_for(dir, Readers::default())
}

/// The same with readers.
fn app_for(dir: &std::path::Path, readers: Readers) -> Arc<App> {
    let dir = dir.join("v");
    setup::init(&dir, &setup::names(&[]), time::OffsetDateTime::now_utc()).unwrap();
    let store = Arc::new(Store::open(&dir).unwrap());
    store.add_node(&store::Node::of_tests("n1"), false).unwrap();
    let appraiser = Arc::new(Appraiser::new(
        Arc::clone(&store),
        store::Limits {
            verdicts: 1,
            evidence_bytes: 1,
        },
    ));
    let settings = Settings {
        max_evidence: 1024,
        upload: Duration::from_secs(180),
        stale_after: 600,
        ear_lifetime: 900,
        webhooks: Vec::new(),
    };
    let access = Access {
        readers,
        certificates: false,
    };
    let key = setup::verdict_key(&dir).unwrap();
    let nonces = nonce::Nonces::new([0; nonce::KEY_LEN], 60);
    Arc::new(App::new(store, nonces, appraiser, key, settings, access))
}

#[tokio::test]
async fn who_does_not_prove_himself_is_refused_without_a_permit_to_be_appraised() {
    let dir = tempfile::tempdir().unwrap();
    let app = app(dir.path());
    // Others are judged, and do not end: a request that needed a permit would wait for ever.
    let _all = app.appraising.acquire_many(APPRAISALS).await.unwrap();
    let mut evidence = cgpath_evidence::Evidence {
        version: 1,
        tier: cgpath_evidence::Tier::Bpf,
        node: "n1".to_owned(),
        boot_id: [0; 16],
        quote: cgpath_evidence::Quote {
            attest: vec![1],
            signature: vec![1],
            ak: vec![1],
        }
        .into(),
        list: vec![],
        checkpoints: vec![vec![]; 500],
        partitions: vec![],
        pods: vec![],
        kernel: String::new(),
        boot: None,
        unsealed: vec![],
        in_flight: vec![],
        td: None,
    };
    let path = "/v1/nodes/n1/evidence";
    for body in [evidence.to_cbor(), evidence.to_cbor()[..80].to_vec()] {
        let status = status(&app, STRANGER, "POST", path, body).await;
        assert_eq!(status, StatusCode::FORBIDDEN);
    }
    evidence.version = 2;
    for body in [evidence.to_cbor(), b"nonsense".to_vec(), vec![]] {
        let status = status(&app, STRANGER, "POST", path, body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
    }
}

#[test]
fn long_evidence_takes_more_of_the_permits() {
    assert_eq!(
        [0, 1, 16, 17, 33, 64].map(|len| permits(len, 64)),
        [1, 1, 1, 2, 3, 4]
    );
    assert_eq!([0, 1, 100].map(|len| permits(len, 1)), [1, 4, 4]);
}

#[test]
fn each_route_is_in_the_openapi_document_and_the_other_way_round() {
    let document: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
    let documented: Vec<&str> = document["paths"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let mut routes: Vec<&str> = open_routes()
        .iter()
        .chain(&read::routes())
        .map(|route| route.0)
        .collect();
    routes.sort_unstable();
    let mut sorted = documented.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, routes);
}

#[tokio::test]
async fn without_a_token_only_this_machine_reads_and_everybody_may_answer() {
    let dir = tempfile::tempdir().unwrap();
    let app = app(dir.path());
    let paths = [
        "/",
        "/v1/nodes",
        "/v1/nodes/n1/verdict",
        "/v1/nodes/n1/history",
        "/v1/nodes/n1/ear",
    ];
    for path in paths {
        for peer in [
            "192.0.2.1:5",
            "[2001:db8::1]:5",
            "[::ffff:192.0.2.1]:5",
            "10.0.0.1:5",
        ] {
            assert_eq!(
                status(&app, peer, "GET", path, vec![]).await,
                StatusCode::FORBIDDEN,
                "{path} for {peer}"
            );
        }
        for peer in ["127.0.0.1:5", "[::1]:5", "[::ffff:127.0.0.1]:5"] {
            let status = status(&app, peer, "GET", path, vec![]).await;
            assert!(
                matches!(status, StatusCode::OK | StatusCode::NOT_FOUND),
                "{path} for {peer}: {status}"
            );
        }
    }
    let challenge = format!("/v1/nodes/n1/pods/x/challenge?nonce={}", "00".repeat(32));
    for (peer, expected) in [(STRANGER, StatusCode::FORBIDDEN), (LOCAL, StatusCode::NOT_FOUND)] {
        assert_eq!(status(&app, peer, "POST", &challenge, vec![]).await, expected);
    }
    assert_eq!(
        status(&app, STRANGER, "GET", "/healthz", vec![]).await,
        StatusCode::OK
    );
    assert_eq!(
        status(&app, STRANGER, "POST", "/v1/nodes/n1/nonce", vec![]).await,
        StatusCode::OK
    );
    let empty = status(&app, STRANGER, "POST", "/v1/nodes/n1/evidence", vec![]).await;
    assert_eq!(empty, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_wrong_token_is_refused_everywhere_and_whoever_shows_it() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = app(dir.path());
    let dir = tempfile::tempdir().unwrap();
    let somebody = app_for(
        dir.path(),
        Readers::new(Some("the operator's own token"), None).unwrap(),
    );
    let all = read::routes();
    let open = open_routes();
    let paths = all
        .iter()
        .chain(&open)
        .map(|(path, _)| match path.rsplit('/').next() {
            Some("nonce" | "evidence" | "challenge") => ("POST", *path),
            _ => ("GET", *path),
        });
    for (method, path) in paths.chain([("GET", "/nothing")]) {
        let path = path.replace("{node}", "n1").replace("{uid}", "x");
        for app in [&nobody, &somebody] {
            for peer in [STRANGER, LOCAL, "[::1]:5"] {
                let answer = answer(app, peer, with(method, &path, "another token")).await;
                assert_eq!(
                    answer.status(),
                    StatusCode::UNAUTHORIZED,
                    "{method} {path} from {peer}"
                );
                assert!(answer.headers().contains_key(header::WWW_AUTHENTICATE));
            }
        }
    }
    for peer in [STRANGER, LOCAL] {
        let answer = answer(
            &somebody,
            peer,
            with("GET", "/v1/nodes", "the operator's own token"),
        )
        .await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(
            status(&somebody, peer, "GET", "/v1/nodes", vec![]).await,
            StatusCode::UNAUTHORIZED
        );
    }
}

#[tokio::test]
async fn a_reader_has_its_own_share_of_streams() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("readers.yaml");
    let digest = hex::encode(<sha2::Sha256 as sha2::Digest>::digest("red token"));
    let text = format!("readers:\n- name: red\n  token-sha256: {digest}\n  namespaces: [red]\n");
    std::fs::write(&list, text).unwrap();
    let readers = Readers::new(Some("the operator's own token"), Some(&list)).unwrap();
    let app = app_for(dir.path(), readers);
    let mut held = Vec::new();
    // Half of all is the share of each of two.
    for n in 0..129 {
        let answer = answer(&app, LOCAL, with("GET", "/v1/stream", "red token")).await;
        let wanted = if n < 128 {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        assert_eq!(answer.status(), wanted, "stream {n}");
        held.push(answer);
    }
    let other = answer(&app, LOCAL, with("GET", "/v1/stream", "the operator's own token")).await;
    assert_eq!(other.status(), StatusCode::OK);
    // What ends is given back.
    held.clear();
    let again = answer(&app, LOCAL, with("GET", "/v1/stream", "red token")).await;
    assert_eq!(again.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_limit_beyond_what_an_answer_holds_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let app = app(dir.path());
    for path in ["/v1/nodes/n1/history", "/v1/revocations"] {
        for (limit, wanted) in [
            ("1", StatusCode::OK),
            ("200", StatusCode::OK),
            ("0", StatusCode::BAD_REQUEST),
            ("201", StatusCode::BAD_REQUEST),
            ("4294967295", StatusCode::BAD_REQUEST),
            ("-1", StatusCode::BAD_REQUEST),
        ] {
            let found = status(&app, LOCAL, "GET", &format!("{path}?limit={limit}"), vec![]).await;
            assert_eq!(found, wanted, "{path} {limit}");
        }
    }
    let before = status(&app, LOCAL, "GET", "/v1/nodes/n1/history?before=-1", vec![]).await;
    assert_eq!(before, StatusCode::BAD_REQUEST);
}

/// Keeps a good verdict about `n1`, reached at `time`.
fn keep(app: &App, time: u64, nonce: u8) {
    use cgpath_testkit::{Actor, KeyKind, Node, pod};
    let mut node = Node::boot(KeyKind::EcdsaP256);
    for n in [1, 2] {
        node.execute_good(&Actor::pod(pod(n), "/bin/app"), "/bin/app");
    }
    let bytes = [nonce; 32];
    let evidence = node.attest(&bytes);
    let context = cgpath_appraisal::Context {
        now: time,
        ..node.context(&bytes, None)
    };
    let verdict = cgpath_appraisal::appraise(&evidence, &node.policy(), &context).unwrap();
    assert!(verdict.trusted, "{verdict}");
    let kept = app.store.keep_evidence(&evidence.to_cbor()).unwrap();
    app.store
        .commit(&store::Commit {
            node: "n1",
            version: app.store.round("n1").unwrap().version,
            time,
            trusted: verdict.trusted,
            nonce: &bytes,
            nonce_expires: now() + 600,
            policy_digest: "sha256:00",
            evidence: &kept,
            follows: None,
            verdict: &serde_json::to_string(&verdict).unwrap(),
            state: None,
            changes: &[],
        })
        .unwrap();
}

/// The claims of the attestation result about `n1`, for the client that shows this token.
async fn result(app: &Arc<App>, token: &str, query: &str) -> serde_json::Value {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    let path = format!("/v1/nodes/n1/ear{query}");
    let answer = answer(app, LOCAL, with("GET", &path, token)).await;
    assert_eq!(answer.status(), StatusCode::OK, "{path}");
    let token = answer.into_body().collect().await.unwrap().to_bytes();
    let token = core::str::from_utf8(&token).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

#[tokio::test]
async fn a_result_ends_names_its_audience_and_says_of_a_stale_or_stopped_node_that_it_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let token = "the operator's own token";
    let app = app_for(dir.path(), Readers::new(Some(token), None).unwrap());
    // Stale after 600 s, and within the result's own 900.
    for (n, (age, standing)) in [(700, Some("stale")), (10, None)].into_iter().enumerate() {
        let time = now() - age;
        keep(&app, time, n as u8 + 1);
        let claims = result(&app, token, "").await;
        assert_eq!(claims["iat"], time);
        assert_eq!(claims["exp"], time + 900);
        assert_eq!(claims["aud"], "urn:ima-cgpath:anyone");
        assert!(claims["eat_nonce"].is_string());
        for (name, appraisal) in claims["submods"].as_object().unwrap() {
            let (status, own) = (&appraisal["ear_status"], &appraisal["ear_verifier_claims"]);
            assert_eq!(own.get("standing").and_then(|s| s.as_str()), standing, "{name}");
            assert_eq!(status == "none", standing.is_some(), "{name}: {status}");
        }
    }
    let claims = result(&app, token, "?audience=https://relying.example").await;
    assert_eq!(claims["aud"], "https://relying.example");
    for wrong in [
        "audience=",
        "audience=%0a",
        "audience=a%20b",
        "other=x",
        &format!("audience={}", "x".repeat(201)),
    ] {
        let path = format!("/v1/nodes/n1/ear?{wrong}");
        let answer = answer(&app, LOCAL, with("GET", &path, token)).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{wrong}");
    }
    app.store.set_stopped("n1", Some(now())).unwrap();
    let claims = result(&app, token, "").await;
    for appraisal in claims["submods"].as_object().unwrap().values() {
        assert_eq!(appraisal["ear_status"], "none");
        assert_eq!(appraisal["ear_verifier_claims"]["standing"], "stopped");
        assert_eq!(appraisal["ear_trustworthiness_vector"]["executables"], 0);
    }
}

#[tokio::test]
async fn a_reader_with_a_scope_is_sent_nothing_of_the_nodes_own_rules() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("readers.yaml");
    let digest = hex::encode(<sha2::Sha256 as sha2::Digest>::digest("red token"));
    let uid = cgpath_testkit::pod(1);
    let text = format!("readers:\n- name: red\n  token-sha256: {digest}\n  pods: [{uid}]\n");
    std::fs::write(&list, text).unwrap();
    let token = "the operator's own token";
    let app = app_for(dir.path(), Readers::new(Some(token), Some(&list)).unwrap());
    keep(&app, now(), 1);
    let (all, own) = (result(&app, token, "").await, result(&app, "red token", "").await);
    assert_eq!(all["submods"].as_object().unwrap().len(), 3);
    assert!(all["submods"]["node"]["ear_verifier_claims"]["failed-rules"].is_array());
    let names: Vec<&String> = own["submods"].as_object().unwrap().keys().collect();
    assert_eq!(names, [&uid.to_string(), "node"]);
    assert!(
        own["submods"]["node"]["ear_verifier_claims"]
            .get("failed-rules")
            .is_none()
    );
    assert!(own["submods"][uid.to_string()]["ear_verifier_claims"]["failed-rules"].is_array());
}
