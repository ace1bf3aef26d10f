//! What a coordinator needs of a filter to leave out parts that have no row for it: a condition on bounds, which is not SQL.

use volley_common::ipc::statistics::schema_checksum;
use volley_common::wire::cluster::{PartFilter, Ticket};
use volley_sql::predicate::Predicate;

/// Of a filter over the visible columns of a table, for the plan of the whole table that has this ticket. `None`: no part can be
/// left out.
pub fn part_filter(filter: &Predicate, ticket: &Ticket) -> Option<PartFilter> {
    let pruning = filter.pruning()?;
    let column = |position: usize| -> Option<usize> {
        let visible = *filter.columns().get(position)?;
        match &ticket.columns {
            Some(columns) => columns.index.get(visible).map(|index| *index as usize),
            None => Some(visible),
        }
    };
    let condition = pruning.bounds().map_columns(&column)?.to_wire()?;
    Some(PartFilter { schema: schema_checksum(&ticket.schema), condition: Some(condition) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, Schema};
    use volley_common::ipc::statistics::BoundFilter;
    use volley_common::wire::cluster::Columns;

    use super::*;

    fn columns_of(text: &str, ticket: &Ticket) -> Option<Vec<usize>> {
        let field = |name: &str| Field::new(name, DataType::Int64, true);
        let schema = Arc::new(Schema::new(["a", "b", "c"].map(field).to_vec()));
        let sent = part_filter(&Predicate::parse(text, &schema).unwrap(), ticket)?;
        assert_eq!(sent.schema, schema_checksum(b"message"));
        let condition = BoundFilter::from_wire(&sent.condition.unwrap()).unwrap();
        Some(condition.columns().into_iter().collect())
    }

    #[test]
    fn columns_are_those_of_the_whole_table() {
        let whole = Ticket { schema: b"message".to_vec().into(), ..Ticket::default() };
        let visible = Ticket { columns: Some(Columns { index: vec![2, 5, 9] }), ..whole.clone() };
        assert_eq!(columns_of("b > 7 AND c = 3", &whole), Some(vec![1, 2]));
        assert_eq!(columns_of("b > 7 AND c = 3", &visible), Some(vec![5, 9]));
        assert_eq!(columns_of("a % 2 = 0", &whole), None, "nothing is known");
        let fewer = Ticket { columns: Some(Columns { index: vec![2] }), ..whole };
        assert_eq!(columns_of("b > 7", &fewer), None);
    }
}
