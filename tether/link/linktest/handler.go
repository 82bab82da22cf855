package linktest

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Unpacked is a layer that the fake took.
type Unpacked struct {
	Request *tetherv1.UnpackRequest
	Tar     []byte
}

// Unpacked are the layers that the fake took so far.
func (f *Tether) Unpacked() []Unpacked {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.unpacked)
}

// upload is where an Upload and its Unpack meet, whichever comes first.
type upload struct {
	source chan io.Reader
	taken  chan error
}

func (f *Tether) upload(id string) *upload {
	f.mu.Lock()
	defer f.mu.Unlock()
	u := f.uploads[id]
	if u == nil {
		u = &upload{source: make(chan io.Reader), taken: make(chan error)}
		f.uploads[id] = u
	}
	return u
}

func (f *Tether) process(session string) (*Process, error) {
	if p := f.Process(session); p != nil {
		return p, nil
	}
	return nil, link.Refuse(errdefs.ErrNotFound, "no session %q", session)
}

// Info implements link.Handler.
func (f *Tether) Info(context.Context, *tetherv1.InfoRequest) (*tetherv1.InfoResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info := &tetherv1.InfoResponse{
		Version: "linktest", Kernel: "none", Phase: "serve",
		Sessions: slices.Sorted(maps.Keys(f.sessions)),
	}
	for _, id := range info.Sessions {
		p := f.sessions[id]
		info.SessionInfos = append(info.SessionInfos, &tetherv1.SessionInfo{
			Session: id, Pid: p.pid, StartedUnixNano: p.started.UnixNano(), Exit: p.Exit(),
		})
	}
	if p := f.sessions[link.MainSession]; p != nil {
		info.Status = statusOf(p)
		info.Status.Paused = f.paused && info.Status.State == tetherv1.State_RUNNING
	}
	return info, nil
}

func statusOf(p *Process) *tetherv1.Status {
	if exit := p.Exit(); exit != nil {
		return &tetherv1.Status{State: tetherv1.State_EXITED, Pid: p.pid, Exit: exit}
	}
	return &tetherv1.Status{State: tetherv1.State_RUNNING, Pid: p.pid}
}

// Exec implements link.Handler.
func (f *Tether) Exec(_ context.Context, req *tetherv1.ExecRequest) (*tetherv1.ExecResponse, error) {
	if !link.ValidSession(req.GetSession()) {
		return nil, link.Refuse(errdefs.ErrInvalidArgument, "malformed session %q", req.GetSession())
	}
	f.mu.Lock()
	f.execs = append(f.execs, req)
	used, paused := f.sessions[req.Session] != nil, f.paused
	f.mu.Unlock()
	if paused {
		return nil, errPaused()
	}
	if used {
		return nil, link.Refuse(errdefs.ErrAlreadyExists, "session %q exists", req.Session)
	}
	p, failure := f.spawn(req.Session, req.GetProcess(), req.AttachStdout, req.AttachStderr)
	if failure != nil {
		return &tetherv1.ExecResponse{Failure: failure}, nil
	}
	return &tetherv1.ExecResponse{Pid: p.pid}, nil
}

// Wait implements link.Handler.
func (f *Tether) Wait(ctx context.Context, req *tetherv1.WaitRequest) (*tetherv1.WaitResponse, error) {
	p, err := f.process(req.GetSession())
	if err != nil {
		return nil, err
	}
	select {
	case <-p.Done():
		return &tetherv1.WaitResponse{Exit: p.Exit()}, nil
	case <-ctx.Done():
		return nil, link.Refuse(ctx.Err(), "%v", ctx.Err())
	}
}

// Signal implements link.Handler.
func (f *Tether) Signal(_ context.Context, req *tetherv1.SignalRequest) (*tetherv1.SignalResponse, error) {
	p, err := f.process(req.GetSession())
	if err != nil {
		return nil, err
	}
	if p.Exit() != nil {
		return nil, link.Refuse(errdefs.ErrFailedPrecondition, "the process has ended")
	}
	p.signal(syscall.Signal(req.Signal))
	return &tetherv1.SignalResponse{}, nil
}

// Resize implements link.Handler.
func (f *Tether) Resize(_ context.Context, req *tetherv1.ResizeRequest) (*tetherv1.ResizeResponse, error) {
	p, err := f.process(req.GetSession())
	if err != nil {
		return nil, err
	}
	if !p.Spec.GetTty() {
		return nil, link.Refuse(errdefs.ErrFailedPrecondition, "the session has no terminal")
	}
	p.resize(req.GetWindow())
	return &tetherv1.ResizeResponse{}, nil
}

// Processes implements link.Handler: one line per session whose process runs.
func (f *Tether) Processes(context.Context, *tetherv1.ProcessesRequest) (*tetherv1.ProcessesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	resp := &tetherv1.ProcessesResponse{}
	for _, name := range slices.Sorted(maps.Keys(f.sessions)) {
		if p := f.sessions[name]; p.Exit() == nil {
			resp.Processes = append(resp.Processes, &tetherv1.ProcessInfo{
				Pid: p.pid, User: "root", State: "S", Command: strings.Join(p.Spec.GetArgs(), " "),
			})
		}
	}
	return resp, nil
}

// Stop implements link.Handler: it sends the signal, and SIGKILL when the grace is zero.
func (f *Tether) Stop(_ context.Context, req *tetherv1.StopRequest) (*tetherv1.StopResponse, error) {
	f.mu.Lock()
	f.stops = append(f.stops, req)
	f.mu.Unlock()
	f.setPaused(false)
	if p := f.Process(link.MainSession); p != nil {
		p.signal(syscall.Signal(cmp.Or(req.Signal, int32(syscall.SIGTERM))))
		if req.GraceSeconds == 0 && !req.NoGraceLimit {
			p.signal(syscall.SIGKILL)
		}
	}
	return &tetherv1.StopResponse{}, nil
}

// OpenOutput implements link.Handler.
func (f *Tether) OpenOutput(_ context.Context, session string, stream link.RecordStream, offset int64) (io.ReadCloser, int64, int64, error) {
	p, err := f.process(session)
	if err != nil {
		return nil, 0, 0, err
	}
	from := p.out
	if stream == link.StreamStderr {
		from = p.err
	}
	r, dropped := from.reader(offset)
	return r, r.at, dropped, nil
}

// OpenInput implements link.Handler.
func (f *Tether) OpenInput(ctx context.Context, session string) (io.WriteCloser, error) {
	p, err := f.process(session)
	if err != nil {
		return nil, err
	}
	if !p.Spec.GetStdin() {
		return nil, link.Refuse(errdefs.ErrFailedPrecondition, "the session has no standard input")
	}
	return input{ctx, p.stdin}, nil
}

// Upload implements link.Handler.
func (f *Tether) Upload(ctx context.Context, id string, r io.Reader) error {
	u := f.upload(id)
	select {
	case u.source <- r:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-u.taken:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// await waits until the bytes of an upload come.
func (u *upload) await(ctx context.Context) (io.Reader, error) {
	select {
	case source := <-u.source:
		return source, nil
	case <-ctx.Done():
		return nil, link.Refuse(ctx.Err(), "%v", ctx.Err())
	}
}

// Unpack implements link.Handler: it keeps the tar and counts what is in it.
func (f *Tether) Unpack(ctx context.Context, req *tetherv1.UnpackRequest) (*tetherv1.UnpackResponse, error) {
	u := f.upload(req.GetUpload())
	source, err := u.await(ctx)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(source)
	resp := &tetherv1.UnpackResponse{}
	if err == nil {
		resp.Entries, resp.Bytes, err = count(data)
	}
	select {
	case u.taken <- err:
	case <-ctx.Done():
	}
	if err != nil {
		return nil, link.Refuse(errdefs.ErrInvalidArgument, "%v", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unpacked = append(f.unpacked, Unpacked{req, data})
	delete(f.uploads, req.Upload)
	return resp, nil
}

// Connect implements link.Handler, by what OnConnect set.
func (f *Tether) Connect(ctx context.Context, network string, address netip.AddrPort) (net.Conn, error) {
	f.mu.Lock()
	dial := f.dial
	f.mu.Unlock()
	if dial == nil {
		return nil, link.Refuse(errdefs.ErrUnavailable, "connection refused")
	}
	return dial(ctx, network, address)
}

// OnConnect has dial answer forwards. Without it all are refused.
func (f *Tether) OnConnect(dial func(ctx context.Context, network string, address netip.AddrPort) (net.Conn, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dial = dial
}

// Configure implements link.Handler: it keeps the request, and names the interfaces in order.
func (f *Tether) Configure(_ context.Context, req *tetherv1.ConfigureRequest) (*tetherv1.ConfigureResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.configures = append(f.configures, req)
	resp := &tetherv1.ConfigureResponse{}
	for n, i := range req.GetInterfaces() {
		resp.Interfaces = append(resp.Interfaces, &tetherv1.Interface{
			Mac: i.Mac, Name: cmp.Or(i.Name, fmt.Sprintf("eth%d", n)), Addresses: i.Addresses, Gateway: i.Gateway, Gateway6: i.Gateway6,
			Mtu: i.Mtu, Slot: i.Slot,
		})
	}
	return resp, nil
}

// Configures are the Configure requests so far.
func (f *Tether) Configures() []*tetherv1.ConfigureRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.configures)
}

func count(data []byte) (entries, content uint64, err error) {
	layer := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := layer.Next()
		if errors.Is(err, io.EOF) {
			return entries, content, nil
		}
		if err != nil {
			return entries, content, err
		}
		entries++
		content += uint64(h.Size)
	}
}

// Hold implements link.Handler: the fake's processes stand until Release.
func (f *Tether) Hold(context.Context, *tetherv1.HoldRequest) (*tetherv1.HoldResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held = true
	return &tetherv1.HoldResponse{}, nil
}

// Release implements link.Handler.
func (f *Tether) Release(_ context.Context, req *tetherv1.ReleaseRequest) (*tetherv1.ReleaseResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.held {
		return nil, link.Refuse(errdefs.ErrFailedPrecondition, "nothing is held")
	}
	f.held = false
	f.releases = append(f.releases, req)
	return &tetherv1.ReleaseResponse{}, nil
}

// Releases are the Release calls so far.
func (f *Tether) Releases() []*tetherv1.ReleaseRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.releases)
}
