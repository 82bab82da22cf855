package datastore

import (
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/internal/smalldisk"
)

func openStore(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func write(t *testing.T, s *Store, rel, content string) {
	t.Helper()
	if err := s.Write(rel, strings.NewReader(content), int64(len(content))); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, s *Store, rel string) string {
	t.Helper()
	data, err := os.ReadFile(s.HostPath(rel))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestMoveAndCopy(t *testing.T) {
	s := openStore(t, t.TempDir())
	write(t, s, "a/one", "1")
	write(t, s, "b/two", "2")
	if err := s.Move("a/one", "b/two", false); !errors.Is(err, fs.ErrExist) {
		t.Errorf("move over a file: %v", err)
	}
	if err := s.Copy("a/one", "c/three", false); err != nil || read(t, s, "c/three") != "1" {
		t.Errorf("copy: %v", err)
	}
	if err := s.Move("a/one", "b/two", true); err != nil || read(t, s, "b/two") != "1" {
		t.Errorf("forced move: %v", err)
	}
	if err := s.Remove("a/one"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removal of what is gone: %v", err)
	}
	if err := s.Remove("."); err == nil {
		t.Error("the root was removed")
	}
}

// A symbolic link in the store leads nobody out of it.
func TestLinksStayInside(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("s"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, dir)
	if err := os.Symlink(filepath.Dir(secret), filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	if f, err := s.Open("out/secret"); err == nil {
		f.Close()
		t.Error("a file outside was opened")
	}
	if err := s.Write("out/new", strings.NewReader("x"), 1); err == nil {
		t.Error("a file outside was written")
	}
	if err := s.Remove("out"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(secret); err != nil {
		t.Error("what the link led to was removed")
	}
}

func TestInterruptedUploadsLeaveNothing(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	write(t, s, "kept", "old")
	broken := io.MultiReader(strings.NewReader("ne"), errReader{})
	if err := s.Write("kept", broken, 3); err == nil || read(t, s, "kept") != "old" {
		t.Errorf("broken upload: %v", err)
	}
	if err := s.Write("kept", strings.NewReader("ne"), 3); !errors.Is(err, io.ErrUnexpectedEOF) || read(t, s, "kept") != "old" {
		t.Errorf("short upload: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, uploadPrefix+"x"), nil, 0o600); err != nil { // a daemon died here
		t.Fatal(err)
	}
	infos, err := openStore(t, dir).List(".")
	if err != nil || len(infos) != 1 {
		t.Errorf("files %v, %v", infos, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 || entries[0].Name() != ReserveDir {
		t.Errorf("files on the host %v, %v", entries, err)
	}
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errors.New("the client is gone") }

func TestHandler(t *testing.T) {
	s := openStore(t, t.TempDir())
	busy := func(rel string) string {
		if rel == "busy" {
			return "someone"
		}
		return ""
	}
	h := s.Handler(busy)
	do := func(method, target, content string, header ...string) *httptest.ResponseRecorder {
		req := httptest.NewRequestWithContext(t.Context(), method, target, strings.NewReader(content))
		if len(header) == 2 {
			req.Header.Set(header[0], header[1])
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		return w
	}
	for _, step := range []struct {
		what, method, target, content string
		status                        int
		body                          string
	}{
		{"upload", "PUT", "/folder/dir/a?dcPath=x&dsName=local", "0123456789", http.StatusCreated, ""},
		{"again", "PUT", "/folder/dir/a?dsName=local", "abcdefghij", http.StatusOK, ""},
		{"download", "GET", "/folder/dir/a?dsName=local", "", http.StatusOK, "abcdefghij"},
		{"head", "HEAD", "/folder/dir/a", "", http.StatusOK, ""},
		{"missing", "GET", "/folder/none", "", http.StatusNotFound, "*"},
		{"directory", "GET", "/folder/dir", "", http.StatusForbidden, "*"},
		{"over a directory", "PUT", "/folder/dir", "x", http.StatusConflict, "*"},
		{"other datastore", "GET", "/folder/dir/a?dsName=other", "", http.StatusNotFound, "*"},
		{"out", "GET", "/folder/..%2f..%2fetc/passwd", "", http.StatusBadRequest, "*"},
		{"busy", "PUT", "/folder/busy", "x", http.StatusConflict, "*"},
		{"method", "PATCH", "/folder/dir/a", "", http.StatusMethodNotAllowed, "*"},
		{"delete", "DELETE", "/folder/dir/a", "", http.StatusNoContent, ""},
		{"delete again", "DELETE", "/folder/dir/a", "", http.StatusNotFound, "*"},
	} {
		w := do(step.method, step.target, step.content)
		if w.Code != step.status || (step.body != "*" && w.Body.String() != step.body) {
			t.Errorf("%s: %d %q, want %d %q", step.what, w.Code, w.Body, step.status, step.body)
		}
	}
	write(t, s, "r", "0123456789")
	if w := do("GET", "/folder/r", "", "Range", "bytes=3-5"); w.Code != http.StatusPartialContent || w.Body.String() != "345" {
		t.Errorf("range: %d %q", w.Code, w.Body)
	}
}

// On a full disk an index is replaced, so that what fills the disk can be removed; nothing else is written. With space the reserve is there again.
func TestFullDisk(t *testing.T) {
	for _, kind := range smalldisk.Kinds {
		t.Run(kind, func(t *testing.T) {
			dir := smalldisk.Mount(t, kind, 32<<20)
			s := openStore(t, dir)
			write(t, s, "cvm/volumes.json", "first")
			for round := range 2 {
				smalldisk.Fill(t, dir)
				small, large := strings.Repeat("s", 60<<10), strings.Repeat("l", maxReserved)
				for n, text := range []string{small + "1", small + "2", small + "3", large} {
					write(t, s, "cvm/volumes.json", text)
					if got := read(t, s, "cvm/volumes.json"); got != text {
						t.Errorf("round %d: after write %d the file has %d bytes, want %d", round, n, len(got), len(text))
					}
					smalldisk.Fill(t, dir) // others take what was given up
				}
				if err := s.Write("cvm/new", strings.NewReader(large), int64(len(large))); !errors.Is(err, unix.ENOSPC) {
					t.Errorf("round %d: a new file: %v", round, err)
				}
				if err := s.Write("cvm/volumes.json", strings.NewReader("short"), 10); err == nil {
					t.Errorf("round %d: a body that ends early: %v", round, err)
				}
				if err := s.Remove("culprit"); err != nil {
					t.Errorf("round %d: %v", round, err)
				}
			}
			entries, err := s.List(".")
			if err != nil || len(entries) != 1 && kind == "tmpfs" { // ext4 has lost+found
				t.Errorf("the store shows %v, %v", entries, err)
			}
		})
	}
}
