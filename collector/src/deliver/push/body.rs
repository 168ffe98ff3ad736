//! A file as the body of a request.
//!
//! Promise: what is sent is never in memory whole.

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::pin::Pin;
use std::task::{Context, Poll};

/// Bytes of evidence sent at once.
const CHUNK: usize = 64 * 1024;

/// A file as the body of a request, read as it is sent.
pub(super) struct FileBody {
    file: File,
    left: u64,
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let n = self.left.min(CHUNK as u64) as usize;
        let mut chunk = vec![0; n];
        // A file that was just written: it is in memory, so this does not wait for a disk.
        match self.file.read_exact(&mut chunk) {
            Ok(()) => {
                self.left -= n as u64;
                Poll::Ready(Some(Ok(Frame::data(chunk.into()))))
            }
            Err(e) => Poll::Ready(Some(Err(e))),
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }
}

impl FileBody {
    /// The first `len` bytes of `file`, from its start.
    pub(super) fn new(file: &File, len: u64) -> io::Result<FileBody> {
        let mut file = file.try_clone()?;
        file.rewind()?;
        Ok(FileBody { file, left: len })
    }
}
