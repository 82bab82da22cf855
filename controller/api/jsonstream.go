package api

import (
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/moby/moby/api/types/jsonstream"

	"github.com/containervm/containervm/controller/internal/image"
	"github.com/containervm/containervm/internal/printable"
)

// progressInterval is how often the bytes of one thing are reported at most.
const progressInterval = 100 * time.Millisecond

// readTime is how long an operation waits for a client that does not read its progress, before its connection is broken off and the operation
// with it: it holds locks and places that others wait for.
const readTime = time.Minute

// jsonStream writes the progress of an operation as Docker's JSON messages, one after the other, each sent at once.
// Its methods may be called by several goroutines.
type jsonStream struct {
	w       http.ResponseWriter
	c       *http.ResponseController
	patient time.Duration // with a client that does not read

	mu    sync.Mutex
	began bool
	shown map[string]time.Time // when the bytes of an ID were last reported
}

// jsonMessage adds the field that clients before API 1.4x read errors from.
type jsonMessage struct {
	jsonstream.Message
	ErrorText string `json:"error,omitempty"`
}

// newJSONStream also lets the handler go on reading the request's body while it answers.
func newJSONStream(w http.ResponseWriter) *jsonStream {
	c := http.NewResponseController(w)
	_ = c.EnableFullDuplex() // HTTP/2 always is
	return &jsonStream{w: w, c: c, patient: readTime, shown: map[string]time.Time{}}
}

// progress is an image.Progress.
func (s *jsonStream) progress(e image.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tooSoon(e) {
		return
	}
	m := jsonstream.Message{ID: printable.Text(e.ID), Status: printable.Text(e.Status), Stream: printable.Text(e.Stream)}
	if e.Current > 0 {
		m.Progress = &jsonstream.Progress{Current: e.Current, Total: e.Total}
	}
	if e.Aux != nil {
		if text, err := json.Marshal(e.Aux); err == nil {
			m.Aux = (*json.RawMessage)(&text)
		}
	}
	s.write(jsonMessage{Message: m})
}

// quiet is an image.Progress that tells only results.
func (s *jsonStream) quiet(e image.Event) {
	if e.Stream != "" {
		s.progress(e)
	}
}

func (s *jsonStream) tooSoon(e image.Event) bool {
	if e.Current == 0 || e.Current == e.Total {
		return false
	}
	now := time.Now()
	if now.Sub(s.shown[e.ID]) < progressInterval {
		return true
	}
	s.shown[e.ID] = now
	return false
}

// write sends a message. A client who has left, or does not read, is noticed by the request's context, which a failed write ends.
func (s *jsonStream) write(m jsonMessage) {
	if !s.began {
		s.began = true
		s.w.Header().Set("Content-Type", "application/json")
	}
	_ = s.c.SetWriteDeadline(time.Now().Add(s.patient)) // what is no connection has none, as in tests
	if json.NewEncoder(s.w).Encode(m) == nil && s.c.Flush() == nil {
		_ = s.c.SetWriteDeadline(time.Time{}) // the connection may serve another request
	}
}

// end reports how the operation ended: within the stream when it has begun, else as the handler's error.
func (s *jsonStream) end(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		if !s.began {
			s.w.Header().Set("Content-Type", "application/json")
		}
		return nil
	}
	if !s.began {
		return err
	}
	m := jsonMessage{ErrorText: printable.Text(err.Error())}
	m.Error = &jsonstream.Error{Message: m.ErrorText}
	s.write(m)
	return nil
}
