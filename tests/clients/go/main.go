// A client in Go, as its users write one: it logs in with a password by TLS, puts a table, and reads every endpoint from each
// of its locations with the bearer of that one login.
//
//	client ADDRESS CA USER TABLE
//
// The password is in VOLLEY_PASSWORD. Prints what it found as JSON, and exits with 1 at the first thing that is not as it must be.
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
	"sort"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/flight"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

const (
	batches      = 4
	rowsPerBatch = 1000
)

type report struct {
	Rows         int64    `json:"rows"`
	Sum          int64    `json:"sum"`
	Endpoints    int      `json:"endpoints"`
	Locations    []string `json:"locations"`
	WithoutToken string   `json:"without_token"`
	Wrong        string   `json:"wrong_password"`
}

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: client ADDRESS CA USER TABLE")
		os.Exit(2)
	}
	found, err := run(os.Args[1], os.Args[2], os.Args[3], os.Getenv("VOLLEY_PASSWORD"), os.Args[4])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	json.NewEncoder(os.Stdout).Encode(found)
}

func run(address, caFile, user, password, table string) (*report, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	trusted, err := trust(caFile)
	if err != nil {
		return nil, err
	}
	client, err := flight.NewClientWithMiddleware(address, nil, nil, trusted)
	if err != nil {
		return nil, err
	}
	defer client.Close()

	found := &report{}
	found.WithoutToken = codeOf(listAll(ctx, client))
	loggedIn, err := client.AuthenticateBasicToken(ctx, user, password)
	if err != nil {
		return nil, fmt.Errorf("the login: %w", err)
	}
	if err := listAll(loggedIn, client); err != nil {
		return nil, fmt.Errorf("the list of tables: %w", err)
	}
	descriptor := func(options map[string]any) *flight.FlightDescriptor {
		options["table"] = table
		command, _ := json.Marshal(options)
		return &flight.FlightDescriptor{Type: flight.DescriptorCMD, Cmd: command}
	}
	if err := put(loggedIn, client, descriptor(map[string]any{"shards": 4, "shard_by": []string{"i"}})); err != nil {
		return nil, fmt.Errorf("the put: %w", err)
	}
	info, err := client.GetFlightInfo(loggedIn, descriptor(map[string]any{}))
	if err != nil {
		return nil, fmt.Errorf("GetFlightInfo: %w", err)
	}
	found.Endpoints = len(info.Endpoint)
	if err := found.readAll(loggedIn, info, trusted); err != nil {
		return nil, err
	}
	_, err = client.AuthenticateBasicToken(ctx, user, password+" and more")
	found.Wrong = codeOf(err)
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

func codeOf(err error) string {
	if err == nil {
		return codes.OK.String()
	}
	return status.Code(err).String()
}

func listAll(ctx context.Context, client flight.Client) error {
	stream, err := client.ListFlights(ctx, &flight.Criteria{})
	for err == nil {
		_, err = stream.Recv()
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func put(ctx context.Context, client flight.Client, descriptor *flight.FlightDescriptor) error {
	schema := arrow.NewSchema([]arrow.Field{
		{Name: "i", Type: arrow.PrimitiveTypes.Int64},
		{Name: "s", Type: arrow.BinaryTypes.String, Nullable: true},
	}, nil)
	stream, err := client.DoPut(ctx)
	if err != nil {
		return err
	}
	writer := flight.NewRecordWriter(stream, ipc.WithSchema(schema))
	writer.SetFlightDescriptor(descriptor)
	builder := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	defer builder.Release()
	for batch := range batches {
		for row := range rowsPerBatch {
			i := int64(batch*rowsPerBatch + row)
			builder.Field(0).(*array.Int64Builder).Append(i)
			builder.Field(1).(*array.StringBuilder).Append(fmt.Sprintf("row %d", i))
		}
		record := builder.NewRecordBatch()
		err := writer.Write(record)
		record.Release()
		if err != nil {
			return err
		}
	}
	if err := writer.Close(); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		if _, err := stream.Recv(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// readAll reads each endpoint from each of its locations; their rows must be as many.
func (r *report) readAll(ctx context.Context, info *flight.FlightInfo, trusted grpc.DialOption) error {
	known := map[string]bool{}
	for _, endpoint := range info.Endpoint {
		var rows, sum int64
		for at, location := range endpoint.Location {
			known[location.Uri] = true
			uri, err := url.Parse(location.Uri)
			if err != nil {
				return err
			}
			if uri.Scheme != "grpc+tls" {
				return fmt.Errorf("a location without TLS: %s", location.Uri)
			}
			found, foundSum, err := read(ctx, uri.Host, endpoint.Ticket, trusted)
			if err != nil {
				return fmt.Errorf("DoGet at %s: %w", location.Uri, err)
			}
			if at > 0 && (found != rows || foundSum != sum) {
				return fmt.Errorf("%s has other rows than the location before", location.Uri)
			}
			rows, sum = found, foundSum
		}
		r.Rows, r.Sum = r.Rows+rows, r.Sum+sum
	}
	for location := range known {
		r.Locations = append(r.Locations, location)
	}
	sort.Strings(r.Locations)
	return nil
}

// read gives the number of rows of an endpoint, and the sum of their first column.
func read(ctx context.Context, host string, ticket *flight.Ticket, trusted grpc.DialOption) (rows, sum int64, err error) {
	client, err := flight.NewClientWithMiddleware(host, nil, nil, trusted)
	if err != nil {
		return 0, 0, err
	}
	defer client.Close()
	stream, err := client.DoGet(ctx, ticket)
	if err != nil {
		return 0, 0, err
	}
	reader, err := flight.NewRecordReader(stream)
	if err != nil {
		return 0, 0, err
	}
	defer reader.Release()
	for reader.Next() {
		record := reader.RecordBatch()
		for _, value := range record.Column(0).(*array.Int64).Int64Values() {
			sum += value
		}
		rows += record.NumRows()
	}
	if err := reader.Err(); err != nil && !errors.Is(err, io.EOF) {
		return 0, 0, err
	}
	return rows, sum, nil
}
