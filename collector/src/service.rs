//! The event loop around the engine: records, requests, time, and the order "seal, quote, then read the
//! list".

#![allow(
    unsafe_code,
    reason = "tokio asks for this promise about the ring's descriptor"
)]

use crate::bpf;
use crate::config::Config;
use crate::engine::{BATCH, Engine, EngineError, Outcome};
use crate::pipeline::Stated;
use crate::quote::{Quoter, Quoters, Request, TdQuoter, TpmQuoter, tsm::Reports};
use crate::request::{Handover, MAX_WAITING, PodVerdicts, RequestError, Source};
use crate::runtime::{Line, Names, RuntimeStatus};
use crate::sources::{boot_facts::BootFacts, system};
use crate::status::{Status, Timing};
use crate::store::{Assembly, EvidenceFile, Header};
use crate::tpm::TpmThread;
use cgpath_evidence::{Boot, Cursor, TdEvidence, td};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot, watch};

/// Answers of the container runtime that wait at most; what is in one more is said again.
const MAX_ANSWERS: usize = 4;

/// How often the pipeline handles that time passes while it waits for records.
const FAST_TICK: Duration = Duration::from_millis(50);

/// The same while nothing is waited for; also how soon a full disk is tried again.
const SLOW_TICK: Duration = Duration::from_secs(1);

/// While nobody waits for a checkpoint, records gather for so long before they are taken: being woken for
/// each one by itself costs a busy node more than all that is done with it. They are safe meanwhile, the ring
/// is the kernel's.
const GATHER: Duration = Duration::from_millis(5);

/// A request whose checkpoint is being sealed.
struct Waiting {
    after: Option<Cursor>,
    reply: Reply,
    since: Instant,
}

type Reply = oneshot::Sender<Result<EvidenceFile, RequestError>>;

enum Command {
    Request {
        nonce: Vec<u8>,
        after: Option<Cursor>,
        reply: Reply,
    },
    Quoted {
        id: u64,
        after: Option<Cursor>,
        /// What the quote took.
        took: Duration,
        reply: oneshot::Sender<Result<Assembly, RequestError>>,
    },
    Unquoted {
        id: u64,
    },
    Status {
        reply: oneshot::Sender<Status>,
    },
    Handover {
        program: PathBuf,
        interface: [u8; 32],
        reply: oneshot::Sender<Result<Handover, RequestError>>,
    },
    Verdict {
        verdicts: PodVerdicts,
    },
}

/// A handle to the running engine.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
}

impl Handle {
    /// Evidence for `nonce`.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn evidence(&self, nonce: Vec<u8>) -> Result<EvidenceFile, RequestError> {
        self.evidence_after(nonce, None).await
    }

    /// Hands over to the file at `program`, this daemon's own path, which may hold another program by now.
    /// `interface` is what that one has in common with the eBPF programs: [`bpf::interface`].
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn hand_over(&self, program: PathBuf, interface: [u8; 32]) -> Result<Handover, RequestError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Handover {
            program,
            interface,
            reply,
        };
        self.commands
            .send(command)
            .await
            .map_err(|_| RequestError::Ending)?;
        answer.await.map_err(|_| RequestError::Ending)?
    }

    /// How the daemon fares.
    ///
    /// # Errors
    /// [`RequestError::Ending`].
    pub async fn status(&self) -> Result<Status, RequestError> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(Command::Status { reply })
            .await
            .map_err(|_| RequestError::Ending)?;
        answer.await.map_err(|_| RequestError::Ending)
    }
}

impl Source for Handle {
    async fn evidence_after(
        &self,
        nonce: Vec<u8>,
        after: Option<Cursor>,
    ) -> Result<EvidenceFile, RequestError> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(Command::Request { nonce, after, reply })
            .await
            .map_err(|_| RequestError::Ending)?;
        answer.await.map_err(|_| RequestError::Ending)?
    }

    async fn apply_verdict(&self, verdicts: PodVerdicts) -> Result<(), RequestError> {
        let command = Command::Verdict { verdicts };
        self.commands
            .send(command)
            .await
            .map_err(|_| RequestError::Ending)
    }
}

/// What signs for the node, as configured: the TPM first, so that a trust domain's report is the freshest.
fn quoters(config: &Config, engine: &Engine, tpm: Option<TpmThread>) -> Quoters {
    let mut quoters: Vec<Box<dyn Quoter>> = Vec::new();
    let ak_name = tpm.as_ref().map(|tpm| tpm.ak_name().to_vec()).unwrap_or_default();
    if let Some(tpm) = tpm {
        quoters.push(Box::new(TpmQuoter(tpm)));
    }
    if let (Some(provider), Some(key)) = (config.provider(), engine.node_key()) {
        let fingerprint = hex::encode(td::node_key_hash(&td::public_node_key(key)));
        tracing::info!(provider, node_key = %fingerprint, "the node's key");
        let reports = Reports::new(&config.quote.reports, provider);
        let timeout = Duration::from_secs(config.quote.timeout);
        quoters.push(Box::new(TdQuoter::new(reports, key.clone(), ak_name, timeout)));
    }
    Quoters::new(quoters)
}

/// The engine with what the loop needs.
pub struct Service {
    engine: Engine,
    ring: AsyncFd<OwnedFd>,
    commands: mpsc::Receiver<Command>,
    handle: Handle,
    quoters: Quoters,
    node: Arc<str>,
    names: Names,
    /// What the container runtime says.
    stated: mpsc::Receiver<Vec<Stated>>,
    line: Line,
    boot: Arc<BootFacts>,
    waiting: HashMap<u64, Waiting>,
    seals: Timing,
    quotes: Timing,
    /// Handovers that are being sealed.
    handovers: HashMap<u64, oneshot::Sender<Result<Handover, RequestError>>>,
    /// Requests with a quote, whose evidence is being put together.
    assembling: HashMap<u64, oneshot::Sender<Result<Assembly, RequestError>>>,
    next_id: u64,
    list_read: Instant,
}

impl Service {
    /// Starts the engine; blocks while the programs are loaded. Must be called within a tokio runtime that
    /// has this thread for nothing else: each step blocks it.
    ///
    /// # Errors
    /// What kept it from starting.
    pub fn start(config: &Config, node: &str, tpm: Option<TpmThread>) -> Result<Service, EngineError> {
        let engine = Engine::start(config)?;
        let boot = BootFacts::read(tpm.is_some(), engine.node_key().is_some());
        let fd = engine.ring_fd()?;
        // SAFETY: an OwnedFd names the same open descriptor for as long as it lives, and the AsyncFd owns it.
        let ring = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        let ring = ring.map_err(|e| EngineError::Ring(e.into()))?;
        let (sender, commands) = mpsc::channel(MAX_WAITING);
        let handle = Handle { commands: sender };
        let (line, stated) = Line::new(MAX_ANSWERS);
        Ok(Service {
            ring,
            commands,
            handle,
            quoters: quoters(config, &engine, tpm),
            engine,
            node: node.into(),
            names: Names::default(),
            stated,
            line,
            boot: Arc::new(boot),
            waiting: HashMap::new(),
            seals: Timing::default(),
            quotes: Timing::default(),
            handovers: HashMap::new(),
            assembling: HashMap::new(),
            next_id: 1,
            list_read: Instant::now(),
        })
    }

    /// From now on evidence says what `names` says of pods. Gives the line by which the one who asks the
    /// container runtime makes records of its answers.
    pub fn name_pods(&mut self, names: Names) -> Line {
        self.names = names;
        self.line.clone()
    }

    /// A handle by which requests are made.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits until checkpoint 0, or what a crash left over, is anchored.
    ///
    /// # Errors
    /// What ends the collector; [`EngineError::Seal`] if the checkpoint could not be anchored.
    pub async fn settle(&mut self) -> Result<(), EngineError> {
        while !self.engine.is_idle() {
            while self.engine.drain()? == BATCH {}
            self.engine.tick()?;
            self.failed_unasked()?;
            if !self.engine.is_idle() {
                tokio::time::sleep(FAST_TICK).await;
            }
        }
        self.failed_unasked()
    }

    fn failed_unasked(&mut self) -> Result<(), EngineError> {
        for outcome in self.engine.take_outcomes() {
            if let Outcome::Failed { id: None, error } = outcome {
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Runs until `stop` turns true.
    ///
    /// # Errors
    /// What ends the collector.
    pub async fn run(&mut self, mut stop: watch::Receiver<bool>) -> Result<(), EngineError> {
        let mut taken = 0;
        loop {
            let more = taken == BATCH;
            let gather = taken > 0 && (self.engine.is_idle() || self.engine.pipeline().is_quoting());
            let pause = if gather {
                GATHER
            } else if self.engine.pipeline().wants_ticks() {
                FAST_TICK
            } else {
                SLOW_TICK
            };
            let wait = !more && !gather && !self.engine.is_stalled();
            self.line.wants(self.engine.pipeline().unnamed());
            let command = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                command = self.commands.recv() => command,
                ready = self.ring.readable(), if wait => {
                    // Cleared before the ring is emptied: what comes meanwhile makes it ready again.
                    ready.map_err(EngineError::Ring)?.clear_ready();
                    None
                }
                Some(stated) = self.stated.recv() => {
                    self.engine.stated(stated)?;
                    None
                }
                () = tokio::time::sleep(pause), if !more => None,
                // Answers that are under way get their turn.
                () = tokio::task::yield_now(), if more => None,
            };
            taken = self.step(command)?;
        }
        // Whatever arrived last is on disk before this ends.
        while self.engine.drain()? == BATCH {}
        Ok(())
    }

    /// Does what was asked and takes records; gives their number.
    fn step(&mut self, command: Option<Command>) -> Result<usize, EngineError> {
        // What the container runtime has said by now is in the next seal.
        while let Ok(stated) = self.stated.try_recv() {
            self.engine.stated(stated)?;
        }
        match command {
            None => {}
            Some(Command::Status { reply }) => {
                let _ = reply.send(self.status());
            }
            Some(Command::Verdict { verdicts }) => self.engine.apply_verdict(verdicts)?,
            Some(Command::Handover {
                program,
                interface,
                reply,
            }) => match self.refuses(&program, interface) {
                Some(error) => {
                    let _ = reply.send(Err(error));
                }
                None => {
                    let id = self.next_id;
                    self.next_id += 1;
                    self.handovers.insert(id, reply);
                    self.engine.hand_over(id)?;
                }
            },
            Some(Command::Request { reply, .. }) if self.engine.is_stalled() => {
                let _ = reply.send(Err(RequestError::Stalled));
            }
            Some(Command::Request { reply, .. }) if self.waiting.len() >= MAX_WAITING => {
                let _ = reply.send(Err(RequestError::Busy));
            }
            Some(Command::Request { nonce, after, reply }) => {
                let id = self.next_id;
                self.next_id += 1;
                let since = Instant::now();
                self.waiting.insert(id, Waiting { after, reply, since });
                self.engine.request(id, nonce)?;
            }
            Some(Command::Quoted {
                id,
                after,
                took,
                reply,
            }) => {
                self.quotes.add(took);
                self.assembling.insert(id, reply);
                self.engine.quoted(id, after)?;
            }
            Some(Command::Unquoted { id }) => self.engine.unquoted(id)?,
        }
        let taken = self.engine.drain()?;
        // Records wait for their entries; each reading makes the kernel walk the whole list, so not at each
        // record. On a full disk the list stays where it is: the kernel keeps it.
        let is_wanted = !self.engine.is_stalled() && self.engine.pipeline().unjoined() > 0;
        if taken < BATCH && is_wanted && self.list_read.elapsed() >= SLOW_TICK {
            self.engine.poll_list()?;
            self.list_read = Instant::now();
        }
        self.engine.keep_alive()?;
        // While the disk is full the time to wait for records does not run: they cannot come.
        if !self.engine.is_stalled() {
            self.engine.tick()?;
        }
        for outcome in self.engine.take_outcomes() {
            match outcome {
                Outcome::Ready {
                    id,
                    nonce,
                    checkpoint,
                } => match self.waiting.remove(&id) {
                    Some(Waiting { after, reply, since }) => {
                        self.seals.add(since.elapsed());
                        self.finish(id, Request { nonce, checkpoint }, after, reply);
                    }
                    None => self.engine.unquoted(id)?,
                },
                Outcome::Assembled { id, assembly } => {
                    if let Some(reply) = self.assembling.remove(&id) {
                        let _ = reply.send((*assembly).map_err(RequestError::from));
                    }
                }
                Outcome::HandedOver { id, number, program } => {
                    if let Some(reply) = self.handovers.remove(&id) {
                        let is_itself = program == *self.engine.program();
                        let _ = reply.send(Ok(Handover {
                            checkpoint: number,
                            program,
                            is_itself,
                        }));
                    }
                }
                Outcome::Failed { id, error } => {
                    if let Some(Waiting { reply, .. }) = id.and_then(|id| self.waiting.remove(&id)) {
                        let _ = reply.send(Err(error.into()));
                    } else if let Some(reply) = id.and_then(|id| self.handovers.remove(&id)) {
                        let _ = reply.send(Err(error.into()));
                    }
                }
            }
        }
        Ok(taken)
    }

    /// Why nothing can be handed over to this program.
    fn refuses(&self, program: &Path, interface: [u8; 32]) -> Option<RequestError> {
        if self.engine.is_stalled() {
            return Some(RequestError::Stalled);
        }
        if self.handovers.len() >= MAX_WAITING {
            return Some(RequestError::Busy);
        }
        let why = if interface != bpf::interface() {
            "the new program does not understand the eBPF programs that run; replace the file and reboot"
        } else if program != self.engine.program_path() {
            "the new program lies elsewhere than this daemon's own file; put it in its place and run it from \
             there"
        } else {
            return None;
        };
        Some(RequestError::Handover(why))
    }

    /// Quotes, then what stands behind them, then evidence; while the loop goes on consuming records.
    fn finish(&self, id: u64, request: Request, after: Option<Cursor>, reply: Reply) {
        let quoters = self.quoters.clone();
        let commands = self.handle.commands.clone();
        let node = self.node.clone();
        let names = self.names.clone();
        let boot_id = self.engine.boot_id();
        let tier = self.engine.tier();
        let boot = self.boot.clone();
        tokio::spawn(async move {
            let work = async {
                let begin = Instant::now();
                let quoted = quoters.sign(&request).await;
                let took = begin.elapsed();
                let (send, assembly) = oneshot::channel();
                let command = match &quoted {
                    Ok(_) => Command::Quoted {
                        id,
                        after,
                        took,
                        reply: send,
                    },
                    Err(_) => Command::Unquoted { id },
                };
                commands.send(command).await.map_err(|_| RequestError::Ending)?;
                let quoted = quoted?;
                let assembly = assembly.await.map_err(|_| RequestError::Ending)??;
                let header = Header {
                    tier,
                    node: node.to_string(),
                    boot_id,
                    kernel: system::kernel_release(),
                    pods: names.infos(),
                    td: quoted.quotes.td.as_ref().map(|_| TdEvidence {
                        register_log: Vec::new(),
                        ccel: boot.ccel.clone(),
                        auxblob: quoted.auxblob,
                    }),
                    quote: quoted.quotes,
                    boot: Boot {
                        registers: quoted.registers.into_iter().collect(),
                        log: boot.log.clone(),
                        command_line: boot.command_line.clone(),
                    },
                };
                let written = tokio::task::spawn_blocking(move || assembly.write(&header)).await;
                Ok(written.map_err(|_| RequestError::Ending)??)
            };
            let _ = reply.send(work.await);
        });
    }

    fn status(&self) -> Status {
        let pipeline = self.engine.pipeline();
        let (protection, denied) = self.engine.denied();
        let budgets = self.engine.budgets();
        if let Err(error) = &budgets {
            tracing::warn!(%error, "budgets of pods");
        }
        let ring = self.engine.ring_fill();
        if let Err(error) = &ring {
            tracing::warn!(%error, "how full the ring is");
        }
        Status {
            checkpoint: pipeline.last_checkpoint(),
            blind: pipeline.first_blind(),
            list_len: pipeline.list_len(),
            list_bytes: self.engine.list_bytes(),
            seals: self.seals,
            quotes: self.quotes,
            records: pipeline.records(),
            unjoined: pipeline.unjoined(),
            lost: pipeline.losses().total(),
            ring: ring.ok(),
            stalled: self.engine.is_stalled(),
            protection,
            denied,
            budgets: budgets.ok(),
            partitions: pipeline.sizes().map(|(key, n)| (key.to_string(), n)).collect(),
            predating: pipeline.predating_pods(),
            sinks: Vec::new(),
            runtime: self.names.status().map(|runtime| RuntimeStatus {
                unnamed: pipeline.unnamed().left,
                ..runtime
            }),
        }
    }
}
