package datastore

import (
	"errors"
	"io/fs"
	"net/http"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Prefix is where Handler expects the datastore's files, as on vCenter and ESXi.
const Prefix = "/folder/"

// Busy says why the file at or below a path must not be changed now, or "".
type Busy func(rel string) string

// Handler serves the files below Prefix: GET (with ranges), HEAD, PUT and DELETE. The query parameter dsName names the
// datastore; dcPath is not looked at, since this host has one datacenter. It does not ask who calls.
func (s *Store) Handler(busy Busy) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rel, err := requestPath(r)
		if err == nil {
			err = s.serve(w, r, rel, busy)
		}
		if err != nil {
			http.Error(w, err.Error(), statusOf(err))
		}
	})
}

// requestPath returns the path in the store that a request is for.
func requestPath(r *http.Request) (string, error) {
	if name := r.URL.Query().Get("dsName"); name != "" && name != Name {
		return "", &fs.PathError{Op: "find datastore", Path: name, Err: fs.ErrNotExist}
	}
	rest, _ := strings.CutPrefix(r.URL.Path, Prefix)
	return clean(r.URL.Path, rest)
}

// errBusy says that a VM needs the file.
type errBusy string

func (e errBusy) Error() string { return "in use: " + string(e) }

func (s *Store) serve(w http.ResponseWriter, r *http.Request, rel string, busy Busy) error {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return s.get(w, r, rel)
	}
	if why := busy(rel); why != "" {
		return errBusy(why)
	}
	switch r.Method {
	case http.MethodPut, http.MethodPost: // POST is what older clients send
		return s.put(w, r, rel)
	case http.MethodDelete:
		if err := s.Remove(rel); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	w.Header().Set("Allow", "GET, HEAD, PUT, DELETE")
	return errMethod
}

var errMethod = errors.New("the method is not served")

func (s *Store) get(w http.ResponseWriter, r *http.Request, rel string) error {
	f, err := s.root.Open(rel)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return &fs.PathError{Op: "get", Path: rel, Err: fs.ErrPermission}
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, path.Base(rel), info.ModTime(), f)
	return nil
}

func (s *Store) put(w http.ResponseWriter, r *http.Request, rel string) error {
	info, err := s.root.Stat(rel)
	if err == nil && info.IsDir() {
		return &fs.PathError{Op: "put", Path: rel, Err: fs.ErrExist}
	}
	if err := s.Write(rel, r.Body, r.ContentLength); err != nil {
		return err
	}
	status := http.StatusCreated
	if info != nil {
		status = http.StatusOK
	}
	w.WriteHeader(status)
	return nil
}

// statusOf returns the HTTP status for an error, as vSphere answers it.
func statusOf(err error) int {
	var busy errBusy
	switch {
	case errors.Is(err, ErrInvalidPath):
		return http.StatusBadRequest
	case errors.Is(err, fs.ErrNotExist):
		return http.StatusNotFound
	case errors.Is(err, fs.ErrPermission):
		return http.StatusForbidden
	case errors.Is(err, fs.ErrExist), errors.As(err, &busy):
		return http.StatusConflict
	case errors.Is(err, errMethod):
		return http.StatusMethodNotAllowed
	case errors.Is(err, unix.ENOSPC):
		return http.StatusInsufficientStorage
	}
	return http.StatusInternalServerError
}
