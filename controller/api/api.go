package api

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/exec"
	"github.com/containervm/containervm/controller/internal/feed"
	"github.com/containervm/containervm/controller/internal/files"
	"github.com/containervm/containervm/controller/internal/fork"
	"github.com/containervm/containervm/controller/internal/image"
	"github.com/containervm/containervm/controller/internal/network"
	"github.com/containervm/containervm/controller/internal/stream"
	"github.com/containervm/containervm/controller/internal/template"
	"github.com/containervm/containervm/controller/internal/volume"
	"github.com/containervm/containervm/controller/internal/vsphere"
)

// Deps is what the API serves. All fields are needed.
type Deps struct {
	Containers *container.Service
	Execs      *exec.Service
	Files      *files.Service
	Streams    *stream.Service
	Forks      *fork.Service
	Images     *image.Store
	Networks   *network.Service
	Volumes    *volume.Service
	Templates  *template.Store
	Feed       *feed.Feed
	Host       Host
	Metrics    http.Handler // serves GET /metrics
	Version    string       // of this build
	Log        *slog.Logger
}

// Host describes where containers run: *vsphere.Client.
type Host interface {
	Host(ctx context.Context) (vsphere.HostInfo, error)
	Pools(ctx context.Context) ([]vsphere.Pool, error)
	Memory(ctx context.Context) ([]vsphere.Memory, error)
}

// handler serves one endpoint. An error is answered by the router, unless the handler has begun an answer.
type handler func(w http.ResponseWriter, r *http.Request) error

// New returns the API's handler.
func New(d Deps) http.Handler { return versioned(routes(d).mux, d.Log) }

func routes(d Deps) *router {
	r := newRouter(d.Log)
	(&systemAPI{containers: d.Containers, images: d.Images, templates: d.Templates, host: d.Host, version: d.Version}).routes(r)
	(&forkAPI{containers: d.Containers, forks: d.Forks, templates: d.Templates, host: d.Host}).routes(r)
	r.handle("GET /metrics", func(w http.ResponseWriter, req *http.Request) error {
		d.Metrics.ServeHTTP(w, req)
		return nil
	})
	(&containerAPI{containers: d.Containers, execs: d.Execs, streams: d.Streams}).routes(r)
	(&streamAPI{streams: d.Streams}).routes(r)
	(&eventsAPI{feed: d.Feed}).routes(r)
	(&dfAPI{containers: d.Containers, images: d.Images, volumes: d.Volumes}).routes(r)
	(&volumeAPI{containers: d.Containers, volumes: d.Volumes}).routes(r)
	(&archiveAPI{files: d.Files}).routes(r)
	(&execAPI{execs: d.Execs}).routes(r)
	(&networkAPI{containers: d.Containers, networks: d.Networks}).routes(r)
	newImageAPI(d.Images, d.Containers).routes(r)
	(&commitAPI{containers: d.Containers, files: d.Files, store: d.Images}).routes(r)
	r.refuseRest()
	return r
}

// answer remembers whether an answer has begun.
type answer struct {
	http.ResponseWriter
	begun bool
}

func (a *answer) WriteHeader(status int) {
	a.begun = true
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(p []byte) (int, error) {
	a.begun = true
	return a.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController find the connection.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }
