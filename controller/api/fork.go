package api

import (
	"net/http"

	"github.com/moby/moby/api/types/network"

	ctr "github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/fork"
	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/template"
)

// forkAPI serves what Docker has no word for: forks of running containers, and templates. FORK.md describes it.
type forkAPI struct {
	containers *ctr.Service
	forks      *fork.Service
	templates  *template.Store
	host       Host
}

func (a *forkAPI) routes(r *router) {
	r.handle("POST /containers/{id}/fork", a.fork)
	r.handle("GET /templates", a.list)
	r.handle("DELETE /templates/{name}", a.remove)
	r.handle("POST /host/quiesce", a.quiesce)
}

// forkRequest is the body of a fork.
type forkRequest struct {
	Count   *int // missing: 1
	Names   []string
	AtPoint bool
}

// childAnswer is a child in the answer of a fork.
type childAnswer struct {
	ID         string `json:"Id"`
	Name       string
	Generation uint32
	Index      uint32
	Receipt    []ctr.ReceiptItem
	Networks   map[string]*network.EndpointSettings
	Ports      network.PortMap
	Error      string
}

func (a *forkAPI) fork(w http.ResponseWriter, r *http.Request) error {
	var req forkRequest
	if err := readOptionalJSON(w, r, &req); err != nil {
		return err
	}
	if req.Count == nil {
		one := max(1, len(req.Names))
		req.Count = &one
	}
	children, err := a.forks.Fork(r.Context(), r.PathValue("id"), fork.Request{Count: *req.Count, Names: req.Names, AtPoint: req.AtPoint})
	if err != nil {
		return err
	}
	var answer struct{ Children []childAnswer }
	for _, c := range children {
		child := childAnswer{ID: c.ID, Name: c.Name, Generation: c.Generation, Index: c.Index, Receipt: c.Receipt, Networks: c.Networks, Ports: c.Ports}
		if child.Receipt == nil {
			child.Receipt = []ctr.ReceiptItem{}
		}
		if c.Err != nil {
			child.Error = c.Err.Error()
		}
		answer.Children = append(answer.Children, child)
	}
	return writeJSON(w, http.StatusCreated, answer)
}

// forkAnswer is the key Fork of an inspection.
type forkAnswer struct {
	Kind       string
	Why        string
	Template   string
	Generation uint32
	Index      uint32
	Receipt    []ctr.ReceiptItem
	Timeline   []record.Mark
}

func forkInfo(f ctr.ForkInfo) forkAnswer { return forkAnswer(f) }

func (a *forkAPI) remove(w http.ResponseWriter, r *http.Request) error {
	return noContent(w, a.templates.Remove(r.Context(), r.PathValue("name")))
}

// quiesce ends every machine that no running container needs, and makes no more of them ahead of time. With containers=1 it says only that the
// host is about to go down, and with containers=0 that it is not: containers that are stopped in between were not stopped by someone, so their
// restart policies have them started with the host again.
func (a *forkAPI) quiesce(w http.ResponseWriter, r *http.Request) error {
	if going := param(r, "containers"); going != "" {
		a.containers.GoingDown(boolParam(r, "containers"))
		return noContent(w, nil)
	}
	if err := a.templates.Quiesce(r.Context()); err != nil {
		return err
	}
	return noContent(w, a.containers.Unpark(r.Context()))
}
