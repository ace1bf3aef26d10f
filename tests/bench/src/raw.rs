//! `get_flight_info` whose answer is counted but not decoded: decoding is work of the client, and client and servers share the
//! processors of the machine.

use arrow_flight::FlightDescriptor;
use bytes::{Buf, Bytes};
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

const PATH: &str = "/arrow.flight.protocol.FlightService/GetFlightInfo";
/// FlightInfo's `endpoint`.
const ENDPOINT: u32 = 3;
/// The flow control window, bytes.
const WINDOW: u32 = 16 << 20;

type Result<T> = std::result::Result<T, String>;

/// Connects to HOST:PORT.
pub async fn connect(address: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|e| format!("{address}: {e}"))?;
    let endpoint = endpoint.tcp_nodelay(true).initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW);
    endpoint.max_frame_size(256 << 10).connect().await.map_err(|e| format!("{address}: {e}"))
}

/// Requests a FlightInfo: the number of endpoints in the answer.
pub async fn endpoints(channel: Channel, descriptor: FlightDescriptor) -> Result<usize> {
    let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(WINDOW as usize);
    grpc.ready().await.map_err(|e| e.to_string())?;
    let path = http::uri::PathAndQuery::from_static(PATH);
    let answer = grpc.unary(Request::new(descriptor), path, RawInfoCodec).await.map_err(|e| e.to_string())?;
    count(answer.into_inner()).map_err(|e| format!("the answer is not a FlightInfo: {e}"))
}

fn count(mut info: Bytes) -> std::result::Result<usize, prost::DecodeError> {
    let mut endpoints = 0;
    while info.has_remaining() {
        let (field, wire) = decode_key(&mut info)?;
        if wire == WireType::LengthDelimited {
            let length = decode_varint(&mut info)? as usize;
            info.advance(length.min(info.len()));
        } else {
            skip_field(wire, field, &mut info, DecodeContext::default())?;
        }
        endpoints += usize::from(field == ENDPOINT);
    }
    Ok(endpoints)
}

#[derive(Clone, Copy)]
struct RawInfoCodec;

impl Codec for RawInfoCodec {
    type Encode = FlightDescriptor;
    type Decode = Bytes;
    type Encoder = RawInfoCodec;
    type Decoder = RawInfoCodec;

    fn encoder(&mut self) -> RawInfoCodec {
        RawInfoCodec
    }

    fn decoder(&mut self) -> RawInfoCodec {
        RawInfoCodec
    }
}

impl Encoder for RawInfoCodec {
    type Item = FlightDescriptor;
    type Error = Status;

    fn encode(&mut self, item: FlightDescriptor, to: &mut EncodeBuf<'_>) -> std::result::Result<(), Status> {
        item.encode(to).map_err(|e| Status::internal(e.to_string()))
    }
}

impl Decoder for RawInfoCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> std::result::Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

#[cfg(test)]
mod tests {
    use arrow_flight::{FlightEndpoint, FlightInfo};

    use super::*;

    #[test]
    fn endpoints_are_counted() {
        let info = |endpoints| FlightInfo {
            schema: Bytes::from_static(b"schema"),
            endpoint: vec![FlightEndpoint { app_metadata: Bytes::from_static(b"x"), ..Default::default() }; endpoints],
            total_records: 7,
            ordered: true,
            ..FlightInfo::default()
        };
        for endpoints in [0, 1, 1000] {
            assert_eq!(count(info(endpoints).encode_to_vec().into()), Ok(endpoints));
        }
    }
}
