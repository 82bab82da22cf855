package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// maxBody bounds a JSON request, in bytes. Environments and labels are what makes one large; execve itself takes at
// most 2 MiB of arguments and environment by default.
const maxBody = 4 << 20

func writeJSON(w http.ResponseWriter, status int, v any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	return encodeJSON(w, v)
}

func encodeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// readJSON decodes a request's body, which must be one JSON value, into v. Handlers call readRequest, which looks at all that a body has.
func readJSON(w http.ResponseWriter, r *http.Request, v any) error {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return invalid("unsupported Content-Type header (%s): must be 'application/json'", r.Header.Get("Content-Type"))
	}
	return decodeJSON(http.MaxBytesReader(w, r.Body, maxBody), v)
}

func decodeJSON(body io.Reader, v any) error {
	dec := json.NewDecoder(body)
	err := dec.Decode(v)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return fmt.Errorf("request body is larger than %d bytes: %w", tooLarge.Limit, err)
	case errors.Is(err, io.EOF):
		return invalid("invalid JSON: got EOF while reading request body")
	case err != nil:
		return invalid("invalid JSON: %v", err)
	case dec.More():
		return invalid("unexpected content after JSON")
	}
	return nil
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// param reads a query parameter. Forms are not looked at: parsing one would eat the body of an upload whose client called
// it urlencoded, as curl does by default.
func param(r *http.Request, name string) string { return r.URL.Query().Get(name) }

// boolParam reads a query parameter as Docker does: everything but "", "0", "no", "false" and "none" is true.
func boolParam(r *http.Request, name string) bool {
	switch strings.ToLower(strings.TrimSpace(param(r, name))) {
	case "", "0", "no", "false", "none":
		return false
	default:
		return true
	}
}

// intParam reads a query parameter; missing is def.
func intParam(r *http.Request, name string, def int) (int, error) {
	s := param(r, name)
	if s == "" {
		return def, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, invalid("invalid value %q of %s: must be a whole number", s, name)
	}
	return n, nil
}
