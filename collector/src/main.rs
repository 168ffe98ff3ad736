//! `cgpathd`: a thin command over the library `cgpathd`.
#![forbid(unsafe_code)]

use anyhow::{Context, bail};
use cgpath_evidence::td;
use cgpathd::anchor::key;
use cgpathd::cli::{Ak, Cli, Command, Node, NodeCommand, NodeKey, Once, Setup, StatusFormat};
use cgpathd::config::{Config, EXAMPLE};
use cgpathd::deliver::sink::Sinks;
use cgpathd::deliver::{metrics, push};
use cgpathd::engine::EngineError;
use cgpathd::runtime::{self, Names};
use cgpathd::service::Service;
use cgpathd::tpm::{self, Tpm, TpmThread};
use cgpathd::{bpf, control, engine, node, setup, status};
use clap::{CommandFactory, Parser};
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

fn main() -> ExitCode {
    // First of all: the less the canary does, the less it leaves in the records.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|a| a == engine::CANARY_ARGUMENT)
    {
        return ExitCode::SUCCESS;
    }
    match dispatch(Cli::parse()) {
        Ok(code) => code,
        // The reader of standard output is gone. As a process that was ended by SIGPIPE, and as `cgpath`
        // ends: the answer did not get through.
        Err(e)
            if e.downcast_ref()
                .is_some_and(|e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe) =>
        {
            ExitCode::from(128 + 13)
        }
        Err(e) => {
            eprintln!("cgpathd: {}", shortened(&causes(&e)));
            ExitCode::from(2)
        }
    }
}

/// An error and its causes, each once: many errors name their cause in their own text already.
fn causes(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |said, cause| {
        let cause = cause.to_string();
        match said.as_str() {
            "" => cause,
            _ if said.contains(&cause) => said,
            _ => format!("{said}: {cause}"),
        }
    })
}

/// The kernel's reasons for refusing a program can be megabytes: their beginning and end say what matters.
fn shortened(text: &str) -> String {
    const HEAD: usize = 4;
    const TAIL: usize = 24;
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() <= HEAD + TAIL {
        return text.to_owned();
    }
    let left_out = lines.len() - HEAD - TAIL;
    let tail = lines[lines.len() - TAIL..].join("\n");
    format!(
        "{}\n[{left_out} lines left out]\n{tail}",
        lines[..HEAD].join("\n")
    )
}

/// Writes all of a text to standard output; `println!` would panic where nobody reads it.
fn print(text: &[u8]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text)?;
    out.flush()
}

fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    if let Command::Completions { shell } = cli.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "cgpathd", &mut script);
        print(&script)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::Manual { dir } = &cli.command {
        let mut command = Cli::command().disable_help_subcommand(true);
        command.build();
        std::fs::create_dir_all(dir)
            .and_then(|()| manual(&command, dir))
            .with_context(|| format!("writing the manual to {}", dir.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::Config(args) = &cli.command
        && args.example
    {
        print(EXAMPLE.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    // The variable that names the file is not a key of it.
    let env = std::env::vars_os()
        .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
        .filter(|(k, _)| k != "CGPATHD_CONFIG_FILE");
    let config = Config::load(cli.config.as_deref(), env, &cli.set)?;
    match cli.command {
        Command::Config(_) => {
            let text = toml::to_string(&config).context("printing the configuration")?;
            print(text.as_bytes())?;
        }
        Command::Status(args) => return show_status(&config, args.format),
        Command::Completions { .. } | Command::Manual { .. } => {}
        Command::Run => {
            log_to_stderr(&config);
            run(config)?;
        }
        Command::Once(args) => {
            log_to_stderr(&config);
            once(&config, &args)?;
        }
        Command::Ak(args) => {
            log_to_stderr(&config);
            ak(&config, &args)?;
        }
        Command::NodeKey(args) => {
            log_to_stderr(&config);
            node_key(&config, &args)?;
        }
        Command::Setup(args) => prepare(&config, &args)?,
        Command::Handover => hand_over(&config)?,
        Command::Unload => {
            let pins = config.bpf.pin_dir.display();
            let text = match setup::unload(&config)? {
                true => format!("the eBPF programs pinned in {pins} are gone\n"),
                false => format!("nothing is pinned in {pins}\n"),
            };
            print(text.as_bytes())?;
        }
        Command::Node(args) => return on_the_host(&config, &args),
        Command::Check(args) => {
            let code = cgpathd::check::run(&config, args.json, &mut std::io::stdout().lock())?;
            return Ok(ExitCode::from(code));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes `cgpathd.8`, and a page for each command below it.
fn manual(command: &clap::Command, dir: &Path) -> std::io::Result<()> {
    for below in command.get_subcommands() {
        manual(below, dir)?;
    }
    let page = clap_mangen::Man::new(command.clone()).section("8");
    page.generate_to(dir)?;
    Ok(())
}

fn show_status(config: &Config, format: StatusFormat) -> anyhow::Result<ExitCode> {
    let answer = control::ask_status(&config.run_dir);
    let (text, code) = match (format, answer) {
        (StatusFormat::Prometheus, Err(error)) => {
            eprintln!("cgpathd: {error}");
            (status::metrics(None)?, ExitCode::FAILURE)
        }
        (StatusFormat::Prometheus, Ok(status)) => (status::metrics(Some(&status))?, ExitCode::SUCCESS),
        (StatusFormat::Text, answer) => (status::text(&answer?), ExitCode::SUCCESS),
        (StatusFormat::Json, answer) => (serde_json::to_string_pretty(&answer?)? + "\n", ExitCode::SUCCESS),
    };
    print(text.as_bytes())?;
    Ok(code)
}

/// Logs go to stderr; in colour and with the time only where a person reads them, journald has both.
fn log_to_stderr(config: &Config) {
    // What these say at "info" is of use to nobody who did not ask for it; the configuration can name them
    // again.
    let quiet = "tss_esapi=warn,aya=warn,aya_obj=warn";
    let filter =
        tracing_subscriber::EnvFilter::try_new(format!("{quiet},{}", config.log)).unwrap_or_else(|error| {
            eprintln!("cgpathd: log = {:?}: {error}; using \"info\"", config.log);
            tracing_subscriber::EnvFilter::new("info")
        });
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        builder.without_time().init();
    } else {
        builder.init();
    }
}

/// An event loop of this thread alone: what blocks in it delays nothing of [`network`].
fn engine_loop() -> anyhow::Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the engine's event loop")
}

/// An event loop with a thread of its own, for all that others have to say.
fn network() -> anyhow::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("starting the event loop of the network")
}

/// The TPM, where it signs for the node.
fn open_tpm(config: &Config) -> anyhow::Result<Option<TpmThread>> {
    if !config.has_tpm() {
        return Ok(None);
    }
    let options = config.tpm_options()?;
    let tpm = Tpm::open(&options)?;
    tracing::info!(ak = %tpm::fingerprint(tpm.ak()), "attestation key");
    Ok(Some(TpmThread::start(options, tpm)))
}

fn run(config: Config) -> anyhow::Result<()> {
    rescue(&config)?;
    let network = network()?;
    let ended = engine_loop()?.block_on(collect(&config, network.handle()));
    // Requests that still wait for somebody else must not keep this from ending.
    network.shutdown_background();
    ended
}

/// First of all; what keeps it from this keeps the engine from starting, too. A program that is not the
/// collector of this boot ends here, before it touches a pin or the TPM.
fn rescue(config: &Config) -> Result<(), EngineError> {
    match engine::rescue(config) {
        Ok(0) => {}
        Ok(records) => tracing::info!(
            records,
            "an earlier collector left records in the ring: they are kept"
        ),
        Err(error @ (EngineError::NotHandedOver { .. } | EngineError::CannotHandOver)) => return Err(error),
        Err(error) => tracing::debug!(%error, "nothing could be taken from the ring yet"),
    }
    Ok(())
}

/// Has the running daemon hand over to this program.
fn hand_over(config: &Config) -> anyhow::Result<()> {
    // What would keep it from running is found out before anything is handed over to it.
    config.tpm_options()?;
    config.node_name()?;
    engine::object(config)?;
    let program = std::env::current_exe().context("finding out where this program lies")?;
    let done = control::ask_handover(&config.run_dir, &program)?;
    let own = bpf::own_program(done.program.bank())?;
    if own != done.program {
        bail!(
            "the daemon executed {} and handed over to {}, and this program is {own}: the file was replaced \
             meanwhile; ask again",
            program.display(),
            done.program
        );
    }
    let text = if done.is_itself {
        format!(
            "{own} is the program that runs: nothing is handed over, and what was before is withdrawn \
             (checkpoint {})\n",
            done.checkpoint
        )
    } else {
        format!(
            "checkpoint {} hands over to {own}; now restart the service: systemctl restart cgpathd\n",
            done.checkpoint
        )
    };
    print(text.as_bytes())?;
    Ok(())
}

async fn collect(config: &Config, network: &tokio::runtime::Handle) -> anyhow::Result<()> {
    let node = config.node_name()?;
    let client = match config.verifier.url.as_str() {
        "" => None,
        _ => Some(push::Client::new(&config.verifier, &node)?),
    };
    let names = Names::default();
    let sinks = Sinks::open(config, &node, &names)?;
    let tpm = open_tpm(config)?;
    let mut service = Service::start(config, &node, tpm.clone())?;
    let line = service.name_pods(names.clone());
    service.settle().await?;
    let listener = {
        let _network = network.enter();
        control::bind(&config.run_dir)
    };
    let listener = listener
        .with_context(|| format!("the local socket {}", control::socket(&config.run_dir).display()))?;
    let (stop, stopped) = watch::channel(false);
    if let Some(socket) = config.runtimes.cri_socket() {
        network.spawn(runtime::ask(
            socket.to_owned(),
            runtime::EVERY,
            names,
            line,
            stopped.clone(),
        ));
    }
    let sinks = Arc::new(sinks);
    network.spawn(control::serve(listener, service.handle(), Arc::clone(&sinks)));
    if let Some(at) = config.metrics.place().map_err(anyhow::Error::msg)? {
        let (handle, sinks) = (service.handle(), Arc::clone(&sinks));
        network.spawn(metrics::run(at, move || {
            let (handle, sinks) = (handle.clone(), Arc::clone(&sinks));
            async move { control::status(&handle, &sinks).await.ok() }
        }));
    }
    {
        let _network = network.enter();
        sinks.start(&node, &service.handle(), &stopped);
        sinks.attest(&service.handle(), &stopped);
        if let Some(tpm) = &tpm {
            sinks.attest_to_keylime(&node, &config.ima.list, tpm, &stopped);
        }
    }
    if let Some(client) = client {
        network.spawn(push::run(
            config.verifier.clone(),
            client,
            service.handle(),
            stopped.clone(),
        ));
    }
    network.spawn(async move {
        wait_for_signal().await;
        tracing::info!("stopping; the eBPF programs go on");
        let _ = stop.send(true);
    });
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::debug!(%error, "no supervisor was notified");
    }
    tracing::info!(%node, "ready");
    service.run(stopped).await?;
    Ok(())
}

async fn wait_for_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

fn once(config: &Config, args: &Once) -> anyhow::Result<()> {
    let mut out = output(args.output.as_deref(), "evidence")?;
    let len = match control::ask_evidence(&config.run_dir, &args.nonce.0, &mut out) {
        Err(control::ClientError::NotRunning(_)) => {
            tracing::info!("no daemon runs: doing it here");
            engine_loop()?.block_on(alone(config, args.nonce.0.clone(), &mut out))?
        }
        asked => asked?,
    };
    out.flush().context("writing the evidence")?;
    if let Some(path) = &args.output {
        eprintln!("{len} bytes of evidence in {}", path.display());
    }
    Ok(())
}

/// `once` with no daemon: the same engine for the time of one request.
async fn alone(config: &Config, nonce: Vec<u8>, out: &mut impl Write) -> anyhow::Result<u64> {
    let node = config.node_name()?;
    let mut service = Service::start(config, &node, open_tpm(config)?)?;
    service.settle().await?;
    let handle = service.handle();
    let (stop, stopped) = watch::channel(false);
    let request = async move {
        let evidence = handle.evidence(nonce).await;
        let _ = stop.send(true);
        evidence
    };
    let (evidence, ran) = tokio::join!(request, service.run(stopped));
    ran?;
    let mut evidence = evidence?;
    Ok(std::io::copy(&mut evidence.file, out)?)
}

fn ak(config: &Config, args: &Ak) -> anyhow::Result<()> {
    if !config.has_tpm() {
        bail!("no TPM signs for this node (quote.by): enrol the node's key, which `cgpathd node-key` gives");
    }
    let tpm = Tpm::open(&config.tpm_options()?)?;
    publish(tpm.ak(), &tpm::fingerprint(tpm.ak()), args.output.as_deref())
}

fn node_key(config: &Config, args: &NodeKey) -> anyhow::Result<()> {
    if config.provider().is_none() {
        bail!(
            "no trust domain signs for this node (quote.by): enrol the TPM's key, which `cgpathd ak` gives"
        );
    }
    // Once checkpoints name a key, another one would be of no use.
    let may_create = !engine::has_journal(config)?;
    let key = key::load_or_create_node(&config.quote.node_key, &config.run_dir, may_create)?;
    let public = td::public_node_key(&key);
    let fingerprint = hex::encode(td::node_key_hash(&public));
    publish(&public, &fingerprint, args.output.as_deref())
}

/// Writes a public key, and its fingerprint for people.
fn publish(key: &[u8], fingerprint: &str, path: Option<&Path>) -> anyhow::Result<()> {
    let to_file = path.is_some();
    if to_file || !std::io::stdout().is_terminal() {
        let mut out = output(path, "key")?;
        out.write_all(key)
            .and_then(|()| out.flush())
            .context("writing the key")?;
    }
    // Where the key itself goes to standard output, the fingerprint must not mix with it.
    if to_file || std::io::stdout().is_terminal() {
        print(format!("{fingerprint}\n").as_bytes())?;
    } else {
        eprintln!("{fingerprint}");
    }
    Ok(())
}

/// Where binary output goes; never to a terminal.
fn output(path: Option<&Path>, what: &str) -> anyhow::Result<Box<dyn Write>> {
    match path {
        Some(path) => {
            let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
            Ok(Box::new(std::io::BufWriter::new(file)))
        }
        None if std::io::stdout().is_terminal() => {
            bail!("the {what} is binary and standard output is a terminal: use -o FILE")
        }
        None => Ok(Box::new(std::io::stdout())),
    }
}

/// What pods of the chart do, and what answers them.
fn on_the_host(config: &Config, args: &Node) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    let code = match &args.command {
        NodeCommand::Install(wanted) => {
            node::install(&args.host, Path::new("/"), wanted, config, &mut out)?;
            0
        }
        NodeCommand::Uninstall { dry_run } => {
            node::uninstall(&args.host, config, *dry_run, &mut out)?;
            0
        }
        NodeCommand::Check => node::check(&args.host, &mut out)?,
        NodeCommand::Status => node::status(&args.host, &mut out)?,
        NodeCommand::Wait => {
            let (stop, stopped) = watch::channel(false);
            let event_loop = engine_loop()?;
            let waited = event_loop.block_on(async {
                tokio::spawn(async move {
                    wait_for_signal().await;
                    let _ = stop.send(true);
                });
                node::wait(&args.host, stopped, &mut out).await
            });
            // A question that is not answered must not keep this from ending.
            event_loop.shutdown_background();
            waited?;
            0
        }
        NodeCommand::Answer => node::answer(config, &mut std::io::stdin().lock(), &mut out)?,
    };
    Ok(ExitCode::from(code))
}

fn prepare(config: &Config, args: &Setup) -> anyhow::Result<()> {
    let root = Path::new("/");
    let text = if args.remove {
        setup::remove(root, config, args.dry_run)?
    } else {
        setup::install(root, config, args.dry_run)?
    };
    print(text.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_each_of_its_causes_once() {
        let gone = || std::io::Error::other("no such file");
        let own = anyhow::Error::new(gone()).context("configuration c.toml");
        assert_eq!(causes(&own), "configuration c.toml: no such file");
        let repeated = anyhow::Error::new(gone()).context("configuration c.toml: no such file");
        assert_eq!(causes(&repeated), "configuration c.toml: no such file");
    }
}
