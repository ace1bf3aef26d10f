// What the client does, one function for each kind of call.

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/decimal128"
	"github.com/apache/arrow-go/v18/arrow/flight"
	"github.com/apache/arrow-go/v18/arrow/flight/flightsql"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// A query that runs longer than any test, with little memory.
	endless   = "SELECT count(*) AS n FROM generate_series(1, 1000000000000) WHERE value % 7 <> 3"
	batchRows = 100
)

func (s *session) change(ctx context.Context, found *report) (err error) {
	columns := "(id BIGINT NOT NULL, kind VARCHAR, price DECIMAL(10, 2), day DATE, seen TIMESTAMP)"
	if found.Created, err = s.client.ExecuteUpdate(ctx, "CREATE TABLE "+s.table+" "+columns); err != nil {
		return err
	}
	rows := "(1, 'ant', 1.25, DATE '2026-01-01', TIMESTAMP '2026-02-01 00:00:00'), (2, NULL, NULL, NULL, NULL)"
	if found.Inserted, err = s.client.ExecuteUpdate(ctx, "INSERT INTO "+s.table+" VALUES "+rows); err != nil {
		return err
	}
	insert, err := s.client.Prepare(ctx, "INSERT INTO "+s.table+" VALUES (?, ?, ?, ?, ?)")
	if err != nil {
		return err
	}
	defer insert.Close(ctx)
	if isUpdate, isKnown := insert.IsUpdate(); !isKnown || !isUpdate {
		return errors.New("the server does not say that the statement changes a table")
	}
	batch := numbered(insert.ParameterSchema())
	defer batch.Release()
	insert.SetParameters(batch)
	if found.Batch, err = insert.ExecuteUpdate(ctx); err != nil {
		return err
	}
	// A prepared statement without parameters is sent with a batch that has no columns.
	empty, err := s.client.Prepare(ctx, "CREATE TABLE IF NOT EXISTS "+s.table+" (id BIGINT)")
	if err != nil {
		return err
	}
	defer empty.Close(ctx)
	if _, err = empty.ExecuteUpdate(ctx); err != nil {
		return err
	}
	found.Ingested, err = s.ingest(ctx)
	return err
}

// numbered is a batch of the rows that the clients in all languages insert, with the types that the server gives.
func numbered(schema *arrow.Schema) arrow.RecordBatch {
	builder := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	defer builder.Release()
	for i := range int64(batchRows) {
		builder.Field(0).(*array.Int64Builder).Append(10 + i)
		if i == batchRows-1 {
			builder.Field(1).AppendNull()
		} else {
			builder.Field(1).(*array.StringBuilder).Append([]string{"ant", "bee"}[i%2])
		}
		builder.Field(2).(*array.Decimal128Builder).Append(decimal128.FromI64(25 * i))
		day := time.Date(2026, 1, 1+int(i%28), 0, 0, 0, 0, time.UTC)
		builder.Field(3).(*array.Date32Builder).Append(arrow.Date32FromTime(day))
		seen := time.Date(2026, 3, 1, 0, 0, int(i), 789_000_000, time.UTC)
		builder.Field(4).(*array.TimestampBuilder).AppendTime(seen)
	}
	return builder.NewRecordBatch()
}

// ingest puts rows into a table of their own, twice.
func (s *session) ingest(ctx context.Context) (int64, error) {
	schema := arrow.NewSchema([]arrow.Field{{Name: "n", Type: arrow.PrimitiveTypes.Int64}}, nil)
	builder := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	defer builder.Release()
	builder.Field(0).(*array.Int64Builder).AppendValues([]int64{1, 2, 3}, nil)
	batch := builder.NewRecordBatch()
	defer batch.Release()
	var ingested int64
	for range 2 {
		reader, err := array.NewRecordReader(schema, []arrow.RecordBatch{batch})
		if err != nil {
			return 0, err
		}
		rows, err := s.client.ExecuteIngest(ctx, reader, &flightsql.ExecuteIngestOpts{
			TableDefinitionOptions: &flightsql.TableDefinitionOptions{
				IfNotExist: flightsql.TableDefinitionOptionsTableNotExistOptionCreate,
				IfExists:   flightsql.TableDefinitionOptionsTableExistsOptionAppend,
			},
			Table:  "ingested",
			Schema: &s.schema,
		})
		reader.Release()
		if err != nil {
			return 0, err
		}
		ingested += rows
	}
	return ingested, nil
}

func (s *session) metadata(ctx context.Context, found *report) error {
	numbers := []flightsql.SqlInfo{flightsql.SqlInfoFlightSqlServerName}
	info, err := s.client.GetSqlInfo(ctx, numbers)
	err = s.each(ctx, info, err, func(batch arrow.RecordBatch) error {
		values := batch.Column(1).(*array.DenseUnion)
		for row := range int(batch.NumRows()) {
			texts := values.Field(values.ChildID(row)).(*array.String)
			found.Server += texts.Value(int(values.ValueOffset(row)))
		}
		return nil
	})
	if err != nil {
		return err
	}
	info, err = s.client.GetDBSchemas(ctx, &flightsql.GetDBSchemasOpts{DbSchemaFilterPattern: &s.schema})
	if found.Schemas, err = s.texts(ctx, info, err, 1); err != nil {
		return err
	}
	if found.Tables, err = s.tables(ctx); err != nil {
		return err
	}
	orders := "orders"
	info, err = s.client.GetTables(ctx, &flightsql.GetTablesOpts{
		DbSchemaFilterPattern: &s.schema, TableNameFilterPattern: &orders, IncludeSchema: true,
	})
	err = s.each(ctx, info, err, func(batch arrow.RecordBatch) error {
		for _, message := range schemaMessages(batch) {
			schema, err := flight.DeserializeSchema(message, memory.DefaultAllocator)
			if err != nil {
				return err
			}
			for _, field := range schema.Fields() {
				found.Columns = append(found.Columns, described(field))
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	table := flightsql.TableRef{DBSchema: &s.schema, Table: orders}
	for _, keys := range []func(context.Context, flightsql.TableRef, ...grpc.CallOption) (*flight.FlightInfo, error){
		s.client.GetPrimaryKeys, s.client.GetExportedKeys, s.client.GetImportedKeys,
	} {
		info, err := keys(ctx, table)
		rows, err := s.count(ctx, info, err)
		if err != nil {
			return err
		}
		found.Keys += rows
	}
	return nil
}

// schemaMessages are the schemas of tables, of a reply to GetTables.
func schemaMessages(batch arrow.RecordBatch) (messages [][]byte) {
	column := batch.Column(4).(*array.Binary)
	for row := range int(batch.NumRows()) {
		messages = append(messages, column.Value(row))
	}
	return messages
}

func described(field arrow.Field) string {
	if field.Nullable {
		return field.Name
	}
	return field.Name + " NOT NULL"
}

func (s *session) tables(ctx context.Context) ([]string, error) {
	info, err := s.client.GetTables(ctx, &flightsql.GetTablesOpts{
		DbSchemaFilterPattern: &s.schema, TableTypes: []string{"TABLE"},
	})
	return s.texts(ctx, info, err, 2)
}

func (s *session) query(ctx context.Context, found *report) error {
	info, err := s.client.Execute(ctx, "SELECT id FROM "+s.table)
	err = s.each(ctx, info, err, func(batch arrow.RecordBatch) error {
		for _, id := range batch.Column(0).(*array.Int64).Int64Values() {
			found.Sum += id
		}
		found.Rows += batch.NumRows()
		return nil
	})
	if err != nil {
		return err
	}
	info, err = s.client.Execute(ctx, "SELECT count(*), sum(id) FROM "+s.table)
	err = s.each(ctx, info, err, func(batch arrow.RecordBatch) error {
		for column := range 2 {
			found.Total = append(found.Total, batch.Column(column).(*array.Int64).Value(0))
		}
		return nil
	})
	if err != nil {
		return err
	}
	info, err = s.client.Execute(ctx, "SELECT * FROM "+s.table+" WHERE id < 0")
	found.Empty, err = s.count(ctx, info, err)
	return err
}

func (s *session) prepared(ctx context.Context, found *report) error {
	text := "SELECT id, price, day, seen FROM " + s.table + " WHERE id >= ? AND kind = ? ORDER BY id LIMIT 2"
	query, err := s.client.Prepare(ctx, text)
	if err != nil {
		return err
	}
	defer query.Close(ctx)
	if names := query.DatasetSchema().NumFields(); names != 4 {
		return fmt.Errorf("%d columns of the result are known, not 4", names)
	}
	for _, values := range []struct {
		id   int64
		kind string
	}{{12, "ant"}, {50, "bee"}} {
		bound := array.NewRecordBuilder(memory.DefaultAllocator, query.ParameterSchema())
		bound.Field(0).(*array.Int64Builder).Append(values.id)
		bound.Field(1).(*array.StringBuilder).Append(values.kind)
		query.SetParameters(bound.NewRecordBatch())
		bound.Release()
		info, err := query.Execute(ctx)
		err = s.each(ctx, info, err, func(batch arrow.RecordBatch) error {
			for row := range int(batch.NumRows()) {
				found.Prepared = append(found.Prepared, shown(batch, row))
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	found.Later, err = s.seenSince(ctx, time.Date(2026, 3, 1, 0, 1, 0, 0, time.UTC))
	return err
}

// seenSince counts the rows from a moment on, which is a parameter.
func (s *session) seenSince(ctx context.Context, moment time.Time) (count int64, err error) {
	query, err := s.client.Prepare(ctx, "SELECT count(*) FROM "+s.table+" WHERE seen >= ?")
	if err != nil {
		return 0, err
	}
	defer query.Close(ctx)
	bound := array.NewRecordBuilder(memory.DefaultAllocator, query.ParameterSchema())
	defer bound.Release()
	bound.Field(0).(*array.TimestampBuilder).AppendTime(moment)
	query.SetParameters(bound.NewRecordBatch())
	info, err := query.Execute(ctx)
	err = s.each(ctx, info, err, func(batch arrow.RecordBatch) error {
		count = batch.Column(0).(*array.Int64).Value(0)
		return nil
	})
	return count, err
}

// shown is a row as text, the same in all languages.
func shown(batch arrow.RecordBatch, row int) string {
	id := batch.Column(0).(*array.Int64).Value(row)
	price := batch.Column(1).(*array.Decimal128).Value(row).ToString(2)
	day := batch.Column(2).(*array.Date32).Value(row).FormattedString()
	seen := batch.Column(3).(*array.Timestamp)
	unit := seen.DataType().(*arrow.TimestampType).Unit
	return fmt.Sprintf("%d %s %s %s", id, price, day, seen.Value(row).ToTime(unit).UTC().Format("2006-01-02T15:04:05.000"))
}

func (s *session) errors(ctx context.Context, found *report) error {
	_, err := s.client.Execute(ctx, "SELECT count(*) FROM "+fmt.Sprintf("%q.nothing_here", s.schema))
	if found.Missing = status.Convert(err).Message(); status.Code(err) != codes.NotFound {
		return fmt.Errorf("a missing table is %v", err)
	}
	_, err = s.client.ExecuteUpdate(ctx, "DELETE FROM "+s.table)
	if found.Delete = status.Convert(err).Message(); status.Code(err) != codes.Unimplemented {
		return fmt.Errorf("DELETE is %v", err)
	}
	return nil
}

func (s *session) end(ctx context.Context, found *report) error {
	info, err := s.client.Execute(ctx, endless)
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, time.Second)
	_, err = s.count(limited, info, nil)
	cancel()
	found.TimedOut = status.Code(err) == codes.DeadlineExceeded

	if info, err = s.client.Execute(ctx, endless); err != nil {
		return err
	}
	reader, err := s.client.DoGet(ctx, info.Endpoint[0].Ticket)
	if err != nil {
		return err
	}
	defer reader.Release()
	result, err := s.client.CancelQuery(ctx, info)
	if err != nil {
		return err
	}
	for reader.Next() {
	}
	found.Cancelled = result == flightsql.CancelResultCancelled && status.Code(reader.Err()) == codes.Canceled

	info, err = s.client.Execute(ctx, "SELECT 1 AS one")
	found.After, err = s.count(ctx, info, err)
	return err
}

func (s *session) drop(ctx context.Context, found *report) (err error) {
	if found.Dropped, err = s.client.ExecuteUpdate(ctx, "DROP TABLE "+s.table); err != nil {
		return err
	}
	if _, err = s.client.ExecuteUpdate(ctx, fmt.Sprintf("DROP TABLE %q.ingested", s.schema)); err != nil {
		return err
	}
	found.Remaining, err = s.tables(ctx)
	return err
}
