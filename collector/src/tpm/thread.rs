//! The TPM on a thread of its own, and the trait by which it is reached.
//!
//! Promise: one command at a time, in the order in which they came. Not here: what is asked of it.

use super::{Tpm, TpmError, TpmOptions};
use std::sync::Arc;
use tokio::sync::oneshot;

/// What is done with the TPM on its thread.
type Job = Box<dyn FnOnce(&mut Option<Tpm>, &TpmOptions) + Send>;

/// Access to a TPM: the thread's, or a test's.
pub trait TpmAccess: Clone + Send + Sync + 'static {
    /// Does `work` with the TPM; once more where a command failed, with the TPM opened anew.
    fn with<T, F>(&self, work: F) -> impl Future<Output = Result<T, TpmError>> + Send
    where
        T: Send + 'static,
        F: FnMut(&mut Tpm) -> Result<T, TpmError> + Send + 'static;
}

/// The TPM on a thread of its own: its commands block for as long as it likes.
#[derive(Clone)]
pub struct TpmThread {
    jobs: std::sync::mpsc::Sender<Job>,
    ak_name: Arc<[u8]>,
}

impl TpmThread {
    /// Starts the thread with a TPM that was opened already, so that what is wrong with it is known at the
    /// start.
    pub fn start(options: TpmOptions, opened: Tpm) -> TpmThread {
        let ak_name = super::name(opened.ak()).into();
        let (jobs, queue) = std::sync::mpsc::channel::<Job>();
        std::thread::spawn(move || {
            let mut tpm = Some(opened);
            for job in queue {
                job(&mut tpm, &options);
            }
        });
        TpmThread { jobs, ak_name }
    }

    /// The Name of the attestation key.
    pub fn ak_name(&self) -> &[u8] {
        &self.ak_name
    }
}

impl TpmAccess for TpmThread {
    async fn with<T, F>(&self, mut work: F) -> Result<T, TpmError>
    where
        T: Send + 'static,
        F: FnMut(&mut Tpm) -> Result<T, TpmError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |tpm, options| {
            let _ = reply.send(with_tpm(tpm, options, &mut work));
        });
        self.jobs.send(job).map_err(|_| TpmError::Ending)?;
        answer.await.map_err(|_| TpmError::Ending)?
    }
}

/// Does `work`; a TPM that fails is opened anew once, as after a reset of the resource manager.
fn with_tpm<T>(
    tpm: &mut Option<Tpm>,
    options: &TpmOptions,
    work: &mut impl FnMut(&mut Tpm) -> Result<T, TpmError>,
) -> Result<T, TpmError> {
    if let Some(open) = tpm {
        match work(open) {
            Err(error @ TpmError::Command { .. }) => {
                tracing::warn!(%error, "opening the TPM anew");
                *tpm = None;
            }
            done => return done,
        }
    }
    work(tpm.insert(Tpm::open(options)?))
}
