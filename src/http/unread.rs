//! Ends connections whose request was answered before its chunked body had come to an end.
//!
//! Where the length of a body is known, actix-web closes the connection after such an answer, and reads a little longer so
//! that the answer arrives. A chunked body that the handler has let go of it reads on instead, without a limit: whoever sends
//! half of one keeps a connection open for nothing. A body that is still held is closed upon like the others; so the last
//! piece of the answer holds it.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use actix_web::{
    HttpMessage,
    body::{BodySize, BoxBody, MessageBody},
    dev::{Payload, ServiceRequest},
    error::PayloadError,
};
use bytes::Bytes;
use futures::{Stream, StreamExt};

/// A chunked body, shared between its reader and the answer.
#[derive(Clone)]
pub(super) struct Unread(Rc<RefCell<Payload>>);

impl Unread {
    /// Takes hold of the request's body if it is chunked.
    pub(super) fn hold(request: &mut ServiceRequest) -> Option<Self> {
        if !request.chunked().unwrap_or(true) {
            return None;
        }
        let unread = Self(Rc::new(RefCell::new(request.take_payload())));
        let reader: Pin<Box<dyn Stream<Item = Result<Bytes, PayloadError>>>> = Box::pin(Reader(unread.clone()));
        request.set_payload(Payload::from(reader));
        Some(unread)
    }

    /// Lets go of the body only after the last piece of the answer.
    pub(super) fn until_sent(self, body: BoxBody) -> BoxBody {
        BoxBody::new(Holding { body, _unread: self })
    }
}

impl std::fmt::Debug for Unread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Unread")
    }
}

struct Reader(Unread);

impl Stream for Reader {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.0.borrow_mut().poll_next_unpin(cx)
    }
}

struct Holding {
    body: BoxBody,
    _unread: Unread,
}

impl MessageBody for Holding {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
}
