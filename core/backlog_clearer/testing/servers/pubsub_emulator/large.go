// The same server for a backlog of millions of messages on one subscription.
//
// pstest keeps leases, acknowledgements and redelivery. Alone it takes hours for a million messages: every
// 10 ms it looks at all messages of a subscription and then sends one a stream. So this file
//
//   - feeds it: POST /load?topic=T&subscription=S&count=N&size=B publishes N messages at one time, of which
//     pstest has `window` at once, and gets the next as these are acknowledged;
//   - sends responses of up to `batch` messages, got by Pull, with flow control, and at a limited rate a stream;
//   - has snapshots, which pstest lacks: a seek publishes the messages acknowledged since once more.
//
// GET /account answers with the figures of everything loaded, as JSON.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	batch  = 1000  // messages of a response at most
	window = 20000 // messages that pstest has at once
	idle   = 20 * time.Millisecond
)

type snapshot struct {
	proto  *pubsubpb.Snapshot
	unread int // messages that were not acknowledged when it was taken
}

type large struct {
	*pstest.GServer // everything that is not here
	server          *pstest.Server
	rate            float64 // bytes a second of a stream; 0: no limit

	mu           sync.Mutex
	topic        string
	data         []byte
	loadedAt     time.Time
	stamping     int // messages that pstest is about to stamp with loadedAt
	loaded       int
	fed          int
	acknowledged int
	stale        int // ids acknowledged again, or after their lease
	delivered    int
	streams      int
	firstAt      time.Time // of an acknowledgement
	lastAt       time.Time
	holders      map[string]*holder // of leased messages, by the id to acknowledge
	snapshots    map[string]*snapshot
}

// A holder is a stream with the messages that it was sent and did not acknowledge.
type holder struct {
	messages, bytes int
	ids             map[string]int // bytes by id
}

func serveLarge(address string, rate float64) {
	s := &large{rate: rate, holders: map[string]*holder{}, snapshots: map[string]*snapshot{}}
	// pstest asks for the time once a message while it holds its lock, after it has called this.
	stamp := pstest.ServerReactorOption{FuncName: "Publish", Reactor: stamper{s}}
	s.server = pstest.NewServer(stamp)
	s.GServer = &s.server.GServer
	s.server.SetTimeNowFunc(s.now)
	listener, err := net.Listen("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	served := grpc.NewServer()
	pubsubpb.RegisterPublisherServer(served, s.GServer)
	pubsubpb.RegisterSubscriberServer(served, s)
	go func() { log.Fatal(served.Serve(listener)) }()
	http.HandleFunc("/load", s.load)
	http.HandleFunc("/left", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		fmt.Fprint(w, s.loaded-s.acknowledged)
	})
	http.HandleFunc("/account", s.account)
}

type stamper struct{ s *large }

func (r stamper) React(request interface{}) (bool, interface{}, error) {
	r.s.stamping = len(request.(*pubsubpb.PublishRequest).Messages)
	return false, &pubsubpb.PublishResponse{}, nil
}

// Called with pstest's lock held, as the reactor is.
func (s *large) now() time.Time {
	if s.stamping > 0 {
		s.stamping--
		return s.loadedAt
	}
	return time.Now()
}

func (s *large) load(w http.ResponseWriter, r *http.Request) {
	count, err := strconv.Atoi(r.FormValue("count"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	size, err := strconv.Atoi(r.FormValue("size"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.topic, s.data = r.FormValue("topic"), make([]byte, size)
	s.loadedAt = time.Now()
	s.loaded, s.fed, s.acknowledged, s.stale, s.delivered = count, 0, 0, 0, 0
	s.firstAt, s.lastAt = time.Time{}, time.Time{}
	s.server.ClearMessages()
	s.feed()
}

// Called with the lock held.
func (s *large) feed() {
	for s.fed < s.loaded && s.fed-s.acknowledged < window {
		count := min(batch, s.loaded-s.fed)
		messages := make([]*pubsubpb.PubsubMessage, count)
		for i := range messages {
			messages[i] = &pubsubpb.PubsubMessage{Data: s.data}
		}
		request := &pubsubpb.PublishRequest{Topic: s.topic, Messages: messages}
		if _, err := s.GServer.Publish(context.Background(), request); err != nil {
			log.Fatal(err)
		}
		s.fed += count
	}
}

func (s *large) account(w http.ResponseWriter, _ *http.Request) {
	once, others := 0, 0
	for _, message := range s.server.Messages() {
		if message.Acks == 1 {
			once++
		} else {
			others++
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	json.NewEncoder(w).Encode(map[string]any{
		"loaded": s.loaded, "acknowledged_once": once, "others": others + s.loaded - s.fed,
		"late": s.stale, "delivered": s.delivered, "streams": s.streams, "snapshots": len(s.snapshots),
		"seconds": s.lastAt.Sub(s.firstAt).Seconds(),
	})
}

func (s *large) Acknowledge(ctx context.Context, r *pubsubpb.AcknowledgeRequest) (*emptypb.Empty, error) {
	before := make(map[string]bool, len(r.AckIds))
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := r.AckIds[:0]
	for _, id := range r.AckIds {
		if s.holders[id] == nil || before[id] {
			s.stale++
			continue
		}
		before[id] = true
		kept = append(kept, id)
	}
	if _, err := s.GServer.Acknowledge(ctx, &pubsubpb.AcknowledgeRequest{Subscription: r.Subscription, AckIds: kept}); err != nil {
		return nil, err
	}
	for _, id := range kept {
		s.release(id)
	}
	s.lastAt = time.Now()
	if s.firstAt.IsZero() {
		s.firstAt = s.lastAt
	}
	s.acknowledged += len(kept)
	s.feed()
	return &emptypb.Empty{}, nil
}

func (s *large) ModifyAckDeadline(ctx context.Context, r *pubsubpb.ModifyAckDeadlineRequest) (*emptypb.Empty, error) {
	answer, err := s.GServer.ModifyAckDeadline(ctx, r)
	if err == nil && r.AckDeadlineSeconds == 0 {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, id := range r.AckIds {
			s.release(id)
		}
	}
	return answer, err
}

// Called with the lock held.
func (s *large) release(id string) {
	if h := s.holders[id]; h != nil {
		h.messages--
		h.bytes -= h.ids[id]
		delete(h.ids, id)
		delete(s.holders, id)
	}
}

func (s *large) StreamingPull(stream pubsubpb.Subscriber_StreamingPullServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			if _, err := stream.Recv(); err != nil { // acknowledgements come as separate requests
				return
			}
		}
	}()
	h := &holder{ids: map[string]int{}}
	s.mu.Lock()
	s.streams++
	s.mu.Unlock()
	begun, sent := time.Now(), 0
	for {
		select {
		case <-ended:
			return nil
		default:
		}
		s.mu.Lock()
		room := min(batch, int(first.MaxOutstandingMessages)-h.messages)
		if first.MaxOutstandingBytes > 0 && int64(h.bytes) >= first.MaxOutstandingBytes {
			room = 0
		}
		s.mu.Unlock()
		answer := &pubsubpb.StreamingPullResponse{}
		if room > 0 {
			if answer.ReceivedMessages, err = s.take(first, h, room); err != nil {
				return err
			}
		}
		if len(answer.ReceivedMessages) == 0 {
			time.Sleep(idle)
			begun, sent = time.Now(), 0
			continue
		}
		if err := stream.Send(answer); err != nil {
			return err
		}
		if s.rate > 0 {
			sent += proto.Size(answer)
			time.Sleep(time.Until(begun.Add(time.Duration(float64(sent) / s.rate * 1e9))))
		}
	}
}

// Lease messages to a stream. A message that comes again has another id: its former holder has lost it.
func (s *large) take(first *pubsubpb.StreamingPullRequest, h *holder, room int) ([]*pubsubpb.ReceivedMessage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pull := &pubsubpb.PullRequest{Subscription: first.Subscription, MaxMessages: int32(room), ReturnImmediately: true}
	pulled, err := s.GServer.Pull(context.Background(), pull)
	if err != nil {
		return nil, err
	}
	received := make([]*pubsubpb.ReceivedMessage, len(pulled.ReceivedMessages))
	for i, item := range pulled.ReceivedMessages {
		// A copy: pstest writes the next id to its own at a redelivery.
		received[i] = &pubsubpb.ReceivedMessage{AckId: item.AckId, Message: item.Message, DeliveryAttempt: item.DeliveryAttempt}
		h.ids[item.AckId] = len(item.Message.Data)
		h.bytes += len(item.Message.Data)
		s.holders[item.AckId] = h
		if turn := item.AckId[len(item.Message.MessageId)+1:]; turn != "1" {
			if last, err := strconv.Atoi(turn); err == nil {
				s.release(fmt.Sprintf("%s:%d", item.Message.MessageId, last-1))
			}
		}
	}
	h.messages += len(received)
	s.delivered += len(received)
	return received, nil
}

func (s *large) CreateSnapshot(_ context.Context, r *pubsubpb.CreateSnapshotRequest) (*pubsubpb.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.snapshots[r.Name] != nil {
		return nil, status.Errorf(codes.AlreadyExists, "%s exists", r.Name)
	}
	made := &pubsubpb.Snapshot{Name: r.Name, Topic: s.topic, Labels: r.Labels, ExpireTime: timestamppb.New(time.Now().Add(7 * 24 * time.Hour))}
	s.snapshots[r.Name] = &snapshot{made, s.loaded - s.acknowledged}
	return made, nil
}

func (s *large) GetSnapshot(_ context.Context, r *pubsubpb.GetSnapshotRequest) (*pubsubpb.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if found := s.snapshots[r.Snapshot]; found != nil {
		return found.proto, nil
	}
	return nil, status.Errorf(codes.NotFound, "%s", r.Snapshot)
}

func (s *large) Seek(ctx context.Context, r *pubsubpb.SeekRequest) (*pubsubpb.SeekResponse, error) {
	name := r.GetSnapshot()
	if name == "" {
		return s.GServer.Seek(ctx, r)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.snapshots[name]
	if found == nil {
		return nil, status.Errorf(codes.NotFound, "%s", name)
	}
	s.loaded += found.unread - (s.loaded - s.acknowledged)
	s.feed()
	return &pubsubpb.SeekResponse{}, nil
}
