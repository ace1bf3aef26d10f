//! The codec of a DoPut whose source may fail: the call is reset then, because a member would commit a stream that just ends.

use std::marker::PhantomData;

use arrow_flight::{FlightData, PutResult};
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::Result;

/// The path of DoPut.
pub const DO_PUT: &str = "/arrow.flight.protocol.FlightService/DoPut";

/// Encodes `Result<FlightData>`: an error resets the call, which tonic's own codec cannot do.
#[derive(Debug)]
pub struct PutCodec;

/// The encoder of [`PutCodec`].
#[derive(Debug)]
pub struct PutEncoder;

/// Decodes prost's messages.
#[derive(Debug)]
pub struct MessageDecoder<T>(PhantomData<T>);

impl Codec for PutCodec {
    type Encode = Result<FlightData>;
    type Decode = PutResult;
    type Encoder = PutEncoder;
    type Decoder = MessageDecoder<PutResult>;

    fn encoder(&mut self) -> PutEncoder {
        PutEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        MessageDecoder(PhantomData)
    }
}

impl Encoder for PutEncoder {
    type Item = Result<FlightData>;
    type Error = Status;

    fn encode(&mut self, item: Self::Item, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item?.encode(buffer).map_err(|e| Status::internal(e.to_string()))
    }
}

impl<T: Message + Default> Decoder for MessageDecoder<T> {
    type Item = T;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<T>, Status> {
        T::decode(buffer).map(Some).map_err(|e| Status::internal(e.to_string()))
    }
}
