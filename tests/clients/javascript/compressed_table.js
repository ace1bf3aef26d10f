// A client in JavaScript without codecs: it reads a table by DoGet with the option `decompress`, with the header of that
// name, and without both. Node's HTTP/2 and the file of apache-arrow that browsers load are all that it needs.
//
// Arguments: that file, HOST:PORT, the table. Prints as JSON the values of each column that the option and the header gave,
// and the error of the read without them, which is null if there was none.
"use strict";

const http2 = require("node:http2");

const DO_GET = "/arrow.flight.protocol.FlightService/DoGet";
// The numbers of fields: of a ticket its bytes, of FlightData the header of an IPC message and its body.
const TICKET = 1;
const DATA_HEADER = 2;
const DATA_BODY = 1000;

function varint(number) {
  const bytes = [];
  for (; number > 0x7f; number = Math.floor(number / 128)) {
    bytes.push((number % 128) | 0x80);
  }
  return Buffer.from([...bytes, number]);
}

/** A message of protobuf with one field, whose value is bytes. */
function message(field, bytes) {
  return Buffer.concat([varint(field * 8 + 2), varint(bytes.length), bytes]);
}

/** The fields of a message whose fields all have a length. */
function fieldsOf(bytes) {
  const fields = new Map();
  let at = 0;
  const next = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[at++];
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) {
        return value;
      }
    }
  };
  while (at < bytes.length) {
    const field = Math.floor(next() / 8);
    const length = next();
    fields.set(field, bytes.subarray(at, at + length));
    at += length;
  }
  return fields;
}

/** A message of gRPC: whether it is compressed, its length, and its bytes. */
function framed(bytes) {
  const prefix = Buffer.alloc(5);
  prefix.writeUInt32BE(bytes.length, 1);
  return Buffer.concat([prefix, bytes]);
}

function* unframed(bytes) {
  for (let at = 0; at < bytes.length; ) {
    const end = at + 5 + bytes.readUInt32BE(at + 1);
    yield bytes.subarray(at + 5, end);
    at = end;
  }
}

/** The messages of a DoGet. */
function get(session, ticket, headers) {
  return new Promise((resolve, reject) => {
    const call = session.request({
      ":method": "POST", ":path": DO_GET, "content-type": "application/grpc", te: "trailers", ...headers,
    });
    const received = [];
    let ended = {};
    // Of a refusal at once they are headers, of a stream trailers.
    call.on("response", (found) => { ended = found; });
    call.on("trailers", (found) => { ended = found; });
    call.on("data", (bytes) => received.push(bytes));
    call.on("error", reject);
    call.on("close", () => {
      if (ended["grpc-status"] !== "0") {
        reject(new Error(`status ${ended["grpc-status"]}: ${ended["grpc-message"]}`));
        return;
      }
      resolve([...unframed(Buffer.concat(received))].map(fieldsOf));
    });
    call.end(framed(message(TICKET, Buffer.from(JSON.stringify(ticket)))));
  });
}

/** The same messages as an Arrow stream: each header, padded, behind its length, and then its body. */
function streamOf(messages) {
  const pieces = messages.filter((fields) => fields.has(DATA_HEADER)).flatMap((fields) => {
    const header = fields.get(DATA_HEADER);
    const padded = Buffer.alloc(Math.ceil(header.length / 8) * 8);
    header.copy(padded);
    const prefix = Buffer.alloc(8, 0xff);
    prefix.writeInt32LE(padded.length, 4);
    return [prefix, padded, fields.get(DATA_BODY) ?? Buffer.alloc(0)];
  });
  return Buffer.concat(pieces);
}

/** A value of Arrow as one that JSON has. */
function plain(value) {
  if (typeof value === "bigint") {
    return Number(value);
  }
  return value !== null && typeof value === "object" ? [...value].map(plain) : value;
}

/** The values of each column. */
function columnsOf(arrow, stream) {
  const table = arrow.tableFromIPC(stream);
  return Object.fromEntries(table.schema.fields.map(({ name }) => [name, [...table.getChild(name)].map(plain)]));
}

async function main([file, address, table]) {
  const arrow = require(file);
  const session = http2.connect(`http://${address}`);
  try {
    const read = async (options, headers) => columnsOf(arrow, streamOf(await get(session, { table, ...options }, headers)));
    const found = {
      option: await read({ decompress: true }, {}),
      header: await read({}, { "x-volley-decompress": "true" }),
    };
    const stored = streamOf(await get(session, { table }, {}));
    try {
      columnsOf(arrow, stored);
      found.error = null;
    } catch (error) {
      found.error = error.message;
    }
    console.log(JSON.stringify(found));
  } finally {
    session.close();
  }
}

main(process.argv.slice(2));
