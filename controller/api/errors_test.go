package api

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/controller/internal/image"
)

// TestErrorsAreForTerminals: an error quotes what guests and images say, and a person reads it on a terminal.
func TestErrorsAreForTerminals(t *testing.T) {
	w := httptest.NewRecorder()
	writeError(w, http.StatusBadRequest, "the end of its console:\n\x1b]0;owned\x07 x")
	if got := w.Body.String(); !strings.Contains(got, `console:\n\\x1b]0;owned\\x07 x`) {
		t.Errorf("an error is %s", got)
	}
	w = httptest.NewRecorder()
	s := newJSONStream(w)
	s.progress(image.Event{Stream: "Loaded image: x\n"})
	_ = s.end(errors.Join(errdefs.ErrInvalidArgument, errors.New("bad name \x1b[2J")))
	if got := w.Body.String(); strings.Contains(got, `\u001b`) || !strings.Contains(got, `\\x1b[2J`) {
		t.Errorf("an error in a stream is %s", got)
	}
}
