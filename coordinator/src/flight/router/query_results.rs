//! GetFlightInfo of a query's result. The node that has stored it names it by a signed ticket, and gives the client the endpoints.

use arrow_flight::FlightDescriptor;
use arrow_flight::flight_descriptor::DescriptorType;
use tonic::metadata::MetadataMap;
use volley_common::http2::grpc_error;
use volley_common::options::{Options, TableRequest};
use volley_common::wire::cluster::Ticket;
use volley_common::{Error, Result, ticket};

use super::{CoordinatorRouter, RouterReply};
use crate::client_listener::ClientListener;
use crate::flight::call_context::CallContext;
use crate::flight::flight_info;

impl CoordinatorRouter {
    /// The ticket of a query's result by which a descriptor names it, if the caller may redeem it. Only members can sign one: a client
    /// that sends a ticket that it has gets what the ticket gives.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the ticket is of no result. Those of [`crate::service::tickets::TicketService::verify`] and of
    /// [`volley_common::identity::Access::check_ticket`].
    pub(super) fn named_result(&self, descriptor: &FlightDescriptor, call: &CallContext) -> Result<Option<Ticket>> {
        let is_command = descriptor.r#type == DescriptorType::Cmd as i32;
        if !is_command || !ticket::is_signed(&descriptor.cmd) {
            return Ok(None);
        }
        let found = self.redeem(&descriptor.cmd, call)?;
        match found.result {
            Some(_) => Ok(Some(found)),
            None => Err(Error::invalid("the command is a ticket: redeem it by do_get")),
        }
    }

    /// The FlightInfo of a query's result.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: an option that has no effect on it. Those of [`crate::service::read::ReadService::plan_query_result`].
    pub(super) async fn query_result_info(
        &self,
        descriptor: &[u8],
        result: Ticket,
        headers: &MetadataMap,
        listener: &ClientListener,
        call: &CallContext,
    ) -> Result<RouterReply> {
        let named = FlightDescriptor::new_path(result.table.clone());
        let options = TableRequest::from_descriptor(&named, headers)?.for_read()?.options;
        let Options { max_endpoints, decompress, .. } = options.clone();
        if options != (Options { max_endpoints, decompress, ..Options::default() }) {
            return Err(Error::invalid(
                "only max_endpoints and decompress have an effect on the result of a query: write the rest into the statement",
            ));
        }
        let _place = match self.planning.enter(call.access()).await {
            Ok(place) => place,
            Err(status) => return Ok(grpc_error(status)),
        };
        flight_info::reply(descriptor, &self.read.plan_query_result(result, max_endpoints, listener).await?)
    }
}
