package api

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestVersionMiddleware(t *testing.T) {
	var got, path string
	h := versioned(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got, path = Version(r.Context()), r.URL.Path }), slog.New(slog.DiscardHandler))
	for _, c := range []struct {
		path, version, inner string
		status               int
		says                 string
	}{
		{"/info", MaxVersion, "/info", 200, ""},
		{"/v1.50/info", "1.50", "/info", 200, ""},
		{"/v1.24/images/a/b/json", "1.24", "/images/a/b/json", 200, ""},
		{"/v1.23/info", "", "", 400, "client version 1.23 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version"},
		{"/v9.99/info", "", "", 400, "client version 9.99 is too new. Maximum supported API version is 1.56"},
		{"/v1/info", "", "", 400, "invalid API version"},
		{"/version", MaxVersion, "/version", 200, ""},
		{"/v1.50", MaxVersion, "/v1.50", 200, ""},
	} {
		got, path = "", ""
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", c.path, nil))
		if w.Code != c.status || got != c.version || path != c.inner || !strings.Contains(w.Body.String(), c.says) {
			t.Errorf("%s: %d, version %q, path %q, body %s", c.path, w.Code, got, path, w.Body)
		}
		if w.Header().Get("Api-Version") != MaxVersion || w.Header().Get("Ostype") != "linux" {
			t.Errorf("%s: headers %v", c.path, w.Header())
		}
	}
}

func TestReadJSON(t *testing.T) {
	long := `{"a":"` + strings.Repeat("x", maxBody) + `"}`
	for _, c := range []struct {
		body, kind string
		status     int
		says       string
	}{
		{`{"a":"b"}`, "application/json; charset=utf-8", 0, ""},
		{`{"a":`, "application/json", 400, "invalid JSON"},
		{``, "application/json", 400, "got EOF while reading request body"},
		{`{} {}`, "application/json", 400, "unexpected content after JSON"},
		{`{"a":1}`, "application/json", 400, "invalid JSON"},
		{`{}`, "text/plain", 400, "unsupported Content-Type header (text/plain)"},
		{long, "application/json", 413, "larger than"},
	} {
		r := httptest.NewRequest("POST", "/", strings.NewReader(c.body))
		r.Header.Set("Content-Type", c.kind)
		var v struct{ A string }
		err := readJSON(httptest.NewRecorder(), r, &v)
		if (err == nil) != (c.status == 0) || err != nil && (statusOf(err) != c.status || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%.20q: %v", c.body, err)
		}
	}
}

func TestParseTime(t *testing.T) {
	now := time.Unix(1000, 0)
	for in, want := range map[string]int64{
		"12": 12e9, "12.5": 12.5e9, "12.000000001": 12e9 + 1, "10s": 990e9, "1970-01-01T00:00:07Z": 7e9, "1970-01-02": 86400e9,
	} {
		got, err := parseTime(in, now)
		if err != nil || !got.Equal(time.Unix(want/1e9, want%1e9)) {
			t.Errorf("parseTime(%q) = %v, %v", in, got, err)
		}
	}
	for _, none := range []string{"", "0"} {
		if got, err := parseTime(none, now); err != nil || !got.IsZero() {
			t.Errorf("parseTime(%q) = %v, %v", none, got, err)
		}
	}
	for _, bad := range []string{"x", "-1", "1.1234567890", "1.x", "99999999999999999999"} {
		if got, err := parseTime(bad, now); err == nil {
			t.Errorf("parseTime(%q) = %v, want an error", bad, got)
		}
	}
}

func TestFilters(t *testing.T) {
	for _, text := range []string{`{"name":{"a":true,"b":true}}`, `{"name":["a","b"]}`} {
		f, err := parseFilters(text)
		if err != nil || !f.match("name", func(v string) bool { return v == "b" }) || f.match("name", func(v string) bool { return v == "c" }) ||
			!f.match("other", func(string) bool { return false }) {
			t.Errorf("filters of %s = %v, %v", text, f, err)
		}
	}
	labels := map[string]string{"a": "1", "b": ""}
	for text, want := range map[string]bool{
		`{"label":["a"]}`: true, `{"label":["a=1","b"]}`: true, `{"label":["a=2"]}`: false, `{"label":["a","c"]}`: false, `{"label!":["a"]}`: false, `{"label!":["c"]}`: true,
	} {
		if f, err := parseFilters(text); err != nil || f.matchLabels(labels) != want {
			t.Errorf("%s: %v, %v; want %v", text, f, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("1.50")
	f.Add("1700000000.000000001")
	f.Add(`{"a":{"b":true}}`)
	f.Add("/v1.50/info")
	f.Fuzz(func(t *testing.T, s string) {
		if v, ok := parseVersion(s); ok && (v.major < 0 || v.minor < 0) {
			t.Errorf("parseVersion(%q) = %v", s, v)
		}
		_ = checkVersion(s)
		_, _ = parseTime(s, time.Unix(0, 0))
		_, _ = parseFilters(s)
		if version, rest, ok := cutVersion(s); ok && "/v"+version+rest != s {
			t.Errorf("cutVersion(%q) = %q, %q", s, version, rest)
		}
	})
}

// TestRoutes makes sure that no two patterns conflict: http.ServeMux panics then.
func TestRoutes(t *testing.T) {
	h := New(Deps{Log: slog.New(slog.DiscardHandler)})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/v1.50/nowhere", nil))
	if w.Code != 404 || strings.TrimSpace(w.Body.String()) != `{"message":"page not found"}` {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	w = httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("HEAD", "/_ping", nil))
	if w.Code != 200 || w.Header().Get("Api-Version") != MaxVersion || w.Header().Get("Builder-Version") == "" {
		t.Errorf("HEAD /_ping: %d %v", w.Code, w.Header())
	}
}

// TestHangup: a client that half-closes is still there; one that closes is gone, although nothing is sent to it.
func TestHangup(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	server, client := unixPair(t)
	gone := make(chan struct{})
	in := (&hijacked{Conn: server, early: emptyReader()}).stdin(func() { close(gone) })
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if n, err := in.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Fatalf("read %d, %v", n, err)
	}
	if hung := mustPoll(t, server); hung {
		t.Error("a half-closed client counts as gone")
	}
	client.Close()
	select {
	case <-gone:
	case <-ctx.Done():
		t.Error("nobody noticed that the client is gone")
	}
}
