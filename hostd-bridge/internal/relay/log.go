package relay

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"strconv"
	"sync"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vmlog"
)

// logRequest is what of a log is wanted.
type logRequest struct {
	from         int64 // negative: from the present end
	follow, wait bool
}

// serveLog streams a VM's log from an offset. Its header is sent before the run that it waits for begins, so that the client
// knows from where on it misses nothing.
func (r *Relay) serveLog(w http.ResponseWriter, req *http.Request) error {
	ref := req.PathValue("moref")
	v, ok := r.inventory.Get(ref)
	if !ok {
		return &vm.NotFoundError{Ref: ref}
	}
	from, err := offset(req.FormValue(hostapi.ParamFrom))
	if err != nil {
		return err
	}
	want := logRequest{from: from, follow: isSet(req, hostapi.ParamFollow), wait: isSet(req, hostapi.ParamWait)}
	log, err := r.place(req.Context(), v, &want)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set(hostapi.HeaderLogOffset, strconv.FormatInt(want.from, 10))
	w.Header().Set(hostapi.HeaderLogRun, present(v).String())
	w.Header().Set(hostapi.HeaderLogOver, over(v).String())
	w.WriteHeader(http.StatusOK)
	out := &flusher{w: w, c: http.NewResponseController(w)}
	if err := out.c.Flush(); err != nil {
		closeLog(log)
		return nil // the client is gone
	}
	if err := r.stream(req.Context(), out, v, want, log); err != nil {
		if req.Context().Err() == nil {
			r.log.Warn("log stream broken off", "vm", v.Name, "err", err)
		}
		panic(http.ErrAbortHandler) // the only way to tell the client that the stream is not whole, also of a daemon that stops
	}
	return nil
}

// place finds where a request begins. A log that keeps little, or is nowhere but in memory, is opened for that; else a machine is asked
// only after the client was answered.
func (r *Relay) place(ctx context.Context, v *vm.VM, want *logRequest) (log io.ReadCloser, err error) {
	if v.Extra[hostapi.KeyLog] != "" {
		if m, err := r.inventory.Machine(v.Ref); err == nil {
			if log, at, err := m.Log(ctx, want.reader()); err == nil {
				want.from = at
				return log, nil
			} // else it has just ended, or stream says why not
		}
	}
	if want.from < 0 {
		want.from, err = r.end(v)
	}
	return nil, err
}

// reader is the request as it is put to a machine. Who waits for a run is who its output is for: nothing is dropped before it was sent.
func (w *logRequest) reader() vmlog.Reader {
	return vmlog.Reader{From: w.from, Follow: w.follow, Hold: w.wait}
}

func closeLog(log io.Closer) {
	if log != nil {
		log.Close()
	}
}

func isSet(req *http.Request, param string) bool { return req.FormValue(param) == hostapi.Yes }

// present returns the number of the run of a VM that is on, and 0 of one that is off.
func present(v *vm.VM) hostapi.Run {
	if v.Power != vm.PoweredOn {
		return 0
	}
	return v.Run
}

// over returns the number of the last run that is over: one whose start is in flight is not.
func over(v *vm.VM) hostapi.Run {
	starts := v.InFlight != nil && v.InFlight.Kind == vm.OpStart
	if (starts || v.Power == vm.PoweredOn) && v.Run > 0 {
		return v.Run - 1
	}
	return v.Run
}

// stream copies the log from an offset to its end: of the run that v is in, or with wait of the next one if v is off. log is what a machine has
// answered already, or nil. What no machine serves is read from the files: the run of v may have ended since.
func (r *Relay) stream(ctx context.Context, out io.Writer, v *vm.VM, want logRequest, log io.ReadCloser) error {
	dir := r.store.HostPath(v.Home)
	if log == nil {
		var err error
		if log, want.from, err = r.open(ctx, v, want); err != nil {
			return err
		}
	}
	if log == nil {
		return vmlog.CopyFiles(out, dir, want.from, false)
	}
	at, err := vmlog.CopyWhole(out, log, want.from)
	if err = errors.Join(err, log.Close(), ctx.Err()); err != nil || !want.follow {
		return err
	}
	return vmlog.CopyFiles(out, dir, at, true) // a machine that has ended waits for slow readers only so long
}

// open opens the log of the run of v, or of the next one, at its machine; nil: it has none any more.
func (r *Relay) open(ctx context.Context, v *vm.VM, want logRequest) (log io.ReadCloser, at int64, err error) {
	m, err := r.inventory.Machine(v.Ref)
	if err != nil && want.wait && present(v) == 0 {
		if m, err = r.inventory.WaitRun(ctx, v.Ref, over(v)); err != nil {
			return nil, 0, err
		}
	}
	if m != nil {
		log, at, err := m.Log(ctx, want.reader())
		if err == nil {
			return log, at, nil
		}
		if _, running := r.inventory.Machine(v.Ref); running == nil {
			return nil, 0, err
		}
	}
	return nil, want.from, nil
}

// offset reads the value of ParamFrom; negative: the end.
func offset(from string) (int64, error) {
	switch from {
	case "":
		return 0, nil
	case hostapi.FromEnd:
		return -1, nil
	}
	n, err := strconv.ParseInt(from, 10, 64)
	if err != nil || n < 0 {
		return 0, badRequest("from must be an offset in bytes, or end")
	}
	return n, nil
}

// end returns the end of a log. It reads what came since it was asked last: a border between records stays one.
func (r *Relay) end(v *vm.VM) (int64, error) {
	end, err := vmlog.End(r.store.HostPath(v.Home), r.borders.get(v.Ref))
	if err != nil {
		return 0, err
	}
	r.borders.set(v.Ref, end, func(ref string) bool { _, ok := r.inventory.Get(ref); return ok })
	return end, nil
}

// borders are the ends of logs as they were found last.
type borders struct {
	mu    sync.Mutex
	byRef map[string]int64
	limit int // of entries, before those of VMs that are gone are forgotten
}

// minBorders is the number of entries up to which a VM that is gone costs nothing worth a search for it.
const minBorders = 64

func (b *borders) get(ref string) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.byRef[ref]
}

func (b *borders) set(ref string, at int64, exists func(ref string) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.byRef[ref] = at
	if len(b.byRef) > max(b.limit, minBorders) {
		maps.DeleteFunc(b.byRef, func(ref string, _ int64) bool { return !exists(ref) })
		b.limit = 2 * len(b.byRef)
	}
}

// flusher sends every write on at once.
type flusher struct {
	w io.Writer
	c *http.ResponseController
}

func (f *flusher) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if err == nil {
		err = f.c.Flush()
	}
	return n, err
}
