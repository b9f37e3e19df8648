package ingest

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// TestArrowRefused: Parca's agent is told in its protocol how else it can send, by the stream and by the call, and it is counted.
func TestArrowRefused(t *testing.T) {
	reg := prometheus.NewRegistry()
	s := &seen{}
	url := serveHTTP2(t, Options{Append: s.append, Registry: reg})
	conn, err := grpc.NewClient(strings.TrimPrefix(url, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	refused := func(err error) {
		t.Helper()
		if status.Code(err) != codes.Unimplemented || !strings.Contains(status.Convert(err).Message(), "--remote-store-format=otlp") {
			t.Error(err)
		}
	}
	var in, out emptypb.Empty
	refused(conn.Invoke(t.Context(), arrowProcedures[1], &in, &out))
	stream, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, arrowProcedures[0])
	if err != nil {
		t.Fatal(err)
	}
	_ = stream.SendMsg(&in) // it may have been refused before
	refused(stream.RecvMsg(&out))
	if n := rejectedBy(t, reg, "parca"); n["arrow"] != 2 || len(n) != 1 {
		t.Errorf("counted: %v", n)
	}
}
