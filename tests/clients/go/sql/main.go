// SQL by the Flight SQL client of arrow-go, as its users write it: by TLS with a token it creates a table, fills it, asks for
// metadata, and runs queries, also prepared ones and ones that are cancelled.
//
//	sql ADDRESS CA SCHEMA
//
// The token is in VOLLEY_TOKEN. Prints what it found as JSON, and exits with 1 at the first call that fails and should not.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/flight"
	"github.com/apache/arrow-go/v18/arrow/flight/flightsql"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
)

type report struct {
	Server    string   `json:"server"`
	Schemas   []string `json:"schemas"`
	Tables    []string `json:"tables"`
	Columns   []string `json:"columns"`
	Keys      int64    `json:"keys"`
	Created   int64    `json:"created"`
	Inserted  int64    `json:"inserted"`
	Batch     int64    `json:"batch"`
	Ingested  int64    `json:"ingested"`
	Rows      int64    `json:"rows"`
	Sum       int64    `json:"sum"`
	Total     []int64  `json:"total"`
	Prepared  []string `json:"prepared"`
	Later     int64    `json:"later"`
	Empty     int64    `json:"empty"`
	Missing   string   `json:"missing"`
	Delete    string   `json:"delete"`
	TimedOut  bool     `json:"timed_out"`
	Cancelled bool     `json:"cancelled"`
	After     int64    `json:"after"`
	Dropped   int64    `json:"dropped"`
	Remaining []string `json:"remaining"`
}

// session is a client with what it needs to follow the locations of endpoints.
type session struct {
	client  *flightsql.Client
	trusted grpc.DialOption
	schema  string
	table   string
}

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: sql ADDRESS CA SCHEMA")
		os.Exit(2)
	}
	found, err := run(os.Args[1], os.Args[2], os.Args[3], os.Getenv("VOLLEY_TOKEN"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	json.NewEncoder(os.Stdout).Encode(found)
}

func run(address, caFile, schema, token string) (*report, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	trusted, err := trust(caFile)
	if err != nil {
		return nil, err
	}
	client, err := flightsql.NewClient(address, nil, nil, trusted)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	s := &session{client: client, trusted: trusted, schema: schema, table: fmt.Sprintf("%q.orders", schema)}
	found := &report{}
	steps := []struct {
		name string
		do   func(context.Context, *report) error
	}{
		{"statements that change tables", s.change},
		{"metadata", s.metadata},
		{"queries", s.query},
		{"prepared queries", s.prepared},
		{"errors", s.errors},
		{"the end of queries", s.end},
		{"dropping tables", s.drop},
	}
	for _, step := range steps {
		if err := step.do(ctx, found); err != nil {
			return nil, fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return found, nil
}

// trust gives the option of a client that trusts the authority in a file.
func trust(caFile string) (grpc.DialOption, error) {
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New("the CA file has no certificate")
	}
	return grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots})), nil
}

// count reads all rows of a FlightInfo. `failed` is the error of the call that returned it.
func (s *session) count(ctx context.Context, info *flight.FlightInfo, failed error) (rows int64, err error) {
	err = s.each(ctx, info, failed, func(batch arrow.RecordBatch) error {
		rows += batch.NumRows()
		return nil
	})
	return rows, err
}

// texts reads one column of a FlightInfo.
func (s *session) texts(ctx context.Context, info *flight.FlightInfo, failed error, column int) ([]string, error) {
	texts := []string{}
	err := s.each(ctx, info, failed, func(batch arrow.RecordBatch) error {
		values := batch.Column(column).(*array.String)
		for row := range values.Len() {
			texts = append(texts, values.Value(row))
		}
		return nil
	})
	return texts, err
}

// each reads every endpoint of a FlightInfo at its first location, or at this server if it has none.
func (s *session) each(ctx context.Context, info *flight.FlightInfo, failed error, do func(arrow.RecordBatch) error) error {
	if failed != nil {
		return failed
	}
	for _, endpoint := range info.Endpoint {
		client := s.client
		if len(endpoint.Location) > 0 {
			uri, err := url.Parse(endpoint.Location[0].Uri)
			if err != nil {
				return err
			}
			if uri.Scheme != "grpc+tls" {
				return fmt.Errorf("a location without TLS: %s", uri)
			}
			if client, err = flightsql.NewClient(uri.Host, nil, nil, s.trusted); err != nil {
				return err
			}
			defer client.Close()
		}
		if err := read(ctx, client, endpoint.Ticket, do); err != nil {
			return err
		}
	}
	return nil
}

func read(ctx context.Context, client *flightsql.Client, ticket *flight.Ticket, do func(arrow.RecordBatch) error) error {
	reader, err := client.DoGet(ctx, ticket)
	if err != nil {
		return err
	}
	defer reader.Release()
	for reader.Next() {
		if err := do(reader.RecordBatch()); err != nil {
			return err
		}
	}
	if err := reader.Err(); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}
