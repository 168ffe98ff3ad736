//! Several quoters, and reports that take too long.

use super::*;
use cgpath_evidence::{Bank, Digest};
use std::sync::atomic::{AtomicU32, Ordering};

struct Software {
    signed: fn() -> Result<Signed, QuoteError>,
    asked: Arc<AtomicU32>,
}

impl Quoter for Software {
    fn sign<'a>(&'a self, _: &'a Request) -> Signing<'a> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Box::pin(std::future::ready((self.signed)()))
    }
}

fn tpm() -> Result<Signed, QuoteError> {
    let quote = Quote {
        attest: vec![1],
        signature: vec![2],
        ak: vec![3],
    };
    let registers = Registers::new(vec![Digest::zero(Bank::Sha256); 10]).unwrap();
    Ok(Signed::Tpm(quote, registers))
}

fn td() -> Result<Signed, QuoteError> {
    let quote = TdQuote {
        provider: "tdx_guest".into(),
        outblob: vec![4],
        nonce: vec![1; 32],
        checkpoint: [2; 48],
        node_key: [5; 33],
        possession: [6; 64],
    };
    Ok(Signed::Td(quote, Some(vec![7])))
}

fn fails() -> Result<Signed, QuoteError> {
    Err(TsmError::Ending.into())
}

fn quoters(signed: &[fn() -> Result<Signed, QuoteError>]) -> (Quoters, Arc<AtomicU32>) {
    let asked = Arc::new(AtomicU32::new(0));
    let quoters = signed.iter().map(|signed| {
        let quoter = Software {
            signed: *signed,
            asked: asked.clone(),
        };
        Box::new(quoter) as Box<dyn Quoter>
    });
    (Quoters::new(quoters.collect()), asked)
}

fn request() -> Request {
    Request {
        nonce: vec![1; 32],
        checkpoint: [2; 48],
    }
}

#[tokio::test]
async fn all_that_are_configured_sign_or_there_is_no_quote() {
    let (both, _) = quoters(&[tpm, td]);
    let quoted = both.sign(&request()).await.unwrap();
    assert!(quoted.quotes.tpm.is_some() && quoted.quotes.td.is_some() && quoted.registers.is_some());
    assert_eq!(quoted.auxblob, Some(vec![7]));
    let (one, _) = quoters(&[td]);
    let quoted = one.sign(&request()).await.unwrap();
    assert!(quoted.quotes.tpm.is_none() && quoted.registers.is_none());
    let (broken, asked) = quoters(&[tpm, fails]);
    assert!(matches!(broken.sign(&request()).await, Err(QuoteError::Tsm(_))));
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    let (none, _) = quoters(&[]);
    assert!(matches!(none.sign(&request()).await, Err(QuoteError::Nothing)));
}

#[tokio::test]
async fn a_report_that_takes_too_long_is_given_up_and_the_next_waits_for_its_end() {
    let root = tempfile::tempdir().unwrap();
    let key = SigningKey::from_slice(&[9; 32]).unwrap();
    let quoter = |timeout| {
        let reports = Reports::new(root.path(), "tdx_guest");
        TdQuoter::new(reports, key.clone(), Vec::new(), timeout)
    };
    // An earlier one does not end.
    let slow = quoter(Duration::from_millis(50));
    let _turn = Arc::clone(&slow.turn).lock_owned().await;
    let error = slow.sign(&request()).await.unwrap_err();
    assert!(matches!(error, QuoteError::Tsm(TsmError::Timeout(_))), "{error}");
    // One whose turn it is finds no attributes in a plain directory.
    let other = quoter(Duration::from_secs(180));
    let error = other.sign(&request()).await.unwrap_err();
    assert!(matches!(error, QuoteError::Tsm(TsmError::Io { .. })), "{error}");
}
