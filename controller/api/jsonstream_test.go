package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/jsonstream"

	"github.com/containervm/containervm/controller/internal/image"
)

func messages(t *testing.T, r io.Reader) []jsonMessage {
	t.Helper()
	var out []jsonMessage
	for dec := json.NewDecoder(r); ; {
		var m jsonMessage
		if err := dec.Decode(&m); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatal(err)
		}
		out = append(out, m)
	}
}

func TestJSONStreamThinsOutBytesAlone(t *testing.T) {
	w := httptest.NewRecorder()
	s := newJSONStream(w)
	s.progress(image.Event{ID: "a", Status: "Pulling fs layer"})
	for n := range int64(1000) {
		s.progress(image.Event{ID: "a", Status: "Downloading", Current: n + 1, Total: 1000})
	}
	s.progress(image.Event{Stream: "Loaded image: x\n"})
	if err := s.end(nil); err != nil {
		t.Fatal(err)
	}
	got := messages(t, w.Body)
	// The first count, the last one, and few between, as time passes.
	if n := len(got); n < 4 || n > 500 {
		t.Fatalf("%d messages", n)
	}
	if first := got[0]; first.Status != "Pulling fs layer" || first.Progress != nil {
		t.Errorf("first message is %+v", first)
	}
	if last := got[len(got)-2]; *last.Progress != (jsonstream.Progress{Current: 1000, Total: 1000}) {
		t.Errorf("last count is %+v", last.Progress)
	}
	if got[len(got)-1].Stream != "Loaded image: x\n" || !w.Flushed || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("the end is %+v", got[len(got)-1])
	}
}

// TestJSONStreamWaitsForNobody: an operation whose client does not read its progress ends; others may wait for it.
func TestJSONStreamWaitsForNobody(t *testing.T) {
	ended := make(chan error, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := newJSONStream(w)
		s.patient = 50 * time.Millisecond
		for r.Context().Err() == nil {
			s.progress(image.Event{Status: strings.Repeat("x", 64<<10)})
		}
		ended <- r.Context().Err()
	}))
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "POST /images/create HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Fatal("the operation still waits for its client")
	}
}

func TestJSONStreamErrors(t *testing.T) {
	failure := errors.New("the layer is torn")
	w := httptest.NewRecorder()
	if err := newJSONStream(w).end(failure); err != failure || w.Body.Len() != 0 {
		t.Errorf("before the first message: %v, body %q", err, w.Body)
	}
	s := newJSONStream(w)
	s.progress(image.Event{Status: "Importing"})
	if err := s.end(failure); err != nil {
		t.Errorf("after the first message: %v", err)
	}
	got := messages(t, w.Body)
	if last := got[len(got)-1]; last.Error == nil || last.Error.Message != failure.Error() || last.ErrorText != failure.Error() {
		t.Errorf("last message is %+v", last)
	}
}

func TestQuietTellsResults(t *testing.T) {
	w := httptest.NewRecorder()
	s := newJSONStream(w)
	s.quiet(image.Event{ID: "a", Status: "Loading layer", Current: 1, Total: 2})
	s.quiet(image.Event{Stream: "Loaded image: x\n"})
	if got := messages(t, w.Body); len(got) != 1 || got[0].Stream == "" {
		t.Errorf("messages are %+v", got)
	}
}
