//! `get_flight_info` whose answer is counted, not unpacked: how long it takes to come is the servers' matter, what a client
//! makes of it its own, and both share the machine's processors.

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
/// Bytes of an answer that may be on their way.
const WINDOW: u32 = 16 << 20;

type Result<T> = std::result::Result<T, String>;

/// Connects to HOST:PORT.
pub async fn connect(address: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|e| format!("{address}: {e}"))?;
    let endpoint = endpoint.tcp_nodelay(true).initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW);
    endpoint.max_frame_size(256 << 10).connect().await.map_err(|e| format!("{address}: {e}"))
}

/// Asks for a FlightInfo; how many endpoints the answer has.
pub async fn endpoints(channel: Channel, descriptor: FlightDescriptor) -> Result<usize> {
    let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(WINDOW as usize);
    grpc.ready().await.map_err(|e| e.to_string())?;
    let path = http::uri::PathAndQuery::from_static(PATH);
    let answer = grpc.unary(Request::new(descriptor), path, Raw).await.map_err(|e| e.to_string())?;
    count(answer.into_inner()).map_err(|e| format!("the answer is no FlightInfo: {e}"))
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
struct Raw;

impl Codec for Raw {
    type Encode = FlightDescriptor;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = FlightDescriptor;
    type Error = Status;

    fn encode(&mut self, item: FlightDescriptor, to: &mut EncodeBuf<'_>) -> std::result::Result<(), Status> {
        item.encode(to).map_err(|e| Status::internal(e.to_string()))
    }
}

impl Decoder for Raw {
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
