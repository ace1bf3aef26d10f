//! The messages of a get, compressed on the way where that brings rows faster: for a reader that accepts it, over a slow link.
//!
//! Blocking threads compress, of which there are few ([`WireCompression`]). What is stored compressed is sent as it is.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use http::request::Parts;
use volley_common::fair_budget::BudgetShare;
use volley_common::fairness::CallerKey;
use volley_common::ipc::accepted_codecs::AcceptedCodecs;
use volley_common::ipc::compress::{BodyCodec, MessageCompressor};
use volley_common::server::serve::PeerAddress;
use volley_common::{Error, Result};

use super::message::EncodedMessage;
use crate::wire_compression::WireCompression;
use crate::wire_compression::link_policy::{LinkPolicy, SentMessages};

/// After so many plain bytes the compressed ones before them have left this process, whose HTTP/2 holds about 4 MiB of a stream.
const PLACE_BYTES: u64 = 8 << 20;

/// Compresses what one get sends, and measures how fast it is sent.
pub struct CompressingGet {
    shared: WireCompression,
    caller: CallerKey,
    client: Option<IpAddr>,
    policy: LinkPolicy,
    /// Held from the first message on that is compressed, until none of them waits for the client any more.
    place: Option<BudgetShare>,
    /// Bytes that were sent plain since the last compressed message.
    plain_since: u64,
    /// When the connection asked for the current frame.
    asked_at: Instant,
    /// The messages that were handed over last, and when.
    handed_over: Option<(SentMessages, Instant)>,
}

impl CompressingGet {
    /// `head`: of the get's call. `None` if its reader accepts no codec, or the node compresses for nobody.
    pub fn new(shared: &WireCompression, head: &Parts, caller: CallerKey) -> Option<Self> {
        let accepted = AcceptedCodecs::of(&head.headers);
        if !accepted.any() || !shared.is_enabled() {
            return None;
        }
        let client = PeerAddress::of(&head.extensions).map(|peer| peer.ip());
        let known = client.and_then(|client| shared.known_link(client));
        Some(CompressingGet {
            shared: shared.clone(),
            caller,
            client,
            policy: LinkPolicy::new(accepted, known),
            place: None,
            plain_since: 0,
            asked_at: Instant::now(),
            handed_over: None,
        })
    }

    /// The connection asks for the next frame: it has sent most of the one before.
    pub fn begin_frame(&mut self) {
        self.asked_at = Instant::now();
        if let Some((sent, since)) = self.handed_over.take() {
            let sent = SentMessages { wait: self.asked_at - since, ..sent };
            let rates = self.shared.count_sent(self.client, sent.plain);
            self.policy.sent(sent, &rates);
        }
    }

    /// The messages as they are sent in the next frame.
    ///
    /// # Errors
    /// INTERNAL: the thread that compresses failed.
    pub async fn compress(&mut self, messages: Vec<EncodedMessage>) -> Result<Vec<EncodedMessage>> {
        let plain = size_of(&messages);
        let messages = match self.policy.codec() {
            Some(codec) if self.has_place() => {
                self.plain_since = 0;
                self.compress_by(codec, messages).await?
            }
            _ => {
                self.count_plain(plain);
                messages
            }
        };
        let (wire, now) = (size_of(&messages), Instant::now());
        let sent = SentMessages { plain, wire, busy: now - self.asked_at, wait: Duration::ZERO };
        self.handed_over = Some((sent, now));
        Ok(messages)
    }

    fn has_place(&mut self) -> bool {
        if self.place.is_none() {
            self.place = self.shared.take_place(&self.caller);
        }
        self.place.is_some()
    }

    /// Gives the place back to others, if all that was compressed has been sent.
    fn count_plain(&mut self, bytes: u64) {
        self.plain_since = self.plain_since.saturating_add(bytes);
        if self.plain_since >= PLACE_BYTES {
            self.place = None;
        }
    }

    async fn compress_by(&self, codec: BodyCodec, messages: Vec<EncodedMessage>) -> Result<Vec<EncodedMessage>> {
        let (thread, shared) = (self.shared.acquire_thread().await, self.shared.clone());
        let compress = move || {
            let _thread = thread;
            compressed(codec, messages, &shared)
        };
        let compressed = tokio::task::spawn_blocking(compress).await;
        compressed.map_err(|e| Error::internal(format!("compressing a message failed: {e}")))
    }
}

impl Drop for CompressingGet {
    /// Further streams to the client begin with what this one has found out.
    fn drop(&mut self) {
        if let (Some(client), true) = (self.client, self.policy.is_measured()) {
            self.shared.remember_link(client, self.policy.codec());
        }
    }
}

fn size_of(messages: &[EncodedMessage]) -> u64 {
    messages.iter().map(|message| message.size() as u64).sum()
}

/// The messages with compressed bodies where that makes them shorter. One that cannot be compressed, and those after it, stay as they
/// are. Blocks.
fn compressed(codec: BodyCodec, messages: Vec<EncodedMessage>, shared: &WireCompression) -> Vec<EncodedMessage> {
    let (mut compressor, mut saved) = (MessageCompressor::new(codec), 0);
    let mut compress = |message: EncodedMessage| {
        let began = Instant::now();
        let shorter = match &mut compressor {
            Ok(usable) => usable.compress(&message.header, &message.body),
            Err(_) => return message,
        };
        match shorter {
            Ok(Some(shorter)) => {
                let plain = message.size();
                shared.measured(codec, plain, began.elapsed());
                let shorter = EncodedMessage { header: shorter.header, body: vec![shorter.body], ..message };
                saved += plain.saturating_sub(shorter.size());
                shorter
            }
            Ok(None) => message,
            Err(error) => {
                tracing::warn!(%error, "a message is sent without compression");
                compressor = Err(error);
                message
            }
        }
    };
    let messages = messages.into_iter().map(&mut compress).collect();
    metrics::counter!("volley_get_saved_bytes_total").increment(saved as u64);
    messages
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bytes::Bytes;
    use http::HeaderValue;
    use volley_common::ipc::accepted_codecs::{ACCEPT_CODECS_HEADER, ALL_CODECS};

    use super::*;

    #[tokio::test]
    async fn place_is_given_back_when_plain_messages_have_followed() {
        let shared = WireCompression::new(1);
        let (mut head, ()) = http::Request::new(()).into_parts();
        head.headers.insert(ACCEPT_CODECS_HEADER, HeaderValue::from_static(ALL_CODECS));
        let accepted = AcceptedCodecs::of(&head.headers);
        let mut get = CompressingGet::new(&shared, &head, CallerKey::Cluster).unwrap();
        let (header, body) = (Bytes::from_static(b"no message"), vec![Bytes::from(vec![0; 1 << 20])]);
        let message = EncodedMessage { header, body, rows: None, app_metadata: Bytes::new() };
        get.policy = LinkPolicy::new(accepted, Some(BodyCodec::Lz4));
        get.compress(vec![message.clone()]).await.unwrap();
        get.policy = LinkPolicy::new(accepted, None);
        for _ in 0..PLACE_BYTES >> 20 {
            assert!(shared.take_place(&CallerKey::Cluster).is_none());
            let sent = get.compress(vec![message.clone()]).await.unwrap();
            assert_eq!(sent[0].body, message.body);
        }
        assert!(shared.take_place(&CallerKey::Cluster).is_some());
    }
}
