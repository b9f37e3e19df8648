package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	pb "google.golang.org/genproto/googleapis/devtools/cloudprofiler/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/quantra-l/quantra/profile"
)

// cloudServer is as much of Google's Cloud Profiler service as its agents need, on loopback.
//
// An agent calls CreateProfile with the kinds of profiles that it can take; the call hangs until one is to be taken, "at a constant rate per
// deployment" (google/devtools/cloudprofiler/v2/profiler.proto); the agent takes it and calls UpdateProfile with its bytes. Google's service asks one instance
// of a deployment and zone at a time, for profiles of usually 10 s, roughly ten in ten minutes (cloud.google.com/profiler/docs/about-profiler, "Performance
// impact"). So one instance alone, as here, is asked once a minute; the kinds come in turn. The first is asked for at once.
type cloudServer struct {
	pb.UnimplementedProfilerServiceServer
	every    time.Duration
	duration time.Duration

	grpc     *grpc.Server
	addr     string
	metadata *http.Server
	metaAddr string
	asked    atomic.Int64 // requests to the metadata service, which knows nothing
	kept     atomic.Int64 // profiles that arrived whole
	failed   atomic.Int64 // profiles that could not be read

	mu   sync.Mutex
	next time.Time
	turn int
	ids  map[string]pb.ProfileType // asked for and not arrived yet
}

// cloudDuration is how long a profile of Cloud Profiler covers; with less than two such between two profiles, half of that.
const cloudDuration = 10 * time.Second

// startCloud serves until stop.
func startCloud(every time.Duration) (*cloudServer, error) {
	s := &cloudServer{every: every, duration: min(cloudDuration, every/2), ids: map[string]pb.ProfileType{}, grpc: grpc.NewServer()}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	meta, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		ln.Close()
		return nil, err
	}
	s.addr, s.metaAddr = ln.Addr().String(), meta.Addr().String()
	pb.RegisterProfilerServiceServer(s.grpc, s)
	s.metadata = &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		http.NotFound(w, r)
	})}
	go s.grpc.Serve(ln) // until stop
	go s.metadata.Serve(meta)
	return s, nil
}

func (s *cloudServer) stop() {
	s.grpc.Stop()
	s.metadata.Close()
}

// CreateProfile waits for the time of the next profile, and says of what kind it shall be.
func (s *cloudServer) CreateProfile(ctx context.Context, q *pb.CreateProfileRequest) (*pb.Profile, error) {
	if len(q.GetProfileType()) == 0 || q.GetDeployment().GetTarget() == "" {
		return nil, status.Error(codes.InvalidArgument, "no profile types, or no target")
	}
	s.mu.Lock()
	now := time.Now()
	at := s.next
	if at.Before(now) {
		at = now
	}
	s.next = at.Add(s.every)
	kind := q.GetProfileType()[s.turn%len(q.GetProfileType())]
	s.turn++
	name := fmt.Sprintf("%s/profiles/%d", q.GetParent(), s.turn)
	s.ids[name] = kind
	s.mu.Unlock()
	timer := time.NewTimer(at.Sub(now))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	return &pb.Profile{Name: name, ProfileType: kind, Deployment: q.GetDeployment(), Duration: durationpb.New(s.duration)}, nil
}

// UpdateProfile takes a profile that was asked for. It is decoded: what is no profile is not counted as one.
func (s *cloudServer) UpdateProfile(_ context.Context, q *pb.UpdateProfileRequest) (*pb.Profile, error) {
	p := q.GetProfile()
	s.mu.Lock()
	kind, ok := s.ids[p.GetName()]
	delete(s.ids, p.GetName())
	s.mu.Unlock()
	if !ok || kind != p.GetProfileType() {
		s.failed.Add(1)
		return nil, status.Errorf(codes.NotFound, "%.80q is no profile that was asked for", p.GetName())
	}
	got, err := profile.DecodeBytes(p.GetProfileBytes(), profile.Limits{})
	if err != nil {
		s.failed.Add(1)
		return nil, status.Errorf(codes.InvalidArgument, "profile_bytes: %v", err)
	}
	if n := len(got.SampleTypes); n == 0 || got.SampleTypes[n-1].Type != cloudSamples[kind] {
		s.failed.Add(1)
		return nil, status.Errorf(codes.InvalidArgument, "%v has samples of %v", kind, got.SampleTypes)
	}
	s.kept.Add(1)
	return &pb.Profile{Name: p.GetName(), ProfileType: kind}, nil
}

// cloudSamples are the last sample types of the Go agent's profiles.
var cloudSamples = map[pb.ProfileType]string{
	pb.ProfileType_CPU:        "cpu",
	pb.ProfileType_HEAP:       "inuse_space",
	pb.ProfileType_HEAP_ALLOC: "alloc_space",
	pb.ProfileType_THREADS:    "goroutine",
	pb.ProfileType_CONTENTION: "delay",
}
