//! Messages with descriptors on a Unix-domain socket: four bytes of length, little-endian, and an encoded message. Descriptors come
//! with the first bytes of their message (SCM_RIGHTS).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use prost::Message;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// The most descriptors of one message.
pub const MAX_DESCRIPTORS: usize = 16;
/// Bytes of the length.
const PREFIX: usize = 4;
/// Memory for the descriptors of one message, bytes.
const CONTROL_BYTES: usize = rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS));

/// Sends a message, and with it copies of the descriptors, [`MAX_DESCRIPTORS`] at most.
///
/// # Errors
/// Those of the socket. InvalidInput: too many descriptors, or a message of 4 GiB.
pub async fn send_frame(stream: &UnixStream, message: &impl Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let length = u32::try_from(message.encoded_len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend_from_slice(&message.encode_to_vec());
    send_bytes(stream, &bytes, descriptors).await
}

/// Sends bytes, and with the first of them copies of the descriptors.
///
/// # Errors
/// As [`send_frame`].
pub async fn send_bytes(stream: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut sent = 0;
    while sent < bytes.len() {
        let with_first = if sent == 0 { descriptors } else { &[] };
        let rest = &bytes[sent..];
        sent += stream.async_io(Interest::WRITABLE, || send_some(stream, rest, with_first)).await?;
    }
    Ok(())
}

fn send_some(stream: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::<u8>::uninit(); CONTROL_BYTES];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

/// Receives a message of at most `max` bytes, and the descriptors that came with it; `None` if the connection ended before.
///
/// # Errors
/// Those of the socket. InvalidData: a longer message, or a malformed one. UnexpectedEof: the connection ended within it. Other: a
/// descriptor was lost, because this process may open no more files.
pub async fn receive_frame<M: Message + Default>(
    stream: &UnixStream,
    max: usize,
) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
    let (mut prefix, mut descriptors) = ([0; PREFIX], Vec::new());
    if !fill(stream, &mut prefix, &mut descriptors).await? {
        return Ok(None);
    }
    let length = u32::from_le_bytes(prefix) as usize;
    if length > max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {length} bytes, {max} at most")));
    }
    let mut bytes = vec![0; length];
    if length > 0 && !fill(stream, &mut bytes, &mut descriptors).await? {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let message = M::decode(&bytes[..]).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    Ok(Some((message, descriptors)))
}

/// Receives as many bytes as `buffer` has; false if the connection ended before the first.
///
/// # Errors
/// As [`receive_frame`].
pub async fn receive_exact(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<bool> {
    fill(stream, buffer, &mut Vec::new()).await
}

/// Receives as many bytes as `buffer` has; false if the connection ended before the first.
async fn fill(stream: &UnixStream, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<bool> {
    let mut filled = 0;
    while filled < buffer.len() {
        let rest = &mut buffer[filled..];
        let received = stream.async_io(Interest::READABLE, || receive_some(stream, rest, descriptors)).await?;
        if received == 0 {
            return if filled == 0 { Ok(false) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        filled += received;
    }
    Ok(true)
}

fn receive_some(stream: &UnixStream, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::<u8>::uninit(); CONTROL_BYTES];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(stream, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) || descriptors.len() > MAX_DESCRIPTORS {
        return Err(io::Error::other("descriptors were lost: too many came, or this process may open no more files"));
    }
    Ok(received.bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{Read, Seek, SeekFrom, Write};
    use std::os::fd::AsFd;

    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::wire::cluster::{LocalReadReply, LocalReadRequest};

    fn file(text: &str) -> std::fs::File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn text_of(descriptor: OwnedFd) -> String {
        let (mut file, mut text) = (std::fs::File::from(descriptor), String::new());
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    }

    #[tokio::test]
    async fn message_arrives_with_its_descriptors() {
        let (one, other) = UnixStream::pair().unwrap();
        let files = [file("a"), file("b")];
        let reply = LocalReadReply { ticket_parts: 7, ..LocalReadReply::default() };
        send_frame(&one, &reply, &files.each_ref().map(AsFd::as_fd)).await.unwrap();
        send_frame(&one, &reply, &[]).await.unwrap();
        drop((files, one));
        let (first, descriptors) = receive_frame::<LocalReadReply>(&other, 1 << 10).await.unwrap().unwrap();
        assert_eq!((first, descriptors.len()), (reply.clone(), 2));
        assert_eq!(descriptors.into_iter().map(text_of).collect::<Vec<_>>(), ["a", "b"]);
        let (second, descriptors) = receive_frame::<LocalReadReply>(&other, 1 << 10).await.unwrap().unwrap();
        assert_eq!((second, descriptors.len()), (reply, 0));
        assert!(receive_frame::<LocalReadReply>(&other, 1 << 10).await.unwrap().is_none(), "the end");
    }

    #[tokio::test]
    async fn message_larger_than_the_socket_buffer_arrives() {
        let (one, other) = UnixStream::pair().unwrap();
        let request = LocalReadRequest { ticket: vec![7; 4 << 20].into(), ..LocalReadRequest::default() };
        let sent = request.clone();
        let sending = tokio::spawn(async move { send_frame(&one, &sent, &[file("x").as_fd()]).await });
        let (received, descriptors) = receive_frame::<LocalReadRequest>(&other, 8 << 20).await.unwrap().unwrap();
        sending.await.unwrap().unwrap();
        assert!(received == request && descriptors.len() == 1);
    }

    #[tokio::test]
    async fn malformed_frames_are_errors() {
        for (bytes, expected) in [
            (&[0xff, 0xff, 0xff, 0xff][..], io::ErrorKind::InvalidData),
            (&[2, 0, 0, 0, 0xff, 0xff][..], io::ErrorKind::InvalidData),
            (&[2, 0, 0, 0, 1][..], io::ErrorKind::UnexpectedEof),
            (&[2, 0][..], io::ErrorKind::UnexpectedEof),
        ] {
            let (mut one, other) = UnixStream::pair().unwrap();
            one.write_all(bytes).await.unwrap();
            drop(one);
            let error = receive_frame::<LocalReadRequest>(&other, 1 << 10).await.unwrap_err();
            assert_eq!(error.kind(), expected, "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn too_many_descriptors_are_refused() {
        let (one, _other) = UnixStream::pair().unwrap();
        let file = file("x");
        let many = vec![file.as_fd(); 2 * MAX_DESCRIPTORS];
        let error = send_frame(&one, &LocalReadReply::default(), &many).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
