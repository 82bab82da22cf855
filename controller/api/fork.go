package api

import (
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"

	ctr "github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/fields"
	"github.com/containervm/containervm/controller/internal/fork"
	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/signal"
	"github.com/containervm/containervm/controller/internal/template"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
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
	Notify  *notifyRequest
}

// notifyRequest says how the processes of the children are told.
type notifyRequest struct {
	Signal  string // a name or number
	All     bool   // to all processes that handle it
	Command []string
}

// maxNotifyCommand bounds a command in a request for a fork, in bytes: it is told to each child by guestinfo.
const maxNotifyCommand = 8 << 10

// decode checks the request. nil: nothing was asked for.
func (n *notifyRequest) decode() (*tetherv1.Notify, error) {
	if n == nil {
		return nil, nil
	}
	d := &tetherv1.Notify{All: n.All, Command: n.Command}
	size := 0
	for _, a := range n.Command {
		size += len(a)
	}
	switch {
	case n.Signal == "" && len(n.Command) == 0:
		return nil, errdefs.ErrInvalidArgument.WithMessage("Notify names neither a Signal nor a Command")
	case n.Signal == "" && n.All:
		return nil, errdefs.ErrInvalidArgument.WithMessage("Notify wants all processes told, and names no Signal")
	case len(n.Command) > 0 && n.Command[0] == "" || size > maxNotifyCommand:
		return nil, errdefs.ErrInvalidArgument.WithMessage("cannot use the Command of Notify: want a program, and 8 KiB at most")
	case n.Signal == "":
		return d, nil
	}
	number, err := signal.Parse(n.Signal)
	if err != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage(err.Error())
	}
	if number == int32(unix.SIGKILL) || number == int32(unix.SIGSTOP) {
		err = errdefs.ErrInvalidArgument.WithMessage("Notify cannot use " + n.Signal + ": no process can handle it")
	}
	d.Signal = number
	return d, err
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
	if err := readOptionalRequest(w, r, fields.Fork(), &req); err != nil {
		return err
	}
	if req.Count == nil {
		one := max(1, len(req.Names))
		req.Count = &one
	}
	notify, err := req.Notify.decode()
	if err != nil {
		return err
	}
	children, err := a.forks.Fork(r.Context(), r.PathValue("id"), fork.Request{Count: *req.Count, Names: req.Names, AtPoint: req.AtPoint, Notify: notify})
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
