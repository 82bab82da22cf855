package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"

	"github.com/moby/moby/api/types/container"

	"github.com/containervm/containervm/controller/internal/files"
)

// pathStatHeader has the stat of what an archive is of, as JSON in base64 (Docker's API reference).
const pathStatHeader = "X-Docker-Container-Path-Stat"

// archiveAPI reads and writes containers' files.
type archiveAPI struct {
	files *files.Service
}

func (a *archiveAPI) routes(r *router) {
	r.handle("HEAD /containers/{id}/archive", a.stat)
	r.handle("GET /containers/{id}/archive", a.get)
	r.handle("PUT /containers/{id}/archive", a.put)
	r.handle("GET /containers/{id}/export", a.export)
	r.handle("GET /containers/{id}/changes", a.changes)
}

// path is the parameter that no request for an archive may lack.
func (a *archiveAPI) path(r *http.Request) (string, error) {
	path := param(r, "path")
	if path == "" {
		return "", invalid("bad parameter: path cannot be empty")
	}
	return path, nil
}

func (a *archiveAPI) stat(w http.ResponseWriter, r *http.Request) error {
	path, err := a.path(r)
	if err != nil {
		return err
	}
	stat, err := a.files.Stat(r.Context(), r.PathValue("id"), path)
	if err != nil {
		return err
	}
	return setPathStat(w, stat)
}

func setPathStat(w http.ResponseWriter, stat container.PathStat) error {
	text, err := json.Marshal(stat)
	if err != nil {
		return err
	}
	w.Header().Set(pathStatHeader, base64.StdEncoding.EncodeToString(text))
	return nil
}

func (a *archiveAPI) get(w http.ResponseWriter, r *http.Request) error {
	path, err := a.path(r)
	if err != nil {
		return err
	}
	stat, tar, err := a.files.Archive(r.Context(), r.PathValue("id"), path)
	if err != nil {
		return err
	}
	defer tar.Close()
	if err := setPathStat(w, stat); err != nil {
		return err
	}
	return sendTar(w, r, "application/x-tar", tar)
}

func (a *archiveAPI) export(w http.ResponseWriter, r *http.Request) error {
	tar, err := a.files.Root(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	defer tar.Close()
	return sendTar(w, r, "application/octet-stream", tar)
}

// sendTar answers with a tar. One that is cut off cuts off the answer too: its connection ends without the last chunk (fail).
func sendTar(w http.ResponseWriter, r *http.Request, kind string, tar io.Reader) error {
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(http.StatusOK)
	buf := make([]byte, 128<<10)
	if _, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{tar}, buf); err != nil {
		if r.Context().Err() != nil {
			return context.Canceled // the client has left
		}
		return err
	}
	return nil
}

func (a *archiveAPI) put(w http.ResponseWriter, r *http.Request) error {
	path, err := a.path(r)
	if err != nil {
		return err
	}
	err = a.files.Extract(r.Context(), r.PathValue("id"), path, files.ExtractOptions{
		NoOverwriteDirNonDir: boolParam(r, "noOverwriteDirNonDir"), CopyUIDGID: boolParam(r, "copyUIDGID"),
	}, r.Body)
	if err == nil {
		w.WriteHeader(http.StatusOK)
	}
	return err
}

func (a *archiveAPI) changes(w http.ResponseWriter, r *http.Request) error {
	changes, err := a.files.Changes(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, changes)
}
